// The entry point of schedules that may exchange registers within a subgroup.
// Requires: lib/dispatch, lib/lane, schedule, const WORKGROUP, const SUBGROUP.
// Implements: entry.
// Features: subgroups.
// Provides: main.
// Caller: every subgroup has {SUBGROUP} lanes.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    subgroup_lane = lane;
    schedule(workgroup_index(group, count), local, lane);
}
