// Writes gated rows as 8-bit codes, with the scale of the row or a given one.
// Requires: gate/row, activations/codes, activations/row, lib/dispatch, const WORKGROUP, const SCOPE.
// Implements: source.
// Provides: main, one workgroup a row.

fn source_columns() -> u32 {
    return p.columns;
}

fn source4(x_at: u32, column: u32) -> vec4<f32> {
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    return select(vec4<f32>(0.0), gated4(x_at, column), columns < vec4<u32>(p.columns));
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
    let given = Scheme(bitcast<u32>(p.given_scale), p.given_scale, p.given_zero);
    quantize_row(SCOPE, given, false, p.x_at + row * p.x_stride, p.y_at + row * p.y_stride, local);
}
