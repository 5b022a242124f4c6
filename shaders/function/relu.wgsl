// max(v, 0).
// Requires: nothing.
// Implements: function.
// Provides: activate.
// It selects instead of calling max, because max may drop a NaN.

fn activate(v: vec2<f32>) -> vec2<f32> {
    return select(v, vec2<f32>(0.0), v < vec2<f32>(0.0));
}
