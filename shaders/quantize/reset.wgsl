// Clears what later kernels of the same pass accumulate into.
//
// Requires: quantize/make.
// Provides: `main`, one invocation a word; the grid covers max(4, extreme_words).
//
// Why this is a kernel: a compute pass cannot clear a buffer, and a plan may be recorded again.

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = invocation(group_id, group_count, lane);
    if (id < params.extreme_words) {
        atomicStore(&extremes[id], 0u);
    }
    if (id < 4u) {
        atomicStore(&status[params.status_at + id], 0xffffffffu);
    }
}
