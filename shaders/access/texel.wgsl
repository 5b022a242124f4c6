// Codes of W in a texture: texel i, of 16 bytes, lies i % TEXTURE_WIDTH to the right.
// Requires: const TEXTURE_WIDTH.
// Features: read-texture.
// Provides: codes, texel.
// Why a texture: software adapters gather texels by vectors, each whole and of all lanes, but
// words of a buffer component by component and lane by lane.
// Signed coordinates: where a driver does not clamp loads itself, naga does, and its clamp of
// unsigned ones is SPIR-V that no validator accepts.
// Caller: codes lie in a texture, 16 bytes a texel, in rows of {TEXTURE_WIDTH} texels.

@group(0) @binding(4) var codes: texture_storage_2d<rgba32uint, read>;

fn texel(at: u32) -> vec4<u32> {
    return textureLoad(codes, vec2<i32>(vec2<u32>(at % TEXTURE_WIDTH, at / TEXTURE_WIDTH)));
}
