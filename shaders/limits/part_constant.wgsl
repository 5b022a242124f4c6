// Replaces X by a constant in schedules that take it in parts.
// Requires: nothing.
// Implements: part.
// Provides: Part, load_part, part_quad.

struct Part {
    quad: vec4<f32>,
}

fn load_part(row_at: u32, b: u32, lane: u32) -> Part {
    return Part(vec4<f32>(1.0, 2.0, 3.0, 4.0));
}

fn part_quad(part: Part, i: u32) -> vec4<f32> {
    return part.quad;
}
