// Transforms rows of X in blocks of a power of two. One workgroup takes a tile of a row: whole blocks.
// Requires: lib/dispatch, lib/half, lib/hadamard, x, const WORKGROUP.
// Implements: parameters.
// Provides: p, main.
// Workgroup memory: HELD · 16 bytes.
// Caller: block is a power of two that divides k, and tile a multiple of block and of 4, at most 4 · HELD.
//
// Memory:
//   x   [m, k] elements, x_stride apart from element x_at on
//   y   [m, k] elements, y_stride apart from element y_at on; f16 in pairs. One lane owns both halves of a
//       word; with odd k the last upper half is preserved

struct HadamardParams {
    k: u32,        // columns
    x_at: u32,     // the first element of X
    x_stride: u32, // elements from one row of X to the next
    y_at: u32,     // the first element of the result
    y_stride: u32, // elements from one row of the result to the next
    y_f16: u32,    // 1 if the result is f16
    block: u32,    // columns of a block
    tile: u32,     // columns that a workgroup takes
    tiles: u32,    // ⌈k/tile⌉
    gain: f32,     // 1/√block
    m0: u32,       // of the counted rows, how many belong to earlier segments
    m_cap: u32,    // rows of this segment, at most
}

@group(0) @binding(0) var<uniform> p: HadamardParams;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

// Columns c to c + 3 of the row of the result that starts at element `row`, up to column k.
fn put_columns(row: u32, c: u32, v: vec4<f32>) {
    if (p.y_f16 == 1u) {
        let at = (row + c) / 2u;
        if (c + 1u < p.k) {
            y[at] = f32_to_half(v.x) | (f32_to_half(v.y) << 16u);
        } else {
            y[at] = (y[at] & 0xffff0000u) | f32_to_half(v.x);
        }
        if (c + 3u < p.k) {
            y[at + 1u] = f32_to_half(v.z) | (f32_to_half(v.w) << 16u);
        } else if (c + 2u < p.k) {
            y[at + 1u] = (y[at + 1u] & 0xffff0000u) | f32_to_half(v.z);
        }
        return;
    }
    let words = bitcast<vec4<u32>>(v);
    let at = row + c;
    y[at] = words.x;
    if (c + 1u < p.k) {
        y[at + 1u] = words.y;
    }
    if (c + 2u < p.k) {
        y[at + 2u] = words.z;
    }
    if (c + 3u < p.k) {
        y[at + 3u] = words.w;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = workgroup_index(group, count);
    let row = index / p.tiles;
    if (row >= min(recorded_count() - p.m0, p.m_cap)) {
        return;
    }
    let first = index % p.tiles * p.tile;
    let quads = (min(p.tile, p.k - first) + 3u) / 4u;
    let x_row = p.x_at + row * p.x_stride;
    for (var i = local; i < quads; i += WORKGROUP) {
        held[i] = within_quad(load_x4(x_row, first + 4u * i) * p.gain, p.block);
    }
    transform(quads, p.block, local);
    let y_row = p.y_at + row * p.y_stride;
    for (var i = local; i < quads; i += WORKGROUP) {
        put_columns(y_row, first + 4u * i, held[i]);
    }
}
