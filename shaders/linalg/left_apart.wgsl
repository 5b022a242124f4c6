// The left matrix of a product in a buffer of its own, and the others in one.
// Requires: nothing.
// Implements: matrices.
// Provides: load_a, right4, update4.

@group(0) @binding(3) var<storage, read> a: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;

fn load_a(at: u32) -> f32 {
    return a[at];
}

// Four neighbouring columns of B.
fn right4(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(c[at.x], c[at.y], c[at.z], c[at.w]);
}

// Writes those of four neighbouring columns of C that are inside, or adds to them.
fn update4(at: vec4<u32>, inside: vec4<bool>, keep: bool, values: vec4<f32>) {
    for (var i = 0u; i < 4u; i += 1u) {
        if (inside[i]) {
            c[at[i]] = select(values[i], c[at[i]] + values[i], keep);
        }
    }
}
