// Loads a step of X, each lane for itself.
// Requires: step.
// Implements: part.
// Provides: Part, load_part, part_quad.

alias Part = Quads;

fn load_part(row_at: u32, b: u32, lane: u32) -> Part {
    return load_x(row_at, b);
}

fn part_quad(part: Part, i: u32) -> vec4<f32> {
    return quad_at(part, i);
}
