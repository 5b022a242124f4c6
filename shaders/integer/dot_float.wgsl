// Products of four bytes in f32. They are exact, because sums of four products stay below 2¹⁷.
// Requires: nothing.
// Implements: dots.
// Provides: dots.
// Why: on devices without an operation for packed bytes, 32-bit integer products are slower than
// floats.

fn float_dot(w: u32, x: vec4<f32>) -> f32 {
    let v = vec4<f32>(unpack4xI8(w));
    return fma(v.w, x.w, fma(v.z, x.z, fma(v.y, x.y, v.x * x.x)));
}

// Returns the dot products of the quads of four columns of Y with one quad of X, as signed bytes.
fn dots(w: vec4<u32>, x: u32) -> vec4<i32> {
    let v = vec4<f32>(unpack4xI8(x));
    return vec4<i32>(vec4<f32>(
        float_dot(w.x, v), float_dot(w.y, v), float_dot(w.z, v), float_dot(w.w, v),
    ));
}
