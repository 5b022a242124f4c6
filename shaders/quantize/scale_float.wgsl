// Scales of f32 or f16, as they are. `params` must have scale_at.
//
// Requires: quantize/record, lib/half, const SCALE_BITS, const MINIMA.
// Implements: scales.
// Provides: group_scale(record, group) -> u32, bits of the f32; group_minimum(record, group) -> f32.
// Layout: if there are minima (or zero points that are floats), each scale is followed by that of its
// group.

fn group_entry(record: u32, entry: u32) -> u32 {
    let bits = side_field(record, params.scale_at, SCALE_BITS, entry);
    if (SCALE_BITS == 16u) {
        return half_to_f32_bits(bits);
    }
    return bits;
}

fn group_scale(record: u32, group: u32) -> u32 {
    return group_entry(record, select(group, 2u * group, MINIMA));
}

fn group_minimum(record: u32, group: u32) -> f32 {
    return bitcast<f32>(group_entry(record, 2u * group + 1u));
}
