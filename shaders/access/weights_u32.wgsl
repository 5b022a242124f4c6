// Loads rows of an uncompressed W, one word at a time. Any offset, stride and K are allowed.
// Requires: quantize/make.
// Implements: source_weights.
// Provides: weights, W8, load8.

@group(0) @binding(1) var<storage, read> weights: array<u32>;

struct W8 {
    a: vec4<u32>,
    b: vec4<u32>,
}

// Eight columns from `column` on of the row at `source`; those from K on are 0.
fn load8(source: u32, column: u32) -> W8 {
    return W8(load4(source, column), load4(source, column + 4u));
}

fn load4(source: u32, column: u32) -> vec4<u32> {
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    let at = vec4<u32>(source) + min(columns, vec4<u32>(params.k - 1u));
    let bits = vec4<u32>(weights[at.x], weights[at.y], weights[at.z], weights[at.w]);
    return select(vec4<u32>(0u), bits, columns < vec4<u32>(params.k));
}
