// Sums over the LANES lanes of a team with a tree in workgroup memory.
// Requires: lib/dispatch, schedule, lane_sum, const WORKGROUP, const LANES, const M_TILE.
// Implements: reduce.
// Provides: put_sum, finish_sums, whole_sum, main.
// Workgroup memory: WORKGROUP · M_TILE · 16 bytes.

var<workgroup> partial: array<Sum, WORKGROUP * M_TILE>;

fn put_sum(i: u32, sum: Sum, local: u32, ids: vec3<u32>) {
    partial[i * WORKGROUP + local] = sum;
}

fn finish_sums(local: u32, ids: vec3<u32>) {
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local % LANES < width) {
            for (var i = 0u; i < M_TILE; i += 1u) {
                let at = i * WORKGROUP + local;
                partial[at] += partial[at + width];
            }
        }
    }
}

// For the first lane of a team.
fn whole_sum(i: u32, local: u32, ids: vec3<u32>) -> Sum {
    return partial[i * WORKGROUP + local];
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    schedule(workgroup_index(group, count), local, vec3<u32>());
}
