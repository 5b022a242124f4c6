// Decodes dense 8-bit floats with MANTISSA bits of mantissa: 3 (e4m3) or 2 (e5m2).
// Requires: lib/matmul, decode/raws, codes32, lib/fp8, const MANTISSA.
// Implements: dense_decoder.
// Provides: PIECES, Raw, load_raw, raw_quad.
// Layout: as in decode/int8. z is not used.

const PIECES = 1u;

struct Raw {
    w: Words8,
}

fn load_raw(row: Row, b: u32, piece: u32) -> Raw {
    return Raw(load32(block_at(row, b)));
}

// The numbers of columns 4i to 4i + 3 of a block.
fn raw_quad(block: Raw, i: u32, z: vec4<f32>) -> vec4<f32> {
    let half = select(block.w.b, block.w.a, i < 4u);
    return fp8_to_f32(unpack4xU8(half[i & 3u]), MANTISSA);
}
