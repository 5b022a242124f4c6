// Loads a block of each of M_TILE rows of X (1 or 4), each lane for itself.
// Requires: x_codes, integer/x_side, const M_TILE, const W_ZEROS.
// Implements: integer_part.
// Provides: XPart, XSum, load_part, x_word, part_sum, sum_of.

struct XRow {
    a: vec4<u32>,
    b: vec4<u32>,
}

struct XPart {
    r0: XRow,
    r1: XRow,
    r2: XRow,
    r3: XRow,
    sums: vec4<i32>,
}

alias XSum = vec4<i32>;

fn load_row(row_at: u32, b: u32) -> XRow {
    return XRow(x_quad(row_at, 2u * b), x_quad(row_at, 2u * b + 1u));
}

fn load_part(rows: vec4<u32>, b: u32, lane: u32) -> XPart {
    let first = load_row(rows.x, b);
    var part = XPart(first, first, first, first, vec4<i32>(0));
    if (W_ZEROS) {
        part.sums.x = x_sum(rows.x, b);
    }
    if (M_TILE == 4u) {
        part.r1 = load_row(rows.y, b);
        part.r2 = load_row(rows.z, b);
        part.r3 = load_row(rows.w, b);
        if (W_ZEROS) {
            part.sums.y = x_sum(rows.y, b);
            part.sums.z = x_sum(rows.z, b);
            part.sums.w = x_sum(rows.w, b);
        }
    }
    return part;
}

// Quad i of row r; both are literals wherever it is called.
fn x_word(part: XPart, r: u32, i: u32) -> u32 {
    var row = part.r0;
    switch (r) {
        case 1u: { row = part.r1; }
        case 2u: { row = part.r2; }
        case 3u: { row = part.r3; }
        default: {}
    }
    return select(row.b, row.a, i < 4u)[i & 3u];
}

fn part_sum(part: XPart) -> XSum {
    return part.sums;
}

fn sum_of(sums: XSum, r: u32) -> i32 {
    return sums[r];
}
