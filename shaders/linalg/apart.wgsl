// Three matrices in three buffers.
// Requires: nothing.
// Implements: elements.
// Provides: c, load_a, load_b.

@group(0) @binding(3) var<storage, read> a: array<f32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;

fn load_a(at: u32) -> f32 {
    return a[at];
}

fn load_b(at: u32) -> f32 {
    return b[at];
}
