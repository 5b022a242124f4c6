// Combines the parts of a row and head, a workgroup each.
// Requires: attention/query, const WORKGROUP.
// Provides: main.
// Where one part was enough, it is the result, and nothing is left to do.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_index(group, count);
    let row = index / p.heads;
    let head = index % p.heads;
    if (row >= row_count()) {
        return;
    }
    let r = rows[p.rows_at + row];
    let end = min(r.w, p.slots);
    let used = parts_used(end - min(r.z, end));
    if (used == 1u) {
        return;
    }
    var highest = LOWEST;
    for (var i = 0u; i < used; i += 1u) {
        highest = max(highest, scratch[part_at(row, head, i)].x);
    }
    for (var quad = lane; quad < p.head_dim / 4u; quad += WORKGROUP) {
        var sum = 0.0;
        var v = vec4<f32>(0.0);
        for (var i = 0u; i < used; i += 1u) {
            let at = part_at(row, head, i);
            let part = scratch[at];
            let factor = decay(part.x - highest);
            sum += factor * part.y;
            v += factor * scratch[at + 1u + quad];
        }
        put_quad(row, head, quad, v * reciprocal(sum));
    }
}
