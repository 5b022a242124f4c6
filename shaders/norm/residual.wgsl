// Normalizes the sum of X and a residual, which is written too. The sum is rounded to f16 only where it
// is written.
// Requires: norm/row, lib/half, half_pair, const R_F16.
// Implements: residual.
// Provides: with_residual, put_total.
// Memory: r and total, [batch, rows, k] f32 or f16 in words, strides in elements; even ones for f16.
// One invocation owns both halves of a word; with odd k the last upper half of `total` is preserved.

@group(0) @binding(4) var<storage, read> r: array<u32>;
@group(0) @binding(5) var<storage, read_write> total: array<u32>;

// Adds four columns of the residual; past the last 0.
fn with_residual(x: vec4<f32>, row_at: u32, column: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
    if (R_F16) {
        let at = (row_at >> 1u) + min(vec2<u32>(column, column + 2u), vec2<u32>(p.k - 1u)) / 2u;
        v = vec4<f32>(half2_to_f32(r[at.x]), half2_to_f32(r[at.y]));
    } else {
        let at = row_at + min(columns4(column), vec4<u32>(p.k - 1u));
        v = bitcast<vec4<f32>>(vec4<u32>(r[at.x], r[at.y], r[at.z], r[at.w]));
    }
    return x + select(vec4<f32>(0.0), v, columns4(column) < vec4<u32>(p.k));
}

fn put_total(row_at: u32, column: u32, v: vec4<f32>) {
    if (R_F16) {
        let at = (row_at + column) >> 1u;
        let low = f32_to_half(v.x) | (f32_to_half(v.y) << 16u);
        let high = f32_to_half(v.z) | (f32_to_half(v.w) << 16u);
        let left = p.k - column;
        if (left == 1u) {
            total[at] = (total[at] & 0xffff0000u) | (low & 0xffffu);
        } else {
            total[at] = low;
        }
        if (left == 3u) {
            total[at + 1u] = (total[at + 1u] & 0xffff0000u) | (high & 0xffffu);
        } else if (left > 3u) {
            total[at + 1u] = high;
        }
        return;
    }
    let at = row_at + column;
    let left = p.k - column;
    total[at] = bitcast<u32>(v.x);
    if (left > 1u) {
        total[at + 1u] = bitcast<u32>(v.y);
    }
    if (left > 2u) {
        total[at + 2u] = bitcast<u32>(v.z);
    }
    if (left > 3u) {
        total[at + 3u] = bitcast<u32>(v.w);
    }
}
