// A lane owns ROWS neighbouring columns of Y for M_TILE rows of X, and walks K alone.
// Requires: lib/quads or lib/quad, access, decode and scale fragments; consts WORKGROUP,
// ROWS (even), M_TILE (1 or 4). Provides: main. No workgroup memory, no barrier.
// Why: on software adapters every load costs a lane's turn, wherever it reads, and barriers
// are dear. So a step of X stays in registers for ROWS rows of W, and a step of W for
// M_TILE rows of X; each lane reads contiguous runs. On lavapipe two columns a lane were
// several times as slow as eight; sixteen gain more with four rows of X. Eight rows of X
// gained no more, and took seconds to compile.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let n_tiles = (p.rows + ROWS * WORKGROUP - 1u) / (ROWS * WORKGROUP);
    let m_tiles = (m + M_TILE - 1u) / M_TILE;
    let tile = workgroup_index(group, count);
    let n = (tile % n_tiles * WORKGROUP + local) * ROWS;
    if (tile >= n_tiles * m_tiles * p.batch || n >= p.rows) {
        return;
    }
    let batch = tile / (n_tiles * m_tiles);
    let row0 = tile / n_tiles % m_tiles * M_TILE;
    let rows = min(ROWS, p.rows - n);
    // Rows of X past the end read the last one; nothing is stored for them.
    let x_rows = min(vec4<u32>(row0, row0 + 1u, row0 + 2u, row0 + 3u), vec4<u32>(m - 1u));
    let x_at = p.x_offset + batch * p.x_batch + x_rows * p.x_stride;
    let steps = p.blocks * (32u / STEP);

    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        sums[r] = vec4<f32>(0.0);
    }
    for (var b = 0u; b < steps; b += 1u) {
        let x0 = load_x(x_at.x, b);
        if (M_TILE == 1u) {
            for (var r = 0u; r < rows; r += 1u) {
                sums[r].x += scaled_dot(n + r, b, x0);
            }
        } else {
            let x1 = load_x(x_at.y, b);
            let x2 = load_x(x_at.z, b);
            let x3 = load_x(x_at.w, b);
            for (var r = 0u; r < rows; r += 1u) {
                let w = scaled_weights(n + r, b);
                sums[r] += vec4<f32>(
                    dot_quads(w, x0), dot_quads(w, x1), dot_quads(w, x2), dot_quads(w, x3),
                );
            }
        }
    }
    let end = p.n0 + p.rows;
    for (var r = 0u; r < rows; r += 2u) {
        let column = p.n0 + n + r;
        let bias = bias2(column, end);
        let low = sums[r];
        let high = sums[r + 1u];
        for (var i = 0u; i < M_TILE && row0 + i < m; i += 1u) {
            let y_at = p.y_offset + batch * p.y_batch + (row0 + i) * p.y_stride;
            store_y2(y_at, column, end, vec2<f32>(low[i], high[i]) + bias);
        }
    }
}
