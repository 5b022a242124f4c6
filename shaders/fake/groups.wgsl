// Computes the gradients where groups of columns of any size share a scale: dx, ds and dz in one
// dispatch.
// Requires: fake/gradient, fake/finish, fake/tree, fake/code, lib/dispatch, const WORKGROUP,
// const ALIGNED.
// Implements: fake_scales.
// Provides: main, one workgroup for a tile of a row, which holds whole groups.
//
// A team of lanes handles a group by quads of columns. If a quad may belong to two groups, both teams
// sum over it, and dx is written separately.
// Caller: a tile holds whole groups; a team is a power of two, {WORKGROUP} lanes at most.

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
    let end = min(first + p.tile, p.k);
    let end_group = (end + p.group_size - 1u) / p.group_size;
    for (var g0 = first / p.group_size; g0 < end_group; g0 += WORKGROUP / p.team) {
        let g = g0 + local / p.team;
        let from_column = g * p.group_size;
        let to_column = min(from_column + p.group_size, p.k);
        var sums = Sums(0.0, 0.0, 0u);
        if (g < end_group) {
            for (var q = from_column / 4u + local % p.team; 4u * q < to_column; q += p.team) {
                let columns = vec4<u32>(4u * q, 4u * q + 1u, 4u * q + 2u, 4u * q + 3u);
                let from_here = columns >= vec4<u32>(from_column);
                let live = from_here & (columns < vec4<u32>(to_column));
                sums = merged(sums, take(row, 4u * q, live, ALIGNED));
            }
        }
        sums = team_sums(sums, p.team, local);
        if (g < end_group && local % p.team == 0u) {
            let index = row * p.scale_stride + g;
            put_gradients(index, sums, vec2<u32>(to_column - from_column, 1u));
        }
    }
    if (!ALIGNED) {
        for (var c = first + 4u * local; c < end; c += 4u * WORKGROUP) {
            take(row, c, vec4<bool>(false), true);
        }
    }
}
