// Draws a column of each row at random: column i with a probability proportional to exp(x_i / temperature),
// among those that top-k and top-p keep.
//
// Requires: sample/keys, sample/philox, lib/dispatch, x, const WORKGROUP.
// Provides: main, one workgroup a row.
// Workgroup memory: WORKGROUP · 32 bytes, and 16.
//
// Memory, in u32 words from settings_at on: temperature, top_p (f32), top_k, an unused word, the seed and
// the step (low word first). A temperature of 0 or less takes the largest.
//
// Top-k keeps what is at least the k-th largest number. Of that, top-p keeps what is at least the largest
// number for which all that are as large have a share of top_p. Both thresholds are found as keys, four
// bits at a time: each pass sums what is at least each of sixteen keys.
//
// Weights relative to the largest are then multiples of 2⁻³¹, whose sums are exact in 64 bits and thus
// agree in any order. A random share of their sum is the place of the token: each level of the search
// divides the columns among the lanes.
//
// Why the loops over columns are not left out by a branch: barriers must be in uniform control flow, and
// settings are not known to be uniform. Loops that are not needed have no columns.

@group(0) @binding(4) var<storage, read> settings: array<u32>;

var<workgroup> tallies: array<vec4<f32>, WORKGROUP>;
var<workgroup> low_sums: array<u32, WORKGROUP>;
var<workgroup> high_sums: array<u32, WORKGROUP>;
// The quads that hold the token: the first, their number; the sum of weights before the token in them.
var<workgroup> place: array<u32, 4>;

struct Weighing {
    x_at: u32,
    // The largest number and its key.
    top: f32,
    top_key: u32,
    inverse_temperature: f32,
    // The least key that counts.
    least: u32,
}

fn float_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key ^ 0x80000000u, key >= 0x80000000u));
}

// Weights of four columns relative to the largest: from 0 to 1.
fn weights4(how: Weighing, x: vec4<f32>, keys: vec4<u32>) -> vec4<f32> {
    let below = (x - how.top) * how.inverse_temperature;
    // An infinity less another would be no number.
    let power = select(max(below, vec4<f32>(-87.0)), vec4<f32>(0.0), keys == vec4<u32>(how.top_key));
    return select(vec4<f32>(0.0), exp(power), keys >= vec4<u32>(how.least));
}

fn tally_sum(value: vec4<f32>, local: u32) -> vec4<f32> {
    workgroupBarrier();
    tallies[local] = value;
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (local < width) {
            tallies[local] += tallies[local + width];
        }
    }
    workgroupBarrier();
    return tallies[0];
}

fn counted(at_least: vec4<u32>, keys: vec4<u32>, amounts: vec4<f32>) -> vec4<f32> {
    let none = vec4<f32>(0.0);
    return (select(none, vec4<f32>(amounts.x), vec4<u32>(keys.x) >= at_least)
        + select(none, vec4<f32>(amounts.y), vec4<u32>(keys.y) >= at_least))
        + (select(none, vec4<f32>(amounts.z), vec4<u32>(keys.z) >= at_least)
        + select(none, vec4<f32>(amounts.w), vec4<u32>(keys.w) >= at_least));
}

fn reached(sums: vec4<f32>, goal: f32) -> u32 {
    let hits = select(vec4<u32>(0u), vec4<u32>(1u), sums >= vec4<f32>(goal));
    return (hits.x + hits.y) + (hits.z + hits.w);
}

// Returns the largest key for which the keys that are at least as large have a count of `goal`, or if
// `by_weight` that share of all weights. If there is none, it is 0.
fn threshold(how: Weighing, by_weight: bool, goal: f32, end: u32, local: u32) -> u32 {
    var least = 0u;
    var wanted = goal;
    for (var digit = 0u; digit < 8u; digit += 1u) {
        let shift = 28u - 4u * digit;
        let t0 = vec4<u32>(least) + (vec4<u32>(0u, 1u, 2u, 3u) << vec4<u32>(shift));
        let t1 = t0 + vec4<u32>(4u << shift);
        let t2 = t1 + vec4<u32>(4u << shift);
        let t3 = t2 + vec4<u32>(4u << shift);
        var s0 = vec4<f32>(0.0);
        var s1 = vec4<f32>(0.0);
        var s2 = vec4<f32>(0.0);
        var s3 = vec4<f32>(0.0);
        for (var column = 4u * local; column < end; column += 4u * WORKGROUP) {
            let x = load_x4(how.x_at, column);
            let keys = keys4(x, column);
            let one = select(vec4<f32>(0.0), vec4<f32>(1.0), keys > vec4<u32>(0u));
            let amounts = select(one, weights4(how, x, keys), by_weight);
            s0 += counted(t0, keys, amounts);
            s1 += counted(t1, keys, amounts);
            s2 += counted(t2, keys, amounts);
            s3 += counted(t3, keys, amounts);
        }
        s0 = tally_sum(s0, local);
        s1 = tally_sum(s1, local);
        s2 = tally_sum(s2, local);
        s3 = tally_sum(s3, local);
        if (by_weight && digit == 0u) {
            wanted = goal * s0.x;
        }
        // Sums fall as keys rise, so that those which reach the goal come first.
        let count = reached(s0, wanted) + reached(s1, wanted) + reached(s2, wanted)
            + reached(s3, wanted);
        least += (max(count, 1u) - 1u) << shift;
    }
    return least;
}

