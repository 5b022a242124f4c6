// The table of AbnormalFloat codes for groups of 64.
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
    let code = unpack4xU8(codes & 0x0f0f0f0fu);
    let bit0 = (code & vec4<u32>(1u)) != vec4<u32>(0u);
    let bit1 = (code & vec4<u32>(2u)) != vec4<u32>(0u);
    let bit2 = (code & vec4<u32>(4u)) != vec4<u32>(0u);
    let q0 = select(
        pick(0x3f800000u, 0x3f39685cu, bit0), pick(0x3f0e1203u, 0x3ed9ed55u, bit0), bit1,
    );
    let q1 = select(
        pick(0x3ea22deeu, 0x3e60e22au, bit0), pick(0x3e0472f9u, 0x3d2f075fu, bit0), bit1,
    );
    let q2 = select(
        pick(0x00000000u, 0xbd4a2141u, bit0), pick(0xbe196babu, 0xbe831c55u, bit0), bit1,
    );
    let q3 = select(
        pick(0xbebf54f7u, 0xbf032f19u, bit0), pick(0xbf31c4dcu, 0xbf800000u, bit0), bit1,
    );
    let low = select(q0, q1, bit2);
    let high = select(q2, q3, bit2);
    return bitcast<vec4<f32>>(select(low, high, code >= vec4<u32>(8u)));
}
