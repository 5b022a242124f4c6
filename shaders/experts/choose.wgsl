// Chooses experts for each row: the `top` largest logits, the largest first; of equal ones the lowest
// comes first. A NaN is below all numbers.
// Requires: lib/dispatch, half_pair, const LOGITS_F16.
// Provides: `main`, one invocation a row.
//
// Memory:
//   logits   [rows, experts], from element logits_at on; f16 in pairs, offset and stride even
//   choices  [rows, top] of three words, from word choices_at on: the expert, its place in the list,
//            which experts/sort writes, and its weight, f32
// Weights are exp(v − largest), divided by their sum: that of the chosen ones if `chosen_only`, else that
// of all experts.

struct ChooseParams {
    experts: u32,       // experts of the mixture
    top: u32,           // experts of a row
    logits_at: u32,     // the first element of the logits
    logits_stride: u32, // elements from one row of logits to the next
    choices_at: u32,    // the first word of the choices
    chosen_only: u32,   // 1 if weights are shares of the chosen experts only
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: ChooseParams;
@group(0) @binding(3) var<storage, read> logits: array<u32>;
@group(0) @binding(4) var<storage, read_write> choices: array<u32>;

fn logit(row: u32, expert: u32) -> f32 {
    let at = p.logits_at + row * p.logits_stride + expert;
    if (LOGITS_F16) {
        let both = half2_to_f32(logits[at >> 1u]);
        return select(both.x, both.y, (at & 1u) == 1u);
    }
    return bitcast<f32>(logits[at]);
}

// Integers in the order of the floats. Both zeros are equal.
fn rank(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0u;
    }
    return select(0x80000000u + magnitude, 0x80000000u - magnitude, bits >> 31u == 1u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = workgroup_index(group, count) * 64u + lane;
    if (row >= recorded_count()) {
        return;
    }
    let first = p.choices_at + 3u * row * p.top;
    var last = 0xffffffffu; // the rank of the expert before, and that expert
    var before = 0u;
    var largest = 0.0;
    var sum = 0.0;
    for (var i = 0u; i < p.top; i += 1u) {
        var best = 0u;
        var expert = p.experts;
        for (var e = 0u; e < p.experts; e += 1u) {
            let of_e = rank(logit(row, e));
            let after = of_e < last || (of_e == last && i > 0u && e > before);
            if (after && (expert == p.experts || of_e > best)) {
                best = of_e;
                expert = e;
            }
        }
        let v = logit(row, expert);
        if (i == 0u) {
            largest = v;
        }
        let weight = exp(v - largest);
        sum += weight;
        choices[first + 3u * i] = expert;
        choices[first + 3u * i + 2u] = bitcast<u32>(weight);
        last = best;
        before = expert;
    }
    if (p.chosen_only == 0u) {
        sum = 0.0;
        for (var e = 0u; e < p.experts; e += 1u) {
            sum += exp(logit(row, e) - largest);
        }
    }
    for (var i = 0u; i < p.top; i += 1u) {
        let at = first + 3u * i + 2u;
        choices[at] = bitcast<u32>(bitcast<f32>(choices[at]) / sum);
    }
}
