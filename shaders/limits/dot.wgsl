// Measures how many dot products of packed bytes the adapter makes: 4 dot products of 4 bytes a
// round, on 64 lanes.
// Requires: const ROUNDS.
// Features: packed-dot.
// Provides: main.

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sink: array<vec4<i32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let a = source[0] ^ vec4<u32>(id.x);
    var sums = vec4<i32>(0);
    for (var i = 0u; i < ROUNDS; i += 1u) {
        let b = a + i;
        sums += vec4<i32>(
            dot4I8Packed(a.x, b.x), dot4I8Packed(a.y, b.y),
            dot4I8Packed(a.z, b.z), dot4I8Packed(a.w, b.w),
        );
    }
    sink[id.x] = sums;
}
