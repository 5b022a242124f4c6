// A step of 4 columns as floats: the unit of all schedules where every column may have a scale of
// its own. It is small so that this slow path at least compiles fast.
// Requires: x.
// Implements: step.
// Provides: STEP, QUADS, Quads, quad_at, load_x.

const STEP = 4u;
const QUADS = 1u;

struct Quads {
    q0: vec4<f32>,
}

fn quad_at(a: Quads, i: u32) -> vec4<f32> {
    return a.q0;
}

// Step `b` of the row of X that starts at element row_at.
fn load_x(row_at: u32, b: u32) -> Quads {
    return Quads(load_x4(row_at, b * STEP));
}
