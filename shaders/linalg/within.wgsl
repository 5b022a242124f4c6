// All matrices of a product in one buffer.
// Requires: nothing.
// Implements: elements.
// Provides: c, load_a, load_b.

@group(0) @binding(3) var<storage, read_write> c: array<f32>;

fn load_a(at: u32) -> f32 {
    return c[at];
}

fn load_b(at: u32) -> f32 {
    return c[at];
}
