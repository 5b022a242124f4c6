// What all kernels of attention share: parameters, rows, queries and what they see, scores, and
// where results go.
//
// Requires: attention/octet, lib/dispatch, lib/half, const M_TABLE, const QUERIES.
// Provides: AttentionParams, Query, Tile, Sight, row_count, tile_of, query_of, sight_of, parts_used,
//   slots_of_part, key_row, value_row, octets, is_whole, query_octet, score, bias_of, decay, reciprocal, put_octet, put_quad, y_quad, put_part,
//   put_part_octet, part_at.
//
// A query is a row and one of the heads that share a head of the cache. A tile is QUERIES queries of
// one head of the cache: neighboring ones of all rows, or if there are parts, of a single row.
//
// Memory:
//   q        [rows, heads, head_dim], f32 or f16 in pairs, strides and offset in elements
//   keys, values  caches [kv_heads, slots, row_words], then scales [kv_heads, slots]
//   rows     [rows] of (position, slot, first, end): the row sees slots first to end − 1
//   y        [rows, heads, head_dim] as q
//   scratch  [rows, heads, parts, 4 + head_dim] f32: maximum, sum, two unused words, and the sum of
//            values, of each part

struct AttentionParams {
    heads: u32,      // heads of queries
    kv_heads: u32,   // heads of keys and values
    group: u32,      // heads / kv_heads
    head_dim: u32,   // columns of a head
    slots: u32,      // tokens that the cache has room for
    row_words: u32,  // words of a row of the cache
    keys_at: u32,    // the first word in `keys`
    values_at: u32,  // the first word of values
    scales_at: u32,  // after that
    q_at: u32,       // the first element of queries
    q_stride: u32,   // elements from one row of queries to the next
    q_f16: u32,      // 1 if q is f16
    y_at: u32,       // the first element of Y
    y_stride: u32,   // elements from one row of Y to the next
    y_f16: u32,      // 1 if Y is f16
    rows_at: u32,    // the first row in `rows`
    m0: u32,         // rows of earlier segments
    m_cap: u32,      // rows of this segment, at most
    by_row: u32,     // 1 if a tile has queries of one row only
    parts: u32,      // parts of a row that there is room for
    part_slots: u32, // slots of a part, at least
    scale: f32,      // what scores are multiplied by
    cap: f32,        // of scores; 0 if there is none
    reach: u32,      // of the bias
    bias_at: u32,    // the first element of the bias
    biased: u32,     // 1 if there is one
    hadamard: u32,   // columns of a block of the inverse Hadamard transform of results; 1 if there is none
    root: f32,       // 1/√hadamard
    scratch_at: u32, // the first quad of the scratch
}

@group(0) @binding(0) var<uniform> p: AttentionParams;
@group(0) @binding(3) var<storage, read> q: array<u32>;
@group(0) @binding(6) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read_write> y: array<u32>;
@group(0) @binding(9) var<storage, read_write> scratch: array<vec4<f32>>;

// The least score of an f32.
const LOWEST = -3.4028234e38;

// Scores further below the maximum than this count as this far: e to it is next to nothing.
const FAR = -100.0;

struct Query {
    row: u32,
    head: u32,
    slot: u32,  // of the row itself
    first: u32, // it sees slots first to end − 1
    end: u32,
    live: bool, // false past the last query, which it repeats
}

// The range of slots that a workgroup handles, and its part.
struct Tile {
    live: bool,
    kv_head: u32,
    row: u32,    // of all queries, if there are parts
    first_query: u32,
    queries: u32,
    part: u32,
}

fn row_count() -> u32 {
    return min(recorded_count() - p.m0, p.m_cap);
}

fn tile_of(index: u32) -> Tile {
    let rows = row_count();
    let by_row = p.by_row == 1u;
    let queries = select(rows, 1u, by_row) * p.group;
    let tiles = (queries + QUERIES - 1u) / QUERIES;
    let rest = index / p.parts;
    let kv_head = rest % p.kv_heads;
    let unit = rest / p.kv_heads / tiles;
    let tile = rest / p.kv_heads % tiles;
    let live = unit < select(1u, rows, by_row);
    return Tile(live, kv_head, unit, tile * QUERIES, queries, index % p.parts);
}

fn query_of(tile: Tile, i: u32) -> Query {
    let n = min(tile.first_query + i, tile.queries - 1u);
    let row = tile.row + n / p.group;
    let r = rows[p.rows_at + row];
    let end = min(r.w, p.slots);
    let first = min(r.z, end);
    let live = tile.first_query + i < tile.queries;
    return Query(row, tile.kv_head * p.group + n % p.group, r.y, first, end, live);
}

// What the queries of a tile see.
struct Sight {
    begin: u32, // some query sees slots from `begin` to `end` − 1
    end: u32,
    all_from: u32, // all see those from `all_from` to `all_to` − 1
    all_to: u32,
}

fn sight_of(tile: Tile) -> Sight {
    var sight = Sight(p.slots, 0u, 0u, p.slots);
    for (var i = 0u; i < QUERIES; i += 1u) {
        let query = query_of(tile, i);
        if (query.first < query.end) {
            sight.begin = min(sight.begin, query.first);
            sight.end = max(sight.end, query.end);
        }
        sight.all_from = max(sight.all_from, query.first);
        sight.all_to = min(sight.all_to, query.end);
    }
    sight.end = max(sight.begin, sight.end);
    return sight;
}

