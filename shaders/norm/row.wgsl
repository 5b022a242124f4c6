// Normalizes a row: y = (v − mean) / √(mean of (v − mean)² + epsilon) · (w + offset) + bias, where v is x,
// or x + r if there is a residual r. RMSNorm has mean 0 and no bias.
//
// Requires: lib/dispatch, lib/row_sum, x, residual, const WORKGROUP, const LAYER.
// Implements: parameters.
// Provides: NormParams, p, Place, place_of, measure, normal4, and all bindings except X and those of the
// residual.
//
// Memory:
//   x, y     [batch, rows, k], strides in elements (of y, if it holds codes: in words)
//   weight   [k] f32 from element weight_at on, bias the same
// The number of rows is known when it is recorded, and the two digits at bindings 1 and 2 carry it; m0
// of these rows belong to earlier segments.
//
// One workgroup takes a row and reads it again for each step: sums, then results; if LAYER, the sum of
// x first. Its second and later reads come from a cache. Without LAYER nothing is subtracted and no
// bias is read. A row whose mean square is not finite (because it holds a NaN or an infinity, or
// because its squares overflow) is `bad`.

struct NormParams {
    k: u32,            // columns
    batch: u32,        // matrices in this segment
    m0: u32,           // of the counted rows, how many belong to earlier segments
    m_cap: u32,        // rows of this segment, at most
    x_at: u32,         // the first element of the segment in `x`
    x_stride: u32,     // elements from one row of X to the next
    x_batch: u32,      // elements from one X of the batch to the next
    r_at: u32,         // the same of the residual
    r_stride: u32,     // elements from one row of the residual to the next
    r_batch: u32,      // elements from one residual of the batch to the next
    total_at: u32,     // the same of the sum of both
    total_stride: u32, // elements from one row of the sum to the next
    total_batch: u32,  // elements from one sum of the batch to the next
    y_at: u32,         // the same of the result, which counts words if it holds codes
    y_stride: u32,     // elements from one row of Y to the next
    y_batch: u32,      // elements from one Y of the batch to the next
    weight_at: u32,    // the first element of `weight`
    bias_at: u32,      // the first element of `bias`
    weighted: u32,     // 1 if there is a weight
    biased: u32,       // 1 if there is a bias
    centered: u32,     // 1 if the mean is subtracted
    inverse_k: f32,    // 1/k
    epsilon: f32,      // what is added to the mean square
    offset: f32,       // added to the weight
    blocks: u32,       // of a row of codes: ⌈k/32⌉
    group_blocks: u32, // blocks that share a scale
    groups: u32,       // groups a row
    scale_at: u32,     // where in such a row the scales start, in words
    zero_at: u32,      // where in it the zero points start
    sum_at: u32,       // where in it the sums of blocks start
    given_scale: f32,  // the scale, if it does not come from the row
    given_zero: i32,   // the zero point of a static scale
}

@group(0) @binding(0) var<uniform> p: NormParams;
@group(0) @binding(6) var<storage, read> weight: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read_write> y: array<u32>;

// Where a workgroup's row lies.
struct Place {
    exists: bool,
    x: u32,
    r: u32,
    total: u32,
    y: u32,
}

struct Measured {
    mean: f32,
    // 1/√(mean square + epsilon).
    inverse: f32,
    bad: bool,
}

fn place_of(workgroup: u32) -> Place {
    let rows = min(recorded_count() - p.m0, p.m_cap);
    let item = workgroup / max(rows, 1u);
    let row = workgroup % max(rows, 1u);
    return Place(
        workgroup < rows * p.batch,
        p.x_at + item * p.x_batch + row * p.x_stride,
        p.r_at + item * p.r_batch + row * p.r_stride,
        p.total_at + item * p.total_batch + row * p.total_stride,
        p.y_at + item * p.y_batch + row * p.y_stride,
    );
}

fn columns4(column: u32) -> vec4<u32> {
    return vec4<u32>(column, column + 1u, column + 2u, column + 3u);
}

// Four columns of v; past the last 0.
fn value4(place: Place, column: u32) -> vec4<f32> {
    return with_residual(load_x4(place.x, column), place.r, column);
}

// Sums the row with all lanes, and writes the sums of x and the residual.
fn measure(place: Place, local: u32) -> Measured {
    var sums = vec4<f32>(0.0);
    for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
        let v = value4(place, column);
        put_total(place.total, column, v);
        if (LAYER) {
            sums += select(v * v, v, p.centered != 0u);
        } else {
            sums += v * v;
        }
    }
    var mean = 0.0;
    var square = row_sum((sums.x + sums.y) + (sums.z + sums.w), local) * p.inverse_k;
    if (LAYER) {
        if (p.centered != 0u) {
            mean = square;
            sums = vec4<f32>(0.0);
            for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
                let d = value4(place, column) - mean;
                sums += select(vec4<f32>(0.0), d * d, columns4(column) < vec4<u32>(p.k));
            }
            square = row_sum((sums.x + sums.y) + (sums.z + sums.w), local) * p.inverse_k;
        }
    }
    let bad = (bitcast<u32>(square) & 0x7f800000u) == 0x7f800000u;
    return Measured(mean, inverseSqrt(square + p.epsilon), bad);
}

// Four columns of the result; past the last they are any number.
fn normal4(place: Place, measured: Measured, column: u32) -> vec4<f32> {
    let at = min(columns4(column), vec4<u32>(p.k - 1u));
    let w_at = p.weight_at + at;
    let w = vec4<f32>(weight[w_at.x], weight[w_at.y], weight[w_at.z], weight[w_at.w]) + p.offset;
    let factor = select(vec4<f32>(1.0), w, p.weighted != 0u);
    let v = value4(place, column);
    if (!LAYER) {
        return v * measured.inverse * factor;
    }
    let b_at = p.bias_at + at;
    let b = vec4<f32>(bias[b_at.x], bias[b_at.y], bias[b_at.z], bias[b_at.w]);
    let shift = select(vec4<f32>(0.0), b, p.biased != 0u);
    return (v - measured.mean) * measured.inverse * factor + shift;
}
