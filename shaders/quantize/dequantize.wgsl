// Writes rows of a compressed matrix as f32 or f16: all rows, or those that an index list names.
//
// Requires: lib/dispatch, lib/panel, sparse/metadata, values, column_order, const SPARSE, const INDEXED,
// const OUTPUT_F16.
// Implements: weight_parameters.
// Provides: `main`, one invocation an output word: rows·(k words, or ⌈k/2⌉ for f16).
//
//   value = v(c) · s + m (dequantize/value_*); floats are copied or widened exactly; a pruned
//   weight is +0. An f16 output is that f32 rounded to nearest even, past its range ±Inf.
//
// Memory, in u32 words:
//   codes, side  rows [first_row, first_row + rows) of the device layout, of which the
//                segment uses those from `row0` on
//   indices      row numbers from `index_at` on. A row of another chunk is left alone; one
//                that no chunk has, n or more, is filled with NaN by the chunk whose
//                first_row is 0. Nothing is read out of bounds
//   output       [out_rows, k], `output_stride` apart from `output_at` on. One invocation
//                owns both halves of a word; with odd K the last upper half is preserved
// The number of rows of a gather is known when it is recorded, and the two digits at bindings 1
// and 2 carry it; `first_out` of these rows belong to earlier segments.

struct DequantizeParams {
    rows: u32,          // of W in this chunk
    first_row: u32,     // the number in W of the first of them
    n: u32,             // rows of W, of all chunks
    k: u32,             // columns
    group_size: u32,    // columns that share a scale
    row0: u32,          // the segment's first row in the code and side buffers
    blocks: u32,        // ⌈k/32⌉
    side_words: u32,    // words of a side row
    plane_at: u32,      // where in it the planes of codes start, in words
    scale_at: u32,      // where in it the scales start
    upper_at: u32,      // where in it the upper level of scales starts
    zero_at: u32,       // where in it the zero points start
    table_at: u32,      // where in it the codebook starts
    index_at: u32,      // the first word of the segment in `indices`
    out_rows: u32,      // output rows of this segment: all of them, or under INDEXED at most
    first_out: u32,     // of the counted output rows, how many belong to earlier segments
    output_at: u32,     // the first word that is written
    output_stride: u32, // words from one output row to the next
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> params: DequantizeParams;
@group(0) @binding(3) var<storage, read> indices: array<u32>;
@group(0) @binding(5) var<storage, read> side: array<u32>;
@group(0) @binding(6) var<storage, read_write> output: array<u32>;

fn row_count() -> u32 {
    if (!INDEXED) {
        return params.out_rows;
    }
    return min(recorded_count() - params.first_out, params.out_rows);
}

// Where the code of a place along K stands in its row, or 0xffffffff if it is pruned.
fn position_of(record: u32, place: u32) -> u32 {
    if (!SPARSE) {
        return place;
    }
    let quad = place / 4u;
    let nibble = quad_nibble(record, quad);
    if ((nibble & 3u) == place % 4u) {
        return 2u * quad;
    }
    return select(0xffffffffu, 2u * quad + 1u, (nibble >> 2u) == place % 4u);
}

// Bits of the value of a column below K, as f32 or f16.
fn value_bits(row: u32, column: u32) -> u32 {
    let record = record_of(row);
    let place = place_of(column);
    let position = position_of(record, place);
    if (position == 0xffffffffu) {
        return 0u;
    }
    if (OUTPUT_F16) {
        return stored_half(row, record, position, place);
    }
    return stored_value(row, record, position, place);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = workgroup_index(group_id, group_count) * 64u + lane;
    let words = select(params.k, (params.k + 1u) / 2u, OUTPUT_F16);
    if (id >= row_count() * words) {
        return;
    }
    let out_row = id / words;
    let out_word = id % words;
    let out = params.output_at + out_row * params.output_stride + out_word;

    var row = out_row;
    var missing = false;
    if (INDEXED) {
        let index = indices[params.index_at + out_row];
        missing = index >= params.n;
        // Wraps for rows before the chunk, which then are past it too.
        row = index - params.first_row;
        if (select(row >= params.rows, params.first_row != 0u, missing)) {
            return;
        }
    }
    if (!OUTPUT_F16) {
        if (missing) {
            output[out] = 0x7fc00000u;
        } else {
            output[out] = value_bits(row, out_word);
        }
        return;
    }
    let column = 2u * out_word;
    let paired = column + 1u < params.k;
    var low = 0x7e00u;
    var high = 0x7e00u;
    if (!missing) {
        low = value_bits(row, column);
        if (paired) {
            high = value_bits(row, column + 1u);
        }
    }
    if (!paired) {
        high = output[out] >> 16u;
    }
    output[out] = low | (high << 16u);
}
