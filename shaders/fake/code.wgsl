// The kernels of fake quantization share these parameters, schemes, and x in steps of a scale.
//
// Requires: lib/dispatch, lib/half, fake_scales, const ALIGNED.
// Implements: parameters.
// Provides: p, row_count, stored_scale, Scheme, scheme_at, Schemes, schemes_at, ratios, nan_of.
//
//   y = (clamp(rne(x/s) + z, qmin, qmax) − z) · s
//
// Memory:
//   x       [m, k], x_stride elements apart from x_at on
//   scales  [m, groups] f32 from scale_at on, or one (scale_stride is 0): s
//   zeros   the same, f32: z is the nearest integer (ties to even) within qmin…qmax
// A unit of work is a tile of a row: `tile` columns, a multiple of 4, of which a row has `tiles`.
// ALIGNED says that no four columns from a multiple of 4 on belong to two groups. The kernel
// declares `scales` and `zeros` as arrays of u32 at bindings 5 and 6.
//
// A compiler may assume that floats are finite. So NaN and infinities are recognized by their bits,
// and a NaN is made by setting bits of an existing result.

struct Params {
    k: u32,            // columns
    group_size: u32,   // columns that share a scale
    groups: u32,       // groups a row
    scale_stride: u32, // scales from one row to the next: groups, or 0
    m0: u32,           // first row of X of this segment
    m_cap: u32,        // rows of X in it at most
    x_at: u32,         // the first element of X
    x_stride: u32,     // elements from one row of X to the next
    y_at: u32,         // the first element of y, or of dx
    y_stride: u32,     // elements from one row of it to the next
    dy_at: u32,        // the first element of the gradient of y
    dy_stride: u32,    // elements from one row of it to the next
    scale_at: u32,     // the first of `scales`
    zero_at: u32,      // the first of `zeros`
    ds_at: u32,        // the first of `ds`
    dz_at: u32,        // the first of `dz`
    tiles: u32,       // tiles a row
    tile: u32,        // columns in a tile, a multiple of 4
    team: u32,         // lanes that share a group, a power of two
    workers: u32,      // workgroups that share the units, or partial sums that there are
    partial_at: u32,   // the first of the partial sums
    asymmetric: u32,   // whether zero points count: 1 or 0
    f16_scales: u32,   // whether scales are rounded to f16: 1 or 0
    pad: u32,
    qmin: f32,         // the smallest code
    qmax: f32,         // the largest code
    steps: f32,        // of the range in a scale: its largest magnitude, or its width
    gain: f32,         // largest code of LSQ's gradient scale, or 0
}

@group(0) @binding(0) var<uniform> p: Params;

const QUIET_NAN = 0x7fc00000u;
const INFINITY_BITS = 0x7f800000u;
const SMALLEST_NORMAL = 0x00800000u;

// Beyond every code, from wherever a zero point is: 2^17.
const FAR_BITS = 0x48000000u;

fn row_count() -> u32 {
    return min(max(recorded_count(), p.m0) - p.m0, p.m_cap);
}

// The bits of a scale as the format stores it; NaN where nothing is to be divided by it. WGSL's
// division is good to 2.5 ulp for divisors from 2^-126 to 2^126 only.
fn stored_scale(bits: u32) -> u32 {
    if (bits < SMALLEST_NORMAL || bits > 0x7e800000u) {
        return QUIET_NAN;
    }
    if (p.f16_scales == 0u) {
        return bits;
    }
    // Below f16's least normal number that number.
    let half = max(f32_bits_to_half(bits), 0x0400u);
    return select(half_to_f32_bits(half), QUIET_NAN, half >= 0x7c00u);
}

// `broken` is 0, or the bits that make everything that depends on the scheme NaN.
struct Scheme {
    scale: f32,
    zero: f32,
    broken: u32,
}

fn scheme_at(index: u32) -> Scheme {
    let scale = stored_scale(scales[p.scale_at + index]);
    var zero = 0u;
    if (p.asymmetric != 0u) {
        zero = zeros[p.zero_at + index];
    }
    if (scale >= INFINITY_BITS || (zero & INFINITY_BITS) == INFINITY_BITS) {
        return Scheme(1.0, 0.0, QUIET_NAN);
    }
    return Scheme(bitcast<f32>(scale), clamp(round(bitcast<f32>(zero)), p.qmin, p.qmax), 0u);
}

struct Schemes {
    scale: vec4<f32>,
    zero: vec4<f32>,
    broken: vec4<u32>,
}

// Returns the schemes of four columns from a multiple of 4 on. Past the last column it is that of the
// last column.
fn schemes_at(row: u32, column: u32) -> Schemes {
    let first = row * p.scale_stride;
    if (ALIGNED) {
        let s = scheme_at(first + column / p.group_size);
        return Schemes(vec4<f32>(s.scale), vec4<f32>(s.zero), vec4<u32>(s.broken));
    }
    let columns = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(p.k - 1u));
    let at = vec4<u32>(first) + columns / vec4<u32>(p.group_size);
    let a = scheme_at(at.x);
    let b = scheme_at(at.y);
    let c = scheme_at(at.z);
    let d = scheme_at(at.w);
    return Schemes(
        vec4<f32>(a.scale, b.scale, c.scale, d.scale),
        vec4<f32>(a.zero, b.zero, c.zero, d.zero),
        vec4<u32>(a.broken, b.broken, c.broken, d.broken),
    );
}

// x / s. Subnormal x count as 0 on every device, and what is far beyond all codes, where the
// quotient could overflow, is ±2^17.
fn ratios(value: vec4<f32>, scale: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(value);
    let magnitude = bits & vec4<u32>(0x7fffffffu);
    let special = magnitude >= vec4<u32>(INFINITY_BITS);
    let near = select(value, vec4<f32>(0.0), (magnitude < vec4<u32>(SMALLEST_NORMAL)) | special);
    let far = special | (abs(near) * 7.62939453125e-6 > scale);
    let limit = bitcast<vec4<f32>>((bits & vec4<u32>(0x80000000u)) | vec4<u32>(FAR_BITS));
    return select(select(near, vec4<f32>(0.0), far) / scale, limit, far);
}

// The bits that make a NaN, where a value is one.
fn nan_of(value: vec4<f32>) -> vec4<u32> {
    let magnitude = bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
    return select(vec4<u32>(0u), vec4<u32>(QUIET_NAN), magnitude > vec4<u32>(INFINITY_BITS));
}
