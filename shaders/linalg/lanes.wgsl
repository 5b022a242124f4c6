// Products of f32 matrices where every subgroup has 8 lanes, as on software adapters: a workgroup of 8 makes
// 16 × 64 sums, a lane all 16 rows of 8 columns.
// Requires: lib/dispatch, operands.
// Implements: product.
// Features: subgroups.
// Provides: main, four workgroups a tile.
// Workgroup memory: 4 KiB.
// Caller: every subgroup has 8 lanes.
//
// See linalg/tile for what the fragment of the operands provides.
//
// Why: loads and barriers are what costs there, and exchanging a register is cheap. Of four places, a lane
// loads two quads of the left operand, and all lanes exchange them; so 512 multiply-adds follow ten
// loads. Sums do not fit into registers, and each is loaded and stored once for four places. They are named one by
// one, so that no index of theirs is a variable, and pass through workgroup memory at the end, so that there is
// one copy of `finish` and not 32.

var<workgroup> results: array<vec4<f32>, 256>;

// A row of the left operand at four places.
fn at_four(left: f32, half: u32) -> vec4<f32> {
    return vec4<f32>(
        subgroupShuffle(left, half), subgroupShuffle(left, 2u + half),
        subgroupShuffle(left, 4u + half), subgroupShuffle(left, 6u + half),
    );
}

fn add4(
    sum: vec4<f32>, left: vec4<f32>,
    r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>,
) -> vec4<f32> {
    let first = fma(vec4<f32>(left.y), r1, fma(vec4<f32>(left.x), r0, sum));
    return fma(vec4<f32>(left.w), r3, fma(vec4<f32>(left.z), r2, first));
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = workgroup_index(group, count);
    let place = place_of(index / 4u);
    let row = 16u * (index % 4u);
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
        var a8 = vec4<f32>(0.0);
        var b8 = vec4<f32>(0.0);
        var a9 = vec4<f32>(0.0);
        var b9 = vec4<f32>(0.0);
        var a10 = vec4<f32>(0.0);
        var b10 = vec4<f32>(0.0);
        var a11 = vec4<f32>(0.0);
        var b11 = vec4<f32>(0.0);
        var a12 = vec4<f32>(0.0);
        var b12 = vec4<f32>(0.0);
        var a13 = vec4<f32>(0.0);
        var b13 = vec4<f32>(0.0);
        var a14 = vec4<f32>(0.0);
        var b14 = vec4<f32>(0.0);
        var a15 = vec4<f32>(0.0);
        var b15 = vec4<f32>(0.0);
        for (var k = first; k < end; k += 4u) {
            let left0 = left_quad(place, k + lane / 2u, end, row + 0u + 4u * (lane % 2u));
            let left1 = left_quad(place, k + lane / 2u, end, row + 8u + 4u * (lane % 2u));
            let ra0 = right_quad(place, k + 0u, end, column);
            let rb0 = right_quad(place, k + 0u, end, column + 4u);
            let ra1 = right_quad(place, k + 1u, end, column);
            let rb1 = right_quad(place, k + 1u, end, column + 4u);
            let ra2 = right_quad(place, k + 2u, end, column);
            let rb2 = right_quad(place, k + 2u, end, column + 4u);
            let ra3 = right_quad(place, k + 3u, end, column);
            let rb3 = right_quad(place, k + 3u, end, column + 4u);
            let l0 = at_four(left0.x, 0u);
            a0 = add4(a0, l0, ra0, ra1, ra2, ra3);
            b0 = add4(b0, l0, rb0, rb1, rb2, rb3);
            let l1 = at_four(left0.y, 0u);
            a1 = add4(a1, l1, ra0, ra1, ra2, ra3);
            b1 = add4(b1, l1, rb0, rb1, rb2, rb3);
            let l2 = at_four(left0.z, 0u);
            a2 = add4(a2, l2, ra0, ra1, ra2, ra3);
            b2 = add4(b2, l2, rb0, rb1, rb2, rb3);
            let l3 = at_four(left0.w, 0u);
            a3 = add4(a3, l3, ra0, ra1, ra2, ra3);
            b3 = add4(b3, l3, rb0, rb1, rb2, rb3);
            let l4 = at_four(left0.x, 1u);
            a4 = add4(a4, l4, ra0, ra1, ra2, ra3);
            b4 = add4(b4, l4, rb0, rb1, rb2, rb3);
            let l5 = at_four(left0.y, 1u);
            a5 = add4(a5, l5, ra0, ra1, ra2, ra3);
            b5 = add4(b5, l5, rb0, rb1, rb2, rb3);
            let l6 = at_four(left0.z, 1u);
            a6 = add4(a6, l6, ra0, ra1, ra2, ra3);
            b6 = add4(b6, l6, rb0, rb1, rb2, rb3);
            let l7 = at_four(left0.w, 1u);
            a7 = add4(a7, l7, ra0, ra1, ra2, ra3);
            b7 = add4(b7, l7, rb0, rb1, rb2, rb3);
            let l8 = at_four(left1.x, 0u);
            a8 = add4(a8, l8, ra0, ra1, ra2, ra3);
            b8 = add4(b8, l8, rb0, rb1, rb2, rb3);
            let l9 = at_four(left1.y, 0u);
            a9 = add4(a9, l9, ra0, ra1, ra2, ra3);
            b9 = add4(b9, l9, rb0, rb1, rb2, rb3);
            let l10 = at_four(left1.z, 0u);
            a10 = add4(a10, l10, ra0, ra1, ra2, ra3);
            b10 = add4(b10, l10, rb0, rb1, rb2, rb3);
            let l11 = at_four(left1.w, 0u);
            a11 = add4(a11, l11, ra0, ra1, ra2, ra3);
            b11 = add4(b11, l11, rb0, rb1, rb2, rb3);
            let l12 = at_four(left1.x, 1u);
            a12 = add4(a12, l12, ra0, ra1, ra2, ra3);
            b12 = add4(b12, l12, rb0, rb1, rb2, rb3);
            let l13 = at_four(left1.y, 1u);
            a13 = add4(a13, l13, ra0, ra1, ra2, ra3);
            b13 = add4(b13, l13, rb0, rb1, rb2, rb3);
            let l14 = at_four(left1.z, 1u);
            a14 = add4(a14, l14, ra0, ra1, ra2, ra3);
            b14 = add4(b14, l14, rb0, rb1, rb2, rb3);
            let l15 = at_four(left1.w, 1u);
            a15 = add4(a15, l15, ra0, ra1, ra2, ra3);
            b15 = add4(b15, l15, rb0, rb1, rb2, rb3);
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
        results[16u * 8u + lane] = a8;
        results[17u * 8u + lane] = b8;
        results[18u * 8u + lane] = a9;
        results[19u * 8u + lane] = b9;
        results[20u * 8u + lane] = a10;
        results[21u * 8u + lane] = b10;
        results[22u * 8u + lane] = a11;
        results[23u * 8u + lane] = b11;
        results[24u * 8u + lane] = a12;
        results[25u * 8u + lane] = b12;
        results[26u * 8u + lane] = a13;
        results[27u * 8u + lane] = b13;
        results[28u * 8u + lane] = a14;
        results[29u * 8u + lane] = b14;
        results[30u * 8u + lane] = a15;
        results[31u * 8u + lane] = b15;
        for (var i = 0u; i < 32u; i += 1u) {
            finish(place, row + i / 2u, column + 4u * (i % 2u), results[8u * i + lane]);
        }
    }
}
