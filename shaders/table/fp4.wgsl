// The table of bitsandbytes' fp4.
// Requires: lib/matmul, table/bits.
// Implements: table.
// Provides: table4.
// Why selects: software adapters load entries of an array lane by lane, and a tree of selects takes all
// lanes at once. The constants are the bits of f32.

// The numbers of the codes in the low halves of the bytes of a word.
fn table4(codes: u32, row: Row) -> vec4<f32> {
    let bit0 = code_bit(codes, 0u);
    let bit1 = code_bit(codes, 1u);
    let bit2 = code_bit(codes, 2u);
    let q0 = select(
        pick(0x00000000u, 0x3baaaaabu, bit0), pick(0x3f2aaaabu, 0x3f800000u, bit0), bit1,
    );
    let q1 = select(
        pick(0x3eaaaaabu, 0x3f000000u, bit0), pick(0x3e2aaaabu, 0x3e800000u, bit0), bit1,
    );
    let sign = bitcast<vec4<u32>>(code_sign(codes)) & vec4<u32>(0x80000000u);
    return bitcast<vec4<f32>>(select(q0, q1, bit2) | sign);
}
