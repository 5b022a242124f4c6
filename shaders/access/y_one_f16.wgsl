// Stores single elements of Y as f16. Offset and strides must be even.
// Requires: lib/half.
// Implements: y_one.
// Provides: store_y1, store_y1_pair.
// Why atomic: two invocations may own the halves of a word. Each replaces its own half by two
// operations that leave the other half as it is, so their order does not matter. Where one invocation
// has both halves, it stores the word.
// Caller: offset and strides of Y are even.

@group(0) @binding(7) var<storage, read_write> y: array<atomic<u32>>;

fn store_y1(at: u32, v: f32) {
    let shift = (at & 1u) * 16u;
    atomicAnd(&y[at >> 1u], 0xffff0000u >> shift);
    atomicOr(&y[at >> 1u], f32_to_half(v) << shift);
}

// Elements at and at + 1.
fn store_y1_pair(at: u32, v: vec2<f32>) {
    if ((at & 1u) == 0u) {
        atomicStore(&y[at >> 1u], f32_to_half(v.x) | (f32_to_half(v.y) << 16u));
    } else {
        store_y1(at, v.x);
        store_y1(at + 1u, v.y);
    }
}
