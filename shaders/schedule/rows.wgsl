// Several rows of X: a lane owns two neighboring columns of Y for M_TILE rows of X (4, 8 or 16).
// Requires: lib/matmul, tile, lib/run, step, part, decoder, scale, bias, epilogue, entry,
// const WORKGROUP, const M_TILE, const GROUPED.
// Implements: schedule.
// Provides: schedule. It uses no workgroup memory and no barrier.
// Why: see schedule/rows_m1; and each weight is loaded and decoded once for M_TILE rows of X. Rows
// are taken by fours, column by column, so that eight independent sums stay in registers. With
// more than four rows, sums are swapped once a quad.

// Parts of four rows of X.
struct Part4 {
    x0: Part,
    x1: Part,
    x2: Part,
    x3: Part,
}

struct Sums {
    a: vec4<f32>, // the first column, a component a row of X
    b: vec4<f32>, // the second
}

struct Tile {
    s0: Sums,
    s1: Sums,
    s2: Sums,
    s3: Sums,
}

// Rows past the end read the last one; nothing is stored for them.
fn rows4_at(here: TilePlace, row: u32) -> vec4<u32> {
    let rows = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(here.m - 1u));
    return x_starts(here, rows);
}

fn load_part4(rows: vec4<u32>, b: u32, lane: u32) -> Part4 {
    return Part4(
        load_part(rows.x, b, lane), load_part(rows.y, b, lane),
        load_part(rows.z, b, lane), load_part(rows.w, b, lane),
    );
}

fn add4(sums: Sums, x: Part4, i: u32, a: vec4<f32>, b: vec4<f32>) -> Sums {
    let q0 = part_quad(x.x0, i);
    let q1 = part_quad(x.x1, i);
    let q2 = part_quad(x.x2, i);
    let q3 = part_quad(x.x3, i);
    var out = sums;
    let xx = vec4<f32>(q0.x, q1.x, q2.x, q3.x);
    out.a += a.x * xx;
    out.b += b.x * xx;
    let xy = vec4<f32>(q0.y, q1.y, q2.y, q3.y);
    out.a += a.y * xy;
    out.b += b.y * xy;
    let xz = vec4<f32>(q0.z, q1.z, q2.z, q3.z);
    out.a += a.z * xz;
    out.b += b.z * xz;
    let xw = vec4<f32>(q0.w, q1.w, q2.w, q3.w);
    out.a += a.w * xw;
    out.b += b.w * xw;
    return out;
}

fn quad_step(
    tile: Tile, x0: Part4, x1: Part4, x2: Part4, x3: Part4,
    i: u32, z: vec2<f32>, w: Blocks,
) -> Tile {
    let a = quad_f(w.a, i, vec4<f32>(z.x));
    let b = quad_f(w.b, i, vec4<f32>(z.y));
    var out = tile;
    out.s0 = add4(tile.s0, x0, i, a, b);
    if (M_TILE >= 8u) {
        out.s1 = add4(tile.s1, x1, i, a, b);
    }
    if (M_TILE == 16u) {
        out.s2 = add4(tile.s2, x2, i, a, b);
        out.s3 = add4(tile.s3, x3, i, a, b);
    }
    return out;
}

fn scaled4(sums: Sums, part: Sums, s: vec2<f32>) -> Sums {
    return Sums(sums.a + part.a * s.x, sums.b + part.b * s.y);
}

fn scaled(sums: Tile, part: Tile, s: vec2<f32>) -> Tile {
    var out = sums;
    out.s0 = scaled4(sums.s0, part.s0, s);
    if (M_TILE >= 8u) {
        out.s1 = scaled4(sums.s1, part.s1, s);
    }
    if (M_TILE == 16u) {
        out.s2 = scaled4(sums.s2, part.s2, s);
        out.s3 = scaled4(sums.s3, part.s3, s);
    }
    return out;
}

