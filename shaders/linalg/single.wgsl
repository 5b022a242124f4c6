// Elements of matrices that are read and written one by one.
// Requires: elements.
// Implements: matrices.
// Provides: right4, update4.

// Four neighbouring columns of B.
fn right4(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(load_b(at.x), load_b(at.y), load_b(at.z), load_b(at.w));
}

// Writes those of four neighbouring columns of C that are inside, or adds to them.
fn update4(at: vec4<u32>, inside: vec4<bool>, keep: bool, values: vec4<f32>) {
    for (var i = 0u; i < 4u; i += 1u) {
        if (inside[i]) {
            c[at[i]] = select(values[i], c[at[i]] + values[i], keep);
        }
    }
}
