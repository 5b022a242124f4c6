// The entry point of schedules that may pass registers round a subgroup.
// Requires: schedule/rows_m1 or schedule/rows; const WORKGROUP. Provides: main.
// Twin: lib/entry_plain.
// Caller: every subgroup has SUBGROUP lanes.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    schedule(workgroup_index(group, count), local, lane);
}
