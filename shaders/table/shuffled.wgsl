// A table of any 16 numbers that is the same for every matrix, in registers of subgroups of 8 lanes: a lane
// holds two entries, and lanes read each other's. The constants are those of table/constants.
// Requires: lib/matmul, lib/lane, const MIRRORED, const TABLE_0, const TABLE_1, const TABLE_2, const TABLE_3,
// const TABLE_4, const TABLE_5, const TABLE_6, const TABLE_7, const TABLE_8, const TABLE_9,
// const TABLE_10, const TABLE_11, const TABLE_12, const TABLE_13, const TABLE_14, const TABLE_15.
// Implements: table.
// Features: subgroups.
// Provides: table4.
// Why shuffles: on software adapters with vectors of 8 lanes, a shuffle by numbers that differ is one
// instruction, and a tree of 15 selects takes about 20.
// Caller: all lanes of a subgroup are active, so that none of them holds no entry.

// The entry that this lane holds of the eight.
fn held(
    e0: u32, e1: u32, e2: u32, e3: u32, e4: u32, e5: u32, e6: u32, e7: u32,
) -> u32 {
    let bit0 = (subgroup_lane & 1u) != 0u;
    let bit1 = (subgroup_lane & 2u) != 0u;
    let low = select(select(e0, e1, bit0), select(e2, e3, bit0), bit1);
    let high = select(select(e4, e5, bit0), select(e6, e7, bit0), bit1);
    return select(low, high, (subgroup_lane & 4u) != 0u);
}

fn entries(table: u32, places: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(
        subgroupShuffle(table, places.x), subgroupShuffle(table, places.y),
        subgroupShuffle(table, places.z), subgroupShuffle(table, places.w),
    );
}

// The numbers of the codes in the low halves of the bytes of a word.
fn table4(codes: u32, row: Row) -> vec4<f32> {
    let places = unpack4xU8(codes & 0x07070707u);
    let signs = unpack4xU8(codes & 0x08080808u);
    let low = entries(
        held(TABLE_0, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7), places,
    );
    if (MIRRORED) {
        return bitcast<vec4<f32>>(low ^ (signs << vec4<u32>(28u)));
    }
    let high = entries(
        held(TABLE_8, TABLE_9, TABLE_10, TABLE_11, TABLE_12, TABLE_13, TABLE_14, TABLE_15), places,
    );
    return bitcast<vec4<f32>>(select(low, high, signs != vec4<u32>(0u)));
}
