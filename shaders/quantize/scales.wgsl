// Computes scales and zero points from complete ranges (`extremes`) and stores them in the side rows.
//
// Requires: quantize/make, lib/panel, lib/softfloat, lib/half, const PANEL, const F16_SCALES,
// const ASYMMETRIC, const PER_TENSOR, const CODE_LOW, const CODE_HIGH, const SCALE_DIVISOR,
// const SCALE_MOST.
// Provides: `main`, one invocation a word of scales or zero points: rows·(side_words − scale_at)
// of them.
//
// With hi = max(x, 0) and lo = max(−x, 0) over a group, each operation rounded to f32:
//   symmetric   s = max(lo, hi) / SCALE_DIVISOR        (32767, 127, 7)
//   asymmetric  s = (hi + lo) / SCALE_DIVISOR          (255, 15)
//               z = clamp(rne(lo / s), 0, SCALE_DIVISOR), int8's minus 128
// A scale is at most SCALE_MOST, with which SCALE_DIVISOR times the scale is still finite: the quotient
// itself may be one unit above it. An f16 scale is rounded again, and z follows from the scale as stored. A group of zeros
// has s = 1. A scale that is not a normal number of its type goes into `status`, and 1 is
// stored.
//
// A zero point repeats the division of its scale. That is cheaper than a second pass, and no
// invocation reads what another one writes.
// Caller: the ranges of all weights that share a scale are there.

// Bits of the scale as stored, widened to f32; 0 if it is no normal number.
fn scale_of(pair: u32) -> u32 {
    let high = atomicLoad(&extremes[pair]);
    let low = atomicLoad(&extremes[pair + 1u]);
    var range = max(high, low);
    if (ASYMMETRIC) {
        range = add_f32(high, low);
    }
    if (range == 0u) {
        return 0x3f800000u;
    }
    if (range >= F32_INFINITY) {
        return 0u;
    }
    // Magnitudes are ordered as their bits are.
    let scale = min(div_f32(range, SCALE_DIVISOR), SCALE_MOST);
    if (F16_SCALES) {
        let rounded = f32_bits_to_half(scale);
        let normal = rounded >= 0x0400u && rounded < 0x7c00u;
        return select(0u, half_to_f32_bits(rounded), normal);
    }
    return select(0u, scale, scale >= F32_SMALLEST_NORMAL);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = invocation(group_id, group_count, lane);
    let words = params.side_words - params.scale_at;
    if (id >= params.rows * words) {
        return;
    }
    let row = id / words;
    let at = params.scale_at + id % words;
    let is_scale = at < params.zero_at;

    var first = at - params.scale_at;
    var count = 1u;
    var width = 32u;
    if (!is_scale) {
        first = 4u * (at - params.zero_at);
        count = 4u;
        width = 8u;
    } else if (F16_SCALES) {
        first *= 2u;
        count = 2u;
        width = 16u;
    }
    var word = 0u;
    for (var i = 0u; i < count; i++) {
        let group = first + i;
        if (group >= params.groups) {
            break;
        }
        let pair = select(2u * (row * params.groups + group), 0u, PER_TENSOR);
        var scale = scale_of(pair);
        if (scale == 0u) {
            atomicMin(&status[params.status_at + 1u], row * params.groups + group);
            scale = 0x3f800000u;
        }
        var field = scale;
        if (!is_scale) {
            let low = atomicLoad(&extremes[pair + 1u]);
            let zero = min(rne_to_int(div_f32(low, scale)), u32(CODE_HIGH - CODE_LOW));
            field = bitcast<u32>(i32(zero) + CODE_LOW) & 0xffu;
        } else if (F16_SCALES) {
            field = f32_bits_to_half(scale);
        }
        word |= field << (i * width);
    }
    side[record_of(row) + at * PANEL] = word;
}
