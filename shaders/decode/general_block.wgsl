// Decodes a quad of dense weights by loading the block that it is in, for groups that do not align
// with blocks of 32 columns. It serves every decoder of whole blocks, and it is slow.
// Requires: lib/matmul, dense_decoder.
// Implements: column_decoder.
// Provides: quad_codes.

// Columns 4q to 4q + 3 of a row, less their zero points.
fn quad_codes(row: Row, quad: u32, z: vec4<f32>) -> vec4<f32> {
    return raw_quad(load_raw(row, quad >> 3u, 0u), quad & 7u, z);
}
