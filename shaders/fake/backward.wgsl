// Computes the gradients where a row or all of X shares a scale: dx, and partial sums for fake/sums.
// Requires: fake/gradient, fake/tree, fake/code, lib/dispatch, const WORKGROUP, const LEARNED.
// Implements: fake_scales.
// Provides: main.
//
// With one scale for all of X, `workers` workgroups share all units, and each leaves a partial sum.
// With one scale a row, each tile has a workgroup and a partial sum. Without LEARNED the kernel
// computes dx alone, for any groups.

@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read> zeros: array<u32>;
@group(0) @binding(8) var<storage, read_write> scale_partials: array<u32>;
@group(0) @binding(9) var<storage, read_write> outside_partials: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let worker = workgroup_index(group, count);
    let units = row_count() * p.tiles;
    // If all of X shares a scale, each worker leaves a sum, also if it summed nothing.
    if (worker >= select(units, p.workers, LEARNED && p.scale_stride == 0u)) {
        return;
    }
    var sums = Sums(0.0, 0.0, 0u);
    for (var unit = worker; unit < units; unit += p.workers) {
        let first = (unit % p.tiles) * p.tile;
        let end = min(first + p.tile, p.k);
        for (var c = first + 4u * local; c < end; c += 4u * WORKGROUP) {
            let columns = vec4<u32>(c, c + 1u, c + 2u, c + 3u);
            sums = merged(sums, take(unit / p.tiles, c, columns < vec4<u32>(end), true));
        }
    }
    if (!LEARNED) {
        return;
    }
    sums = team_sums(sums, WORKGROUP, local);
    if (local == 0u) {
        scale_partials[p.partial_at + worker] = bitcast<u32>(sums.scale) | sums.broken;
        outside_partials[p.partial_at + worker] = sums.outside;
    }
}
