// Sums a number of each lane over a workgroup, with a tree in workgroup memory.
// Requires: const WORKGROUP.
// Provides: row_sum.
// Workgroup memory: WORKGROUP · 4 bytes.
// The order of additions is fixed, so that a second run gives the same bits.

var<workgroup> partial_sums: array<f32, WORKGROUP>;

// Returns the sum to every lane.
fn row_sum(value: f32, local: u32) -> f32 {
    // Other lanes may still read an earlier sum.
    workgroupBarrier();
    partial_sums[local] = value;
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local < width) {
            partial_sums[local] += partial_sums[local + width];
        }
    }
    workgroupBarrier();
    return partial_sums[0];
}
