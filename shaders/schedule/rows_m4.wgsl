// Several rows of X: a lane owns two neighbouring columns of Y for four rows of X.
// Requires: lib/quads or lib/quad, a part fragment, access, decode and scale fragments;
// const WORKGROUP. Provides: schedule. No workgroup memory, no barrier.
// Why: as schedule/rows_m1, and each weight is decoded once for four rows of X. Sums run
// column by column, so that eight independent ones stay in registers.

struct Sums {
    a: vec4<f32>, // the first column, a component a row of X
    b: vec4<f32>, // the second
}

fn quad_step(
    sums: Sums, x0: Part, x1: Part, x2: Part, x3: Part, i: u32, z: vec2<f32>, w0: Block, w1: Block,
) -> Sums {
    let q0 = part_quad(x0, i);
    let q1 = part_quad(x1, i);
    let q2 = part_quad(x2, i);
    let q3 = part_quad(x3, i);
    let a = quad_f(w0, i, vec4<f32>(z.x));
    let b = quad_f(w1, i, vec4<f32>(z.y));
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

fn schedule(tile: u32, local: u32, lane: u32) {
    let m = row_count();
    let n_tiles = (p.rows + 2u * WORKGROUP - 1u) / (2u * WORKGROUP);
    let m_tiles = (m + 3u) / 4u;
    if (tile >= n_tiles * m_tiles * p.batch) {
        return;
    }
    let batch = tile / (n_tiles * m_tiles);
    let row0 = tile / n_tiles % m_tiles * 4u;
    let n = (tile % n_tiles * WORKGROUP + local) * 2u;
    // Rows past the end, of W and of X, read the last one; nothing is stored for them.
    let last = p.rows - 1u;
    let r0 = row_at(min(n, last));
    let r1 = row_at(min(n + 1u, last));
    let x_rows = min(vec4<u32>(row0, row0 + 1u, row0 + 2u, row0 + 3u), vec4<u32>(m - 1u));
    let x_at = p.x_offset + batch * p.x_batch + x_rows * p.x_stride;
    let steps = p.blocks * (32u / STEP);

    var sums = Sums(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var run = 0u; run < runs(); run += 1u) {
        let z = vec2<f32>(run_zero(r0, run), run_zero(r1, run));
        var part = Sums(vec4<f32>(0.0), vec4<f32>(0.0));
        let end = min((run + 1u) * run_steps(), steps);
        for (var b = run * run_steps(); b < end; b += 1u) {
            let x0 = load_part(x_at.x, b, lane);
            let x1 = load_part(x_at.y, b, lane);
            let x2 = load_part(x_at.z, b, lane);
            let x3 = load_part(x_at.w, b, lane);
            let w0 = load_step(r0, b);
            let w1 = load_step(r1, b);
            part = quad_step(part, x0, x1, x2, x3, 0u, z, w0, w1);
            if (QUADS == 8u) {
                part = quad_step(part, x0, x1, x2, x3, 1u, z, w0, w1);
                part = quad_step(part, x0, x1, x2, x3, 2u, z, w0, w1);
                part = quad_step(part, x0, x1, x2, x3, 3u, z, w0, w1);
                part = quad_step(part, x0, x1, x2, x3, 4u, z, w0, w1);
                part = quad_step(part, x0, x1, x2, x3, 5u, z, w0, w1);
                part = quad_step(part, x0, x1, x2, x3, 6u, z, w0, w1);
                part = quad_step(part, x0, x1, x2, x3, 7u, z, w0, w1);
            }
        }
        sums.a += part.a * run_scale(r0, run);
        sums.b += part.b * run_scale(r1, run);
    }
    let end = p.n0 + p.rows;
    let column = p.n0 + n;
    let bias = bias2(column, end);
    for (var i = 0u; i < 4u && row0 + i < m; i += 1u) {
        let y_at = p.y_offset + batch * p.y_batch + (row0 + i) * p.y_stride;
        store_y2(y_at, column, end, vec2<f32>(sums.a[i], sums.b[i]) + bias);
    }
}
