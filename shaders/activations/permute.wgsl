// Copies rows of X with their columns in another order: column j of the result is column order[j].
//
// Requires: lib/dispatch, const X_F16.
// Provides: `main`, one invocation an output word: batch·rows·(k words, or ⌈k/2⌉ for f16).
//
// Memory:
//   x      [batch, rows, k], strides in elements, from element x_at on
//   order  [k] columns from word order_at on. One of k or more gives 0; nothing is read out of bounds
//   y      [batch, rows, k], strides in words, from word y_at on. One invocation owns both halves of
//          a word; with odd k the last upper half is preserved
// The number of rows is known when it is recorded, and the two digits at bindings 1 and 2 carry it; m0
// of these rows belong to earlier segments.
//
// Bits are moved, so that NaN and subnormals stay as they are.

struct PermuteParams {
    k: u32,        // columns
    x_at: u32,     // the first element of the segment in `x`
    x_stride: u32, // elements from one row of X to the next
    x_batch: u32,  // elements from one X of the batch to the next
    y_at: u32,     // the first word of the segment in `y`
    y_stride: u32, // words from one row of the result to the next
    y_batch: u32,  // words from one result of the batch to the next
    batch: u32,    // matrices in this segment
    m0: u32,       // of the counted rows, how many belong to earlier segments
    m_cap: u32,    // rows of this segment, at most
    order_at: u32, // the first word of `order`
    pad: u32,
}

@group(0) @binding(0) var<uniform> p: PermuteParams;
@group(0) @binding(3) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

// Bits of the element that belongs at place j of a row, which begins at element `row`.
fn moved(row: u32, j: u32) -> u32 {
    let column = order[p.order_at + j];
    if (column >= p.k) {
        return 0u;
    }
    let at = row + column;
    if (X_F16) {
        return (x[at / 2u] >> (16u * (at % 2u))) & 0xffffu;
    }
    return x[at];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = workgroup_index(group_id, group_count) * 64u + lane;
    let words = select(p.k, (p.k + 1u) / 2u, X_F16);
    let rows = min(recorded_count() - p.m0, p.m_cap);
    if (id >= p.batch * rows * words) {
        return;
    }
    let word = id % words;
    let row = id / words % rows;
    let item = id / words / rows;
    let x_row = p.x_at + item * p.x_batch + row * p.x_stride;
    let y_word = p.y_at + item * p.y_batch + row * p.y_stride + word;
    if (!X_F16) {
        y[y_word] = moved(x_row, word);
        return;
    }
    let j = 2u * word;
    var high = 0u;
    if (j + 1u < p.k) {
        high = moved(x_row, j + 1u);
    } else {
        high = y[y_word] >> 16u;
    }
    y[y_word] = moved(x_row, j) | (high << 16u);
}
