// Computes the gradients of scales from partial sums: of the tiles of a row, or of all workers.
// Requires: fake/finish, fake/tree, fake/code, lib/dispatch, const WORKGROUP.
// Implements: fake_scales.
// Provides: main, one workgroup a row, or one in all.

@group(0) @binding(3) var<storage, read> scale_partials: array<u32>;
@group(0) @binding(4) var<storage, read> outside_partials: array<f32>;
@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read> zeros: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = workgroup_index(group, count);
    let tensor = p.scale_stride == 0u;
    if (index >= select(row_count(), 1u, tensor)) {
        return;
    }
    let first = p.partial_at + select(index * p.tiles, 0u, tensor);
    let partials = select(p.tiles, p.workers, tensor);
    var sums = Sums(0.0, 0.0, 0u);
    for (var i = local; i < partials; i += WORKGROUP) {
        let bits = scale_partials[first + i];
        let broken = select(0u, QUIET_NAN, (bits & 0x7fffffffu) > INFINITY_BITS);
        sums = merged(sums, Sums(bitcast<f32>(bits), outside_partials[first + i], broken));
    }
    sums = team_sums(sums, WORKGROUP, local);
    if (local == 0u) {
        put_gradients(index, sums, vec2<u32>(p.k, select(1u, recorded_count(), tensor)));
    }
}
