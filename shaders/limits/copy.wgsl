// Measures how fast the adapter reads storage and writes it elsewhere, 16 bytes at a time. Each
// lane copies RUN vectors.
// Requires: const RUN.
// Provides: main.

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = group.x * 64u * RUN;
    for (var i = 0u; i < RUN; i += 1u) {
        let at = first + i * 64u + local;
        sink[at] = source[at];
    }
}
