// Normalizes, rotates and transforms the heads of queries, keys and values of a row, and writes queries to
// an output, keys and values to their caches. One workgroup takes one head of one row.
// Requires: lib/dispatch, lib/half, half_pair, lib/hadamard, const WORKGROUP, const X_F16, const CACHE_BITS, const EXTRA, const PAIRS.
// Provides: main.
// Workgroup memory: HELD · 16 + WORKGROUP · 8 bytes.
// Caller: head_dim and rotary_dim are multiples of 4, and head_dim is at most 256.
// Caller: offsets and strides of f16 are even.
//
// Memory, in u32 words unless stated otherwise:
//   x          [m, (heads + 2 kv_heads) · head_dim] elements, x_stride apart from element x_at on: the heads
//              of the queries, then those of the keys, then those of the values
//   rows       [m, 4]: position, slot, and two words that are not read
//   angles     [positions, rotary_dim / 2] pairs of a cosine and a sine
//   q_weights, k_weights   [head_dim] f32, the weights of the norms
//   q          [m, heads · head_dim] elements, q_stride apart from element q_at on
//   keys, values           caches (format::CacheLayout) from words k_at and v_at on
//
// A slot past the cache is not written. A position past the table turns queries and keys into NaN, so that
// it shows. Every value goes to one place only, and nothing is read that another lane wrote before a
// barrier.
//
// EXTRA says whether there may be norms or transforms. PAIRS says which columns form a pair, and how they
// are loaded:
//   0  2j and 2j + 1, which are in one quad
//   1  j and rotary_dim/2 + j, where rotary_dim/2 is a multiple of 4: two quads hold four pairs
//   2  j and rotary_dim/2 + j, one by one
// What goes to q or to a cache of floats is written where it is made. What becomes codes waits in workgroup
// memory, because the largest value comes first, and so does what is transformed.
//
// Codes are floating-point arithmetic: the division may be 2.5 ulp off, so a code next to a tie may be
// either neighbor.

struct RotaryParams {
    heads: u32,         // heads of queries
    kv_heads: u32,      // heads of keys and values
    head_dim: u32,      // a multiple of 4, at most 256
    rotary_dim: u32,    // columns that are rotated, a multiple of 4; 0 for none
    positions: u32,     // positions in the table of angles
    table_at: u32,      // pairs before the table
    rows_at: u32,       // words before the rows' positions and slots
    x_at: u32,          // elements before x
    x_stride: u32,      // elements from one row of X to the next
    q_at: u32,          // elements before q
    q_stride: u32,      // elements from one row of queries to the next
    q_f16: u32,         // 1 if q is written as f16
    m0: u32,            // of the counted rows, how many belong to earlier segments
    m_cap: u32,         // rows of this segment, at most
    slots: u32,         // tokens that the cache has room for
    row_words: u32,     // words of a head of a slot
    scales_at: u32,     // words from the start of a cache to its scales
    k_at: u32,          // words before the cache of keys
    v_at: u32,          // words before the cache of values
    normed: u32,        // 1 if queries and keys have norms
    q_weights_at: u32,  // the first weight of the norm of queries
    k_weights_at: u32,  // the first weight of the norm of keys
    epsilon: f32,       // what is added to the mean square
    weight_offset: f32, // what is added to the weights of norms
    block: u32,         // columns of a block of the transform
    gain: f32,          // 1/√block
    transform_qk: u32,  // 1 if queries and keys are transformed
    transform_v: u32,   // 1 if values are
    nan: f32,           // NaN, which WGSL has no literal for
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: RotaryParams;
@group(0) @binding(3) var<storage, read> x: array<u32>;
@group(0) @binding(4) var<storage, read> rows: array<u32>;
@group(0) @binding(5) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> q_weights: array<f32>;
@group(0) @binding(7) var<storage, read> k_weights: array<f32>;
@group(0) @binding(8) var<storage, read_write> q: array<u32>;
@group(0) @binding(9) var<storage, read_write> keys: array<u32>;
@group(0) @binding(10) var<storage, read_write> values: array<u32>;

var<workgroup> sums: array<f32, WORKGROUP>;
var<workgroup> largest: array<u32, WORKGROUP>;

const QUERIES = 0u;
const KEYS = 1u;
const VALUES = 2u;

// The head that a workgroup takes.
struct Head {
    kind: u32,
    x_at: u32,      // its first element
    rotated: u32,   // columns that are rotated
    angles_at: u32, // the first pair of its position
    lost: bool,     // whether its position is past the table
    normed: bool,
    transformed: bool,
    inverse: f32,   // what the norm multiplies by, besides the weights
    y_at: u32,      // where it goes: an element of q, or a word of a cache
    scale_at: u32,  // the word of its scale in a cache
}

fn element(at: u32) -> f32 {
    if (X_F16) {
        let pair = half2_to_f32(x[at / 2u]);
        return select(pair.x, pair.y, (at & 1u) == 1u);
    }
    return bitcast<f32>(x[at]);
}

// Four elements from an even one on.
fn elements(at: u32) -> vec4<f32> {
    if (X_F16) {
        return vec4<f32>(half2_to_f32(x[at / 2u]), half2_to_f32(x[at / 2u + 1u]));
    }
    return bitcast<vec4<f32>>(vec4<u32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]));
}

