// Loads the bias of Y as f32.
// Requires: lib/matmul.
// Implements: bias.
// Provides: bias2.

@group(0) @binding(6) var<storage, read> bias: array<f32>;

// Columns n and n + 1; past the end 0.
fn bias2(n: u32, end: u32) -> vec2<f32> {
    var v = vec2<f32>(0.0);
    if (n < end) {
        v.x = bias[p.bias_offset + n];
    }
    if (n + 1u < end) {
        v.y = bias[p.bias_offset + n + 1u];
    }
    return v;
}
