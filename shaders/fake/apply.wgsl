// Quantizes and dequantizes columns first…end−1 of a row with all lanes of a workgroup.
// Requires: fake/code, x, y, const WORKGROUP.
// Provides: apply.
// Each lane owns four columns, counted from `first`, which is a multiple of 4. With f16 it thus
// owns whole words.

fn apply(row: u32, first: u32, end: u32, local: u32) {
    let x_at = p.x_at + row * p.x_stride;
    let y_at = p.y_at + row * p.y_stride;
    for (var c = first + 4u * local; c < end; c += 4u * WORKGROUP) {
        let s = schemes_at(row, c);
        let v = load_x4(x_at, c);
        let q = clamp(round(ratios(v, s.scale)) + s.zero, vec4<f32>(p.qmin), vec4<f32>(p.qmax));
        let real = (q - s.zero) * s.scale;
        let out = bitcast<vec4<f32>>(bitcast<vec4<u32>>(real) | s.broken | nan_of(v));
        store_y2(y_at, c, p.k, out.xy);
        store_y2(y_at, c + 2u, p.k, out.zw);
    }
}
