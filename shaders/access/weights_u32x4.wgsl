// Loads rows of an uncompressed W, 16 bytes at a time. Offset, stride and K must be multiples of
// 4.
// Requires: quantize/make.
// Implements: source_weights.
// Provides: weights, W8, load8.
// Caller: k, weight_at and weight_stride are multiples of 4.

@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;

struct W8 {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn load8(source: u32, column: u32) -> W8 {
    return W8(load4(source, column), load4(source, column + 4u));
}

fn load4(source: u32, column: u32) -> vec4<u32> {
    let bits = weights[(source + min(column, params.k - 4u)) >> 2u];
    return select(vec4<u32>(0u), bits, column < params.k);
}
