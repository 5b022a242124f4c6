// Finishes four columns of a row of Y as floats: bias, then what the epilogue does.
// Requires: lib/matmul, bias, epilogue.
// Implements: finish.
// Provides: finish.

fn finish(y_at: u32, column: u32, v: vec4<f32>) {
    let end = p.n0 + p.rows;
    put4(y_at, column, end, v + vec4<f32>(bias2(column, end), bias2(column + 2u, end)));
}
