// A table of the matrix's own: 16 words in each side row.
// Requires: lib/matmul, side.
// Implements: table.
// Provides: table4.

// The numbers of the codes in the low halves of the bytes of a word.
fn table4(codes: u32, row: Row) -> vec4<f32> {
    let at = vec4<u32>(p.table_at) + unpack4xU8(codes & 0x0f0f0f0fu);
    return bitcast<vec4<f32>>(vec4<u32>(
        side_word(row, at.x), side_word(row, at.y), side_word(row, at.z), side_word(row, at.w),
    ));
}
