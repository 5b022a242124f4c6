// Writes the normalized row as 8-bit codes, with the scale of the row or a given one.
// Requires: norm/row, activations/codes, activations/row, lib/dispatch, const WORKGROUP, const SCOPE.
// Implements: source.
// Provides: main, one workgroup a row.
// A bad row gets the scale NaN, if its scale is not given.

var<private> here: Place;
var<private> how: Measured;

fn source_columns() -> u32 {
    return p.k;
}

fn source4(x_at: u32, column: u32) -> vec4<f32> {
    let v = normal4(here, how, column);
    return select(vec4<f32>(0.0), v, columns4(column) < vec4<u32>(p.k));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // Compilers do not take a private variable to be the same in all lanes.
    let place = place_of(workgroup_index(group, count));
    if (!place.exists) {
        return;
    }
    here = place;
    let measured = measure(place, local);
    how = measured;
    let given = Scheme(bitcast<u32>(p.given_scale), p.given_scale, p.given_zero);
    quantize_row(SCOPE, given, measured.bad, place.x, place.y, local);
}
