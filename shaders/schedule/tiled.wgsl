// Many rows of X: a workgroup of 128 makes 32 rows × 64 columns of Y, 4 × 4 a thread.
// Requires: lib/quads or lib/quad, access, decode and scale fragments. Provides: main.
// Workgroup memory: 8 quads · (32 + 64) · 16 bytes = 12 KiB of the 16 KiB that every
// device has. K advances a block of 32 a step.
// Why: each weight is decoded once for 32 rows, each x once for 64 columns. Half the
// threads fetch W while the other half fetch X.

const TILE_M = 32u;
const TILE_N = 64u;

var<workgroup> x_tile: array<vec4<f32>, 256>; // [8 quads][TILE_M]
var<workgroup> w_tile: array<vec4<f32>, 512>; // [8 quads][TILE_N]

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m = row_count();
    let n_tiles = (p.rows + TILE_N - 1u) / TILE_N;
    let m_tiles = (m + TILE_M - 1u) / TILE_M;
    let tile = workgroup_index(group, count);
    if (tile >= n_tiles * m_tiles * p.batch) {
        return;
    }
    let batch = tile / (n_tiles * m_tiles);
    let row0 = tile / n_tiles % m_tiles * TILE_M;
    let n0 = tile % n_tiles * TILE_N;
    let x_at = p.x_offset + batch * p.x_batch;
    // This thread's rows 4·tm… of the tile and its columns 4·tn….
    let tm = local / 16u;
    let tn = local % 16u;

    var sum0 = vec4<f32>(0.0);
    var sum1 = vec4<f32>(0.0);
    var sum2 = vec4<f32>(0.0);
    var sum3 = vec4<f32>(0.0);
    for (var b = 0u; b < p.blocks; b += 1u) {
        if (local < TILE_N) {
            // Rows past the end read the last one; nothing is stored for them.
            let row = row_at(min(n0 + local, p.rows - 1u));
            for (var s = 0u; s < 32u / STEP; s += 1u) {
                let w = scaled_weights(row, b * (32u / STEP) + s);
                for (var i = 0u; i < QUADS; i += 1u) {
                    w_tile[(s * QUADS + i) * TILE_N + local] = quad_at(w, i);
                }
            }
        } else {
            for (var i = local - 64u; i < 8u * TILE_M; i += 64u) {
                let row = min(row0 + i / 8u, m - 1u);
                x_tile[i % 8u * TILE_M + i / 8u] =
                    load_x4(x_at + row * p.x_stride, b * 32u + i % 8u * 4u);
            }
        }
        workgroupBarrier();
        for (var q = 0u; q < 8u; q += 1u) {
            let x_from = q * TILE_M + 4u * tm;
            let x0 = x_tile[x_from];
            let x1 = x_tile[x_from + 1u];
            let x2 = x_tile[x_from + 2u];
            let x3 = x_tile[x_from + 3u];
            let w_from = q * TILE_N + 4u * tn;
            let w0 = w_tile[w_from];
            let w1 = w_tile[w_from + 1u];
            let w2 = w_tile[w_from + 2u];
            let w3 = w_tile[w_from + 3u];
            sum0 += vec4<f32>(dot(x0, w0), dot(x0, w1), dot(x0, w2), dot(x0, w3));
            sum1 += vec4<f32>(dot(x1, w0), dot(x1, w1), dot(x1, w2), dot(x1, w3));
            sum2 += vec4<f32>(dot(x2, w0), dot(x2, w1), dot(x2, w2), dot(x2, w3));
            sum3 += vec4<f32>(dot(x3, w0), dot(x3, w1), dot(x3, w2), dot(x3, w3));
        }
        workgroupBarrier();
    }
    let end = p.n0 + p.rows;
    let column = p.n0 + n0 + 4u * tn;
    let low = bias2(column, end);
    let high = bias2(column + 2u, end);
    for (var i = 0u; i < 4u && row0 + 4u * tm + i < m; i += 1u) {
        let sum = select(select(sum3, sum2, i == 2u), select(sum1, sum0, i == 0u), i < 2u);
        let y_at = p.y_offset + batch * p.y_batch + (row0 + 4u * tm + i) * p.y_stride;
        store_y2(y_at, column, end, sum.xy + low);
        store_y2(y_at, column + 2u, end, sum.zw + high);
    }
}
