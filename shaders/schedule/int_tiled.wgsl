// Integer products for many rows of X: a workgroup of 128 makes TILE_M × 64 of Y, TILE_M/8 × 4 a
// thread.
// Requires: lib/run, integer/pieces, integer/x_side, integer decoders, dots, add_piece, finish;
// const TILE_M (32 or 64). Provides: main. Workgroup memory: 8 quads · (TILE_M + 64) · 4 bytes.
// K advances a block of 32 a step.
// Why: each code of W is unpacked once for TILE_M rows, each of X loaded once for 64 columns; two
// loads from workgroup memory feed 16 dot products. Half the threads fetch W, a column each, while
// the other half fetch X, a row each.

const TILE_N = 64u;
const THREAD_M = TILE_M / 8u;

// By quads of columns; a component a column of W, or a row of X.
var<workgroup> w_tile: array<array<vec4<u32>, 16>, 8>;
var<workgroup> x_tile: array<array<array<vec4<u32>, THREAD_M / 4u>, 8>, 8>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let n_tiles = (p.rows + TILE_N - 1u) / TILE_N;
    let m_tiles = (m + TILE_M - 1u) / TILE_M;
    let tile = workgroup_index(group, count);
    if (tile >= n_tiles * m_tiles * p.batch) {
        return;
    }
    let batch = tile / (n_tiles * m_tiles);
    // Neighbouring workgroups take the same rows of W, which come from memory once.
    let row0 = tile % m_tiles * TILE_M;
    let n0 = tile / m_tiles % n_tiles * TILE_N;
    let x_first = p.x_offset + batch * p.x_batch;
    let y_first = p.y_offset + batch * p.y_batch;
    // This thread's rows THREAD_M · tm… of the tile and its columns 4 · tn….
    let tm = local / 16u;
    let tn = local % 16u;
    let columns = columns_at(n0 + 4u * tn);
    let column = p.n0 + n0 + 4u * tn;
    // What it fetches: a row of W, or one of X. Past the end, the last one.
    let fetched = local & 63u;
    let w_row = row_at(min(n0 + fetched, p.rows - 1u));
    let x_row = x_first + min(row0 + fetched, m - 1u) * p.x_stride;

    var rows: array<u32, THREAD_M>;
    var sums: array<vec4<f32>, THREAD_M>;
    var products: array<vec4<i32>, THREAD_M>;
    var codes: array<i32, THREAD_M>;
    var w_codes = vec4<i32>(0);
    for (var i = 0u; i < THREAD_M; i += 1u) {
        rows[i] = x_first + min(row0 + THREAD_M * tm + i, m - 1u) * p.x_stride;
    }
    var run = Run(0u, 0u);
    for (var b = 0u; b < p.blocks; b += 1u) {
        if (local < 64u) {
            var fill = 0u;
            if (W_ZEROS) {
                fill = (u32(i32(zero_of(w_row, w_group(run.index)))) & 0xffu) * ONES;
            }
            let block = load_block(w_row, b, 0u);
            for (var q = 0u; q < 8u; q += 1u) {
                w_tile[q][fetched / 4u][fetched % 4u] = quad_word(block, q, fill);
            }
        } else if (fetched < TILE_M) {
            let low = x_quad(x_row, 2u * b);
            let high = x_quad(x_row, 2u * b + 1u);
            let at = fetched / THREAD_M;
            let part = fetched % THREAD_M;
            for (var q = 0u; q < 4u; q += 1u) {
                x_tile[q][at][part / 4u][part % 4u] = low[q];
                x_tile[q + 4u][at][part / 4u][part % 4u] = high[q];
            }
        }
        workgroupBarrier();
        for (var q = 0u; q < 8u; q += 1u) {
            let w = w_tile[q][tn];
            for (var j = 0u; j < THREAD_M / 4u; j += 1u) {
                let x = x_tile[q][tm][j];
                products[4u * j] += dots(w, x.x);
                products[4u * j + 1u] += dots(w, x.y);
                products[4u * j + 2u] += dots(w, x.z);
                products[4u * j + 3u] += dots(w, x.w);
            }
            if (X_ZEROS) {
                w_codes += dots(w, ONES);
            }
        }
        if (W_ZEROS) {
            for (var i = 0u; i < THREAD_M; i += 1u) {
                codes[i] += x_sum(rows[i], b);
            }
        }
        let next = next_step(run);
        if (next.place == 0u || b + 1u == p.blocks) {
            let sw = scales4(columns, run.index);
            let zw = zeros4(columns, run.index);
            let g = x_group(run.index);
            for (var i = 0u; i < THREAD_M; i += 1u) {
                let row = row0 + THREAD_M * tm + i;
                let zx = x_zero(rows[i], g);
                let t = fold(products[i], zw, codes[i], zx, w_codes, 32u * (run.place + 1u));
                let spot = Spot(y_first + row * p.y_stride, run.index, column, row < m);
                sums[i] = add_piece(sums[i], t, sw, x_scale(rows[i], g), spot);
                products[i] = vec4<i32>(0);
                codes[i] = 0;
            }
            w_codes = vec4<i32>(0);
        }
        run = next;
        workgroupBarrier();
    }
    for (var i = 0u; i < THREAD_M; i += 1u) {
        let row = row0 + THREAD_M * tm + i;
        if (row < m) {
            finish(y_first + row * p.y_stride, column, sums[i]);
        }
    }
}
