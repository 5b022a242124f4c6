// The kernels that observe X share these parameters and the tile of 256 rows (TILE_ROWS) and 32
// columns.
//
// Requires: lib/dispatch, x, const TILE_ROWS.
// Implements: parameters.
// Provides: p, y, Tile, tile_of, WORKGROUP, ROW_LANES, INFINITY, NONE, bits_at, columns_of,
// channel_of, keys_of, magnitude_of_key, min_at, max_at, sum_at, counts_at.
//
// Everything is integer arithmetic on the bits, so that all devices and the host observe the same.
// Subnormals, which devices may flush, count as 0, and −0 counts as +0.
//
// Memory, in u32 words:
//   x   [m, k], x_stride elements apart from x_offset on
//   y   from y_offset on: NaN, infinities, index of the first of either or 0xffffffff, 0; keys of
//       min [C], keys of max [C], sums [C] as pairs low, high; counts [C, bins_2]
// C is k if every column is observed by itself, else 1.
//
// Why a tile: 64 lanes are eight quads of columns by eight rows, so that the values of a column meet
// in workgroup memory and need one atomic on y a tile; and 256 numbers of 24 bits add up to less than
// 2³².

struct Params {
    k: u32,         // columns
    blocks: u32,    // ⌈k/32⌉
    channels: u32,  // k by columns, else 1
    by_column: u32, // whether each column is a channel
    x_offset: u32,  // the first element of X
    x_stride: u32,  // elements from one row of X to the next
    y_offset: u32,  // the first word of the observation
    words: u32,     // words of it
    m0: u32,        // first row of X of this segment
    m_cap: u32,     // rows of X in it at most
    bins_2: u32,    // bins below and above 0
    bins_log: u32,  // log2 of the bins on one side of 0
    least: u32,     // exponent that bins reach at least
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(4) var<storage, read_write> y: array<atomic<u32>>;

const WORKGROUP = 64u;
const ROW_LANES = 8u;
const INFINITY = 0x7f800000u;
const NONE = 0xffffffffu;

// Rows [first, end) and the columns from `column` on of a lane; there is none where end is 0.
struct Tile {
    first: u32,
    end: u32,
    block: u32,
    column: u32,
}

fn tile_of(group: vec3<u32>, count: vec3<u32>, local: u32) -> Tile {
    let index = workgroup_index(group, count);
    let block = index % p.blocks;
    let first = TILE_ROWS * (index / p.blocks);
    let end = min(min(recorded_count() - p.m0, p.m_cap), first + TILE_ROWS);
    return Tile(first + local / ROW_LANES, end, block, 32u * block + 4u * (local % ROW_LANES));
}

fn bits_at(row: u32, column: u32) -> vec4<u32> {
    return bitcast<vec4<u32>>(load_x4(p.x_offset + row * p.x_stride, column));
}

fn columns_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column, column + 1u, column + 2u, column + 3u);
}

fn channel_of(column: u32) -> u32 {
    return select(0u, column, p.by_column != 0u);
}

fn magnitudes_of(bits: vec4<u32>) -> vec4<u32> {
    let magnitudes = bits & vec4<u32>(0x7fffffffu);
    return select(magnitudes, vec4<u32>(0u), magnitudes < vec4<u32>(0x00800000u));
}

// In the order of the numbers: positive ones above 2³¹, negative ones turned round below it.
fn keys_of(bits: vec4<u32>) -> vec4<u32> {
    let magnitudes = magnitudes_of(bits);
    let negative = (bits >> vec4<u32>(31u)) * min(magnitudes, vec4<u32>(1u));
    let key = vec4<u32>(0x80000000u) + magnitudes;
    return select(key, vec4<u32>(0x7fffffffu) - magnitudes, negative == vec4<u32>(1u));
}

// The magnitude of what has this key.
fn magnitude_of_key(key: u32) -> u32 {
    return select(0x7fffffffu - key, key - 0x80000000u, key >= 0x80000000u);
}

fn min_at(channel: u32) -> u32 {
    return p.y_offset + 4u + channel;
}

fn max_at(channel: u32) -> u32 {
    return p.y_offset + 4u + p.channels + channel;
}

fn sum_at(channel: u32) -> u32 {
    return p.y_offset + 4u + 2u * p.channels + 2u * channel;
}

fn counts_at(channel: u32) -> u32 {
    return p.y_offset + 4u + 4u * p.channels + p.bins_2 * channel;
}
