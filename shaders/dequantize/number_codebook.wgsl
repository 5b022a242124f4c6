// The number of a code that is an index into the matrix's own table, at the end of each side row.
// `params` must have table_at.
//
// Requires: quantize/record.
// Implements: number.
// Provides: number_of(code, record, group) -> f32.

fn number_of(code: u32, record: u32, group: u32) -> f32 {
    return bitcast<f32>(side_field(record, params.table_at, 32u, code));
}
