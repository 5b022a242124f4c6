// No activation function.
// Requires: nothing.
// Implements: function.
// Provides: activate.

fn activate(v: vec2<f32>) -> vec2<f32> {
    return v;
}
