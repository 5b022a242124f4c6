// One block of 32 columns as floats.
// Requires: nothing. Provides: Quads, splat_quads, dot_quads, scale_quads.
// Fields, not an array: a dynamically indexed private array spills.

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

fn splat_quads(value: f32) -> Quads {
    let v = vec4<f32>(value);
    return Quads(v, v, v, v, v, v, v, v);
}

fn scale_quads(a: Quads, s: f32) -> Quads {
    return Quads(a.q0 * s, a.q1 * s, a.q2 * s, a.q3 * s, a.q4 * s, a.q5 * s, a.q6 * s, a.q7 * s);
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
