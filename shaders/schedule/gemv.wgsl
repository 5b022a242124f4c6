// Few rows of X: LANES lanes split K, and a team of them makes 4 columns of Y for M_TILE rows. A
// trip takes TRIP blocks, which is 2 only if p.blocks is even.
// Requires: lib/matmul, tile, step, decoder, scale, x, bias, epilogue, reduce, const WORKGROUP,
// const LANES, const M_TILE, const TRIP.
// Implements: schedule, lane_sum.
// Provides: schedule, trip_block, Sum.
// Workgroup memory: WORKGROUP · M_TILE · 16 bytes.
// Why: neighboring lanes read neighboring blocks of one row, so that loads of W coalesce; four
// rows of W share each load of X; a scale is applied once a block; and each quad is decoded where
// it is used, because whole blocks of four rows took 250 registers.

alias Sum = vec4<f32>;

var<private> sums: array<Sum, M_TILE>;
var<private> parts: array<vec4<f32>, M_TILE>;
var<private> x_rows: array<u32, M_TILE>;
var<private> trip_block: u32;

fn quad_step(
    step: u32, i: u32, z: vec4<f32>, w0: Block, w1: Block, w2: Block, w3: Block,
) {
    let k = step * STEP + 4u * i;
    if (M_TILE == 1u) {
        let xq = load_x4(x_rows[0], k);
        let sum = parts[0];
        parts[0] = vec4<f32>(
            add_quad(w0, i, z.x, xq, sum.x), add_quad(w1, i, z.y, xq, sum.y),
            add_quad(w2, i, z.z, xq, sum.z), add_quad(w3, i, z.w, xq, sum.w),
        );
        return;
    }
    let q0 = tile_quad(w0, i, vec4<f32>(z.x));
    let q1 = tile_quad(w1, i, vec4<f32>(z.y));
    let q2 = tile_quad(w2, i, vec4<f32>(z.z));
    let q3 = tile_quad(w3, i, vec4<f32>(z.w));
    for (var r = 0u; r < M_TILE; r += 1u) {
        let xq = load_x4(x_rows[r], k);
        var sum = parts[r];
        sum = fma(vec4<f32>(q0.x, q1.x, q2.x, q3.x), vec4<f32>(xq.x), sum);
        sum = fma(vec4<f32>(q0.y, q1.y, q2.y, q3.y), vec4<f32>(xq.y), sum);
        sum = fma(vec4<f32>(q0.z, q1.z, q2.z, q3.z), vec4<f32>(xq.z), sum);
        parts[r] = fma(vec4<f32>(q0.w, q1.w, q2.w, q3.w), vec4<f32>(xq.w), sum);
    }
}

// Block `which` of a trip. A decoder that loads both blocks at once takes the trip's number and
// `trip_block`, so that compilers see the two loads to be one.
fn block_step(trip: u32, which: u32, run: u32, r0: Row, r1: Row, r2: Row, r3: Row) {
    let step = trip * TRIP + which;
    trip_block = which;
    var w0 = load_block(r0, trip, 0u);
    var w1 = load_block(r1, trip, 0u);
    var w2 = load_block(r2, trip, 0u);
    var w3 = load_block(r3, trip, 0u);
    let z = vec4<f32>(
        run_zero(r0, run), run_zero(r1, run), run_zero(r2, run), run_zero(r3, run),
    );
    for (var r = 0u; r < M_TILE; r += 1u) {
        parts[r] = vec4<f32>(0.0);
    }
    quad_step(step, 0u, z, w0, w1, w2, w3);
    if (QUADS == 8u) {
        quad_step(step, 1u, z, w0, w1, w2, w3);
        if (PIECES == 4u) {
            w0 = load_block(r0, trip, 1u);
            w1 = load_block(r1, trip, 1u);
            w2 = load_block(r2, trip, 1u);
            w3 = load_block(r3, trip, 1u);
        }
        quad_step(step, 2u, z, w0, w1, w2, w3);
        quad_step(step, 3u, z, w0, w1, w2, w3);
        if (PIECES >= 2u) {
            w0 = load_block(r0, trip, PIECES / 2u);
            w1 = load_block(r1, trip, PIECES / 2u);
            w2 = load_block(r2, trip, PIECES / 2u);
            w3 = load_block(r3, trip, PIECES / 2u);
        }
        quad_step(step, 4u, z, w0, w1, w2, w3);
        quad_step(step, 5u, z, w0, w1, w2, w3);
        if (PIECES == 4u) {
            w0 = load_block(r0, trip, 3u);
            w1 = load_block(r1, trip, 3u);
            w2 = load_block(r2, trip, 3u);
            w3 = load_block(r3, trip, 3u);
        }
        quad_step(step, 6u, z, w0, w1, w2, w3);
        quad_step(step, 7u, z, w0, w1, w2, w3);
    }
    let s = vec4<f32>(
        run_scale(r0, run), run_scale(r1, run), run_scale(r2, run), run_scale(r3, run),
    );
    for (var r = 0u; r < M_TILE; r += 1u) {
        sums[r] = fma(parts[r], s, sums[r]);
    }
}

fn schedule(tile: u32, local: u32, ids: vec3<u32>) {
    let here = tile_at(tile, row_count(), M_TILE, 4u * (WORKGROUP / LANES));
    if (!here.live) {
        return;
    }
    let m = here.m;
    let row0 = here.row0;
    let lane = local % LANES;
    let n = here.n0 + local / LANES * 4u;
    // Rows past the end, of W and of X, read the last one; nothing is stored for them.
    let r0 = w_row(here, n);
    let r1 = w_row(here, n + 1u);
    let r2 = w_row(here, n + 2u);
    let r3 = w_row(here, n + 3u);
    for (var i = 0u; i < M_TILE; i += 1u) {
        x_rows[i] = x_start(here, min(row0 + i, m - 1u));
        sums[i] = vec4<f32>(0.0);
    }
    // The run of a step and the step's place in it go along: dividing took a fifth of the loop.
    let steps = p.blocks * (32u / STEP);
    let size = run_steps();
    let far_runs = LANES * TRIP / size;
    let far_steps = LANES * TRIP % size;
    var run = lane * TRIP / size;
    var place = lane * TRIP % size;
    for (var trip = lane; trip < steps / TRIP; trip += LANES) {
        block_step(trip, 0u, run, r0, r1, r2, r3);
        if (TRIP == 2u) {
            let next = select(run, run + 1u, place + 1u == size);
            block_step(trip, 1u, next, r0, r1, r2, r3);
        }
        run += far_runs;
        place += far_steps;
        if (place >= size) {
            place -= size;
            run += 1u;
        }
    }
    for (var i = 0u; i < M_TILE; i += 1u) {
        put_sum(i, sums[i], local, ids);
    }
    finish_sums(local, ids);
    if (lane == 0u) {
        for (var i = 0u; i < M_TILE && row0 + i < m; i += 1u) {
            let sum = whole_sum(i, local, ids);
            let y_at = p.y_offset + here.batch * p.y_batch + (row0 + i) * p.y_stride;
            let end = column_end(here, n);
            let column = here.column + n;
            let bias = vec4<f32>(bias2(column, end), bias2(column + 2u, end));
            put4(y_at, column, end, sum + bias);
        }
    }
}
