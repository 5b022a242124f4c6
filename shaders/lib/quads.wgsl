// A step of 32 columns as floats: the unit of all schedules where scales align with it.
// Requires: an access fragment for X, a decoder, a scale fragment. Provides: STEP, QUADS,
// Quads, quad_at, dot_quads, load_x, scaled_dot, scaled_weights. Twin: lib/quad.
// Fields, not an array: a dynamically indexed private array spills.

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

fn dot_quads(a: Quads, b: Quads) -> f32 {
    var even = a.q0 * b.q0;
    var odd = a.q1 * b.q1;
    even = fma(a.q2, b.q2, even);
    odd = fma(a.q3, b.q3, odd);
    even = fma(a.q4, b.q4, even);
    odd = fma(a.q5, b.q5, odd);
    even = fma(a.q6, b.q6, even);
    odd = fma(a.q7, b.q7, odd);
    let sum = even + odd;
    return (sum.x + sum.y) + (sum.z + sum.w);
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

// Step b of a row of W times step b of X.
fn scaled_dot(row: Row, b: u32, xq: Quads) -> f32 {
    let run = b / run_steps();
    let block = load_step(row, b);
    let z = run_zero(row, run);
    let low = (dot_quad(block, 0u, z, xq.q0) + dot_quad(block, 1u, z, xq.q1))
        + (dot_quad(block, 2u, z, xq.q2) + dot_quad(block, 3u, z, xq.q3));
    let high = (dot_quad(block, 4u, z, xq.q4) + dot_quad(block, 5u, z, xq.q5))
        + (dot_quad(block, 6u, z, xq.q6) + dot_quad(block, 7u, z, xq.q7));
    return run_scale(row, run) * (low + high);
}

// Step b of a row of W.
fn scaled_weights(row: Row, b: u32) -> Quads {
    let run = b / run_steps();
    let block = load_step(row, b);
    let z = vec4<f32>(run_zero(row, run));
    let s = run_scale(row, run);
    return Quads(
        quad_f(block, 0u, z) * s, quad_f(block, 1u, z) * s,
        quad_f(block, 2u, z) * s, quad_f(block, 3u, z) * s,
        quad_f(block, 4u, z) * s, quad_f(block, 5u, z) * s,
        quad_f(block, 6u, z) * s, quad_f(block, 7u, z) * s,
    );
}
