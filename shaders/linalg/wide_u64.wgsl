// The left matrix of a product in a buffer of its own. The others are in one, whose columns are neighbours,
// and are loaded and stored 16 bytes at a time, as two 64-bit words.
// Requires: nothing.
// Implements: matrices.
// Features: int64.
// Provides: load_a, right4, update4.
// Why u64: software adapters load one component of one lane at a time; see access/codes16_u64.
// Caller: n, b_at, b_row, c_at and c_row are multiples of 4, and b_column and c_column are 1.

@group(0) @binding(3) var<storage, read> a: array<f32>;
@group(0) @binding(4) var<storage, read_write> c: array<vec2<u64>>;

fn load_a(at: u32) -> f32 {
    return a[at];
}

// Four neighbouring columns of B.
fn right4(at: vec4<u32>) -> vec4<f32> {
    let words = c[at.x >> 2u];
    return bitcast<vec4<f32>>(vec4<u32>(
        u32(words.x), u32(words.x >> 32u), u32(words.y), u32(words.y >> 32u),
    ));
}

// Writes four neighbouring columns of C if they are inside, or adds to them.
fn update4(at: vec4<u32>, inside: vec4<bool>, keep: bool, values: vec4<f32>) {
    if (inside.x) {
        let bits = bitcast<vec4<u32>>(select(values, right4(at) + values, keep));
        c[at.x >> 2u] = vec2<u64>(
            u64(bits.x) | (u64(bits.y) << 32u), u64(bits.z) | (u64(bits.w) << 32u),
        );
    }
}
