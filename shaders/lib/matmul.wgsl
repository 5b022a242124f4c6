// The parameters of Y = X · Wᵀ (+ bias), and the number of rows.
// Requires: lib/dispatch, const PANEL.
// Implements: parameters.
// Provides: Params, p, row_count, Row, row_at, block_at.
// Bindings: 0 has the parameters, 1 and 2 the digits of m (lib/dispatch), 6 the bias (lib/bias);
// the access fragments declare 3 (X), 4 (codes), 5 (the side buffer) and 7 (Y); lib/tile_experts
// declares 8 (the list of rows).

struct Params {
    n0: u32,          // first output column of this block of rows of W
    rows: u32,        // rows of W in this block
    k: u32,           // columns
    blocks: u32,      // ⌈k/32⌉
    group_size: u32,  // k in a group
    groups: u32,      // groups a row
    side_stride: u32, // words in a side row
    scale_at: u32,    // where in it the scales start
    zero_at: u32,     // where in it the zero points start
    upper_at: u32,    // where in it the upper level of scales starts
    table_at: u32,    // where in it the codebook starts
    x_offset: u32,    // the first element of X (a word, where it is quantized)
    x_stride: u32,    // elements from one row of X to the next
    x_batch: u32,     // from one X of the batch to the next
    y_offset: u32,    // the first element of Y (a word, where it is quantized)
    y_stride: u32,    // elements from one row of Y to the next
    y_batch: u32,     // from one Y of the batch to the next
    batch: u32,       // products of one size
    m0: u32,          // first row of X of this segment
    m_cap: u32,       // rows of X in it at most
    bias_offset: u32, // elements
    y_slice: u32,     // rows of W that make a row of Y: all, or those of an expert
    slice: u32,       // blocks in a slice of K (integer/slices)
    w_slices: u32,    // slices in a group of W
    x_slices: u32,    // slices in a group of X
    x_scale_at: u32,  // where in a row of quantized X its scales start, in words
    x_zero_at: u32,   // its zero points
    x_sum_at: u32,    // its sums of blocks
    out_scale: f32,   // of quantized Y
    out_inverse: f32, // 1 / out_scale
    out_zero: i32,    // its zero point
    list_at: u32,     // the first entry of the list of rows (lib/tile_experts)
    experts: u32,     // how many matrices W stacks
    own_rows: u32,    // 1 if row i of Y takes row i of X, and the list only names its expert
}

@group(0) @binding(0) var<uniform> p: Params;

// Rows of X that this segment multiplies; the host records it only where there are any.
fn row_count() -> u32 {
    return min(recorded_count() - p.m0, p.m_cap);
}

// Where a row of W begins: its first block of codes, in blocks, and the first word of its
// side row. PANEL rows lie block by block and word by word side by side, so that lanes that
// own neighbouring rows read neighbouring memory. Made once a row: some compilers do not
// move it out of loops.
struct Row {
    codes: u32,
    side: u32,
}

fn row_at(row: u32) -> Row {
    let panel = row / PANEL * PANEL;
    return Row(panel * p.blocks + row % PANEL, panel * p.side_stride + row % PANEL);
}

fn block_at(row: Row, b: u32) -> u32 {
    return row.codes + b * PANEL;
}
