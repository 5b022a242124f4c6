// The parameters and the output of the kernels that quantize activations.
//
// Requires: activations/codes, lib/dispatch, x.
// Implements: parameters, source.
// Provides: p, row_count, and all bindings except X and `ranges`.
//
// Memory, in u32 words:
//   x        [m, k], x_stride elements apart from x_offset on
//   y        [m, row_words]: codes, scales, zero points, sums (format::ActivationLayout)

struct Params {
    k: u32,            // columns
    blocks: u32,       // ⌈k/32⌉
    group_blocks: u32, // blocks that share a scale
    groups: u32,       // groups a row
    x_offset: u32,     // the first element of X
    x_stride: u32,     // elements from one row of X to the next
    row_words: u32,    // words from one row of codes to the next
    scale_at: u32,     // where in such a row the scales start, in words
    zero_at: u32,      // where in it the zero points start
    sum_at: u32,       // where in it the sums of blocks start
    y_offset: u32,     // the first word of the rows of codes
    m0: u32,           // first row of X of this segment
    m_cap: u32,        // rows of X in it at most
    range_at: u32,     // words before what `ranges` holds
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

fn row_count() -> u32 {
    return min(recorded_count() - p.m0, p.m_cap);
}

fn source_columns() -> u32 {
    return p.k;
}

fn source4(x_at: u32, column: u32) -> vec4<f32> {
    return load_x4(x_at, column);
}
