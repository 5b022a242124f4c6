// Writes the normalized row as f32 or f16. A bad row becomes NaN.
// Requires: norm/row, lib/dispatch, lib/put_floats, const WORKGROUP.
// Provides: main, one workgroup a row.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let place = place_of(workgroup_index(group, count));
    if (!place.exists) {
        return;
    }
    let measured = measure(place, local);
    for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
        let bits = bits4(normal4(place, measured, column));
        put4(place.y, column, p.k, select(bits, nan4(), measured.bad));
    }
}
