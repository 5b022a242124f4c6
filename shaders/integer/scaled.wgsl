// Scales the sum of a slice and adds it up.
// Requires: nothing.
// Implements: add_slice.
// Provides: Spot, add_slice.

// Where four columns of a row of Y lie, and of which slice.
struct Spot {
    y_at: u32,
    slice: u32,
    column: u32,
    live: bool, // whether the row exists
}

fn add_slice(sum: vec4<f32>, t: vec4<i32>, sw: vec4<f32>, sx: f32, spot: Spot) -> vec4<f32> {
    return sum + vec4<f32>(t) * (sw * sx);
}
