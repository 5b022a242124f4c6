// Scales of two levels: an e4m3 float for a group, times one f32. `params` must have scale_at and
// upper_at.
//
// Requires: quantize/record, lib/fp8.
// Implements: scales.
// Provides: group_scale(record, group) -> u32, bits of the f32; group_minimum(record, group) -> f32,
// which no such format has.

fn group_scale(record: u32, group: u32) -> u32 {
    let lower = fp8_to_f32(vec4<u32>(side_field(record, params.scale_at, 8u, group)), 3u).x;
    return bitcast<u32>(lower * bitcast<f32>(side_field(record, params.upper_at, 32u, 0u)));
}

fn group_minimum(record: u32, group: u32) -> f32 {
    return 0.0;
}
