// Writes the normalized row as f32 or f16.
// Requires: norm/row, lib/dispatch, lib/half, const WORKGROUP, const Y_F16.
// Provides: main, one workgroup a row.
// Memory: y in words; of f16 offset and strides are even. One invocation owns both halves of a word; with
// odd k the last upper half is preserved.
// A bad row becomes NaN. It is written as bits, because a compiler may assume that no float is NaN.

// Four columns as bits of f32, or as two words of f16.
fn bits4(v: vec4<f32>, bad: bool) -> vec4<u32> {
    if (Y_F16) {
        let low = f32_to_half(v.x) | (f32_to_half(v.y) << 16u);
        let high = f32_to_half(v.z) | (f32_to_half(v.w) << 16u);
        return select(vec4<u32>(low, high, 0u, 0u), vec4<u32>(0x7e007e00u), bad);
    }
    return select(bitcast<vec4<u32>>(v), vec4<u32>(0x7fc00000u), bad);
}

fn put4(row_at: u32, column: u32, bits: vec4<u32>) {
    let left = p.k - column;
    if (Y_F16) {
        let at = (row_at + column) >> 1u;
        if (left == 1u) {
            y[at] = (y[at] & 0xffff0000u) | (bits.x & 0xffffu);
        } else {
            y[at] = bits.x;
        }
        if (left == 3u) {
            y[at + 1u] = (y[at + 1u] & 0xffff0000u) | (bits.y & 0xffffu);
        } else if (left > 3u) {
            y[at + 1u] = bits.y;
        }
        return;
    }
    let at = row_at + column;
    y[at] = bits.x;
    if (left > 1u) {
        y[at + 1u] = bits.y;
    }
    if (left > 2u) {
        y[at + 2u] = bits.z;
    }
    if (left > 3u) {
        y[at + 3u] = bits.w;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let place = place_of(workgroup_index(group, count));
    if (!place.exists) {
        return;
    }
    let measured = measure(place, local);
    for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
        put4(place.y, column, bits4(normal4(place, measured, column), measured.bad));
    }
}
