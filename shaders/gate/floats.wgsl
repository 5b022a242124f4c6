// Writes gated columns as f32 or f16.
// Requires: gate/row, lib/dispatch, lib/put_floats.
// Provides: main, one invocation for four columns of the result.

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = workgroup_index(group, count) * 64u + lane;
    let quads = (p.columns + 3u) / 4u;
    if (id >= row_count() * quads) {
        return;
    }
    let row = id / quads;
    let column = 4u * (id % quads);
    let bits = bits4(gated4(p.x_at + row * p.x_stride, column));
    put4(p.y_at + row * p.y_stride, column, p.columns, bits);
}
