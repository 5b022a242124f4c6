// Scales of one byte, which are powers of two. `params` must have scale_at.
//
// Requires: quantize/record, lib/fp8.
// Implements: scales.
// Provides: group_scale(record, group) -> u32, bits of the f32; group_minimum(record, group) -> f32,
// which no such format has.

fn group_scale(record: u32, group: u32) -> u32 {
    return bitcast<u32>(e8m0_to_f32(side_field(record, params.scale_at, 8u, group)));
}

fn group_minimum(record: u32, group: u32) -> f32 {
    return 0.0;
}
