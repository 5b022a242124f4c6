// Loads words of side rows (scales, zero points, 2:4 metadata), one word at a time.
// Requires: lib/matmul, const PANEL.
// Implements: side.
// Provides: side, side_word, side_pair.

@group(0) @binding(5) var<storage, read> side: array<u32>;

// Returns word i of a row's side row.
fn side_word(row: Row, i: u32) -> u32 {
    return side[row.side + i * PANEL];
}

// Returns word i of the side rows of two rows.
fn side_pair(r0: Row, r1: Row, i: u32) -> vec2<u32> {
    return vec2<u32>(side_word(r0, i), side_word(r1, i));
}
