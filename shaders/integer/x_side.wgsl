// Reads what a row of X holds besides its codes: scales, zero points and sums.
// Requires: lib/matmul, x_codes, const X_ZEROS.
// Provides: x_scale, x_zero, x_sum.

fn x_scale(row_at: u32, group: u32) -> f32 {
    return bitcast<f32>(x_at(row_at, p.x_scale_at + group));
}

fn x_zero(row_at: u32, group: u32) -> i32 {
    if (!X_ZEROS) {
        return 0;
    }
    return bitcast<i32>(x_at(row_at, p.x_zero_at + group));
}

// The sum of the codes of a block.
fn x_sum(row_at: u32, b: u32) -> i32 {
    return bitcast<i32>(x_at(row_at, p.x_sum_at + b));
}
