// What becomes of the sum of a piece: scaled and added up.
// Requires: nothing. Provides: Spot, add_piece. Twin: integer/counted.

// Where four columns of a row of Y lie, and of which piece.
struct Spot {
    y_at: u32,
    piece: u32,
    column: u32,
    live: bool, // whether the row exists
}

fn add_piece(sum: vec4<f32>, t: vec4<i32>, sw: vec4<f32>, sx: f32, spot: Spot) -> vec4<f32> {
    return sum + vec4<f32>(t) * (sw * sx);
}
