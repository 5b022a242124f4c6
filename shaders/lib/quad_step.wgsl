// Adds the products of four columns of X with two or four rows of W to their sums.
// Requires: part, decoder, const COLUMNS.
// Provides: quad_step.

fn quad_step(
    sums: vec4<f32>, part: Part, i: u32, z: vec4<f32>, w: Blocks, v: Blocks,
) -> vec4<f32> {
    let xq = part_quad(part, i);
    var dots = vec4<f32>(dot_quad(w.a, i, z.x, xq), dot_quad(w.b, i, z.y, xq), 0.0, 0.0);
    if (COLUMNS == 4u) {
        dots.z = dot_quad(v.a, i, z.z, xq);
        dots.w = dot_quad(v.b, i, z.w, xq);
    }
    return sums + dots;
}
