// Codes of W in a texture of TEXTURE_WIDTH texels a row, a power of two. Texel i, of 16 bytes, is
// in column i % TEXTURE_WIDTH.
// Requires: const TEXTURE_WIDTH.
// Features: read-texture.
// Provides: codes, texel.
// Why a texture: software adapters gather whole texels for all lanes with vector operations, but
// load words of a buffer component by component and lane by lane.
// Why signed coordinates: if a driver does not clamp loads, naga does, and its clamp of unsigned
// coordinates is SPIR-V that no validator accepts.
// Caller: codes lie in a texture, 16 bytes a texel, in rows of {TEXTURE_WIDTH} texels.

@group(0) @binding(4) var codes: texture_storage_2d<rgba32uint, read>;

fn texel(at: u32) -> vec4<u32> {
    return textureLoad(codes, vec2<i32>(vec2<u32>(at % TEXTURE_WIDTH, at / TEXTURE_WIDTH)));
}
