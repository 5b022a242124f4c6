// One row of X: a lane owns COLUMNS (2 or 4) neighboring columns of Y and walks K alone.
// Requires: lib/matmul, tile, lib/run, step, part, decoder, scale, bias, epilogue, entry,
// const WORKGROUP, const COLUMNS, const GROUPED.
// Implements: schedule.
// Provides: schedule. It uses no workgroup memory and no barrier.
// Why: on software adapters every load takes the turn of one lane, wherever it reads. So a step of
// X serves several rows of W, and each quad is decoded (and wide codes are loaded) where it is
// used, because values that are loaded earlier spill. There is one loop: a second loop around it,
// over groups, cost more a group than reading a scale a step.

fn quad_step(
    sums: vec4<f32>, part: Part, i: u32, z: vec4<f32>, w: Blocks, v: Blocks,
) -> vec4<f32> {
    let xq = part_quad(part, i);
    var dots = vec4<f32>(dot_quad(w.a, i, z.x, xq), dot_quad(w.b, i, z.y, xq), 0.0, 0.0);
    if (COLUMNS == 4u) {
        dots.z = dot_quad(v.a, i, z.z, xq);
        dots.w = dot_quad(v.b, i, z.w, xq);
    }
    return sums + dots;
}

fn zeros4(r0: Row, r1: Row, r2: Row, r3: Row, run: u32) -> vec4<f32> {
    let first = run_zeros(r0, r1, run);
    if (COLUMNS == 4u) {
        return vec4<f32>(first, run_zeros(r2, r3, run));
    }
    return vec4<f32>(first, first);
}

fn scales4(r0: Row, r1: Row, r2: Row, r3: Row, run: u32) -> vec4<f32> {
    let first = run_scales(r0, r1, run);
    if (COLUMNS == 4u) {
        return vec4<f32>(first, run_scales(r2, r3, run));
    }
    return vec4<f32>(first, first);
}

fn schedule(tile: u32, local: u32, lane: u32) {
    let here = tile_at(tile, row_count(), 1u, COLUMNS * WORKGROUP);
    if (!here.live) {
        return;
    }
    let n = here.n0 + local * COLUMNS;
    // Rows past the end read the last one; nothing is stored for them.
    let r0 = w_row(here, n);
    let r1 = w_row(here, n + 1u);
    let r2 = w_row(here, n + 2u);
    let r3 = w_row(here, n + 3u);
    let x_at = x_start(here, here.row0);
    let steps = p.blocks * (32u / STEP);

    var sums = vec4<f32>(0.0);
    var part = vec4<f32>(0.0); // of a run
    var z = zeros4(r0, r1, r2, r3, 0u);
    var run = Run(0u, 0u);
    for (var b = 0u; b < steps; b += 1u) {
        if (GROUPED && run.place == 0u) {
            z = zeros4(r0, r1, r2, r3, run.index);
            part = vec4<f32>(0.0);
        }
        let x = load_part(x_at, b, lane);
        var w = load_blocks(r0, r1, b, 0u);
        var v = w;
        if (COLUMNS == 4u) {
            v = load_blocks(r2, r3, b, 0u);
        }
        part = quad_step(part, x, 0u, z, w, v);
        if (QUADS == 8u) {
            part = quad_step(part, x, 1u, z, w, v);
            if (PIECES == 4u) {
                w = load_blocks(r0, r1, b, 1u);
                if (COLUMNS == 4u) {
                    v = load_blocks(r2, r3, b, 1u);
                }
            }
            part = quad_step(part, x, 2u, z, w, v);
            part = quad_step(part, x, 3u, z, w, v);
            if (PIECES >= 2u) {
                w = load_blocks(r0, r1, b, PIECES / 2u);
                if (COLUMNS == 4u) {
                    v = load_blocks(r2, r3, b, PIECES / 2u);
                }
            }
            part = quad_step(part, x, 4u, z, w, v);
            part = quad_step(part, x, 5u, z, w, v);
            if (PIECES == 4u) {
                w = load_blocks(r0, r1, b, 3u);
                if (COLUMNS == 4u) {
                    v = load_blocks(r2, r3, b, 3u);
                }
            }
            part = quad_step(part, x, 6u, z, w, v);
            part = quad_step(part, x, 7u, z, w, v);
        }
        if (GROUPED) {
            let next = next_step(run);
            if (next.place == 0u || b + 1u == steps) {
                sums += part * scales4(r0, r1, r2, r3, run.index);
            }
            run = next;
        }
    }
    if (!GROUPED) {
        sums = part * scales4(r0, r1, r2, r3, 0u);
    }
    let end = column_end(here, n);
    let column = here.column + n;
    let y_at = p.y_offset + here.batch * p.y_batch + here.row0 * p.y_stride;
    let low = sums.xy + bias2(column, end);
    if (COLUMNS == 4u) {
        put4(y_at, column, end, vec4<f32>(low, sums.zw + bias2(column + 2u, end)));
    } else {
        put2(y_at, column, end, low);
    }
}
