// Stores single elements of Y as f32.
// Requires: nothing.
// Implements: y_one.
// Provides: store_y1, store_y1_pair.

@group(0) @binding(7) var<storage, read_write> y: array<f32>;

fn store_y1(at: u32, v: f32) {
    y[at] = v;
}

// Elements at and at + 1.
fn store_y1_pair(at: u32, v: vec2<f32>) {
    y[at] = v.x;
    y[at + 1u] = v.y;
}
