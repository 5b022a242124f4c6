// Replaces X by a constant. What remains of a matmul kernel reads, unpacks and multiplies weights.
// Requires: nothing.
// Implements: x.
// Provides: load_x4.

fn load_x4(row_at: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(1.0, 2.0, 3.0, 4.0);
}
