// Sums over a whole workgroup: within each subgroup in registers, then over the subgroups. LANES
// equals WORKGROUP.
// Requires: lib/dispatch, schedule, lane_sum, const WORKGROUP, const M_TILE.
// Implements: reduce.
// Features: subgroups, subgroup-id.
// Provides: put_sum, finish_sums, whole_sum, main.
// Workgroup memory: WORKGROUP · M_TILE · 16 bytes, because a subgroup may have only one lane.
// Why: this takes one barrier, and a tree takes one for each halving. No size of subgroups is
// assumed.
// Caller: the device has subgroups, of any size.

var<workgroup> partial: array<Sum, WORKGROUP * M_TILE>;

// ids: the subgroup, how many there are, the lane in it.
fn put_sum(i: u32, sum: Sum, local: u32, ids: vec3<u32>) {
    let whole = subgroupAdd(sum);
    if (ids.z == 0u) {
        partial[i * WORKGROUP + ids.x] = whole;
    }
}

fn finish_sums(local: u32, ids: vec3<u32>) {
    workgroupBarrier();
}

// For the first lane of the workgroup.
fn whole_sum(i: u32, local: u32, ids: vec3<u32>) -> Sum {
    var sum = partial[i * WORKGROUP];
    for (var s = 1u; s < ids.y; s += 1u) {
        sum += partial[i * WORKGROUP + s];
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    schedule(workgroup_index(group, count), local, vec3<u32>(subgroup, subgroups, invocation));
}
