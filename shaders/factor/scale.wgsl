// Divides H by the mean of its diagonal, adds damping, and gives columns whose sums are 0 a 1.
// Requires: lib/dispatch, factor/matrix.
// Provides: main, one lane a column of a row.
//
// Memory: as factor/diagonal.

@group(0) @binding(3) var<storage, read> diagonal: array<f32>;
@group(0) @binding(4) var<storage, read_write> h: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let across = (p.k + 63u) / 64u;
    let index = workgroup_index(group, count);
    let i = index / across;
    let j = 64u * (index % across) + local;
    if (i >= p.k || j < i || j >= p.k) {
        return;
    }
    let at = i * p.k + j;
    let dead = !(diagonal[i] > 0.0) || !(diagonal[j] > 0.0);
    let own = select(0.0, 1.0, i == j);
    let value = select(h[at] * diagonal[p.k], own, dead);
    h[at] = value + own * p.damping;
}
