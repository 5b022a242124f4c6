// The number of a code that is an index into a table of the code type. The constants are the bits of
// the table's numbers.
//
// Requires: const TABLE_0, const TABLE_1, const TABLE_2, const TABLE_3, const TABLE_4, const TABLE_5,
// const TABLE_6, const TABLE_7, const TABLE_8, const TABLE_9, const TABLE_10, const TABLE_11,
// const TABLE_12, const TABLE_13, const TABLE_14, const TABLE_15.
// Implements: number.
// Provides: number_of(code, record, group) -> f32.

fn number_of(code: u32, record: u32, group: u32) -> f32 {
    var table = array<u32, 16>(
        TABLE_0, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7,
        TABLE_8, TABLE_9, TABLE_10, TABLE_11, TABLE_12, TABLE_13, TABLE_14, TABLE_15,
    );
    return bitcast<f32>(table[code]);
}
