// Loads the gradient of Y as f32, 16 bytes at a time. K, offset and stride must be multiples of 4.
// Requires: nothing.
// Implements: dy.
// Provides: load_dy4, for columns below k.
// Caller: k, offset and stride of the gradient of Y are multiples of 4.

@group(0) @binding(4) var<storage, read> dy_in: array<vec4<f32>>;

fn load_dy4(row_at: u32, k: u32) -> vec4<f32> {
    return dy_in[(row_at + k) >> 2u];
}
