// Products of four packed bytes with the built-in operation.
// Requires: nothing.
// Implements: dots.
// Features: packed-dot.
// Provides: dots.

// Returns the dot products of the quads of four columns of Y with one quad of X, as signed bytes.
fn dots(w: vec4<u32>, x: u32) -> vec4<i32> {
    return vec4<i32>(
        dot4I8Packed(w.x, x), dot4I8Packed(w.y, x), dot4I8Packed(w.z, x), dot4I8Packed(w.w, x),
    );
}
