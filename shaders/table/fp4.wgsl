// The table of bitsandbytes' fp4.
// Requires: lib/matmul.
// Implements: table.
// Provides: table4.
// Why selects: software adapters load entries of an array lane by lane, and a tree of selects takes all
// lanes at once. The constants are the bits of f32.

fn pick(low: u32, high: u32, bit: vec4<bool>) -> vec4<u32> {
    return select(vec4<u32>(low), vec4<u32>(high), bit);
}

// The numbers of the codes in the bytes of a word.
fn table4(codes: u32, row: Row) -> vec4<f32> {
    let code = unpack4xU8(codes);
    let bit0 = (code & vec4<u32>(1u)) != vec4<u32>(0u);
    let bit1 = (code & vec4<u32>(2u)) != vec4<u32>(0u);
    let bit2 = (code & vec4<u32>(4u)) != vec4<u32>(0u);
    let q0 = select(
        pick(0x00000000u, 0x3baaaaabu, bit0), pick(0x3f2aaaabu, 0x3f800000u, bit0), bit1,
    );
    let q1 = select(
        pick(0x3eaaaaabu, 0x3f000000u, bit0), pick(0x3e2aaaabu, 0x3e800000u, bit0), bit1,
    );
    let sign = (code & vec4<u32>(8u)) << vec4<u32>(28u);
    return bitcast<vec4<f32>>(select(q0, q1, bit2) | sign);
}
