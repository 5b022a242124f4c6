// Slices of K within which sums of products are exact integers and scales do not change: the
// groups of W and of X are whole numbers of slices, and a slice has at most 1024 blocks, because
// 32768 · 255 · 255 < 2³¹.
// Requires: lib/matmul, scale/side, shift, const W_ZEROS, const X_ZEROS, const W_GROUPS,
// const X_GROUPS.
// Implements: run_steps.
// W_ZEROS: whether zero points or minima of W are stored, so that sums of codes of X are needed. Where
// there are minima, zero points are 0.
// W_GROUPS and X_GROUPS: 0 for one group a row, 1 if each slice is a group, 2 for groups of several
// slices. W_GROUPS may be 3: a slice is a block, and each half of it is a group. Then W has no zero points
// and no minima, and the sums of each half are scaled separately.
// Provides: HALVES, run_steps, w_group, x_group, fold, Columns4, columns_at, scales4, zeros4, fills4,
// minima4, x_total, add_minima.

const ONES = 0x01010101u;
const HALVES = W_GROUPS == 3u;

// Four rows of W: neighbouring columns of Y.
struct Columns4 {
    r0: Row,
    r1: Row,
    r2: Row,
    r3: Row,
}

// From row n on. Rows past the end read the last one; nothing is stored for them.
fn columns_at(n: u32) -> Columns4 {
    let rows = min(vec4<u32>(n, n + 1u, n + 2u, n + 3u), vec4<u32>(p.rows - 1u));
    return Columns4(row_at(rows.x), row_at(rows.y), row_at(rows.z), row_at(rows.w));
}

fn run_steps() -> u32 {
    return p.slice;
}

fn group_of(slice: u32, kind: u32, slices: u32) -> u32 {
    if (kind == 2u) {
        return slice / slices;
    }
    return select(0u, slice, kind == 1u);
}

// The last block may have no second half; its codes are zeros then, with any scale.
fn w_group(slice: u32, half: u32) -> u32 {
    if (HALVES) {
        return min(2u * slice + half, p.groups - 1u);
    }
    return group_of(slice, W_GROUPS, p.w_slices);
}

fn x_group(slice: u32) -> u32 {
    return group_of(slice, X_GROUPS, p.x_slices);
}

fn scales4(rows: Columns4, slice: u32, half: u32) -> vec4<f32> {
    let g = w_group(slice, half);
    return vec4<f32>(scales_of(rows.r0, rows.r1, g), scales_of(rows.r2, rows.r3, g));
}

fn zeros4(rows: Columns4, slice: u32) -> vec4<i32> {
    if (!W_ZEROS) {
        return vec4<i32>(0);
    }
    let g = w_group(slice, 0u);
    return vec4<i32>(vec4<f32>(zeros_of(rows.r0, rows.r1, g), zeros_of(rows.r2, rows.r3, g)));
}

// A zero point in every byte.
fn fills4(zeros: vec4<i32>) -> vec4<u32> {
    return (bitcast<vec4<u32>>(zeros) & vec4<u32>(0xffu)) * ONES;
}

// Σ (cx − zx) · (cw − zw) from Σ cx · cw, Σ cx and Σ cw of so many columns; what wraps comes back.
// Past the end of K, cx is 0 and cw is zw, which adds nothing.
fn fold(
    products: vec4<i32>, zw: vec4<i32>, sx: i32, zx: i32, sw: vec4<i32>, columns: u32,
) -> vec4<i32> {
    var sum = products;
    if (W_ZEROS) {
        sum -= zw * sx;
    }
    if (X_ZEROS) {
        sum -= sw * zx;
    }
    if (W_ZEROS && X_ZEROS) {
        sum += zw * (zx * i32(columns));
    }
    return sum >> vec4<u32>(SHIFT);
}

fn minima4(rows: Columns4, slice: u32) -> vec4<f32> {
    let g = w_group(slice, 0u);
    let low = affines_words(rows.r0, rows.r1, g);
    let high = affines_words(rows.r2, rows.r3, g);
    return vec4<f32>(
        affine_in(low.a, g).y, affine_in(low.b, g).y, affine_in(high.a, g).y, affine_in(high.b, g).y,
    );
}

// Σ (cx − zx) over so many columns that end with block b, from Σ cx. Columns past the end of K do not
// count: there is no minimum that they could have.
fn x_total(sx: i32, zx: i32, columns: u32, b: u32) -> i32 {
    let past = select(0u, 32u * p.blocks - p.k, b + 1u == p.blocks);
    return sx - zx * i32(columns - past);
}

// Adds the minima of a slice, times sx · Σ (cx − zx), which is an integer below 2²⁴.
fn add_minima(sum: vec4<f32>, minima: vec4<f32>, sx: f32, total: i32) -> vec4<f32> {
    return sum + f32(total) * (minima * sx);
}
