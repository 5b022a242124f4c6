// Describes the rows of a step for rotary embedding and attention, and counts the tokens of a sequence.
//
// Requires: lib/dispatch.
// Provides: `main`, one workgroup for all rows.
//
// Memory:
//   state  one word: the number of tokens before this step. With p.advance it becomes the number
//          after it
//   rows   [rows] of four words: position, slot, first and end of the slots that the row sees; from
//          p.index_at on, [rows] words: position + p.index_base, the rows of a table of positions
// All invocations read the state before one of them changes it.

struct PositionsParams {
    state_at: u32,   // the word of `state`
    rows_at: u32,    // the first word of `rows`
    window: u32,     // tokens that a row sees at most, itself included
    advance: u32,    // 1 if the state counts this step
    index_at: u32,   // the first word of the list of positions in `rows`
    index_base: u32, // the index of position 0 in the list of positions
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: PositionsParams;
@group(0) @binding(3) var<storage, read_write> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> rows: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    let count = recorded_count();
    let before = state[p.state_at];
    storageBarrier();
    for (var i = lane; i < count; i += 64u) {
        let position = before + i;
        let at = p.rows_at + 4u * i;
        rows[at] = position;
        rows[at + 1u] = position;
        rows[at + 2u] = position + 1u - min(position + 1u, p.window);
        rows[at + 3u] = position + 1u;
        rows[p.index_at + i] = position + p.index_base;
    }
    if (lane == 0u && p.advance == 1u) {
        state[p.state_at] = before + count;
    }
}
