// What 8-bit codes of activations mean, in a row of format::ActivationLayout: every kernel that makes
// them from floats takes them from here.
//
// Requires: parameters, source, const ASYMMETRIC.
// Provides: Range, range_of, Scheme, scheme, put_block, put_scheme.
//
// `parameters` declares `y`, the rows of codes, and among its parameters `p` those that say where the
// parts of a row are. `source` provides source_columns(), and source4(at, column): four columns of the
// row of floats at `at`, with zeros past the last.
//
//   symmetric    s = absmax/127,     z = 0,                                 c = rne(x/s)
//   asymmetric   s = (max−min)/255,  z = clamp(rne(−min/s), 0, 255) − 128,  c = rne(x/s) + z
//
// min ≤ 0 ≤ max, and codes are clamped to −127…127 or −128…127. A range of zeros, or one whose
// scale would be subnormal, gets s = 1 and codes of zero. A range with NaN or an infinity gets
// s = NaN, so that every product with it is NaN too.
//
// This is floating-point arithmetic: division may be off by 2.5 ulp, so a code near a tie may be
// either neighbor. Half of a row's largest value is next to a tie, and common among f16 values. Where
// division is correctly rounded, its code is that of other implementations, which divide too:
// x · (1/s) rounds twice, and gives the other neighbor for some rows.

const QUADS = 8u;

// The largest of x and of −x, at least 0, and whether all are finite.
struct Range {
    high: f32,
    low: f32,
    bad: bool,
}

struct Scheme {
    scale_bits: u32,
    // What X is divided by: the scale, or 1 where there is none.
    divisor: f32,
    zero: i32,
}

fn wider(range: Range, x_at: u32, b: u32) -> Range {
    var out = range;
    for (var q = 0u; q < QUADS; q += 1u) {
        let x = source4(x_at, 32u * b + 4u * q);
        let high = max(x, vec4<f32>(0.0));
        let low = max(-x, vec4<f32>(0.0));
        out.high = max(out.high, max(max(high.x, high.y), max(high.z, high.w)));
        out.low = max(out.low, max(max(low.x, low.y), max(low.z, low.w)));
        // `max` may drop a NaN: its bits do not lie.
        let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u);
        out.bad = out.bad || any(bits == vec4<u32>(0x7f800000u));
    }
    return out;
}

// Returns the range of every `step`th block from `first` on, below `end`.
fn range_of(x_at: u32, first: u32, end: u32, step: u32) -> Range {
    var range = Range(0.0, 0.0, false);
    for (var b = first; b < end; b += step) {
        range = wider(range, x_at, b);
    }
    return range;
}

fn scheme(range: Range) -> Scheme {
    if (range.bad) {
        return Scheme(0x7fc00000u, 1.0, 0);
    }
    var scale = max(range.high, range.low) / 127.0;
    if (ASYMMETRIC) {
        // Each by itself: their sum may overflow.
        scale = range.high / 255.0 + range.low / 255.0;
    }
    if (scale < 1.1754944e-38) {
        // Such a small number is less than half a step of 1.
        return Scheme(0x3f800000u, 1.0, 0);
    }
    let zero = select(0, i32(clamp(round(range.low / scale), 0.0, 255.0)) - 128, ASYMMETRIC);
    return Scheme(bitcast<u32>(scale), scale, zero);
}

// Writes the codes of a block and their sum.
fn put_block(x_at: u32, y_at: u32, b: u32, s: Scheme) {
    let least = vec4<f32>(select(-127.0, -128.0, ASYMMETRIC));
    var sum = 0;
    for (var q = 0u; q < QUADS; q += 1u) {
        let column = 32u * b + 4u * q;
        let x = source4(x_at, column);
        let c = clamp(round(x / s.divisor) + f32(s.zero), least, vec4<f32>(127.0));
        let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
        let codes = select(vec4<i32>(0), vec4<i32>(c), columns < vec4<u32>(source_columns()));
        sum += codes.x + codes.y + codes.z + codes.w;
        y[y_at + 8u * b + q] = pack4xI8(codes);
    }
    y[y_at + p.sum_at + b] = bitcast<u32>(sum);
}

fn put_scheme(y_at: u32, group: u32, s: Scheme) {
    y[y_at + p.scale_at + group] = s.scale_bits;
    y[y_at + p.zero_at + group] = bitcast<u32>(s.zero);
}
