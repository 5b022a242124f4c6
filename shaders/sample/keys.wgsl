// Numbers as keys that have their order, and the largest of a row.
//
// Requires: lib/dispatch, x, const WORKGROUP.
// Implements: parameters.
// Provides: SampleParams, p, tokens, row_count, columns4, keys4, largest.
// Workgroup memory: WORKGROUP · 8 bytes.
//
// Memory:
//   x        [rows, k], strides in elements, from element x_at on
//   tokens   [rows] u32 from word token_at on
// The number of rows is known when it is recorded, and the two digits at bindings 1 and 2 carry it; m0
// of these rows belong to earlier segments.
//
// Keys are integers, so that no float is compared: a compiler may assume that none is NaN. A NaN has the
// key 0, below all others; both zeros have the same.

struct SampleParams {
    k: u32,           // columns
    levels: u32,      // of the search for a token: WORKGROUP to this power is at least the number of quads
    m0: u32,          // of the counted rows, how many belong to earlier segments
    m_cap: u32,       // rows of this segment, at most
    x_at: u32,        // the first element of the segment in `x`
    x_stride: u32,    // elements from one row of X to the next
    token_at: u32,    // the first word of the segment in `tokens`
    settings_at: u32, // the first word of `settings`
}

@group(0) @binding(0) var<uniform> p: SampleParams;
@group(0) @binding(5) var<storage, read_write> tokens: array<u32>;

var<workgroup> best_keys: array<u32, WORKGROUP>;
var<workgroup> best_columns: array<u32, WORKGROUP>;

fn row_count() -> u32 {
    return min(recorded_count() - p.m0, p.m_cap);
}

fn columns4(column: u32) -> vec4<u32> {
    return vec4<u32>(column, column + 1u, column + 2u, column + 3u);
}

// The keys of four columns; past the last 0.
fn keys4(x: vec4<f32>, column: u32) -> vec4<u32> {
    var bits = bitcast<vec4<u32>>(x);
    bits = select(bits, vec4<u32>(0u), bits == vec4<u32>(0x80000000u));
    let negative = (bits >> vec4<u32>(31u)) == vec4<u32>(1u);
    let keys = bits ^ select(vec4<u32>(0x80000000u), vec4<u32>(0xffffffffu), negative);
    let some = (bits & vec4<u32>(0x7fffffffu)) <= vec4<u32>(0x7f800000u);
    return select(vec4<u32>(0u), keys, some & (columns4(column) < vec4<u32>(p.k)));
}

// Returns the larger of two keys with its column; of equal keys, the one of the lower column.
fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}

// Returns the largest key of a row and the first column that has it, to every lane. If all are NaN, the key
// is 0 and the column 0xffffffff, which is no token.
fn largest(x_at: u32, local: u32) -> vec2<u32> {
    var keys = vec4<u32>(0u);
    var first = vec4<u32>(0u);
    for (var column = 4u * local; column < p.k; column += 4u * WORKGROUP) {
        let found = keys4(load_x4(x_at, column), column);
        let more = found > keys;
        keys = select(keys, found, more);
        first = select(first, columns4(column), more);
    }
    let low = better(vec2<u32>(keys.x, first.x), vec2<u32>(keys.y, first.y));
    let high = better(vec2<u32>(keys.z, first.z), vec2<u32>(keys.w, first.w));
    let own = better(low, high);
    best_keys[local] = own.x;
    best_columns[local] = own.y;
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local < width) {
            let mine = vec2<u32>(best_keys[local], best_columns[local]);
            let other = vec2<u32>(best_keys[local + width], best_columns[local + width]);
            let best = better(mine, other);
            best_keys[local] = best.x;
            best_columns[local] = best.y;
        }
    }
    workgroupBarrier();
    let key = best_keys[0];
    return vec2<u32>(key, select(best_columns[0], 0xffffffffu, key == 0u));
}
