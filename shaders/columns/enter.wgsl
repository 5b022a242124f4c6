// Transposes W, with its columns in another order. Columns that are always 0 in X become 0.
// Requires: lib/dispatch, columns/params.
// Provides: main, one workgroup for 64 rows of a column.
//
// Memory:
//   source    [n, k], source_stride elements apart from source_at on
//   order     the column at each place
//   diagonal  that of the Gram matrix, by place
//   w         [k, stride · ROWS]: 0 past the last row

@group(0) @binding(3) var<storage, read> source: array<f32>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
@group(0) @binding(5) var<storage, read> diagonal: array<f32>;
@group(0) @binding(6) var<storage, read_write> w: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = p.stride * p.rows;
    let across = (width + 63u) / 64u;
    let index = workgroup_index(group, count);
    let place = index / across;
    let row = 64u * (index % across) + local;
    if (place >= p.k || row >= width) {
        return;
    }
    let column = order[p.order_at + place];
    let value = source[p.source_at + min(row, p.n - 1u) * p.source_stride + column];
    let live = row < p.n && diagonal[place] > 0.0;
    w[place * width + row] = select(0.0, value, live);
}
