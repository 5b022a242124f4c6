// Columns that are stored in an order that each matrix states. `params` must have k.
//
// Requires: weight_parameters.
// Implements: column_order.
// Provides: place_of(column) -> u32, the place along K of a column of W.
//
// Memory: `order` holds the column at each of k places, then the place of each of k columns.

@group(0) @binding(7) var<storage, read> order: array<u32>;

fn place_of(column: u32) -> u32 {
    return order[params.k + column];
}
