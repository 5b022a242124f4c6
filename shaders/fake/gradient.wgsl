// The gradients of fake quantization: straight-through (Bengio et al., arXiv 1308.3432), LSQ (Esser
// et al., arXiv 1902.08153) and LSQ+ (Bhalgat et al., arXiv 2004.09576).
//
// Requires: fake/code, fake/tree, x, dy, y.
// Provides: take.
//
// With v = rne(x/s) and c = v + z, where qmin ≤ c ≤ qmax (both ends are inside):
//   dx = dy,  ds: dy · (v − x/s),  dz: 0
// elsewhere, if c is beyond the end e:
//   dx = 0,   ds: dy · (e − z),    dz: −s · dy

fn total(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// Columns c to c + 3 of a row: writes dx where `write` says so, and gives the sums over those that
// are live.
fn take(row: u32, c: u32, live: vec4<bool>, write: bool) -> Sums {
    let s = schemes_at(row, c);
    let v = load_x4(p.x_at + row * p.x_stride, c);
    let dy = load_dy4(p.dy_at + row * p.dy_stride, c);
    let ratio = ratios(v, s.scale);
    let rounded = round(ratio);
    let code = rounded + s.zero;
    let below = code < vec4<f32>(p.qmin);
    let inside = !(below | (code > vec4<f32>(p.qmax)));
    let broken = s.broken | nan_of(v);
    if (write) {
        let dx = bitcast<vec4<u32>>(select(vec4<f32>(0.0), dy, inside)) | broken;
        let out = bitcast<vec4<f32>>(dx);
        store_y2(p.y_at + row * p.y_stride, c, p.k, out.xy);
        store_y2(p.y_at + row * p.y_stride, c + 2u, p.k, out.zw);
    }
    let edge = select(vec4<f32>(p.qmax), vec4<f32>(p.qmin), below) - s.zero;
    let slope = select(edge, rounded - ratio, inside);
    let exponent = bitcast<vec4<u32>>(dy) & vec4<u32>(INFINITY_BITS);
    let bad = select(broken, vec4<u32>(QUIET_NAN), exponent == vec4<u32>(INFINITY_BITS));
    let shown = select(vec4<u32>(0u), bad, live);
    return Sums(
        total(select(vec4<f32>(0.0), dy * slope, live)),
        total(select(vec4<f32>(0.0), dy, live & !inside)),
        shown.x | shown.y | shown.z | shown.w,
    );
}