// The weights of columns c to c + 3 of a norm.
fn weights(kind: u32, c: u32) -> vec4<f32> {
    if (kind == QUERIES) {
        let at = p.q_weights_at + c;
        return vec4<f32>(q_weights[at], q_weights[at + 1u], q_weights[at + 2u], q_weights[at + 3u])
            + p.weight_offset;
    }
    let at = p.k_weights_at + c;
    return vec4<f32>(k_weights[at], k_weights[at + 1u], k_weights[at + 2u], k_weights[at + 3u])
        + p.weight_offset;
}

// Columns c to c + 3 of a head, normalized.
fn columns(h: Head, c: u32) -> vec4<f32> {
    let v = elements(h.x_at + c);
    if (EXTRA && h.normed) {
        return v * h.inverse * weights(h.kind, c);
    }
    return v;
}

// One column, normalized.
fn column(h: Head, c: u32) -> f32 {
    var v = element(h.x_at + c);
    if (EXTRA && h.normed) {
        let at = vec2<u32>(p.q_weights_at, p.k_weights_at) + c;
        let weight = select(k_weights[at.y], q_weights[at.x], h.kind == QUERIES);
        v = v * h.inverse * (weight + p.weight_offset);
    }
    return v;
}

// Rotates the first columns of pairs: x·cos − x'·sin. The second ones are x'·cos + x·sin.
fn turn(h: Head, v: vec4<f32>, other: vec4<f32>, cosines: vec4<f32>, sines: vec4<f32>) -> vec4<f32> {
    return select(v * cosines + other * sines, vec4<f32>(p.nan), h.lost);
}

// Rotates adjacent pairs, two in a quad.
fn rotate_adjacent(h: Head, c: u32) {
    let v = columns(h, c);
    let a = angles[h.angles_at + c / 2u];
    let b = angles[h.angles_at + c / 2u + 1u];
    let other = vec4<f32>(-v.y, v.x, -v.w, v.z);
    emit(h, c, turn(h, v, other, vec4<f32>(a.xx, b.xx), vec4<f32>(a.yy, b.yy)));
}

// Rotates four pairs whose columns are `half` apart and in two quads.
fn rotate_quads(h: Head, c: u32, half: u32) {
    let v = columns(h, c);
    let w = columns(h, c + half);
    let at = h.angles_at + c;
    let a = angles[at];
    let b = angles[at + 1u];
    let d = angles[at + 2u];
    let e = angles[at + 3u];
    let cosines = vec4<f32>(a.x, b.x, d.x, e.x);
    let sines = vec4<f32>(a.y, b.y, d.y, e.y);
    emit(h, c, turn(h, v, -w, cosines, sines));
    emit(h, c + half, turn(h, w, v, cosines, sines));
}