fn store4(y_at: u32, row: u32, m: u32, column: u32, end: u32, sums: Sums) {
    let bias = bias2(column, end);
    for (var i = 0u; i < 4u && row + i < m; i += 1u) {
        let sum = vec2<f32>(sums.a[i], sums.b[i]) + bias;
        put2(y_at + (row + i) * p.y_stride, column, end, sum);
    }
}

fn schedule(tile: u32, local: u32, lane: u32) {
    let here = tile_at(tile, row_count(), M_TILE, 2u * WORKGROUP);
    if (!here.live) {
        return;
    }
    let m = here.m;
    let row = here.row0;
    let n = here.n0 + 2u * local;
    // Rows past the end are the last row, as with X.
    let r0 = w_row(here, n);
    let r1 = w_row(here, n + 1u);
    let rows0 = rows4_at(here, row);
    var rows1 = rows0;
    var rows2 = rows0;
    var rows3 = rows0;
    if (M_TILE >= 8u) {
        rows1 = rows4_at(here, row + 4u);
    }
    if (M_TILE == 16u) {
        rows2 = rows4_at(here, row + 8u);
        rows3 = rows4_at(here, row + 12u);
    }
    let steps = p.blocks * (32u / STEP);

    let zero = Sums(vec4<f32>(0.0), vec4<f32>(0.0));
    let zeros = Tile(zero, zero, zero, zero);
    var sums = zeros;
    var part = zeros; // of a run
    var z = run_zeros(r0, r1, 0u);
    var run = Run(0u, 0u);
    for (var b = 0u; b < steps; b += 1u) {
        if (GROUPED && run.place == 0u) {
            z = run_zeros(r0, r1, run.index);
            part = zeros;
        }
        let x0 = load_part4(rows0, b, lane);
        var x1 = x0;
        var x2 = x0;
        var x3 = x0;
        if (M_TILE >= 8u) {
            x1 = load_part4(rows1, b, lane);
        }
        if (M_TILE == 16u) {
            x2 = load_part4(rows2, b, lane);
            x3 = load_part4(rows3, b, lane);
        }
        var w = load_blocks(r0, r1, b, 0u);
        part = quad_step(part, x0, x1, x2, x3, 0u, z, w);
        if (QUADS == 8u) {
            part = quad_step(part, x0, x1, x2, x3, 1u, z, w);
            if (PIECES == 4u) {
                w = load_blocks(r0, r1, b, 1u);
            }
            part = quad_step(part, x0, x1, x2, x3, 2u, z, w);
            part = quad_step(part, x0, x1, x2, x3, 3u, z, w);
            if (PIECES >= 2u) {
                w = load_blocks(r0, r1, b, PIECES / 2u);
            }
            part = quad_step(part, x0, x1, x2, x3, 4u, z, w);
            part = quad_step(part, x0, x1, x2, x3, 5u, z, w);
            if (PIECES == 4u) {
                w = load_blocks(r0, r1, b, 3u);
            }
            part = quad_step(part, x0, x1, x2, x3, 6u, z, w);
            part = quad_step(part, x0, x1, x2, x3, 7u, z, w);
        }
        if (GROUPED) {
            let next = next_step(run);
            if (next.place == 0u || b + 1u == steps) {
                sums = scaled(sums, part, run_scales(r0, r1, run.index));
            }
            run = next;
        }
    }
    if (!GROUPED) {
        sums = scaled(zeros, part, run_scales(r0, r1, 0u));
    }
    let column = here.column + n;
    let end = column_end(here, n);
    let y_at = p.y_offset + here.batch * p.y_batch;
    store4(y_at, row, m, column, end, sums.s0);
    if (M_TILE >= 8u) {
        store4(y_at, row + 4u, m, column, end, sums.s1);
    }
    if (M_TILE == 16u) {
        store4(y_at, row + 8u, m, column, end, sums.s2);
        store4(y_at, row + 12u, m, column, end, sums.s3);
    }
}
