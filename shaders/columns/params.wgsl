// The parameters of the kernels that go through the columns of W.
// Requires: nothing.
// Implements: parameters.
// Provides: p.

struct ColumnsParams {
    n: u32,             // rows of W
    k: u32,             // columns
    rows: u32,          // rows that a lane has
    stride: u32,        // lanes that there is room for
    source_at: u32,     // the first element of W as it is given
    source_stride: u32, // elements from one row of it to the next
    order_at: u32,      // the first word of the order
    first: u32,         // the first column of a block
    width: u32,         // columns of it
    group: u32,         // columns of a group
    groups: u32,        // groups of a row
    status_at: u32,     // the first word of the status
    low: f32,           // the lowest code
    high: f32,          // the highest
    zero: f32,          // the zero point, if all groups share it
    steps: f32,         // what the range of a group is divided by for its scale
}

@group(0) @binding(0) var<uniform> p: ColumnsParams;
