// One row of X: a lane owns COLUMNS (2 or 4) neighboring columns of Y and walks K alone.
// Requires: lib/matmul, tile, row_sums, bias, epilogue, entry, const WORKGROUP, const COLUMNS.
// Implements: schedule.
// Provides: schedule. It uses no workgroup memory and no barrier.
// Why: on software adapters every load takes the turn of one lane, wherever it reads. So a step of
// X serves several rows of W, and each quad is decoded (and wide codes are loaded) where it is
// used, because values that are loaded earlier spill.

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
    let sums = row_sums(r0, r1, r2, r3, x_start(here, here.row0), lane);
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
