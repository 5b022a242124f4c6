// Completes the result of a row and head, a workgroup each: combines parts, and takes the inverse Hadamard
// transform.
// Requires: attention/query, lib/hadamard, const WORKGROUP.
// Provides: main.
// Workgroup memory: HELD · 16 bytes.
// Where one part was enough, its result is in y already.

// Four columns of the mean of all parts.
fn combined(row: u32, head: u32, used: u32, quad: u32) -> vec4<f32> {
    var highest = LOWEST;
    for (var i = 0u; i < used; i += 1u) {
        highest = max(highest, scratch[part_at(row, head, i)].x);
    }
    var sum = 0.0;
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < used; i += 1u) {
        let at = part_at(row, head, i);
        let part = scratch[at];
        let factor = decay(part.x - highest);
        sum += factor * part.y;
        v += factor * scratch[at + 1u + quad];
    }
    return v * reciprocal(sum);
}

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
    let quads = p.head_dim / 4u;
    if (p.hadamard == 1u) {
        for (var quad = lane; quad < quads && used > 1u; quad += WORKGROUP) {
            put_quad(row, head, quad, combined(row, head, used, quad));
        }
        return;
    }
    for (var quad = lane; quad < quads; quad += WORKGROUP) {
        var v = vec4<f32>(0.0);
        if (used > 1u) {
            v = combined(row, head, used, quad);
        } else {
            v = y_quad(row, head, quad);
        }
        held[quad] = within_quad(v * p.root, p.hadamard);
    }
    transform(quads, p.hadamard, lane);
    for (var quad = lane; quad < quads; quad += WORKGROUP) {
        put_quad(row, head, quad, held[quad]);
    }
}
