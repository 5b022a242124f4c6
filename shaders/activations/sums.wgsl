// Completes rows of codes after a matmul has written the codes of all columns: scale, zero point,
// sums of blocks, and zeros after the last column. One workgroup handles one row.
// Requires: lib/matmul, lib/dispatch, const WORKGROUP.
// Features: packed-dot.
// Provides: main.
// Layout: format::ActivationLayout, of p.y_slice columns.

@group(0) @binding(7) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let tile = workgroup_index(group, count);
    if (tile >= m * p.batch) {
        return;
    }
    let row_at = p.y_offset + tile / m * p.y_batch + tile % m * p.y_stride;
    let blocks = (p.y_slice + 31u) / 32u;
    let words = (p.y_slice + 3u) / 4u;
    for (var b = local; b < blocks; b += WORKGROUP) {
        var sum = 0;
        for (var word = 8u * b; word < 8u * b + 8u; word += 1u) {
            if (word < words) {
                sum += dot4I8Packed(y[row_at + word], 0x01010101u);
            } else {
                y[row_at + word] = 0u;
            }
        }
        y[row_at + 8u * blocks + 2u + b] = bitcast<u32>(sum);
    }
    if (local == 0u) {
        y[row_at + 8u * blocks] = bitcast<u32>(p.out_scale);
        y[row_at + 8u * blocks + 1u] = bitcast<u32>(p.out_zero);
    }
}
