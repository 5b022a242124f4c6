// Integer products on lanes that own columns: a lane makes four neighboring columns of Y for
// M_TILE rows of X (1 or 4).
// Requires: lib/matmul, tile, lib/run, integer/slices, integer/x_side, integer_part, decoder, quad_word,
// dots, add_slice, finish, entry, const WORKGROUP, const M_TILE, const X_ZEROS, const W_GROUPS,
// const X_GROUPS, const MINIMA.
// Implements: schedule.
// Provides: schedule. It uses no workgroup memory and no barrier.
// Why: see schedule/rows_m1. Sums of a slice stay integers, and floats appear only at the end of a
// slice.

struct Products {
    r0: vec4<i32>, // a row of X each, a component a column
    r1: vec4<i32>,
    r2: vec4<i32>,
    r3: vec4<i32>,
    w: vec4<i32>, // sums of codes of W, where X has zero points
}

struct Sums {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
}

struct Blocks4 {
    a: Blocks,
    b: Blocks,
}

fn quad_step(sums: Products, x: XPart, i: u32, w: Blocks4, fill: vec4<u32>) -> Products {
    let quads = vec4<u32>(
        quad_word(w.a.a, i, fill.x), quad_word(w.a.b, i, fill.y),
        quad_word(w.b.a, i, fill.z), quad_word(w.b.b, i, fill.w),
    );
    var out = sums;
    out.r0 += dots(quads, x_word(x, 0u, i));
    if (M_TILE == 4u) {
        out.r1 += dots(quads, x_word(x, 1u, i));
        out.r2 += dots(quads, x_word(x, 2u, i));
        out.r3 += dots(quads, x_word(x, 3u, i));
    }
    if (X_ZEROS) {
        out.w += dots(quads, ONES);
    }
    return out;
}

fn x_scales(rows: vec4<u32>, group: u32) -> vec4<f32> {
    var s = vec4<f32>(x_scale(rows.x, group));
    if (M_TILE == 4u) {
        s.y = x_scale(rows.y, group);
        s.z = x_scale(rows.z, group);
        s.w = x_scale(rows.w, group);
    }
    return s;
}

fn x_zeros(rows: vec4<u32>, group: u32) -> vec4<i32> {
    var z = vec4<i32>(x_zero(rows.x, group));
    if (M_TILE == 4u) {
        z.y = x_zero(rows.y, group);
        z.z = x_zero(rows.z, group);
        z.w = x_zero(rows.w, group);
    }
    return z;
}

// Adds the products of a half of a block, whose columns have a scale of their own; see HALVES.
fn add_half(
    sums: Sums, products: Products, rows: Columns4, sx: vec4<f32>, zx: vec4<i32>, half: u32,
    at: Spot, live: u32,
) -> Sums {
    let sw = scales4(rows, at.slice, half);
    let none = vec4<i32>(0);
    var out = sums;
    let t0 = fold(products.r0, none, 0, zx.x, products.w, 16u);
    out.r0 = add_slice(out.r0, t0, sw, sx.x, at);
    if (M_TILE == 4u) {
        let t1 = fold(products.r1, none, 0, zx.y, products.w, 16u);
        let t2 = fold(products.r2, none, 0, zx.z, products.w, 16u);
        let t3 = fold(products.r3, none, 0, zx.w, products.w, 16u);
        let y1 = at.y_at + p.y_stride;
        let y2 = y1 + p.y_stride;
        let y3 = y2 + p.y_stride;
        out.r1 = add_slice(out.r1, t1, sw, sx.y, Spot(y1, at.slice, at.column, live > 1u));
        out.r2 = add_slice(out.r2, t2, sw, sx.z, Spot(y2, at.slice, at.column, live > 2u));
        out.r3 = add_slice(out.r3, t3, sw, sx.w, Spot(y3, at.slice, at.column, live > 3u));
    }
    return out;
}

