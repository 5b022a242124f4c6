// Loads a block of each of M_TILE rows of X (1 or 4) with all lanes of a subgroup together, which
// then exchange it. SUBGROUP is 4 or a multiple of 8.
// Requires: x_codes, integer/x_side, const M_TILE, const SUBGROUP, const W_ZEROS.
// Implements: integer_part.
// Features: subgroups.
// Provides: XPart, XSum, load_part, x_word, part_sum, sum_of.
// Why: see lib/part_shared. Of four rows, two lanes load one row (one lane if there are only four
// lanes). Of one row, each lane loads one quad (or two).

struct XPart {
    low: vec4<u32>,
    high: vec4<u32>, // where SUBGROUP is 4
    sum: i32,        // of this lane's row
}

alias XSum = i32;

fn load_part(rows: vec4<u32>, b: u32, lane: u32) -> XPart {
    var part = XPart();
    if (M_TILE == 1u) {
        part.low.x = x_at(rows.x, 8u * b + lane % 8u);
        if (SUBGROUP == 4u) {
            part.low.x = x_at(rows.x, 8u * b + lane % 4u);
            part.high.x = x_at(rows.x, 8u * b + 4u + lane % 4u);
        }
        if (W_ZEROS) {
            part.sum = x_sum(rows.x, b);
        }
        return part;
    }
    if (SUBGROUP == 4u) {
        let row = rows[lane % 4u];
        part.low = x_quad(row, 2u * b);
        part.high = x_quad(row, 2u * b + 1u);
        if (W_ZEROS) {
            part.sum = x_sum(row, b);
        }
        return part;
    }
    let row = rows[(lane >> 1u) % 4u];
    part.low = x_quad(row, 2u * b + lane % 2u);
    if (W_ZEROS) {
        part.sum = x_sum(row, b);
    }
    return part;
}

// Quad i of row r; both are literals wherever it is called.
fn x_word(part: XPart, r: u32, i: u32) -> u32 {
    if (M_TILE == 1u) {
        if (SUBGROUP == 4u) {
            return subgroupShuffle(select(part.high.x, part.low.x, i < 4u), i & 3u);
        }
        return subgroupShuffle(part.low.x, i);
    }
    if (SUBGROUP == 4u) {
        return subgroupShuffle(select(part.high, part.low, i < 4u)[i & 3u], r);
    }
    return subgroupShuffle(part.low[i & 3u], 2u * r + (i >> 2u));
}

fn part_sum(part: XPart) -> XSum {
    return part.sum;
}

fn sum_of(sum: XSum, r: u32) -> i32 {
    if (M_TILE == 1u) {
        return sum;
    }
    return subgroupShuffle(sum, select(2u * r, r, SUBGROUP == 4u));
}
