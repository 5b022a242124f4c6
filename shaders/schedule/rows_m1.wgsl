// One row of X: a lane owns COLUMNS neighbouring columns of Y and walks K alone.
// Requires: lib/quads or lib/quad, a part fragment, access, decode and scale fragments;
// consts WORKGROUP, COLUMNS (2 or 4). Provides: schedule. No workgroup memory, no barrier.
// Why: on software adapters every load costs a lane's turn, wherever it reads. So a step of
// X serves several rows of W, a scale a whole run of steps, and each quad is decoded where
// it is used: decoded earlier it spills. Rows of many bytes spill too: they go by twos.

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

fn schedule(tile: u32, local: u32, lane: u32) {
    let m = row_count();
    let n_tiles = (p.rows + COLUMNS * WORKGROUP - 1u) / (COLUMNS * WORKGROUP);
    if (tile >= n_tiles * m * p.batch) {
        return;
    }
    let batch = tile / (n_tiles * m);
    let x_row = tile / n_tiles % m;
    let n = (tile % n_tiles * WORKGROUP + local) * COLUMNS;
    // Rows past the end read the last one; nothing is stored for them.
    let last = p.rows - 1u;
    let r0 = row_at(min(n, last));
    let r1 = row_at(min(n + 1u, last));
    let r2 = row_at(min(n + 2u, last));
    let r3 = row_at(min(n + 3u, last));
    let x_at = p.x_offset + batch * p.x_batch + x_row * p.x_stride;
    let steps = p.blocks * (32u / STEP);

    var sums = vec4<f32>(0.0);
    for (var run = 0u; run < runs(); run += 1u) {
        var z = vec4<f32>(run_zeros(r0, r1, run), 0.0, 0.0);
        if (COLUMNS == 4u) {
            z = vec4<f32>(z.xy, run_zeros(r2, r3, run));
        }
        var part_sums = vec4<f32>(0.0);
        let end = min((run + 1u) * run_steps(), steps);
        for (var b = run * run_steps(); b < end; b += 1u) {
            let part = load_part(x_at, b, lane);
            var w = load_blocks(r0, r1, b, 0u);
            var v = w;
            if (COLUMNS == 4u) {
                v = load_blocks(r2, r3, b, 0u);
            }
            part_sums = quad_step(part_sums, part, 0u, z, w, v);
            if (QUADS == 8u) {
                part_sums = quad_step(part_sums, part, 1u, z, w, v);
                if (PIECES == 4u) {
                    w = load_blocks(r0, r1, b, 1u);
                    if (COLUMNS == 4u) {
                        v = load_blocks(r2, r3, b, 1u);
                    }
                }
                part_sums = quad_step(part_sums, part, 2u, z, w, v);
                part_sums = quad_step(part_sums, part, 3u, z, w, v);
                if (PIECES >= 2u) {
                    w = load_blocks(r0, r1, b, PIECES / 2u);
                    if (COLUMNS == 4u) {
                        v = load_blocks(r2, r3, b, PIECES / 2u);
                    }
                }
                part_sums = quad_step(part_sums, part, 4u, z, w, v);
                part_sums = quad_step(part_sums, part, 5u, z, w, v);
                if (PIECES == 4u) {
                    w = load_blocks(r0, r1, b, 3u);
                    if (COLUMNS == 4u) {
                        v = load_blocks(r2, r3, b, 3u);
                    }
                }
                part_sums = quad_step(part_sums, part, 6u, z, w, v);
                part_sums = quad_step(part_sums, part, 7u, z, w, v);
            }
        }
        var s = vec4<f32>(run_scales(r0, r1, run), 0.0, 0.0);
        if (COLUMNS == 4u) {
            s = vec4<f32>(s.xy, run_scales(r2, r3, run));
        }
        sums += part_sums * s;
    }
    let end = p.n0 + p.rows;
    let column = p.n0 + n;
    let y_at = p.y_offset + batch * p.y_batch + x_row * p.y_stride;
    store_y2(y_at, column, end, sums.xy + bias2(column, end));
    if (COLUMNS == 4u) {
        store_y2(y_at, column + 2u, end, sums.zw + bias2(column + 2u, end));
    }
}
