// Makes the 2:4 mask of the largest magnitudes, as metadata at the start of each side row.
//
// Requires: quantize/make, access/weights_u32, lib/panel, lib/softfloat, const PANEL.
// Provides: `main`, one invocation for 32 columns of a row: rows·blocks of them.
//
// The two of every four consecutive columns with the largest |w| stay; of equal ones the lowest
// columns. Columns after K rank below every weight, so a ragged quad takes them only when
// it has to, lowest first: this is the normalized mask. Quads after the row get META_FILL.
//
// Why ranks: they take six comparisons a quad, no branch and no array indexed at run time.

// Weights rank from 1 on, so that even a zero beats a column past K.
fn rank_key(source: u32, column: u32) -> u32 {
    if (column >= params.k) {
        return 0u;
    }
    return magnitude_of(weights[source + column]) + 1u;
}

fn prune_quad(source: u32, column: u32) -> u32 {
    let a = rank_key(source, column);
    let b = rank_key(source, column + 1u);
    let c = rank_key(source, column + 2u);
    let d = rank_key(source, column + 3u);
    // 1 where the later column is strictly larger.
    let ba = select(0u, 1u, b > a);
    let ca = select(0u, 1u, c > a);
    let da = select(0u, 1u, d > a);
    let cb = select(0u, 1u, c > b);
    let db = select(0u, 1u, d > b);
    let dc = select(0u, 1u, d > c);
    // A column stays if fewer than two others beat it.
    var mask = select(0u, 1u, ba + ca + da < 2u);
    mask |= select(0u, 2u, (1u - ba) + cb + db < 2u);
    mask |= select(0u, 4u, (2u - ca - cb) + dc < 2u);
    mask |= select(0u, 8u, 3u - da - db - dc < 2u);
    return firstTrailingBit(mask) | (firstLeadingBit(mask) << 2u);
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
    let block = id % params.blocks;
    let source = params.weight_at + row * params.weight_stride;
    var word = 0u;
    for (var quad = 0u; quad < 8u; quad++) {
        // Past the row all four tie, and the first two stay: META_FILL.
        word |= prune_quad(source, block * BLOCK_K + 4u * quad) << (4u * quad);
    }
    side[record_of(row) + block * PANEL] = word;
}
