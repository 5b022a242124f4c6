// Measures how fast the adapter reads a texture of codes: neighboring lanes read neighboring
// texels, RUN each.
// Requires: access/texel, const RUN.
// Provides: main.

@group(0) @binding(1) var<storage, read_write> sink: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = group.x * 64u * RUN;
    var sum = vec4<u32>(0u);
    for (var i = 0u; i < RUN; i += 1u) {
        sum += texel(first + i * 64u + local);
    }
    sink[group.x * 64u + local] = sum;
}
