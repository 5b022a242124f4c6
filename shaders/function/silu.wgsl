// v / (1 + exp(−v)), also called swish.
// Requires: nothing.
// Implements: function.
// Provides: activate.
// Below −80 the result is 0. Further down, exp(−v) would be infinite.

fn activate(v: vec2<f32>) -> vec2<f32> {
    let e = exp(-clamp(v, vec2<f32>(-80.0), vec2<f32>(80.0)));
    return select(v / (vec2<f32>(1.0) + e), vec2<f32>(0.0), v < vec2<f32>(-80.0));
}
