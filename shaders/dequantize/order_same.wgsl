// Columns that are stored in their order.
//
// Requires: nothing.
// Implements: column_order.
// Provides: place_of(column) -> u32, the place along K of a column of W.

fn place_of(column: u32) -> u32 {
    return column;
}
