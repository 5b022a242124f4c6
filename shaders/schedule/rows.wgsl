// A lane owns 2 columns of Y for M_TILE rows and walks K alone.
// Requires: lib/quads or lib/quad, access, decode and scale fragments; consts WORKGROUP, M_TILE.
// Provides: main. No workgroup memory, no barrier.
// Why: on software adapters each lane is best off with a contiguous run of its own, and
// barriers are dear. X is the same for all lanes of a workgroup.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let n_tiles = (p.rows + 2u * WORKGROUP - 1u) / (2u * WORKGROUP);
    let m_tiles = (m + M_TILE - 1u) / M_TILE;
    let tile = workgroup_index(group, count);
    let n = (tile % n_tiles * WORKGROUP + local) * 2u;
    if (tile >= n_tiles * m_tiles * p.batch || n >= p.rows) {
        return;
    }
    let batch = tile / (n_tiles * m_tiles);
    let row0 = tile / n_tiles % m_tiles * M_TILE;
    let second = min(n + 1u, p.rows - 1u);
    let x_at = p.x_offset + batch * p.x_batch;

    var sums: array<vec2<f32>, M_TILE>;
    for (var i = 0u; i < M_TILE; i += 1u) {
        sums[i] = vec2<f32>(0.0);
    }
    for (var b = 0u; b < p.blocks * (32u / STEP); b += 1u) {
        if (M_TILE == 1u) {
            let xq = load_x(x_at + row0 * p.x_stride, b);
            sums[0] += vec2<f32>(scaled_dot(n, b, xq), scaled_dot(second, b, xq));
        } else {
            let w0 = scaled_weights(n, b);
            let w1 = scaled_weights(second, b);
            for (var i = 0u; i < M_TILE; i += 1u) {
                // Rows past the end read the last one; nothing is stored for them.
                let xq = load_x(x_at + min(row0 + i, m - 1u) * p.x_stride, b);
                sums[i] += vec2<f32>(dot_quads(w0, xq), dot_quads(w1, xq));
            }
        }
    }
    let end = p.n0 + p.rows;
    let bias = bias2(p.n0 + n, end);
    for (var i = 0u; i < M_TILE && row0 + i < m; i += 1u) {
        let y_at = p.y_offset + batch * p.y_batch + (row0 + i) * p.y_stride;
        store_y2(y_at, p.n0 + n, end, sums[i] + bias);
    }
}
