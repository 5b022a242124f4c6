// The parameters of the kernels that choose which weights of a block of columns a fraction prunes.
// Requires: nothing.
// Implements: parameters.
// Provides: p, BEGIN, SCORES, PLACES, MASK, STATE.
//
// A weight has a score and a place, and those of the lowest scores are pruned. The score is that of
// |w|/U_ii: non-negative floats have the order of their bits, and the sign bit is shifted out. Of equal
// scores the last weights of the block go first, row by row, so the place counts from the last one.
// The threshold is found eight bits at a time, the highest first: `columns/select` counts the weights that
// agree with the bits found so far by their next eight, and `columns/pick` adds the eight that the
// last pruned weight has. Scores come first. If not all weights of the last score are pruned, places go on.
//
// Memory, in the words after the masks, from state_at on:
//   the score of the threshold
//   its place: of the weights with that score, those with lower places are pruned
//   how many of the weights that agree with it are still to be pruned
//   1 where the threshold is known
//   [256] counts

struct SelectionParams {
    n: u32,        // rows of W
    k: u32,        // columns
    rows: u32,     // rows that there is room for
    first: u32,    // the first column of the block
    width: u32,    // columns of it
    count: u32,    // weights of the block that are pruned
    state_at: u32, // the first word of the state
    stage: u32,    // which stage this is
    shift: u32,    // bits below the eight of this stage
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: SelectionParams;

// Stages: nothing is known, bits of scores, bits of places, and the masks.
const BEGIN = 0u;
const SCORES = 1u;
const PLACES = 2u;
const MASK = 3u;

// Words before the counts.
const STATE = 4u;
