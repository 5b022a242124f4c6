// Checks whether the built-in conversion of f16 is exact for every value. WGSL lets it flush
// subnormals, which are ordinary weights below 6.1e-5. NaN need not keep its bits.
// Requires: lib/half, lib/half_pair_native.
// Provides: main, one invocation a pair.

@group(0) @binding(0) var<storage, read> halves: array<u32>;
@group(0) @binding(1) var<storage, read_write> wrong: atomic<u32>;

fn is_wrong(half: u32, value: f32) -> bool {
    let is_nan = (half & 0x7fffu) > 0x7c00u;
    return !is_nan && bitcast<u32>(value) != half_to_f32_bits(half);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let word = halves[id.x];
    let values = half2_to_f32(word);
    if (is_wrong(word & 0xffffu, values.x) || is_wrong(word >> 16u, values.y)) {
        atomicAdd(&wrong, 1u);
    }
}
