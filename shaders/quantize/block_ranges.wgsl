// Finds the range of every group, widened to include 0, and the first weight that is not finite. If
// RANK, it makes the 2:4 mask too. It does what quantize/ranges does after sparse/prune, one block
// an invocation. `extremes` and `status` must have been cleared, and under 2:4 without RANK `side`
// must have the metadata.
//
// Requires: quantize/block, quantize/make, sparse/rank, lib/softfloat, const PANEL, const SPARSE,
// const PER_TENSOR, const RANK.
// Provides: `main`, one invocation a block.
// Caller: reset runs before it, and under a given 2:4 mask place.

fn raise(word: u32, bits: u32) {
    if (bits > atomicLoad(&extremes[word])) {
        atomicMax(&extremes[word], bits);
    }
}

// (largest, minus the lowest) of four weights and 0.
fn range_of(quad: vec4<u32>, nibble: u32) -> vec2<u32> {
    var weights4 = magnitudes_of(quad);
    var sign = quad;
    if (SPARSE) {
        // The two kept, twice.
        sign = kept_of(quad, nibble).xyxy;
        weights4 = magnitudes_of(sign);
    }
    let negative = sign >= vec4<u32>(0x80000000u);
    let high = select(weights4, vec4<u32>(0u), negative);
    let low = select(vec4<u32>(0u), weights4, negative);
    if (SPARSE) {
        return vec2<u32>(max(high.x, high.y), max(low.x, low.y));
    }
    return vec2<u32>(
        max(max(high.x, high.y), max(high.z, high.w)),
        max(max(low.x, low.y), max(low.z, low.w)),
    );
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = invocation(group_id, group_count, lane);
    if (id >= params.rows * params.blocks) {
        return;
    }
    let place = place_of(id);
    let meta_word = place.record + place.block * PANEL;
    if (SPARSE && !RANK) {
        nibbles = side[meta_word];
    }
    var range = vec2<u32>(0u);
    for (var chunk = 0u; chunk < 4u; chunk++) {
        let w = survey(place, chunk);
        let pair = nibbles >> (8u * chunk);
        range = max(range, range_of(w.a, pair & 0xfu));
        range = max(range, range_of(w.b, (pair >> 4u) & 0xfu));
    }
    if (RANK) {
        side[meta_word] = nibbles;
    }
    let pair = select(2u * (place.row * params.groups + group_of(place)), 0u, PER_TENSOR);
    raise(pair, range.x);
    raise(pair + 1u, range.y);
    report_not_finite(place);
}
