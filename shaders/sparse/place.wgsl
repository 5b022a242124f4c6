// Checks a given 2:4 mask and copies it to the start of each side row.
//
// Requires: quantize/make, lib/panel, const PANEL.
// Provides: `main`, one invocation for 32 columns of a row: rows·blocks of them.
//
// Memory: canonical metadata is a word for 32 columns too, [rows, blocks]. A nibble that
// does not name two ascending positions goes into `status`, and META_FILL (the first two)
// is stored instead, so that no later kernel sees an invalid nibble.

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
    let source = given[params.given_at + id];
    var word = 0u;
    for (var quad = 0u; quad < 8u; quad++) {
        var nibble = (source >> (4u * quad)) & 0xfu;
        if ((nibble & 3u) >= (nibble >> 2u)) {
            atomicMin(&status[params.status_at + 3u], 8u * id + quad);
            nibble = 4u;
        }
        word |= nibble << (4u * quad);
    }
    side[record_of(row) + block * PANEL] = word;
}
