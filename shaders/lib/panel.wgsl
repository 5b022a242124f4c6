// Finds the side row of a row in the side buffer. `params` must have row0 and side_words.
//
// Requires: weight_parameters, const PANEL.
// Provides: record_of(row).
//
// Memory: the words of PANEL rows are interleaved, so word i of a side row is at
// record_of(row) + i · PANEL. The rows of a chunk start at `row0`.

fn record_of(row: u32) -> u32 {
    let at = params.row0 + row;
    return at / PANEL * PANEL * params.side_words + at % PANEL;
}
