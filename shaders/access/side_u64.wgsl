// Loads words of side rows, two words at a time: the words of neighboring rows of a panel are
// adjacent, and PANEL is even.
// Requires: lib/matmul, const PANEL.
// Implements: side.
// Features: int64.
// Provides: side, side_word, side_pair.
// Why u64: software adapters load one component of one lane at a time; see access/codes16_u64.

@group(0) @binding(5) var<storage, read> side: array<u64>;

// Returns word i of a row's side row.
fn side_word(row: Row, i: u32) -> u32 {
    let at = row.side + i * PANEL;
    return u32(side[at >> 1u] >> ((at & 1u) * 32u));
}

// Returns word i of the side rows of an even row and of the next one. Past the last row both are the
// last one. The second word then belongs to no row, or to the row before.
fn side_pair(r0: Row, r1: Row, i: u32) -> vec2<u32> {
    let both = side[(r0.side + i * PANEL) >> 1u];
    return vec2<u32>(u32(both), u32(both >> 32u));
}
