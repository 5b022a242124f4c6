// The entry point of schedules that need no lane number.
// Requires: lib/dispatch, schedule, const WORKGROUP.
// Implements: entry.
// Provides: main.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    schedule(workgroup_index(group, count), local, 0u);
}
