// A scale and zero point for each column: groups of any size.
// Requires: a decoder, scale/side. Provides: scaled_dot, scaled_weights.
// Padding columns take the last group, so that no index leaves the record.

fn groups_of(k: u32) -> vec4<u32> {
    let columns = vec4<u32>(k, k + 1u, k + 2u, k + 3u);
    return min(columns / p.group_size, vec4<u32>(p.groups - 1u));
}

fn zeros4(row: u32, k: u32) -> vec4<f32> {
    let g = groups_of(k);
    return vec4<f32>(zero_of(row, g.x), zero_of(row, g.y), zero_of(row, g.z), zero_of(row, g.w));
}

fn scales4(row: u32, k: u32) -> vec4<f32> {
    let g = groups_of(k);
    return vec4<f32>(scale_of(row, g.x), scale_of(row, g.y), scale_of(row, g.z), scale_of(row, g.w));
}

fn scaled_weights(row: u32, b: u32) -> Quads {
    let k = b * 32u;
    let zeros = Quads(
        zeros4(row, k), zeros4(row, k + 4u), zeros4(row, k + 8u), zeros4(row, k + 12u),
        zeros4(row, k + 16u), zeros4(row, k + 20u), zeros4(row, k + 24u), zeros4(row, k + 28u),
    );
    let w = expand_f(load_block(row, b), zeros);
    return Quads(
        w.q0 * scales4(row, k), w.q1 * scales4(row, k + 4u),
        w.q2 * scales4(row, k + 8u), w.q3 * scales4(row, k + 12u),
        w.q4 * scales4(row, k + 16u), w.q5 * scales4(row, k + 20u),
        w.q6 * scales4(row, k + 24u), w.q7 * scales4(row, k + 28u),
    );
}

fn scaled_dot(row: u32, b: u32, xq: Quads) -> f32 {
    return dot_quads(scaled_weights(row, b), xq);
}
