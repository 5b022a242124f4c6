// A step of 32 columns as floats: the unit of all schedules where scales align with it.
// Requires: x.
// Implements: step.
// Provides: STEP, QUADS, Quads, quad_at, load_x.
// Why fields and not an array: a dynamically indexed private array spills.

const STEP = 32u;
const QUADS = 8u;

struct Quads {
    q0: vec4<f32>,
    q1: vec4<f32>,
    q2: vec4<f32>,
    q3: vec4<f32>,
    q4: vec4<f32>,
    q5: vec4<f32>,
    q6: vec4<f32>,
    q7: vec4<f32>,
}

fn quad_at(a: Quads, i: u32) -> vec4<f32> {
    switch (i) {
        case 0u: { return a.q0; }
        case 1u: { return a.q1; }
        case 2u: { return a.q2; }
        case 3u: { return a.q3; }
        case 4u: { return a.q4; }
        case 5u: { return a.q5; }
        case 6u: { return a.q6; }
        default: { return a.q7; }
    }
}

// Step `b` of the row of X that starts at element row_at.
fn load_x(row_at: u32, b: u32) -> Quads {
    let k = b * STEP;
    return Quads(
        load_x4(row_at, k), load_x4(row_at, k + 4u),
        load_x4(row_at, k + 8u), load_x4(row_at, k + 12u),
        load_x4(row_at, k + 16u), load_x4(row_at, k + 20u),
        load_x4(row_at, k + 24u), load_x4(row_at, k + 28u),
    );
}
