// A table of any 16 numbers that is the same for every matrix: TABLE_0 and so on are the bits of f32. It is
// MIRRORED if the numbers of codes 8 to 15 are those of 0 to 7 with the other sign.
// Requires: lib/matmul, const MIRRORED, const TABLE_0, const TABLE_1, const TABLE_2, const TABLE_3,
// const TABLE_4, const TABLE_5, const TABLE_6, const TABLE_7, const TABLE_8, const TABLE_9,
// const TABLE_10, const TABLE_11, const TABLE_12, const TABLE_13, const TABLE_14, const TABLE_15.
// Implements: table.
// Provides: table4.
// Why selects: software adapters load entries of an array lane by lane, and a tree of selects takes all
// lanes at once.

fn pick(low: u32, high: u32, bit: vec4<bool>) -> vec4<u32> {
    return select(vec4<u32>(low), vec4<u32>(high), bit);
}

// The numbers of the codes in the low halves of the bytes of a word.
fn table4(codes: u32, row: Row) -> vec4<f32> {
    let code = unpack4xU8(codes & 0x0f0f0f0fu);
    let bit0 = (code & vec4<u32>(1u)) != vec4<u32>(0u);
    let bit1 = (code & vec4<u32>(2u)) != vec4<u32>(0u);
    let bit2 = (code & vec4<u32>(4u)) != vec4<u32>(0u);
    let q0 = select(
        pick(TABLE_0, TABLE_1, bit0), pick(TABLE_2, TABLE_3, bit0), bit1,
    );
    let q1 = select(
        pick(TABLE_4, TABLE_5, bit0), pick(TABLE_6, TABLE_7, bit0), bit1,
    );
    let low = select(q0, q1, bit2);
    if (MIRRORED) {
        return bitcast<vec4<f32>>(low ^ ((code & vec4<u32>(8u)) << vec4<u32>(28u)));
    }
    let q2 = select(
        pick(TABLE_8, TABLE_9, bit0), pick(TABLE_10, TABLE_11, bit0), bit1,
    );
    let q3 = select(
        pick(TABLE_12, TABLE_13, bit0), pick(TABLE_14, TABLE_15, bit0), bit1,
    );
    let high = select(q2, q3, bit2);
    return bitcast<vec4<f32>>(select(low, high, code >= vec4<u32>(8u)));
}