// Rotates a quad whose columns have the others of their pairs anywhere.
fn rotate_columns(h: Head, c: u32, half: u32) {
    var quad = array<f32, 4>();
    for (var i = 0u; i < 4u; i += 1u) {
        let second = c + i >= half;
        let other = column(h, select(c + i + half, c + i - half, second));
        let angle = angles[h.angles_at + select(c + i, c + i - half, second)];
        quad[i] = column(h, c + i) * angle.x + select(-other, other, second) * angle.y;
    }
    let v = vec4<f32>(quad[0], quad[1], quad[2], quad[3]);
    emit(h, c, select(v, vec4<f32>(p.nan), h.lost));
}

fn put(kind: u32, at: u32, word: u32) {
    if (kind == KEYS) {
        keys[at] = word;
    } else {
        values[at] = word;
    }
}

// Columns c to c + 3 of a head, as floats.
fn put_floats(h: Head, c: u32, v: vec4<f32>) {
    let pairs = vec2<u32>(
        f32_to_half(v.x) | (f32_to_half(v.y) << 16u),
        f32_to_half(v.z) | (f32_to_half(v.w) << 16u),
    );
    let words = bitcast<vec4<u32>>(v);
    if (h.kind == QUERIES) {
        if (p.q_f16 == 1u) {
            let at = (h.y_at + c) / 2u;
            q[at] = pairs.x;
            q[at + 1u] = pairs.y;
        } else {
            let at = h.y_at + c;
            q[at] = words.x;
            q[at + 1u] = words.y;
            q[at + 2u] = words.z;
            q[at + 3u] = words.w;
        }
    } else if (CACHE_BITS == 16u) {
        let at = h.y_at + c / 2u;
        put(h.kind, at, pairs.x);
        put(h.kind, at + 1u, pairs.y);
    } else {
        let at = h.y_at + c;
        put(h.kind, at, words.x);
        put(h.kind, at + 1u, words.y);
        put(h.kind, at + 2u, words.z);
        put(h.kind, at + 3u, words.w);
    }
}

// Takes columns c to c + 3 where they go next.
fn emit(h: Head, c: u32, v: vec4<f32>) {
    if (EXTRA && h.transformed) {
        held[c / 4u] = within_quad(v * p.gain, p.block);
    } else if (CACHE_BITS < 16u && h.kind != QUERIES) {
        held[c / 4u] = v;
    } else {
        put_floats(h, c, v);
    }
}

