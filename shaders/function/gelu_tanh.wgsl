// v · Φ(v) as 0.5v·(1 + tanh(√(2/π)·(v + 0.044715v³))): that is v / (1 + exp(−2√(2/π)·(…))).
// Requires: nothing.
// Implements: function.
// Provides: activate.
// Beyond ±12, where the cube may overflow, the result is 0 or v.

fn activate(v: vec2<f32>) -> vec2<f32> {
    let c = clamp(v, vec2<f32>(-12.0), vec2<f32>(12.0));
    let u = 1.5957691 * c * (vec2<f32>(1.0) + 0.044715 * c * c);
    let e = exp(-clamp(u, vec2<f32>(-80.0), vec2<f32>(80.0)));
    return select(v / (vec2<f32>(1.0) + e), vec2<f32>(0.0), v < vec2<f32>(-12.0));
}
