// Scales of two levels: a signed byte for a group, times an f16 for each 256 columns. `params` must have
// scale_at, upper_at and group_size.
//
// Requires: quantize/record, lib/half, const MINIMA.
// Implements: scales.
// Provides: group_scale(record, group) -> u32, bits of the f32; group_minimum(record, group) -> f32.
// Layout: if there are minima, each entry of either level is followed by that of the minima.
// The product has at most 8 + 11 bits and is exact.

fn group_product(record: u32, group: u32, which: u32) -> f32 {
    let entries = select(1u, 2u, MINIMA);
    let lower = side_field(record, params.scale_at, 8u, entries * group + which);
    let block = group * params.group_size / 256u;
    let upper = side_field(record, params.upper_at, 16u, entries * block + which);
    return f32(extractBits(bitcast<i32>(lower), 0u, 8u)) * half_to_f32(upper);
}

fn group_scale(record: u32, group: u32) -> u32 {
    return bitcast<u32>(group_product(record, group, 0u));
}

fn group_minimum(record: u32, group: u32) -> f32 {
    return group_product(record, group, 1u);
}
