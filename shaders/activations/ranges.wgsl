// Finds the range of all of X: the bits of the largest x and of the largest −x, at least 0, and
// whether any x is NaN or infinite.
// Requires: activations/code, activations/codes, lib/dispatch, const WORKGROUP.
// Provides: main, one workgroup a row.
// The bits of positive floats have the order of the floats, so atomics on the bits give the
// largest value in any order of invocations.
// Caller: activations_reset runs before it.

@group(0) @binding(4) var<storage, read_write> ranges: array<atomic<u32>>;

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
    let range = range_of(p.x_offset + row * p.x_stride, local, p.blocks, WORKGROUP);
    atomicMax(&ranges[0], bitcast<u32>(range.high));
    atomicMax(&ranges[1], bitcast<u32>(range.low));
    if (range.bad) {
        atomicMax(&ranges[2], 1u);
    }
}
