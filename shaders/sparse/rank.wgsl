// Chooses the two weights of four that 2:4 keeps. QUADS says that K is a multiple of 4.
//
// Requires: quantize/make, lib/softfloat, const QUADS.
// Provides:
//   keep_two(quad, column) -> u32        idx0 | idx1 << 2 of the two largest magnitudes
//   kept_of(quad, nibble) -> vec2<u32>   the weights that a nibble names
//
// If magnitudes are equal, the lowest columns stay. Columns after K rank below every weight, lowest
// first, so a quad after the row gets META_FILL.

fn keep_two(quad: vec4<u32>, column: u32) -> u32 {
    var key = magnitudes_of(quad);
    if (!QUADS) {
        let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
        key = select(vec4<u32>(0u), key + vec4<u32>(1u), columns < vec4<u32>(params.k));
    }
    // 1 where the later column is strictly larger.
    let ba = select(0u, 1u, key.y > key.x);
    let ca = select(0u, 1u, key.z > key.x);
    let da = select(0u, 1u, key.w > key.x);
    let cb = select(0u, 1u, key.z > key.y);
    let db = select(0u, 1u, key.w > key.y);
    let dc = select(0u, 1u, key.w > key.z);
    // A column stays if fewer than two others beat it.
    let a = ba + ca + da < 2u;
    let b = cb + db < 1u + ba;
    let c = dc < ca + cb;
    let d = da + db + dc > 1u;
    let first = select(select(2u, 1u, b), 0u, a);
    return first | select(select(4u, 8u, c), 12u, d);
}

fn kept_of(quad: vec4<u32>, nibble: u32) -> vec2<u32> {
    let first = nibble & 3u;
    let second = nibble >> 2u;
    return vec2<u32>(
        select(select(quad.z, quad.y, first == 1u), quad.x, first == 0u),
        select(select(quad.y, quad.z, second == 2u), quad.w, second == 3u),
    );
}
