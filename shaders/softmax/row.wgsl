// Computes the softmax of rows: y = exp(z − max z) / sum of exp(z − max z), where z = scale · x, or with a
// soft cap c · tanh(scale · x / c).
//
// Requires: lib/dispatch, lib/row_sum, lib/put_floats, x, const WORKGROUP, const CAPPED.
// Implements: parameters.
// Provides: main, one workgroup a row.
// Workgroup memory: WORKGROUP · 4 bytes, and those of lib/row_sum.
//
// Memory: x and y, [rows, k], strides in elements.
// The number of rows is known when it is recorded, and the two digits at bindings 1 and 2 carry it; m0
// of these rows belong to earlier segments.
//
// The lanes read the row three times, from a cache after the first. A row with a NaN or with +∞, or
// whose largest z is not finite, becomes NaN. What is less than exp(−87) of the largest is 0: no exponent
// is below −87.

struct SoftmaxParams {
    k: u32,        // columns
    m0: u32,       // of the counted rows, how many belong to earlier segments
    m_cap: u32,    // rows of this segment, at most
    x_at: u32,     // the first element of the segment in `x`
    x_stride: u32, // elements from one row of X to the next
    y_at: u32,     // the first element of the segment in `y`
    y_stride: u32, // elements from one row of the result to the next
    scale: f32,    // the scale, divided by the soft cap if there is one
    cap: f32,      // the soft cap
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: SoftmaxParams;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

var<workgroup> partial_tops: array<f32, WORKGROUP>;

const LOWEST = -3.4028234e38;

// A lane that meets a NaN or +∞ adds this to the sum, which is 2³¹ at most otherwise.
const BROKEN = 1.0e30;

fn row_top(value: f32, local: u32) -> f32 {
    partial_tops[local] = value;
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local < width) {
            partial_tops[local] = max(partial_tops[local], partial_tops[local + width]);
        }
    }
    workgroupBarrier();
    return partial_tops[0];
}

// z of four columns.
fn powers4(x: vec4<f32>) -> vec4<f32> {
    let scaled = x * p.scale;
    if (!CAPPED) {
        return scaled;
    }
    // tanh by a single exponential, whose argument is not positive. Its error is known, unlike that of
    // the built-in function.
    let t = exp(max(-2.0 * abs(scaled), vec4<f32>(-87.0)));
    let size = (vec4<f32>(1.0) - t) / (vec4<f32>(1.0) + t);
    return p.cap * select(size, -size, scaled < vec4<f32>(0.0));
}

fn here4(column: u32) -> vec4<bool> {
    return vec4<u32>(column, column + 1u, column + 2u, column + 3u) < vec4<u32>(p.k);
}

fn weights4(x: vec4<f32>, top: f32) -> vec4<f32> {
    let below = powers4(x) - top;
    return select(exp(max(below, vec4<f32>(-87.0))), vec4<f32>(0.0), below < vec4<f32>(-87.0));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = workgroup_index(group, count);
    if (row >= min(recorded_count() - p.m0, p.m_cap)) {
        return;
    }
    let x_at = p.x_at + row * p.x_stride;
    let y_at = p.y_at + row * p.y_stride;
    var tops = vec4<f32>(LOWEST);
    var broken = false;
    for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
        let x = load_x4(x_at, column);
        let here = here4(column);
        tops = max(tops, select(vec4<f32>(LOWEST), powers4(x), here));
        let bits = bitcast<vec4<u32>>(x);
        let odd = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
        broken = broken || any(odd | (bits == vec4<u32>(0x7f800000u)));
    }
    let top = row_top(max(max(tops.x, tops.y), max(tops.z, tops.w)), local);
    var sums = vec4<f32>(0.0);
    for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
        sums += select(vec4<f32>(0.0), weights4(load_x4(x_at, column), top), here4(column));
    }
    let own = select((sums.x + sums.y) + (sums.z + sums.w), BROKEN, broken);
    let sum = row_sum(own, local);
    // The largest counts 1, if it is finite. No float is compared that may be NaN.
    let odd_sum = (bitcast<u32>(sum) & 0x7f800000u) == 0x7f800000u;
    let bad = odd_sum || sum < 0.5 || sum > 0.5 * BROKEN;
    for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
        let bits = bits4(weights4(load_x4(x_at, column), top) / sum);
        put4(y_at, column, p.k, select(bits, nan4(), bad));
    }
}
