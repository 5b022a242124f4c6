// Clears what is gathered: it sets the keys of min and the first index to their largest value and
// everything else to 0.
// Requires: observe/tile, lib/dispatch.
// Provides: main, one lane a word.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = workgroup_index(group, count) * WORKGROUP + local;
    if (word >= p.words) {
        return;
    }
    let least = word == 2u || (word >= 4u && word - 4u < p.channels);
    atomicStore(&y[p.y_offset + word], select(0u, NONE, least));
}
