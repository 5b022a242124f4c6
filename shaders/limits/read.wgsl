// Measures how fast the adapter reads storage, 16 bytes at a time. Each lane reads RUN vectors.
// Requires: const RUN, const CONTIGUOUS.
// Provides: main.
// If CONTIGUOUS, each lane reads a run of its own, which suits software adapters. Otherwise
// neighboring lanes read neighboring vectors, which GPUs coalesce.

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = group.x * 64u * RUN;
    var sum = vec4<u32>(0u);
    for (var i = 0u; i < RUN; i += 1u) {
        if (CONTIGUOUS) {
            sum += source[first + local * RUN + i];
        } else {
            sum += source[first + i * 64u + local];
        }
    }
    sink[group.x * 64u + local] = sum;
}
