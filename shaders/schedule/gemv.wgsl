// Few rows of X: LANES lanes split K, a team of them makes 4 columns of Y for M_TILE rows.
// Requires: lib/quads or lib/quad, access, decode and scale fragments; consts WORKGROUP, LANES, M_TILE.
// Provides: main. Workgroup memory: WORKGROUP · M_TILE · 16 bytes.
// Why: neighbouring lanes read neighbouring blocks of one row, so that loads of W
// coalesce; four rows of W share each load of X; one tree ends the sum.

var<workgroup> partial: array<vec4<f32>, WORKGROUP * M_TILE>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let columns = 4u * (WORKGROUP / LANES);
    let n_tiles = (p.rows + columns - 1u) / columns;
    let m_tiles = (m + M_TILE - 1u) / M_TILE;
    let tile = workgroup_index(group, count);
    if (tile >= n_tiles * m_tiles * p.batch) {
        return;
    }
    let batch = tile / (n_tiles * m_tiles);
    let row0 = tile / n_tiles % m_tiles * M_TILE;
    let lane = local % LANES;
    let n = tile % n_tiles * columns + local / LANES * 4u;
    // Rows past the end read the last one; nothing is stored for them.
    let last = p.rows - 1u;
    let r0 = row_at(min(n, last));
    let r1 = row_at(min(n + 1u, last));
    let r2 = row_at(min(n + 2u, last));
    let r3 = row_at(min(n + 3u, last));
    let x_at = p.x_offset + batch * p.x_batch;

    var sums: array<vec4<f32>, M_TILE>;
    for (var i = 0u; i < M_TILE; i += 1u) {
        sums[i] = vec4<f32>(0.0);
    }
    for (var b = lane; b < p.blocks * (32u / STEP); b += LANES) {
        if (M_TILE == 1u) {
            let xq = load_x(x_at + row0 * p.x_stride, b);
            sums[0] += vec4<f32>(
                scaled_dot(r0, b, xq), scaled_dot(r1, b, xq),
                scaled_dot(r2, b, xq), scaled_dot(r3, b, xq),
            );
        } else {
            let w0 = scaled_weights(r0, b);
            let w1 = scaled_weights(r1, b);
            let w2 = scaled_weights(r2, b);
            let w3 = scaled_weights(r3, b);
            for (var i = 0u; i < M_TILE; i += 1u) {
                let xq = load_x(x_at + min(row0 + i, m - 1u) * p.x_stride, b);
                sums[i] += vec4<f32>(
                    dot_quads(w0, xq), dot_quads(w1, xq), dot_quads(w2, xq), dot_quads(w3, xq),
                );
            }
        }
    }
    for (var i = 0u; i < M_TILE; i += 1u) {
        partial[i * WORKGROUP + local] = sums[i];
    }
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (lane < width) {
            for (var i = 0u; i < M_TILE; i += 1u) {
                let at = i * WORKGROUP + local;
                partial[at] += partial[at + width];
            }
        }
    }
    if (lane == 0u) {
        for (var i = 0u; i < M_TILE && row0 + i < m; i += 1u) {
            let sum = partial[i * WORKGROUP + local];
            let y_at = p.y_offset + batch * p.y_batch + (row0 + i) * p.y_stride;
            let end = p.n0 + p.rows;
            let column = p.n0 + n;
            store_y2(y_at, column, end, sum.xy + bias2(column, end));
            store_y2(y_at, column + 2u, end, sum.zw + bias2(column + 2u, end));
        }
    }
}
