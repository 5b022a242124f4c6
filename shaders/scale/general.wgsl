// A scale and zero point for each column: groups of any size.
// Requires: a general decoder, lib/quad, scale/side. Provides: scaled_dot, scaled_weights.
// Padding columns take the last group, so that no index leaves the record.

fn scaled_weights(row: u32, quad: u32) -> Quads {
    let k = quad * 4u;
    let g = min(vec4<u32>(k, k + 1u, k + 2u, k + 3u) / p.group_size, vec4<u32>(p.groups - 1u));
    let zeros = vec4<f32>(
        zero_of(row, g.x), zero_of(row, g.y), zero_of(row, g.z), zero_of(row, g.w),
    );
    let scales = vec4<f32>(
        scale_of(row, g.x), scale_of(row, g.y), scale_of(row, g.z), scale_of(row, g.w),
    );
    return Quads(expand_f(load_block(row, quad), Quads(zeros)).q0 * scales);
}

fn scaled_dot(row: u32, quad: u32, xq: Quads) -> f32 {
    return dot_quads(scaled_weights(row, quad), xq);
}
