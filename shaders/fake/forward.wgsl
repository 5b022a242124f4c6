// Fake quantization with given scales.
// Requires: fake/apply, fake/code, lib/dispatch, const WORKGROUP.
// Implements: fake_scales.
// Provides: main, one workgroup for a tile of a row.

@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read> zeros: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = workgroup_index(group, count);
    let row = unit / p.tiles;
    if (row >= row_count()) {
        return;
    }
    let first = (unit % p.tiles) * p.tile;
    apply(row, first, min(first + p.tile, p.k), local);
}
