// Adds XᵀX of some rows to sums of 128-bit integers, for the tiles of 64 × 64 at and above the diagonal.
// Requires: lib/dispatch, x.
// Implements: parameters, operands.
// Provides: p, sums, place_of, row_end, chunk_of, left_quad, right_quad, finish.
//
// Memory:
//   x     [m, k], x_stride elements apart from x_offset on
//   sums  tiles of 64 × 64 integers of four words, the lowest first, in units of 2⁻⁷²
//   state two words: sums that were not finite, and results that do not fit 128 bits
// Tile (a, b), a ≤ b, has number b(b + 1)/2 + a. This dispatch takes the tiles from tile0 on.
//
// At most 64 products are added in f32. The sum then becomes an integer, which is exact but for what lies
// below the unit, and is added. So batches add up exactly, and in any order.

struct GramParams {
    k: u32,        // columns
    x_offset: u32, // the first element of X
    x_stride: u32, // elements from one row of X to the next
    m0: u32,       // first row of X of this segment
    m_cap: u32,    // rows of X in it at most
    tile0: u32,    // the first tile of this segment
    tiles: u32,    // tiles of it
    sums_at: u32,  // the first integer of it
    state_at: u32, // the first word of the state
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: GramParams;
@group(0) @binding(4) var<storage, read_write> sums: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> state: array<atomic<u32>>;

struct Place {
    live: bool,
    row: u32,    // the first row of the tile, a column of X
    column: u32, // its first column
    tile: u32,   // its number in this segment
    first: u32,  // the first row of X
    end: u32,    // the end of the rows of X
}

fn place_of(tile: u32) -> Place {
    let index = p.tile0 + tile;
    // The root of an f32 may be off by one.
    var b = u32((sqrt(8.0 * f32(index) + 1.0) - 1.0) * 0.5);
    b = select(b, b - 1u, b > 0u && b * (b + 1u) / 2u > index);
    b = select(b, b + 1u, (b + 1u) * (b + 2u) / 2u <= index);
    let a = index - b * (b + 1u) / 2u;
    let recorded = recorded_count();
    let end = min(select(0u, recorded - p.m0, recorded > p.m0), p.m_cap);
    return Place(tile < p.tiles, 64u * a, 64u * b, tile, 0u, end);
}

fn row_end() -> u32 {
    return p.k;
}

fn chunk_of() -> u32 {
    return 64u;
}

fn quad(row: u32, end: u32, column: u32) -> vec4<f32> {
    let values = load_x4(p.x_offset + min(row, end - 1u) * p.x_stride, column);
    return select(vec4<f32>(0.0), values, row < end);
}

fn left_quad(place: Place, row: u32, end: u32, i: u32) -> vec4<f32> {
    return quad(row, end, place.row + i);
}

fn right_quad(place: Place, row: u32, end: u32, j: u32) -> vec4<f32> {
    return quad(row, end, place.column + j);
}

fn finish(place: Place, i: u32, j: u32, values: vec4<f32>) {
    let at = p.sums_at + 4096u * place.tile + 64u * i + j;
    for (var c = 0u; c < 4u; c += 1u) {
        add(at + c, bitcast<u32>(values[c]));
    }
}

const INFINITY = 0x7f800000u;

// Adds the f32 with these bits.
fn add(at: u32, bits: u32) {
    let magnitude = bits & 0x7fffffffu;
    if (magnitude >= INFINITY) {
        atomicAdd(&state[p.state_at], 1u);
        return;
    }
    // The significand times 2^(exponent − 150) is the significand times 2^(exponent − 78) units. Subnormals
    // are far below half a unit.
    let exponent = magnitude >> 23u;
    let significand = (magnitude & 0x007fffffu) | 0x00800000u;
    let left = select(0u, exponent - 78u, exponent > 78u);
    let right = min(select(0u, 78u - exponent, exponent < 78u), 31u);
    // 2¹²⁷ units.
    if (left > 103u) {
        atomicAdd(&state[p.state_at + 1u], 1u);
        return;
    }
    // To nearest; half a unit goes away from 0.
    let half = select(0u, (significand >> (max(right, 1u) - 1u)) & 1u, right > 0u);
    let whole = (significand >> right) + half;
    let low = whole << (left & 31u);
    let high = select(0u, whole >> (32u - (left & 31u)), (left & 31u) > 0u);
    let word = left >> 5u;
    var x = vec4<u32>(
        select(0u, low, word == 0u),
        select(select(0u, high, word == 0u), low, word == 1u),
        select(select(0u, high, word == 1u), low, word == 2u),
        select(select(0u, high, word == 2u), low, word == 3u),
    );
    // −x is the complement of x, plus 1, which enters as the first carry.
    let negative = bits >> 31u;
    x = x ^ vec4<u32>(0u - negative);
    let old = sums[at];
    let s0 = old.x + x.x;
    let t0 = s0 + negative;
    let c0 = select(0u, 1u, s0 < x.x) + select(0u, 1u, t0 < s0);
    let s1 = old.y + x.y;
    let t1 = s1 + c0;
    let c1 = select(0u, 1u, s1 < x.y) + select(0u, 1u, t1 < s1);
    let s2 = old.z + x.z;
    let t2 = s2 + c1;
    let c2 = select(0u, 1u, s2 < x.z) + select(0u, 1u, t2 < s2);
    let t3 = old.w + x.w + c2;
    // Two numbers of one sign, and a sum of the other.
    if (((~(old.w ^ x.w) & (old.w ^ t3)) >> 31u) == 1u) {
        atomicAdd(&state[p.state_at + 1u], 1u);
    }
    sums[at] = vec4<u32>(t0, t1, t2, t3);
}
