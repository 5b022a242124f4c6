// Stores f(gate) · up: rows of W alternate, a gate and what it lets up, so that two sums make one
// column of Y.
// Requires: function, y_one.
// Implements: epilogue.
// Provides: put2, put4.
// Caller: rows of W alternate: a gate, what is multiplied with it. n0 and rows are even.

// Rows n and n + 1 of W, for the row of Y that starts at element row_at; n and end are even.
fn put2(row_at: u32, n: u32, end: u32, v: vec2<f32>) {
    if (n < end) {
        store_y1(row_at + n / 2u, activate(v).x * v.y);
    }
}

// Rows n to n + 3 of W.
fn put4(row_at: u32, n: u32, end: u32, v: vec4<f32>) {
    let out = activate(v.xz) * v.yw;
    if (n + 2u < end) {
        store_y1_pair(row_at + n / 2u, out);
    } else if (n < end) {
        store_y1(row_at + n / 2u, out.x);
    }
}
