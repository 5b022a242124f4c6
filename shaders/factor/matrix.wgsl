// The parameters of the kernels that factor a matrix.
// Requires: nothing.
// Implements: parameters.
// Provides: p.

struct FactorParams {
    k: u32,        // rows and columns
    tile0: u32,    // the first tile of this segment
    tiles: u32,    // tiles of it
    sums_at: u32,  // the first integer of it
    order_at: u32, // the first word of the order
    first: u32,    // the first row and column of a block
    size: u32,     // rows and columns of it
    status_at: u32, // the first word of the status
    damping: f32,  // what is added to the diagonal
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: FactorParams;
