// Decodes dense 4-bit codes that are indices into a table of 16 numbers.
// Requires: lib/matmul, decode/raws, codes16, table.
// Implements: dense_decoder.
// Provides: PIECES, Raw, load_raw, raw_quad.
// Layout: as in decode/int4. z is not used, because such codes have no zero point.

const PIECES = 1u;

struct Raw {
    a: vec4<u32>,
    row: Row,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    return Raw(load16(block_at(row, b)), row);
}

// The numbers of columns 4i to 4i + 3 of a block.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    return table4(block.a[i >> 1u] >> (4u * (i & 1u)), block.row);
}
