// Quantizes rows of X to 8-bit codes with scales, zero points and sums of codes. One workgroup
// handles one row.
// Requires: activations/code, activations/codes, activations/row, lib/dispatch, const WORKGROUP,
// const SCOPE.
// Provides: main.
//
// SCOPE says what shares a range:
//   0  a row, which the lanes split and read twice
//   1  a group of `group_blocks` blocks, one lane each
//   2  all of X, whose range is in `ranges` (activations/ranges)
//   3  all of X, with a scale and a zero point in `ranges` that come from a calibration

@group(0) @binding(4) var<storage, read> ranges: array<u32>;

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
    var fixed = Scheme(0x3f800000u, 1.0, 0);
    if (SCOPE >= 2u) {
        fixed = given();
    }
    quantize_row(SCOPE, fixed, false, x_at, y_at, local);
}
