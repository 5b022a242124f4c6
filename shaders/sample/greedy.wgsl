// Writes the index of the largest number of each row.
// Requires: sample/keys, lib/dispatch, const WORKGROUP.
// Provides: main, one workgroup a row.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = workgroup_index(group, count);
    if (row >= row_count()) {
        return;
    }
    let best = largest(p.x_at + row * p.x_stride, local);
    if (local == 0u) {
        tokens[p.token_at + row] = best.y;
    }
}
