// Finds the range of every group, widened to include 0, and the first weight that is not finite.
// `extremes` and `status` must have been cleared, and under 2:4 `side` must have the metadata.
//
// Requires: quantize/make, access/weights_u32, lib/panel, sparse/metadata, lib/softfloat,
// const IS_FLOAT, const SPARSE, const PER_TENSOR.
// Provides: `main`, one invocation for 32 columns of a row: rows·blocks of them.
//
// Under 2:4 only kept weights count in a range, but every weight is checked. Floats have
// no ranges, so for them this is only the check.
//
// Why atomics: non-negative floats have the order of their bits, so an atomic maximum of bits is
// exact and does not depend on the order of invocations. Groups of any size may begin and end
// anywhere. An invocation issues atomics only where a group ends, and only if they would change
// something, because 16 million weights of one tensor may share two words.
// Caller: reset runs before it, and under 2:4 prune or place.

fn raise(word: u32, bits: u32) {
    if (bits > atomicLoad(&extremes[word])) {
        atomicMax(&extremes[word], bits);
    }
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
    let row = id / params.blocks;
    let first = (id % params.blocks) * BLOCK_K;
    let end = min(first + BLOCK_K, params.k);
    let source = params.weight_at + row * params.weight_stride;
    let record = record_of(row);

    var group = first / params.group_size;
    var group_end = (group + 1u) * params.group_size;
    var high = 0u;
    var low = 0u;
    var not_finite = 0xffffffffu;
    for (var column = first; column < end; column++) {
        if (!IS_FLOAT && column == group_end) {
            let pair = select(2u * (row * params.groups + group), 0u, PER_TENSOR);
            raise(pair, high);
            raise(pair + 1u, low);
            group += 1u;
            group_end += params.group_size;
            high = 0u;
            low = 0u;
        }
        let bits = weights[source + column];
        var magnitude = magnitude_of(bits);
        if (magnitude >= F32_INFINITY) {
            not_finite = min(not_finite, row * params.k + column);
        }
        if (SPARSE) {
            let nibble = quad_nibble(record, column / 4u);
            let kept = (nibble & 3u) == column % 4u || (nibble >> 2u) == column % 4u;
            magnitude = select(0u, magnitude, kept);
        }
        if ((bits >> 31u) == 0u) {
            high = max(high, magnitude);
        } else {
            low = max(low, magnitude);
        }
    }
    if (!IS_FLOAT) {
        let pair = select(2u * (row * params.groups + group), 0u, PER_TENSOR);
        raise(pair, high);
        raise(pair + 1u, low);
    }
    if (not_finite != 0xffffffffu) {
        atomicMin(&status[params.status_at], not_finite);
    }
}
