// Computes activate(gate) · up for rows of X that hold both.
//
// Requires: lib/dispatch, x, function.
// Implements: parameters.
// Provides: GateParams, p, row_count, gated4, and all bindings except X.
//
// Memory:
//   x   [rows, k], strides in elements. A row is `columns` columns of the gate and then as many of what it
//       multiplies, or, if `pairs`, columns of both in turn; k is twice `columns`
//   y   [rows, columns], strides in elements, or in words of codes
// The number of rows is known when it is recorded, and the two digits at bindings 1 and 2 carry it; m0
// of these rows belong to earlier segments.

struct GateParams {
    k: u32,            // columns of X
    columns: u32,      // columns of the result
    pairs: u32,        // 1 if the columns of both alternate
    m0: u32,           // of the counted rows, how many belong to earlier segments
    m_cap: u32,        // rows of this segment, at most
    x_at: u32,         // the first element of the segment in `x`
    x_stride: u32,     // elements from one row of X to the next
    y_at: u32,         // the first element of the segment in `y`, or the first word of codes
    y_stride: u32,     // elements, or words of codes, from one row of the result to the next
    blocks: u32,       // of a row of codes: ⌈columns/32⌉
    group_blocks: u32, // blocks that share a scale
    groups: u32,       // groups a row
    scale_at: u32,     // where in such a row the scales start, in words
    zero_at: u32,      // where in it the zero points start
    sum_at: u32,       // where in it the sums of blocks start
    given_scale: f32,  // the scale, if it does not come from the row
    given_zero: i32,   // the zero point of a static scale
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: GateParams;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

fn row_count() -> u32 {
    return min(recorded_count() - p.m0, p.m_cap);
}

// Four columns of the result from the row of X at element x_at; past the last they are any number.
fn gated4(x_at: u32, column: u32) -> vec4<f32> {
    let pairs = p.pairs != 0u;
    let a = load_x4(x_at, select(column, 2u * column, pairs));
    let b = load_x4(x_at, select(column + p.columns, 2u * column + 4u, pairs));
    let gate = select(a, vec4<f32>(a.x, a.z, b.x, b.z), pairs);
    let up = select(b, vec4<f32>(a.y, a.w, b.y, b.w), pairs);
    return vec4<f32>(activate(gate.xy), activate(gate.zw)) * up;
}
