// Finds the range of all of X.
// Requires: fake/range, fake/code, x, lib/dispatch, const WORKGROUP.
// Implements: fake_scales.
// Provides: main, one workgroup for a tile of a row.
// A maximum taken with atomics does not depend on the order of invocations.

@group(0) @binding(4) var<storage, read_write> ranges: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> zeros: array<u32>;

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
    let end = min(first + p.tile, p.k);
    let x_at = p.x_at + row * p.x_stride;
    var range = Range(0u, 0u);
    for (var c = first + 4u * local; c < end; c += 4u * WORKGROUP) {
        let columns = vec4<u32>(c, c + 1u, c + 2u, c + 3u);
        range = wider(range, load_x4(x_at, c), columns < vec4<u32>(end));
    }
    atomicMax(&ranges[0], range.high);
    atomicMax(&ranges[1], range.low);
}
