// Finishes four columns of a row of Y as 8-bit codes, with a scale and a zero point that are known
// beforehand. The next integer matmul can use them as X once activations/sums has completed the
// rows.
// Requires: lib/matmul, bias, function, const Y_ZEROS.
// Implements: finish.
// Provides: finish, y.
// `column` is a multiple of 4, so one invocation owns the word.
// Caller: offset and strides of Y are multiples of 4 words.
// Caller: the kernel activations_sums runs after it.

@group(0) @binding(7) var<storage, read_write> y: array<u32>;

fn finish(y_at: u32, column: u32, v: vec4<f32>) {
    let end = p.n0 + p.rows;
    if (column >= end) {
        return;
    }
    let low = activate(v.xy + bias2(column, end));
    let high = activate(v.zw + bias2(column + 2u, end));
    let least = vec4<f32>(select(-127.0, -128.0, Y_ZEROS));
    let real = round(vec4<f32>(low, high) * p.out_inverse) + f32(p.out_zero);
    let codes = vec4<i32>(clamp(real, least, vec4<f32>(127.0)));
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    y[y_at + (column >> 2u)] = pack4xI8(select(vec4<i32>(0), codes, columns < vec4<u32>(end)));
}
