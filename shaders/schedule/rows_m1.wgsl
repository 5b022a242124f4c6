// One row of X: a lane owns four neighbouring columns of Y and walks K alone.
// Requires: lib/quads or lib/quad, a part fragment, access, decode and scale fragments;
// const WORKGROUP. Provides: schedule. No workgroup memory, no barrier.
// Why: on software adapters every load costs a lane's turn, wherever it reads. So a step of
// X serves four rows of W, a scale a whole run of steps, and each quad is decoded where it
// is used: decoded earlier it spills. More rows a lane gained nothing and compiled slowly.

fn quad_step(
    sums: vec4<f32>, part: Part, i: u32, z: vec4<f32>, w0: Block, w1: Block, w2: Block, w3: Block,
) -> vec4<f32> {
    let xq = part_quad(part, i);
    return sums + vec4<f32>(
        dot_quad(w0, i, z.x, xq), dot_quad(w1, i, z.y, xq),
        dot_quad(w2, i, z.z, xq), dot_quad(w3, i, z.w, xq),
    );
}

fn schedule(tile: u32, local: u32, lane: u32) {
    let m = row_count();
    let n_tiles = (p.rows + 4u * WORKGROUP - 1u) / (4u * WORKGROUP);
    if (tile >= n_tiles * m * p.batch) {
        return;
    }
    let batch = tile / (n_tiles * m);
    let x_row = tile / n_tiles % m;
    let n = (tile % n_tiles * WORKGROUP + local) * 4u;
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
        let z = vec4<f32>(
            run_zero(r0, run), run_zero(r1, run), run_zero(r2, run), run_zero(r3, run),
        );
        var part_sums = vec4<f32>(0.0);
        let end = min((run + 1u) * run_steps(), steps);
        for (var b = run * run_steps(); b < end; b += 1u) {
            let part = load_part(x_at, b, lane);
            let w0 = load_step(r0, b);
            let w1 = load_step(r1, b);
            let w2 = load_step(r2, b);
            let w3 = load_step(r3, b);
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
        let s = vec4<f32>(
            run_scale(r0, run), run_scale(r1, run), run_scale(r2, run), run_scale(r3, run),
        );
        sums += part_sums * s;
    }
    let end = p.n0 + p.rows;
    let column = p.n0 + n;
    let y_at = p.y_offset + batch * p.y_batch + x_row * p.y_stride;
    store_y2(y_at, column, end, sums.xy + bias2(column, end));
    store_y2(y_at, column + 2u, end, sums.zw + bias2(column + 2u, end));
}
