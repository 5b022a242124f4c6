// Reads 2:4 metadata from `side`.
//
// Requires: weight_parameters, const PANEL.
// Provides: quad_nibble(record, quad) -> u32, idx0 | idx1 << 2 of a quad's kept columns.
//
// Memory: a word for 32 columns at the start of a side row, low nibble first; `record`
// is the index of its first word (lib/panel).

fn quad_nibble(record: u32, quad: u32) -> u32 {
    return (side[record + quad / 8u * PANEL] >> (4u * (quad % 8u))) & 0xfu;
}
