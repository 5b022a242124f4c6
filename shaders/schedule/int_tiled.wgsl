// Integer products for many rows of X: a workgroup of 128 makes TILE_M (32 or 64) × 64 of Y,
// TILE_M/8 × 4 a thread. K advances a block of 32 a step.
// Requires: lib/matmul, tile, lib/dispatch, lib/run, integer/slices, integer/x_side, x_codes,
// scale/side, decoder, quad_word, dots, add_slice, finish, const TILE_M, const W_ZEROS,
// const X_ZEROS, const MINIMA.
// Provides: main.
// Workgroup memory: 8 quads · (TILE_M + 64) · 4 bytes.
// Why: each code of W is unpacked once for TILE_M rows, and each code of X is loaded once for 64
// columns. Four loads of W from workgroup memory and one of each row of X feed 16 dot products a
// row. Half of the threads fetch W, one column each, while the other half fetch X, one row each. A
// vector holds four quads of one column or row, so that one thread writes it whole: writing a
// component may touch the whole vector. Neighboring threads read neighboring vectors.

const TILE_N = 64u;
const THREAD_M = TILE_M / 8u;

// Quads 4h to 4h + 3: column 4t + c of W at 16c + t, row THREAD_M · t + i of X at 8i + t.
var<workgroup> w_tile: array<array<vec4<u32>, TILE_N>, 2>;
var<workgroup> x_tile: array<array<vec4<u32>, TILE_M>, 2>;

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
    let x_first = p.x_offset + batch * p.x_batch;
    let y_first = p.y_offset + batch * p.y_batch;
    // This thread's rows THREAD_M · tm… of the tile and its columns 4 · tn….
    let tm = local / 16u;
    let tn = local % 16u;
    let columns = columns_at(n0 + 4u * tn);
    let column = p.n0 + n0 + 4u * tn;
    // The row that the thread fetches, of W or of X; past the end, the last row.
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
                fill = (u32(i32(zero_of(w_row, w_group(run.index, 0u)))) & 0xffu) * ONES;
            }
            let block = load_block(w_row, b, 0u);
            let slot = fetched % 4u * 16u + fetched / 4u;
            w_tile[0u][slot] = vec4<u32>(
                quad_word(block, 0u, fill), quad_word(block, 1u, fill),
                quad_word(block, 2u, fill), quad_word(block, 3u, fill),
            );
            w_tile[1u][slot] = vec4<u32>(
                quad_word(block, 4u, fill), quad_word(block, 5u, fill),
                quad_word(block, 6u, fill), quad_word(block, 7u, fill),
            );
        } else if (fetched < TILE_M) {
            let slot = fetched % THREAD_M * 8u + fetched / THREAD_M;
            x_tile[0u][slot] = x_quad(x_row, 2u * b);
            x_tile[1u][slot] = x_quad(x_row, 2u * b + 1u);
        }
        workgroupBarrier();
        if (W_ZEROS) {
            for (var i = 0u; i < THREAD_M; i += 1u) {
                codes[i] += x_sum(rows[i], b);
            }
        }
        let next = next_step(run);
        let ends = next.place == 0u || b + 1u == p.blocks;
        for (var h = 0u; h < 2u; h += 1u) {
            let w0 = w_tile[h][tn];
            let w1 = w_tile[h][16u + tn];
            let w2 = w_tile[h][32u + tn];
            let w3 = w_tile[h][48u + tn];
            let q0 = vec4<u32>(w0.x, w1.x, w2.x, w3.x);
            let q1 = vec4<u32>(w0.y, w1.y, w2.y, w3.y);
            let q2 = vec4<u32>(w0.z, w1.z, w2.z, w3.z);
            let q3 = vec4<u32>(w0.w, w1.w, w2.w, w3.w);
            for (var i = 0u; i < THREAD_M; i += 1u) {
                let x = x_tile[h][8u * i + tm];
                products[i] += dots(q0, x.x) + dots(q1, x.y) + dots(q2, x.z) + dots(q3, x.w);
            }
            if (X_ZEROS) {
                w_codes += dots(q0, ONES) + dots(q1, ONES) + dots(q2, ONES) + dots(q3, ONES);
            }
            if (!HALVES && (h == 0u || !ends)) {
                continue;
            }
            let sw = scales4(columns, run.index, h);
            let zw = zeros4(columns, run.index);
            let g = x_group(run.index);
            for (var i = 0u; i < THREAD_M; i += 1u) {
                let row = row0 + THREAD_M * tm + i;
                let zx = x_zero(rows[i], g);
                let t = fold(products[i], zw, codes[i], zx, w_codes, 32u * (run.place + 1u));
                let spot = Spot(y_first + row * p.y_stride, run.index, column, row < m);
                sums[i] = add_slice(sums[i], t, sw, x_scale(rows[i], g), spot);
                if (MINIMA != 0u) {
                    let total = x_total(codes[i], zx, 32u * (run.place + 1u), b);
                    let minima = minima4(columns, run.index);
                    sums[i] = add_minima(sums[i], minima, x_scale(rows[i], g), total);
                }
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
