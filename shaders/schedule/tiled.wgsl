// Many rows of X: a workgroup of 128 makes TILE_M (32 or 64) × 64 of Y, TILE_M/8 × 4 a thread. K
// advances a block of 32 a step.
// Requires: lib/matmul, tile, lib/dispatch, step, decoder, scale, x, bias, epilogue, const TILE_M.
// Provides: main.
// Workgroup memory: 8 quads · (TILE_M + 64) · 16 bytes: 12 KiB, or all of the 16 KiB that every
// device has.
// Why: each weight is decoded once for TILE_M rows, and each x once for 64 columns. Half of the
// threads fetch W while the other half fetch X. Neighboring threads read neighboring vectors of
// w_tile, and write x_tile where the number of the quad separates them, so that no two meet in a
// bank and no memory pads rows. The tiles are nested arrays: in an unrolled loop all indices but
// the last are constants, and the clamp of the last one leaves the loop.

const TILE_N = 64u;
const THREAD_M = TILE_M / 8u;

var<workgroup> x_tile: array<array<array<vec4<f32>, 8>, THREAD_M>, 8>;
var<workgroup> w_tile: array<array<array<vec4<f32>, 16>, 4>, 8>;

fn add_dot(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let here = tile_at(workgroup_index(group, count), m, TILE_M, TILE_N);
    if (!here.live) {
        return;
    }
    let batch = here.batch;
    let row0 = here.row0;
    let n0 = here.n0;
    let x_at = p.x_offset + batch * p.x_batch;
    // This thread's rows THREAD_M · tm… of the tile and its columns 2 · tn and 32 + 2 · tn, each
    // with the next one.
    let tm = local / 16u;
    let tn = local % 16u;
    // The row of W that it fetches: column `part` of thread tn. Rows past the end, of W and of
    // X, read the last one; nothing is stored for them.
    let part = tm & 3u;
    let w_column = (part >> 1u) * 32u + 2u * tn + (part & 1u);
    let w_row = row_at(min(n0 + w_column, p.rows - 1u));
    // The quad of X that it fetches, of rows x_first + 8 · j: eight threads read 128 bytes.
    let x_quad = local & 7u;
    let x_first = (local & 63u) >> 3u;

    var sums: array<vec4<f32>, THREAD_M>;
    for (var i = 0u; i < THREAD_M; i += 1u) {
        sums[i] = vec4<f32>(0.0);
    }
    let size = run_steps();
    var run = 0u;
    var place = 0u;
    for (var b = 0u; b < p.blocks; b += 1u) {
        if (local < 64u) {
            let z = vec4<f32>(run_zero(w_row, run));
            let s = run_scale(w_row, run);
            for (var step = 0u; step < 32u / STEP; step += 1u) {
                let at = b * (32u / STEP) + step;
                for (var piece = 0u; piece < PIECES; piece += 1u) {
                    let block = load_block(w_row, at, piece);
                    for (var j = 0u; j < QUADS / PIECES; j += 1u) {
                        let i = piece * (QUADS / PIECES) + j;
                        w_tile[step * QUADS + i][part][tn] = tile_quad(block, i, z) * s;
                    }
                }
            }
        } else {
            for (var j = 0u; j < THREAD_M; j += 1u) {
                let row = x_first + 8u * j;
                let at = x_at + min(row0 + row, m - 1u) * p.x_stride;
                x_tile[x_quad][row % THREAD_M][(row / THREAD_M) ^ x_quad] =
                    load_x4(at, b * 32u + 4u * x_quad);
            }
        }
        place += 32u / STEP;
        if (place >= size) {
            place = 0u;
            run += 1u;
        }
        workgroupBarrier();
        for (var q = 0u; q < 8u; q += 1u) {
            let w0 = w_tile[q][0u][tn];
            let w1 = w_tile[q][1u][tn];
            let w2 = w_tile[q][2u][tn];
            let w3 = w_tile[q][3u][tn];
            for (var i = 0u; i < THREAD_M; i += 1u) {
                let xq = x_tile[q][i][tm ^ q];
                let sum = sums[i];
                sums[i] = vec4<f32>(
                    add_dot(xq, w0, sum.x), add_dot(xq, w1, sum.y),
                    add_dot(xq, w2, sum.z), add_dot(xq, w3, sum.w),
                );
            }
        }
        workgroupBarrier();
    }
    let end = p.n0 + p.rows;
    let column = p.n0 + n0 + 2u * tn;
    let low = bias2(column, end);
    let high = bias2(column + 32u, end);
    for (var i = 0u; i < THREAD_M; i += 1u) {
        let row = row0 + THREAD_M * tm + i;
        if (row < m) {
            let y_at = p.y_offset + batch * p.y_batch + row * p.y_stride;
            put2(y_at, column, end, sums[i].xy + low);
            put2(y_at, column + 32u, end, sums[i].zw + high);
        }
    }
}
