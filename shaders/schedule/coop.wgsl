// Many rows of X with cooperative matrices (experimental): a workgroup of 32 makes 2 · SIZE rows ×
// 2 · SIZE columns of Y in four matrices of sums.
// Requires: lib/matmul, lib/dispatch, matrix, step, decoder, scale, x, bias, epilogue.
// Provides: main.
// Workgroup memory: tiles of X and W, 2 · SIZE rows of 40 elements each, and (2 · SIZE)² f32 of
// results.
// Why: a workgroup is one subgroup on most devices. Where subgroups are smaller, each of them does
// the same work on the same memory and stores the same. Rows are padded against bank conflicts.
// Numbers: if Element is f16, X and scaled weights are rounded to f16 and become infinite beyond
// 65504. The error bound of other kernels does not hold, so this kernel only runs when it is
// pinned.

const TILE = 2u * SIZE;
const PITCH = 40u;

var<workgroup> x_tile: array<Element, TILE * PITCH>;
var<workgroup> w_tile: array<Element, TILE * PITCH>;
var<workgroup> y_tile: array<f32, TILE * TILE>;

fn put_x(at: u32, v: vec4<f32>) {
    x_tile[at] = Element(v.x);
    x_tile[at + 1u] = Element(v.y);
    x_tile[at + 2u] = Element(v.z);
    x_tile[at + 3u] = Element(v.w);
}

fn put_w(at: u32, v: vec4<f32>) {
    w_tile[at] = Element(v.x);
    w_tile[at + 1u] = Element(v.y);
    w_tile[at + 2u] = Element(v.z);
    w_tile[at + 3u] = Element(v.w);
}

@compute @workgroup_size(32)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let n_tiles = (p.rows + TILE - 1u) / TILE;
    let m_tiles = (m + TILE - 1u) / TILE;
    // Groups past the end repeat the last tile and store nothing: matrices want control flow
    // that is uniform for naga too, which no return is.
    let tiles = n_tiles * m_tiles * p.batch;
    let index = workgroup_index(group, count);
    let tile = min(index, tiles - 1u);
    let batch = tile / (n_tiles * m_tiles);
    let row0 = tile / n_tiles % m_tiles * TILE;
    let n0 = tile % n_tiles * TILE;
    // Rows past the end, of W and of X, read the last one; nothing is stored for them.
    let w_row = row_at(min(n0 + local, p.rows - 1u));
    let x_at = p.x_offset + batch * p.x_batch + min(row0 + local, m - 1u) * p.x_stride;

    var c00: MatrixC;
    var c01: MatrixC;
    var c10: MatrixC;
    var c11: MatrixC;
    let size = run_steps();
    for (var b = 0u; b < p.blocks; b += 1u) {
        if (local < TILE) {
            for (var step = 0u; step < 32u / STEP; step += 1u) {
                let at = b * (32u / STEP) + step;
                let z = vec4<f32>(run_zero(w_row, at / size));
                let s = run_scale(w_row, at / size);
                for (var piece = 0u; piece < PIECES; piece += 1u) {
                    let block = load_block(w_row, at, piece);
                    for (var j = 0u; j < QUADS / PIECES; j += 1u) {
                        let i = piece * (QUADS / PIECES) + j;
                        let k = step * STEP + 4u * i;
                        put_w(local * PITCH + k, tile_quad(block, i, z) * s);
                        put_x(local * PITCH + k, load_x4(x_at, b * 32u + k));
                    }
                }
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += SIZE) {
            // X by rows, W by rows too: its transpose by columns.
            let a0 = coopLoadT<MatrixA>(&x_tile[k], PITCH);
            let a1 = coopLoadT<MatrixA>(&x_tile[SIZE * PITCH + k], PITCH);
            let b0 = coopLoad<MatrixB>(&w_tile[k], PITCH);
            let b1 = coopLoad<MatrixB>(&w_tile[SIZE * PITCH + k], PITCH);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
        }
        workgroupBarrier();
    }
    coopStoreT(c00, &y_tile[0], TILE);
    coopStoreT(c01, &y_tile[SIZE], TILE);
    coopStoreT(c10, &y_tile[SIZE * TILE], TILE);
    coopStoreT(c11, &y_tile[SIZE * TILE + SIZE], TILE);
    workgroupBarrier();
    let end = p.n0 + p.rows;
    for (var i = local; i < TILE * SIZE; i += 32u) {
        let row = i / SIZE;
        let pair = i % SIZE * 2u;
        let column = p.n0 + n0 + pair;
        if (row0 + row < m && index < tiles) {
            let y_at = p.y_offset + batch * p.y_batch + (row0 + row) * p.y_stride;
            let sum = vec2<f32>(y_tile[row * TILE + pair], y_tile[row * TILE + pair + 1u]);
            put2(y_at, column, end, sum + bias2(column, end));
        }
    }
}
