// One row of X: a lane owns COLUMNS neighbouring columns of Y and walks K alone.
// Requires: lib/quads or lib/quad, a part fragment, access, decode and scale fragments;
// consts WORKGROUP, COLUMNS (2 or 4). Provides: schedule. No workgroup memory, no barrier.
// Why: on software adapters every load costs a lane's turn, wherever it reads. So a step of
// X serves several rows of W, a scale a whole run of steps, and each quad is decoded where
// it is used: decoded earlier it spills. Rows of many bytes spill too: they go by twos.

fn quad_step(
    sums: vec4<f32>, part: Part, i: u32, z: vec4<f32>, w0: Block, w1: Block, w2: Block, w3: Block,
) -> vec4<f32> {
    let xq = part_quad(part, i);
    var dots = vec4<f32>(dot_quad(w0, i, z.x, xq), dot_quad(w1, i, z.y, xq), 0.0, 0.0);
    if (COLUMNS == 4u) {
        dots.z = dot_quad(w2, i, z.z, xq);
        dots.w = dot_quad(w3, i, z.w, xq);
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
        var z = vec4<f32>(run_zero(r0, run), run_zero(r1, run), 0.0, 0.0);
        if (COLUMNS == 4u) {
            z.z = run_zero(r2, run);
            z.w = run_zero(r3, run);
        }
        var part_sums = vec4<f32>(0.0);
        let end = min((run + 1u) * run_steps(), steps);
        for (var b = run * run_steps(); b < end; b += 1u) {
            let part = load_part(x_at, b, lane);
            let w0 = load_step(r0, b);
            let w1 = load_step(r1, b);
            var w2 = w0;
            var w3 = w1;
            if (COLUMNS == 4u) {
                w2 = load_step(r2, b);
                w3 = load_step(r3, b);
            }
            part_sums = quad_step(part_sums, part, 0u, z, w0, w1, w2, w3);
            if (QUADS == 8u) {
                part_sums = quad_step(part_sums, part, 1u, z, w0, w1, w2, w3);
                part_sums = quad_step(part_sums, part, 2u, z, w0, w1, w2, w3);
                part_sums = quad_step(part_sums, part, 3u, z, w0, w1, w2, w3);
                part_sums = quad_step(part_sums, part, 4u, z, w0, w1, w2, w3);
                part_sums = quad_step(part_sums, part, 5u, z, w0, w1, w2, w3);
                part_sums = quad_step(part_sums, part, 6u, z, w0, w1, w2, w3);
                part_sums = quad_step(part_sums, part, 7u, z, w0, w1, w2, w3);
            }
        }
        var s = vec4<f32>(run_scale(r0, run), run_scale(r1, run), 0.0, 0.0);
        if (COLUMNS == 4u) {
            s.z = run_scale(r2, run);
            s.w = run_scale(r3, run);
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
