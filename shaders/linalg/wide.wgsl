// The left matrix of a product in a buffer of its own. The others are in one, whose columns are neighbours,
// and are loaded and stored 16 bytes at a time.
// Requires: nothing.
// Implements: matrices.
// Provides: load_a, right4, update4.
// Caller: n, b_at, b_row, c_at and c_row are multiples of 4, and b_column and c_column are 1.

@group(0) @binding(3) var<storage, read> a: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4<f32>>;

fn load_a(at: u32) -> f32 {
    return a[at];
}

// Four neighbouring columns of B.
fn right4(at: vec4<u32>) -> vec4<f32> {
    return c[at.x >> 2u];
}

// Writes four neighbouring columns of C if they are inside, or adds to them.
fn update4(at: vec4<u32>, inside: vec4<bool>, keep: bool, values: vec4<f32>) {
    if (inside.x) {
        c[at.x >> 2u] = select(values, c[at.x >> 2u] + values, keep);
    }
}
