// One scale and zero point a block: groups are multiples of 32 columns, or the row.
// Requires: a decoder, scale/side. Provides: scaled_dot, scaled_weights.
// The scale is applied once a block to its partial sum, not to each weight.

fn scaled_dot(row: u32, b: u32, xq: Quads) -> f32 {
    let group = b * 32u / p.group_size;
    return scale_of(row, group) * dot_block(load_block(row, b), zero_of(row, group), xq);
}

fn scaled_weights(row: u32, b: u32) -> Quads {
    let group = b * 32u / p.group_size;
    let codes = expand_f(load_block(row, b), splat_quads(zero_of(row, group)));
    return scale_quads(codes, scale_of(row, group));
}
