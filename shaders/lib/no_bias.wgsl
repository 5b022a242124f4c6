// Stands for a bias where there is none.
// Requires: nothing.
// Implements: bias.
// Provides: bias2.

fn bias2(n: u32, end: u32) -> vec2<f32> {
    return vec2<f32>(0.0);
}