fn add_wide(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn is_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn subtract_wide(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn steps4(how: Weighing, quad: u32) -> vec4<u32> {
    let x = load_x4(how.x_at, 4u * quad);
    return vec4<u32>(weights4(how, x, keys4(x, 4u * quad)) * 2147483648.0);
}

// Returns the column at a share of random/2³² of all weights, to the first lane.
fn draw(how: Weighing, random: u32, local: u32) -> u32 {
    var first = 0u;
    var quads = (p.k + 3u) / 4u;
    // The weights before the token among these quads; only the first lane keeps it.
    var rest = vec2<u32>(0u);
    for (var level = 0u; level < p.levels; level += 1u) {
        let each = (quads + WORKGROUP - 1u) / WORKGROUP;
        let from_quad = min(local * each, quads);
        let end = min(from_quad + each, quads);
        var sum = vec2<u32>(0u);
        for (var quad = first + from_quad; quad < first + end; quad += 1u) {
            let steps = steps4(how, quad);
            sum = add_wide(sum, vec2<u32>(steps.x, 0u));
            sum = add_wide(sum, vec2<u32>(steps.y, 0u));
            sum = add_wide(sum, vec2<u32>(steps.z, 0u));
            sum = add_wide(sum, vec2<u32>(steps.w, 0u));
        }
        low_sums[local] = sum.x;
        high_sums[local] = sum.y;
        workgroupBarrier();
        if (local == 0u) {
            if (level == 0u) {
                var all = vec2<u32>(0u);
                for (var lane = 0u; lane < WORKGROUP; lane += 1u) {
                    all = add_wide(all, vec2<u32>(low_sums[lane], high_sums[lane]));
                }
                // The product with random/2³² without its fraction.
                rest = wide_product(all.y, random);
                rest = add_wide(rest, vec2<u32>(wide_product(all.x, random).y, 0u));
            }
            var lane = 0u;
            for (; lane + 1u < WORKGROUP; lane += 1u) {
                let part = vec2<u32>(low_sums[lane], high_sums[lane]);
                if (is_less(rest, part)) {
                    break;
                }
                rest = subtract_wide(rest, part);
            }
            let skipped = min(lane * each, quads - 1u);
            place[0] = first + skipped;
            place[1] = min(each, quads - skipped);
        }
        workgroupBarrier();
        first = place[0];
        quads = place[1];
    }
    let steps = steps4(how, first);
    var column = 4u * first;
    for (var i = 0u; i < 3u; i += 1u) {
        let part = vec2<u32>(steps[i], 0u);
        if (is_less(rest, part)) {
            break;
        }
        rest = subtract_wide(rest, part);
        column += 1u;
    }
    return column;
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = workgroup_index(group, count);
    if (row >= row_count()) {
        return;
    }
    let x_at = p.x_at + row * p.x_stride;
    let best = largest(x_at, local);
    let at = p.settings_at;
    let temperature = bitcast<f32>(settings[at]);
    let top_p = bitcast<f32>(settings[at + 1u]);
    let top_k = settings[at + 2u];
    let greedy = !(temperature > 0.0) || best.x == 0u;
    let inverse = 1.0 / select(temperature, 1.0, greedy);
    var how = Weighing(x_at, float_of(best.x), best.x, inverse, 1u);
    let limited = !greedy && top_k > 0u && top_k < p.k;
    let of_counts = threshold(how, false, f32(top_k), select(0u, p.k, limited), local);
    if (limited) {
        how.least = clamp(of_counts, 1u, best.x);
    }
    let nucleus = !greedy && top_p < 1.0;
    let of_weights = threshold(how, true, top_p, select(0u, p.k, nucleus), local);
    if (nucleus) {
        how.least = clamp(of_weights, how.least, best.x);
    }
    let key = vec2<u32>(settings[at + 4u], settings[at + 5u]);
    let counter = vec4<u32>(p.m0 + row, 0u, settings[at + 6u], settings[at + 7u]);
    let drawn = draw(how, philox(counter, key).x, local);
    if (local == 0u) {
        tokens[p.token_at + row] = select(drawn, best.y, greedy);
    }
}