fn schedule(tile: u32, local: u32, lane: u32) {
    let m = row_count();
    let here = tile_at(tile, m, M_TILE, 4u * WORKGROUP);
    if (!here.live) {
        return;
    }
    let batch = here.batch;
    let row = here.row0;
    let n = here.n0 + 4u * local;
    let w_rows = columns_at(n);
    // Rows past the end are the last row, as with W.
    let x_rows = p.x_offset + batch * p.x_batch
        + min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(m - 1u)) * p.x_stride;
    let column = p.n0 + n;
    let y_at = p.y_offset + batch * p.y_batch + row * p.y_stride;

    var sums = Sums();
    var products = Products();
    var codes = XSum(); // sums of codes of X, where W has zero points
    var zw = zeros4(w_rows, 0u);
    var fill = fills4(zw);
    var sx = x_scales(x_rows, 0u);
    var zx = x_zeros(x_rows, 0u);
    var run = Run(0u, 0u);
    for (var b = 0u; b < p.blocks; b += 1u) {
        if (W_GROUPS != 0u && run.place == 0u) {
            zw = zeros4(w_rows, run.index);
            fill = fills4(zw);
        }
        let x = load_part(x_rows, b, lane);
        let w = Blocks4(
            load_blocks(w_rows.r0, w_rows.r1, b, 0u), load_blocks(w_rows.r2, w_rows.r3, b, 0u),
        );
        products = quad_step(products, x, 0u, w, fill);
        products = quad_step(products, x, 1u, w, fill);
        products = quad_step(products, x, 2u, w, fill);
        products = quad_step(products, x, 3u, w, fill);
        if (HALVES) {
            if (X_GROUPS != 0u) {
                sx = x_scales(x_rows, x_group(run.index));
                zx = x_zeros(x_rows, x_group(run.index));
            }
            let spot = Spot(y_at, run.index, column, true);
            sums = add_half(sums, products, w_rows, sx, zx, 0u, spot, m - row);
            products = Products();
        }
        products = quad_step(products, x, 4u, w, fill);
        products = quad_step(products, x, 5u, w, fill);
        products = quad_step(products, x, 6u, w, fill);
        products = quad_step(products, x, 7u, w, fill);
        codes += part_sum(x);
        let next = next_step(run);
        if (next.place == 0u || b + 1u == p.blocks) {
            if (X_GROUPS != 0u) {
                sx = x_scales(x_rows, x_group(run.index));
                zx = x_zeros(x_rows, x_group(run.index));
            }
            let sw = scales4(w_rows, run.index, 1u);
            let columns = 32u * (run.place + 1u);
            let t0 = fold(products.r0, zw, sum_of(codes, 0u), zx.x, products.w, columns);
            sums.r0 = add_slice(sums.r0, t0, sw, sx.x, Spot(y_at, run.index, column, true));
            if (M_TILE == 4u) {
                let t1 = fold(products.r1, zw, sum_of(codes, 1u), zx.y, products.w, columns);
                let t2 = fold(products.r2, zw, sum_of(codes, 2u), zx.z, products.w, columns);
                let t3 = fold(products.r3, zw, sum_of(codes, 3u), zx.w, products.w, columns);
                let y1 = y_at + p.y_stride;
                let y2 = y1 + p.y_stride;
                let y3 = y2 + p.y_stride;
                let spot1 = Spot(y1, run.index, column, row + 1u < m);
                let spot2 = Spot(y2, run.index, column, row + 2u < m);
                let spot3 = Spot(y3, run.index, column, row + 3u < m);
                sums.r1 = add_slice(sums.r1, t1, sw, sx.y, spot1);
                sums.r2 = add_slice(sums.r2, t2, sw, sx.z, spot2);
                sums.r3 = add_slice(sums.r3, t3, sw, sx.w, spot3);
            }
            if (MINIMA != 0u) {
                let minima = minima4(w_rows, run.index);
                let total0 = x_total(sum_of(codes, 0u), zx.x, columns, b);
                sums.r0 = add_minima(sums.r0, minima, sx.x, total0);
                if (M_TILE == 4u) {
                    let total1 = x_total(sum_of(codes, 1u), zx.y, columns, b);
                    let total2 = x_total(sum_of(codes, 2u), zx.z, columns, b);
                    let total3 = x_total(sum_of(codes, 3u), zx.w, columns, b);
                    sums.r1 = add_minima(sums.r1, minima, sx.y, total1);
                    sums.r2 = add_minima(sums.r2, minima, sx.z, total2);
                    sums.r3 = add_minima(sums.r3, minima, sx.w, total3);
                }
            }
            products = Products();
            codes = XSum();
        }
        run = next;
    }
    finish(y_at, column, sums.r0);
    if (M_TILE == 4u) {
        if (row + 1u < m) {
            finish(y_at + p.y_stride, column, sums.r1);
        }
        if (row + 2u < m) {
            finish(y_at + 2u * p.y_stride, column, sums.r2);
        }
        if (row + 3u < m) {
            finish(y_at + 3u * p.y_stride, column, sums.r3);
        }
    }
}