// What the norm of a head multiplies by. A sum of squares that is not finite gives NaN.
fn inverse_norm(h: Head, local: u32) -> f32 {
    var sum = 0.0;
    for (var c = 4u * local; c < p.head_dim; c += 4u * WORKGROUP) {
        let v = elements(h.x_at + c);
        sum += dot(v, v);
    }
    sums[local] = sum;
    workgroupBarrier();
    sum = 0.0;
    for (var i = 0u; i < WORKGROUP; i += 1u) {
        sum += sums[i];
    }
    let inverse = inverseSqrt(sum / f32(p.head_dim) + p.epsilon);
    let finite = (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u;
    return select(p.nan, inverse, finite);
}

// The bits of the largest magnitude of a quad. Those of infinities and NaN are the largest.
fn magnitude(v: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// Four codes as bytes of a word.
fn codes(v: vec4<f32>, divisor: f32, most: f32) -> vec4<i32> {
    return vec4<i32>(clamp(round(v / divisor), vec4<f32>(-most), vec4<f32>(most)));
}

// Writes the codes and the scale of a head whose columns are in `held`.
fn put_codes(h: Head, local: u32) {
    var bits = 0u;
    for (var i = local; 4u * i < p.head_dim; i += WORKGROUP) {
        bits = max(bits, magnitude(held[i]));
    }
    largest[local] = bits;
    workgroupBarrier();
    for (var i = 0u; i < WORKGROUP; i += 1u) {
        bits = max(bits, largest[i]);
    }
    let most = select(7.0, 127.0, CACHE_BITS == 8u);
    var divisor = bitcast<f32>(bits) / most;
    var scale = bitcast<u32>(divisor);
    if (bits >= 0x7f800000u) {
        scale = 0x7fc00000u;
        divisor = 1.0;
    } else if (divisor < 1.1754944e-38) {
        // Such small numbers are less than half a step of 1.
        scale = 0x3f800000u;
        divisor = 1.0;
    }
    if (local == 0u) {
        put(h.kind, h.scale_at, scale);
    }
    if (CACHE_BITS == 8u) {
        for (var i = local; 4u * i < p.head_dim; i += WORKGROUP) {
            put(h.kind, h.y_at + i, pack4xI8(codes(held[i], divisor, most)));
        }
        return;
    }
    // Columns 4 to 7 of eight are in the high halves of bytes. The last four may not exist.
    for (var i = local; 8u * i < p.head_dim; i += WORKGROUP) {
        let low = codes(held[2u * i], divisor, most);
        var high = vec4<i32>(0);
        if (8u * i + 4u < p.head_dim) {
            high = codes(held[2u * i + 1u], divisor, most);
        }
        let word = pack4xI8(low + vec4<i32>(8)) | (pack4xI8(high + vec4<i32>(8)) << 4u);
        put(h.kind, h.y_at + i, word);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = workgroup_index(group, count);
    let all = p.heads + 2u * p.kv_heads;
    let row = index / all;
    if (row >= min(recorded_count() - p.m0, p.m_cap)) {
        return;
    }
    let head = index % all;
    let position = rows[p.rows_at + 4u * row];
    let slot = rows[p.rows_at + 4u * row + 1u];
    var h: Head;
    h.x_at = p.x_at + row * p.x_stride + head * p.head_dim;
    h.angles_at = p.table_at + min(position, max(p.positions, 1u) - 1u) * (p.rotary_dim / 2u);
    h.lost = position >= p.positions;
    // What decides about barriers is apart from the other members, which depend on what lanes have read.
    var kind = QUERIES;
    if (head < p.heads) {
        h.y_at = p.q_at + row * p.q_stride + head * p.head_dim;
    } else {
        if (slot >= p.slots) {
            return;
        }
        let is_value = head >= p.heads + p.kv_heads;
        kind = select(KEYS, VALUES, is_value);
        let at = (head - p.heads - select(0u, p.kv_heads, is_value)) * p.slots + slot;
        let start = select(p.k_at, p.v_at, is_value);
        h.y_at = start + at * p.row_words;
        h.scale_at = start + p.scales_at + at;
    }
    let transformed = EXTRA && select(p.transform_qk, p.transform_v, kind == VALUES) == 1u;
    let normed = EXTRA && p.normed == 1u && kind != VALUES;
    h.kind = kind;
    h.rotated = select(p.rotary_dim, 0u, kind == VALUES);
    h.transformed = transformed;
    h.normed = normed;
    if (normed) {
        h.inverse = inverse_norm(h, local);
    }
    let half = h.rotated / 2u;
    if (PAIRS == 0u) {
        for (var c = 4u * local; c < h.rotated; c += 4u * WORKGROUP) {
            rotate_adjacent(h, c);
        }
    } else if (PAIRS == 1u) {
        for (var c = 4u * local; c < half; c += 4u * WORKGROUP) {
            rotate_quads(h, c, half);
        }
    } else {
        for (var c = 4u * local; c < h.rotated; c += 4u * WORKGROUP) {
            rotate_columns(h, c, half);
        }
    }
    // The branch does not depend on the lane, so that it costs nothing where all columns rotate.
    if (h.rotated < p.head_dim) {
        for (var c = h.rotated + 4u * local; c < p.head_dim; c += 4u * WORKGROUP) {
            emit(h, c, columns(h, c));
        }
    }
    if (transformed) {
        transform(p.head_dim / 4u, p.block, local);
    }
    if (CACHE_BITS < 16u && kind != QUERIES) {
        if (!transformed) {
            workgroupBarrier();
        }
        put_codes(h, local);
    } else if (transformed) {
        for (var i = local; 4u * i < p.head_dim; i += WORKGROUP) {
            put_floats(h, 4u * i, held[i]);
        }
    }
}