// The number of slots of a part, if a row sees `seen` slots: whole steps of 64.
fn slots_of_part(seen: u32) -> u32 {
    let used = clamp((seen + p.part_slots - 1u) / p.part_slots, 1u, p.parts);
    return max((seen + used - 1u) / used + 63u, 64u) / 64u * 64u;
}

// The number of parts that have slots, at least one.
fn parts_used(seen: u32) -> u32 {
    let each = slots_of_part(seen);
    return max((seen + each - 1u) / each, 1u);
}

// Where the results of a part are in scratch.
fn part_at(row: u32, head: u32, part: u32) -> u32 {
    let before = ((p.m0 + row) * p.heads + head) * p.parts + part;
    return p.scratch_at + before * (1u + p.head_dim / 4u);
}

fn key_row(kv_head: u32, slot: u32) -> u32 {
    return p.keys_at + (kv_head * p.slots + slot) * p.row_words;
}

fn value_row(kv_head: u32, slot: u32) -> u32 {
    return p.values_at + (kv_head * p.slots + slot) * p.row_words;
}

fn octets() -> u32 {
    return (p.head_dim + 7u) / 8u;
}

// Whether all eight columns exist.
fn is_whole(o: u32) -> bool {
    return 8u * o + 8u <= p.head_dim;
}

// Columns 8o to 8o + 7 of a query; 0 past the end.
fn query_octet(query: Query, o: u32) -> Octet {
    let at = p.q_at + query.row * p.q_stride + query.head * p.head_dim + 8u * o;
    let upper = select(0u, 4u, is_whole(o));
    var octet: Octet;
    if (p.q_f16 == 1u) {
        let word = at / 2u;
        let next = word + upper / 2u;
        octet = Octet(
            vec4<f32>(pair_of(q[word]), pair_of(q[word + 1u])),
            vec4<f32>(pair_of(q[next]), pair_of(q[next + 1u])),
        );
    } else {
        let next = at + upper;
        octet = Octet(
            bitcast<vec4<f32>>(vec4<u32>(q[at], q[at + 1u], q[at + 2u], q[at + 3u])),
            bitcast<vec4<f32>>(vec4<u32>(q[next], q[next + 1u], q[next + 2u], q[next + 3u])),
        );
    }
    octet.high = select(vec4<f32>(0.0), octet.high, upper == 4u);
    return octet;
}

fn pair_of(word: u32) -> vec2<f32> {
    return vec2<f32>(half_to_f32(word & 0xffffu), half_to_f32(word >> 16u));
}

// The score of a slot without its bias, from the product of query and key.
fn score(product: f32) -> f32 {
    let s = product * p.scale;
    if (p.cap > 0.0) {
        // The hyperbolic tangent: built-in ones may be off by 1e-5.
        let x = clamp(s / p.cap, -10.0, 10.0);
        return p.cap * (1.0 - 2.0 / (exp(2.0 * x) + 1.0));
    }
    return s;
}

fn bias_of(query: Query, slot: u32) -> f32 {
    if (p.biased == 0u) {
        return 0.0;
    }
    let reach = i32(p.reach);
    let distance = clamp(i32(slot) - i32(query.slot), -reach, reach) + reach;
    return bias[p.bias_at + query.head * (2u * p.reach + 1u) + u32(distance)];
}

// e to the distance of a score from the maximum, exactly 1 at the maximum.
fn decay(distance: f32) -> f32 {
    return select(exp(max(distance, FAR)), 1.0, distance == 0.0);
}

fn reciprocal(sum: f32) -> f32 {
    return select(1.0 / sum, 1.0, sum == 1.0);
}

// Stores columns 8o to 8o + 7 of a result.
fn put_octet(query: Query, o: u32, v: Octet) {
    put_quad(query.row, query.head, 2u * o, v.low);
    if (is_whole(o)) {
        put_quad(query.row, query.head, 2u * o + 1u, v.high);
    }
}

fn put_quad(row: u32, head: u32, quad: u32, v: vec4<f32>) {
    let at = p.y_at + row * p.y_stride + head * p.head_dim + 4u * quad;
    if (p.y_f16 == 1u) {
        y[at / 2u] = f32_to_half(v.x) | (f32_to_half(v.y) << 16u);
        y[at / 2u + 1u] = f32_to_half(v.z) | (f32_to_half(v.w) << 16u);
    } else {
        y[at] = bitcast<u32>(v.x);
        y[at + 1u] = bitcast<u32>(v.y);
        y[at + 2u] = bitcast<u32>(v.z);
        y[at + 3u] = bitcast<u32>(v.w);
    }
}

fn y_quad(row: u32, head: u32, quad: u32) -> vec4<f32> {
    let at = p.y_at + row * p.y_stride + head * p.head_dim + 4u * quad;
    if (p.y_f16 == 1u) {
        return vec4<f32>(pair_of(y[at / 2u]), pair_of(y[at / 2u + 1u]));
    }
    return bitcast<vec4<f32>>(vec4<u32>(y[at], y[at + 1u], y[at + 2u], y[at + 3u]));
}

// Stores a part of a query: its maximum, its sum, and columns of the sum of values.
fn put_part(query: Query, part: u32, m: f32, sum: f32) {
    scratch[part_at(query.row, query.head, part)] = vec4<f32>(m, sum, 0.0, 0.0);
}

fn put_part_octet(query: Query, part: u32, o: u32, v: Octet) {
    let at = part_at(query.row, query.head, part) + 1u + 2u * o;
    scratch[at] = v.low;
    if (is_whole(o)) {
        scratch[at + 1u] = v.high;
    }
}
