// Copies the diagonal of H, and finds the mean of what is not 0 of it.
// Requires: factor/matrix.
// Provides: main, one workgroup.
// Workgroup memory: 512 bytes.
//
// Memory:
//   h         [k, k], row by row
//   diagonal  [k + 1]: the diagonal, and the reciprocal of the mean, or 1 if all are 0

@group(0) @binding(3) var<storage, read> h: array<f32>;
@group(0) @binding(4) var<storage, read_write> diagonal: array<f32>;

var<workgroup> totals: array<f32, 64>;
var<workgroup> counts: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) local: u32) {
    var total = 0.0;
    var live = 0.0;
    for (var i = local; i < p.k; i += 64u) {
        let value = h[i * p.k + i];
        diagonal[i] = value;
        total += value;
        live += select(0.0, 1.0, value > 0.0);
    }
    totals[local] = total;
    counts[local] = live;
    for (var width = 32u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local < width) {
            totals[local] += totals[local + width];
            counts[local] += counts[local + width];
        }
    }
    if (local == 0u) {
        diagonal[p.k] = select(1.0, counts[0] / totals[0], counts[0] > 0.0);
    }
}
