// Products of f32 matrices where every subgroup has 8 lanes, as on software adapters: a workgroup of 8 makes
// 8 × 64 sums, a lane all 8 rows of 8 columns.
// Requires: lib/dispatch, operands.
// Implements: product.
// Features: subgroups.
// Provides: main, eight workgroups a tile.
// Workgroup memory: 2 KiB.
// Caller: every subgroup has 8 lanes.
//
// See linalg/tile for what the fragment of the operands provides.
//
// Why: loads and barriers are what costs there, and exchanging a register is cheap. Of four places, a lane
// loads one quad of the left operand, and all lanes exchange them; so 256 multiply-adds follow nine
// loads. The sums are named one by one, so that no index of theirs is a variable, and pass through workgroup
// memory at the end, so that there is one copy of `finish` and not sixteen.

var<workgroup> results: array<vec4<f32>, 128>;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = workgroup_index(group, count);
    let place = place_of(index / 8u);
    let row = 8u * (index % 8u);
    if (!place.live || place.row + row >= row_end()) {
        return;
    }
    let column = 8u * lane;
    for (var first = place.first; first < place.end; first += chunk_of()) {
        let end = min(place.end, first + chunk_of());
        var a0 = vec4<f32>(0.0);
        var b0 = vec4<f32>(0.0);
        var a1 = vec4<f32>(0.0);
        var b1 = vec4<f32>(0.0);
        var a2 = vec4<f32>(0.0);
        var b2 = vec4<f32>(0.0);
        var a3 = vec4<f32>(0.0);
        var b3 = vec4<f32>(0.0);
        var a4 = vec4<f32>(0.0);
        var b4 = vec4<f32>(0.0);
        var a5 = vec4<f32>(0.0);
        var b5 = vec4<f32>(0.0);
        var a6 = vec4<f32>(0.0);
        var b6 = vec4<f32>(0.0);
        var a7 = vec4<f32>(0.0);
        var b7 = vec4<f32>(0.0);
        for (var k = first; k < end; k += 4u) {
            let left = left_quad(place, k + lane / 2u, end, row + 4u * (lane % 2u));
            for (var u = 0u; u < 4u; u += 1u) {
                let low = subgroupShuffle(left, 2u * u);
                let high = subgroupShuffle(left, 2u * u + 1u);
                let ra = right_quad(place, k + u, end, column);
                let rb = right_quad(place, k + u, end, column + 4u);
                a0 = fma(vec4<f32>(low.x), ra, a0);
                b0 = fma(vec4<f32>(low.x), rb, b0);
                a1 = fma(vec4<f32>(low.y), ra, a1);
                b1 = fma(vec4<f32>(low.y), rb, b1);
                a2 = fma(vec4<f32>(low.z), ra, a2);
                b2 = fma(vec4<f32>(low.z), rb, b2);
                a3 = fma(vec4<f32>(low.w), ra, a3);
                b3 = fma(vec4<f32>(low.w), rb, b3);
                a4 = fma(vec4<f32>(high.x), ra, a4);
                b4 = fma(vec4<f32>(high.x), rb, b4);
                a5 = fma(vec4<f32>(high.y), ra, a5);
                b5 = fma(vec4<f32>(high.y), rb, b5);
                a6 = fma(vec4<f32>(high.z), ra, a6);
                b6 = fma(vec4<f32>(high.z), rb, b6);
                a7 = fma(vec4<f32>(high.w), ra, a7);
                b7 = fma(vec4<f32>(high.w), rb, b7);
            }
        }
        results[0u * 8u + lane] = a0;
        results[1u * 8u + lane] = b0;
        results[2u * 8u + lane] = a1;
        results[3u * 8u + lane] = b1;
        results[4u * 8u + lane] = a2;
        results[5u * 8u + lane] = b2;
        results[6u * 8u + lane] = a3;
        results[7u * 8u + lane] = b3;
        results[8u * 8u + lane] = a4;
        results[9u * 8u + lane] = b4;
        results[10u * 8u + lane] = a5;
        results[11u * 8u + lane] = b5;
        results[12u * 8u + lane] = a6;
        results[13u * 8u + lane] = b6;
        results[14u * 8u + lane] = a7;
        results[15u * 8u + lane] = b7;
        for (var i = 0u; i < 16u; i += 1u) {
            finish(place, row + i / 2u, column + 4u * (i % 2u), results[8u * i + lane]);
        }
    }
}
