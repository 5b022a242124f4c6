// Fake quantization with scales from the range of the data itself, by rows or by groups of columns
// of any size.
// Requires: fake/apply, fake/range, fake/code, x, lib/dispatch, const WORKGROUP.
// Implements: fake_scales.
// Provides: main, one workgroup for a tile of a row, which holds whole groups.
// Workgroup memory: WORKGROUP · 8 bytes.
//
// x is read twice, the second time from a cache. A team of lanes finds the range of a group by quads
// of columns. A group need not begin or end at a quad; then lanes of two teams read that quad.
// Caller: a tile holds whole groups; a team is a power of two, {WORKGROUP} lanes at most.

@group(0) @binding(5) var<storage, read_write> scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> zeros: array<u32>;

var<workgroup> highs: array<u32, WORKGROUP>;
var<workgroup> lows: array<u32, WORKGROUP>;

// Returns the range of a whole team, to its first lane.
fn team_range(range: Range, local: u32) -> Range {
    // Other lanes may still read what this one had put there.
    workgroupBarrier();
    highs[local] = range.high;
    lows[local] = range.low;
    for (var width = p.team / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local % p.team < width) {
            highs[local] = max(highs[local], highs[local + width]);
            lows[local] = max(lows[local], lows[local + width]);
        }
    }
    return Range(highs[local], lows[local]);
}

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
    let end_group = (end + p.group_size - 1u) / p.group_size;
    for (var g0 = first / p.group_size; g0 < end_group; g0 += WORKGROUP / p.team) {
        let g = g0 + local / p.team;
        var range = Range(0u, 0u);
        if (g < end_group) {
            let from_column = g * p.group_size;
            let to_column = min(from_column + p.group_size, p.k);
            for (var q = from_column / 4u + local % p.team; 4u * q < to_column; q += p.team) {
                let columns = vec4<u32>(4u * q, 4u * q + 1u, 4u * q + 2u, 4u * q + 3u);
                let from_here = columns >= vec4<u32>(from_column);
                let live = from_here & (columns < vec4<u32>(to_column));
                range = wider(range, load_x4(x_at, 4u * q), live);
            }
        }
        range = team_range(range, local);
        if (g < end_group && local % p.team == 0u) {
            put_scheme(row * p.scale_stride + g, range);
        }
    }
    storageBarrier();
    apply(row, first, end, local);
}
