// Factors a block of the diagonal: H = U · Uᵀ with an upper triangle U, from the last column on, and inverts it.
// Requires: factor/matrix.
// Provides: main, one workgroup.
// Workgroup memory: 16 KiB, which every device has.
//
// Memory:
//   h        [k, k], row by row; U takes the place of the block
//   inverse  [k, k]; the block of U⁻¹, with zeros below its diagonal
//   status   two words: pivots that were no positive normal numbers, and the column of the last of them, plus 1
//
// A lane has a row of the block, then a column of the inverse. A pivot that fails counts as 1. What follows from
// it has no meaning, and may not be finite.

@group(0) @binding(3) var<storage, read_write> h: array<f32>;
@group(0) @binding(4) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(5) var<storage, read_write> status: array<u32>;

var<workgroup> block: array<array<f32, 64>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) local: u32) {
    let start = p.first * p.k + p.first;
    for (var j = 0u; j < p.size; j += 1u) {
        // Lanes without a row read the last one.
        block[local][j] = h[start + min(local, p.size - 1u) * p.k + j];
    }
    for (var step = 0u; step < p.size; step += 1u) {
        let c = p.size - 1u - step;
        workgroupBarrier();
        let pivot = block[c][c];
        // No float is compared that may be NaN.
        let fine = bitcast<u32>(pivot) - 0x00800000u < 0x7f000000u;
        let root = sqrt(select(1.0, pivot, fine));
        if (local == 0u && !fine) {
            status[p.status_at] += 1u;
            status[p.status_at + 1u] = p.first + c + 1u;
        }
        workgroupBarrier();
        if (local < c) {
            block[local][c] = block[local][c] / root;
        }
        if (local == c) {
            block[c][c] = root;
        }
        workgroupBarrier();
        if (local < c) {
            let own = block[local][c];
            for (var j = local; j < c; j += 1u) {
                block[local][j] = fma(-own, block[j][c], block[local][j]);
            }
        }
    }
    workgroupBarrier();
    if (local >= p.size) {
        return;
    }
    for (var j = local; j < p.size; j += 1u) {
        h[start + local * p.k + j] = block[local][j];
    }
    for (var i = local + 1u; i < p.size; i += 1u) {
        inverse[start + i * p.k + local] = 0.0;
    }
    inverse[start + local * p.k + local] = 1.0 / block[local][local];
    for (var step = 1u; step <= local; step += 1u) {
        let i = local - step;
        var sum = 0.0;
        for (var j = i + 1u; j <= local; j += 1u) {
            sum = fma(block[i][j], inverse[start + j * p.k + local], sum);
        }
        inverse[start + i * p.k + local] = -sum / block[i][i];
    }
}
