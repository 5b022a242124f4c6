// Quantizes rows of X to 8-bit codes with scales, zero points and sums of codes. One workgroup
// handles one row.
// Requires: activations/code, lib/dispatch, const WORKGROUP, const SCOPE.
// Provides: main.
// Workgroup memory: WORKGROUP · 12 bytes under SCOPE 0.
//
// SCOPE says what shares a range:
//   0  a row, which the lanes split and read twice
//   1  a group of `group_blocks` blocks, one lane each
//   2  all of X, whose range is in `ranges` (activations/ranges)
//   3  all of X, with a scale and a zero point in `ranges` that come from a calibration

@group(0) @binding(4) var<storage, read> ranges: array<u32>;

var<workgroup> highs: array<f32, WORKGROUP>;
var<workgroup> lows: array<f32, WORKGROUP>;
var<workgroup> bads: array<u32, WORKGROUP>;

fn shared_range(range: Range, local: u32) -> Range {
    highs[local] = range.high;
    lows[local] = range.low;
    bads[local] = select(0u, 1u, range.bad);
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local < width) {
            highs[local] = max(highs[local], highs[local + width]);
            lows[local] = max(lows[local], lows[local + width]);
            bads[local] |= bads[local + width];
        }
    }
    workgroupBarrier();
    return Range(highs[0], lows[0], bads[0] != 0u);
}

fn given() -> Scheme {
    if (SCOPE == 3u) {
        let scale = ranges[p.range_at];
        return Scheme(scale, bitcast<f32>(scale), bitcast<i32>(ranges[p.range_at + 1u]));
    }
    return scheme(Range(bitcast<f32>(ranges[0]), bitcast<f32>(ranges[1]), ranges[2] != 0u));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = workgroup_index(group, count);
    if (row >= row_count()) {
        return;
    }
    let x_at = p.x_offset + row * p.x_stride;
    let y_at = p.y_offset + row * p.row_words;
    if (SCOPE == 1u) {
        for (var g = local; g < p.groups; g += WORKGROUP) {
            let first = g * p.group_blocks;
            let end = min(first + p.group_blocks, p.blocks);
            let s = scheme(range_of(x_at, first, end, 1u));
            put_scheme(y_at, g, s);
            for (var b = first; b < end; b += 1u) {
                put_block(x_at, y_at, b, s);
            }
        }
        return;
    }
    var s: Scheme;
    if (SCOPE == 0u) {
        s = scheme(shared_range(range_of(x_at, local, p.blocks, WORKGROUP), local));
    } else {
        s = given();
    }
    if (local == 0u) {
        put_scheme(y_at, 0u, s);
    }
    for (var b = local; b < p.blocks; b += WORKGROUP) {
        put_block(x_at, y_at, b, s);
    }
}
