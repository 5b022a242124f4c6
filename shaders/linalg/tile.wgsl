// Products of f32 matrices on any device: a workgroup of 128 makes 64 × 64 sums, 8 × 4 a thread.
// Requires: lib/dispatch, operands, const STEP.
// Implements: product.
// Provides: main, one workgroup a tile.
// Workgroup memory: STEP · 2 · 256 bytes.
//
// The fragment of the operands says where tiles are (place_of), how four neighbouring rows or columns of
// the tile are loaded (left_quad, right_quad), and what becomes of sums (finish). Sums over more than
// chunk_of() places are handed over in parts.
//
// Thread `local` has rows 8 · (local / 16)… and columns 4 · (local % 16)… of the tile.
//
// Why: both operands lie with the direction of their sums outermost, so that a thread takes four rows or
// four columns with one load, and 32 multiply-adds follow three loads. Neighbouring threads read
// neighbouring vectors of right_tile, and all that share rows read the same vectors of left_tile.

var<workgroup> left_tile: array<array<vec4<f32>, 16>, STEP>;
var<workgroup> right_tile: array<array<vec4<f32>, 16>, STEP>;

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let place = place_of(workgroup_index(group, count));
    if (!place.live) {
        return;
    }
    let row = 2u * (local / 16u);
    let column = local % 16u;
    for (var first = place.first; first < place.end; first += chunk_of()) {
        let end = min(place.end, first + chunk_of());
        var sums: array<vec4<f32>, 8>;
        for (var i = 0u; i < 8u; i += 1u) {
            sums[i] = vec4<f32>(0.0);
        }
        for (var k0 = first; k0 < end; k0 += STEP) {
            for (var q = local; q < 16u * STEP; q += 128u) {
                let k = q / 16u;
                left_tile[k][q % 16u] = left_quad(place, k0 + k, end, 4u * (q % 16u));
                right_tile[k][q % 16u] = right_quad(place, k0 + k, end, 4u * (q % 16u));
            }
            workgroupBarrier();
            for (var k = 0u; k < STEP; k += 1u) {
                let right = right_tile[k][column];
                let low = left_tile[k][row];
                let high = left_tile[k][row + 1u];
                for (var i = 0u; i < 4u; i += 1u) {
                    sums[i] = fma(vec4<f32>(low[i]), right, sums[i]);
                    sums[i + 4u] = fma(vec4<f32>(high[i]), right, sums[i + 4u]);
                }
            }
            workgroupBarrier();
        }
        for (var i = 0u; i < 8u; i += 1u) {
            finish(place, 4u * row + i, 4u * column, sums[i]);
        }
    }
}
