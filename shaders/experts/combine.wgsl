// Adds up what the experts of each row made of it: Σ weight · row of the list.
// Requires: lib/dispatch, half_pair, y, y_old, const X_F16.
// Provides: `main`, one invocation for two columns of a row.
//
// Memory:
//   x        rows of the list, [list rows, n], from element x_at on; f16 in pairs
//   choices  [rows, top] of three words, from word choices_at on: an expert, a place in the list, a
//            weight, f32
//   y        [rows, n], from element y_at on; f16 in pairs, offset and stride even. With `add`, the sum is
//            added to what it holds

struct CombineParams {
    n: u32,          // columns
    top: u32,        // experts of a row
    x_at: u32,       // the first element of X
    x_stride: u32,   // elements from one row of X to the next
    choices_at: u32, // the first word of the choices
    y_at: u32,       // the first element of Y
    y_stride: u32,   // elements from one row of Y to the next
    add: u32,        // 1 if sums are added to what Y holds
}

@group(0) @binding(0) var<uniform> p: CombineParams;
@group(0) @binding(3) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read> choices: array<u32>;

// Columns n and n + 1 of a row; n is even.
fn x2(row: u32, n: u32) -> vec2<f32> {
    let at = p.x_at + row * p.x_stride + n;
    if (X_F16) {
        return half2_to_f32(x[at >> 1u]);
    }
    var v = vec2<f32>(bitcast<f32>(x[at]), 0.0);
    if (n + 1u < p.n) {
        v.y = bitcast<f32>(x[at + 1u]);
    }
    return v;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = workgroup_index(group, count) * 64u + lane;
    let pairs = (p.n + 1u) / 2u;
    let row = id / pairs;
    let n = id % pairs * 2u;
    if (row >= recorded_count()) {
        return;
    }
    var sum = vec2<f32>(0.0);
    for (var i = 0u; i < p.top; i += 1u) {
        let at = p.choices_at + 3u * (row * p.top + i);
        sum = fma(vec2<f32>(bitcast<f32>(choices[at + 2u])), x2(choices[at + 1u], n), sum);
    }
    let row_at = p.y_at + row * p.y_stride;
    if (p.add == 1u) {
        sum += load_y2(row_at, n, p.n);
    }
    store_y2(row_at, n, p.n, sum);
}
