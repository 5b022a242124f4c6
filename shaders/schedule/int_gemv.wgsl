// Integer products for few rows of X: LANES lanes split K, and a team of them makes 4 columns of Y
// for M_TILE rows.
// Requires: lib/matmul, tile, integer/slices, integer/x_side, x_codes, decoder, quad_word, dots,
// add_slice, finish, integer_sums, reduce, const WORKGROUP, const LANES, const M_TILE,
// const W_ZEROS, const X_ZEROS, const MINIMA.
// Implements: schedule.
// Provides: schedule.
// Workgroup memory: WORKGROUP · M_TILE · 16 bytes.
// Why: see schedule/gemv.

var<private> sums: array<Sum, M_TILE>;
var<private> x_rows: array<u32, M_TILE>;

// `y_at` is of the first of `live` rows.
fn block_step(b: u32, slice: u32, rows: Columns4, y_at: u32, column: u32, live: u32) {
    let zw = zeros4(rows, slice);
    let fill = fills4(zw);
    let w0 = load_block(rows.r0, b, 0u);
    let w1 = load_block(rows.r1, b, 0u);
    let w2 = load_block(rows.r2, b, 0u);
    let w3 = load_block(rows.r3, b, 0u);
    var products: array<vec4<i32>, M_TILE>;
    var codes = vec4<i32>(0);
    for (var half = 0u; half < 2u; half += 1u) {
        var x: array<vec4<u32>, M_TILE>;
        for (var r = 0u; r < M_TILE; r += 1u) {
            x[r] = x_quad(x_rows[r], 2u * b + half);
        }
        for (var j = 0u; j < 4u; j += 1u) {
            let i = 4u * half + j;
            let quads = vec4<u32>(
                quad_word(w0, i, fill.x), quad_word(w1, i, fill.y),
                quad_word(w2, i, fill.z), quad_word(w3, i, fill.w),
            );
            for (var r = 0u; r < M_TILE; r += 1u) {
                products[r] += dots(quads, x[r][j]);
            }
            if (X_ZEROS) {
                codes += dots(quads, ONES);
            }
        }
        if (!HALVES && half == 0u) {
            continue;
        }
        let sw = scales4(rows, slice, half);
        let group = x_group(slice);
        for (var r = 0u; r < M_TILE; r += 1u) {
            var sum = 0;
            if (W_ZEROS) {
                sum = x_sum(x_rows[r], b);
            }
            let t = fold(products[r], zw, sum, x_zero(x_rows[r], group), codes, 32u);
            let spot = Spot(y_at + r * p.y_stride, slice, column, r < live);
            sums[r] = add_block(sums[r], t, sw, x_scale(x_rows[r], group), spot);
            if (MINIMA != 0u) {
                let total = x_total(sum, x_zero(x_rows[r], group), 32u, b);
                let minima = minima4(rows, slice);
                sums[r] = add_block_minima(sums[r], minima, x_scale(x_rows[r], group), total);
            }
            products[r] = vec4<i32>(0);
        }
        codes = vec4<i32>(0);
    }
}

fn schedule(tile: u32, local: u32, ids: vec3<u32>) {
    let m = row_count();
    let here = tile_at(tile, m, M_TILE, 4u * (WORKGROUP / LANES));
    if (!here.live) {
        return;
    }
    let batch = here.batch;
    let row0 = here.row0;
    let lane = local % LANES;
    let n = here.n0 + local / LANES * 4u;
    let rows = columns_at(n);
    let column = p.n0 + n;
    let y_at = p.y_offset + batch * p.y_batch + row0 * p.y_stride;
    // Rows past the end read the last one; nothing is stored for them.
    for (var i = 0u; i < M_TILE; i += 1u) {
        x_rows[i] = p.x_offset + batch * p.x_batch + min(row0 + i, m - 1u) * p.x_stride;
        sums[i] = Sum();
    }
    // As in schedule/gemv: the slice of a block and the block's place in it go along.
    let size = run_steps();
    let far_slices = LANES / size;
    let far_places = LANES % size;
    var slice = lane / size;
    var place = lane % size;
    for (var b = lane; b < p.blocks; b += LANES) {
        block_step(b, slice, rows, y_at, column, m - row0);
        slice += far_slices;
        place += far_places;
        if (place >= size) {
            place -= size;
            slice += 1u;
        }
    }
    for (var i = 0u; i < M_TILE; i += 1u) {
        put_sum(i, sums[i], local, ids);
    }
    finish_sums(local, ids);
    if (lane == 0u) {
        let sw = scales4(rows, 0u, 0u);
        for (var i = 0u; i < M_TILE && row0 + i < m; i += 1u) {
            let at = y_at + i * p.y_stride;
            // Where K is 0, X has no scale.
            var sum = vec4<f32>(0.0);
            if (p.blocks > 0u) {
                let spot = Spot(at, 0u, column, true);
                sum = finished(whole_sum(i, local, ids), sw, x_scale(x_rows[i], 0u), spot);
            }
            finish(at, column, sum);
        }
    }
}
