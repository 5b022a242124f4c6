// Computes the gradients of a scale and a zero point from sums over everything that shares them.
// Requires: fake/code, fake/tree.
// Provides: put_gradients, ds, dz.
//
//   ds = g · Σ…,  dz = −s · g · Σ dy beyond the codes,  g = 1/√(N · gain), or 1 where gain is 0

@group(0) @binding(8) var<storage, read_write> ds: array<u32>;
@group(0) @binding(9) var<storage, read_write> dz: array<u32>;

// `shared_by` is N, the elements that share the scale, as two factors: their product may not fit a
// u32.
fn put_gradients(index: u32, sums: Sums, shared_by: vec2<u32>) {
    let scheme = scheme_at(index);
    let broken = sums.broken | scheme.broken;
    var g = 1.0;
    if (p.gain > 0.0) {
        let elements = vec2<f32>(max(shared_by, vec2<u32>(1u)));
        g = inverseSqrt(elements.x * elements.y * p.gain);
    }
    ds[p.ds_at + index] = bitcast<u32>(sums.scale * g) | broken;
    if (p.asymmetric != 0u) {
        dz[p.dz_at + index] = bitcast<u32>(-scheme.scale * sums.outside * g) | broken;
    }
}
