// Finishes four columns of a row of Y as floats: bias, activation function, store.
// Requires: lib/matmul, bias, function, y.
// Implements: finish.
// Provides: finish.

fn finish(y_at: u32, column: u32, v: vec4<f32>) {
    let end = p.n0 + p.rows;
    store_y2(y_at, column, end, activate(v.xy + bias2(column, end)));
    store_y2(y_at, column + 2u, end, activate(v.zw + bias2(column + 2u, end)));
}
