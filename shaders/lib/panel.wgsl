// Where a row's record of side data stands in its buffer.
//
// Requires: weight_parameters, const PANEL.
// Provides: record_of(row).
//
// Memory: PANEL rows lie word by word side by side, so word i of a record is at
// record_of(row) + i · PANEL. `row0` is where a chunk's rows start.

fn record_of(row: u32) -> u32 {
    let at = params.row0 + row;
    return at / PANEL * PANEL * params.side_words + at % PANEL;
}
