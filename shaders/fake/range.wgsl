// The range of some x: the bits of the largest x and of the largest −x, at least 0.
// Requires: fake/code.
// Provides: Range, wider, and put_scheme, which writes `scales` and `zeros`.
//
//   symmetric    s = absmax/steps       (127, 7 or 32767),  z = 0
//   asymmetric   s = (max−min)/steps    (255 or 15),        z = clamp(rne(−min/s), 0, steps) + qmin
//
// min ≤ 0 ≤ max. The bits of positive floats have the order of the floats, and the bits of infinity
// and NaN come after all of them, so that a range shows whether everything in it is finite.

struct Range {
    high: u32,
    low: u32,
}

fn wider(range: Range, value: vec4<f32>, live: vec4<bool>) -> Range {
    let bits = bitcast<vec4<u32>>(value);
    let size = bits & vec4<u32>(0x7fffffffu);
    // Subnormals count as 0.
    let magnitude = select(vec4<u32>(0u), size, live & (size >= vec4<u32>(SMALLEST_NORMAL)));
    let negative = (bits >> vec4<u32>(31u)) == vec4<u32>(1u);
    let high = select(magnitude, vec4<u32>(0u), negative);
    let low = select(vec4<u32>(0u), magnitude, negative);
    return Range(
        max(range.high, max(max(high.x, high.y), max(high.z, high.w))),
        max(range.low, max(max(low.x, low.y), max(low.z, low.w))),
    );
}

// A range whose scale would be no normal number gets s = 1: every x of it is 0 then. One that is
// not finite gets s = NaN.
fn put_scheme(index: u32, range: Range) {
    let top = max(range.high, range.low);
    var scale_bits = QUIET_NAN;
    var zero = 0.0;
    if (top < INFINITY_BITS) {
        var scale = bitcast<f32>(top) / p.steps;
        if (p.asymmetric != 0u) {
            // Each by itself: their sum may overflow.
            scale = bitcast<f32>(range.high) / p.steps + bitcast<f32>(range.low) / p.steps;
        }
        scale_bits = 0x3f800000u;
        if (scale >= 1.1754944e-38) {
            scale_bits = stored_scale(bitcast<u32>(scale));
        }
        if (p.asymmetric != 0u && scale_bits < INFINITY_BITS) {
            let steps = bitcast<f32>(range.low) / bitcast<f32>(scale_bits);
            zero = clamp(round(steps), 0.0, p.steps) + p.qmin;
        }
    }
    scales[p.scale_at + index] = scale_bits;
    if (p.asymmetric != 0u) {
        zeros[p.zero_at + index] = bitcast<u32>(zero);
    }
}
