// Stores f(v), where v are sums with their bias.
// Requires: function, y.
// Implements: epilogue.
// Provides: put2, put4.

// Columns n and n + 1 of the row that starts at element row_at; n is even.
fn put2(row_at: u32, n: u32, end: u32, v: vec2<f32>) {
    store_y2(row_at, n, end, activate(v));
}

// Columns n to n + 3 of it.
fn put4(row_at: u32, n: u32, end: u32, v: vec4<f32>) {
    put2(row_at, n, end, v.xy);
    put2(row_at, n + 2u, end, v.zw);
}
