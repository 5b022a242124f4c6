// Moves two stored codes back to their places among four columns.
// Requires: nothing.
// Provides: scatter.

// (c − z) where the quad keeps a column, 0 elsewhere.
fn scatter(pair: vec2<f32>, nibble: u32, z: vec4<f32>) -> vec4<f32> {
    let lanes = vec4<u32>(0u, 1u, 2u, 3u);
    let first = lanes == vec4<u32>(nibble & 3u);
    let second = lanes == vec4<u32>((nibble >> 2u) & 3u);
    let code = select(vec4<f32>(pair.y), vec4<f32>(pair.x), first);
    return select(vec4<f32>(0.0), code - z, first | second);
}
