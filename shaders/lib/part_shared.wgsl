// Loads a step of X with all lanes of a subgroup together, a quad each, which then exchange it.
// SUBGROUP is the size of every subgroup: 4 or a multiple of 8.
// Requires: lib/quads, x, const SUBGROUP.
// Implements: part.
// Features: subgroups.
// Provides: Part, load_part, part_quad.
// Why: where all lanes want the same X, loading it is most of the work on adapters that execute
// the load of each lane separately. Exchanging a register takes two operations.

struct Part {
    low: vec4<f32>,
    high: vec4<f32>, // where SUBGROUP is 4
}

fn load_part(row_at: u32, b: u32, lane: u32) -> Part {
    if (SUBGROUP == 4u) {
        let k = b * STEP + lane % 4u * 4u;
        return Part(load_x4(row_at, k), load_x4(row_at, k + 16u));
    }
    let quad = load_x4(row_at, b * STEP + lane % 8u * 4u);
    return Part(quad, quad);
}

fn part_quad(part: Part, i: u32) -> vec4<f32> {
    if (SUBGROUP == 4u) {
        return subgroupShuffle(select(part.high, part.low, i < 4u), i & 3u);
    }
    return subgroupShuffle(part.low, i);
}
