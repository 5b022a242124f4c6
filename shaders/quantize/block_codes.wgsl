// Makes codes of the device layout like quantize/codes, one block an invocation. Floats are also
// checked here, and pruned if RANK: for them this is the only kernel. Integers need the scales in
// `side`, and under 2:4 without RANK the metadata. `status` must have been cleared.
//
// Requires: quantize/block, quantize/make, source_weights, made_codes, lib/panel_codes,
// lib/reciprocal, lib/softfloat, lib/half, quantize/record, quantize/scale_float, sparse/rank, const PANEL,
// const ELEMENT_BITS, const IS_FLOAT, const SPARSE, const CODE_LOW, const CODE_HIGH, const RANK.
// Provides: `main`, one invocation a block.
//
// A column after K loads as 0, and so it gets the code of zero of the last group of the row, which
// is the group of the block.
// Caller: reset runs before it, for integers scales, and what makes 2:4 metadata where it does not.

var<private> divisor: Divisor;
var<private> zero: i32;
// Whether a weight of the block became infinite as f16.
var<private> infinite: bool;

fn code_of(bits: u32) -> u32 {
    if (IS_FLOAT) {
        if (ELEMENT_BITS == 32u) {
            return bits;
        }
        let half = f32_bits_to_half(bits);
        infinite = infinite || (half & 0x7fffu) == 0x7c00u;
        return half;
    }
    let steps = i32(steps_by(magnitude_of(bits), divisor));
    let signed_steps = select(steps, -steps, (bits >> 31u) == 1u);
    let code = clamp(signed_steps + zero, CODE_LOW, CODE_HIGH);
    return bitcast<u32>(code) & (0xffffffffu >> (32u - ELEMENT_BITS));
}

fn codes2(w: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(code_of(w.x), code_of(w.y));
}

fn bytes4(low: vec2<u32>, high: vec2<u32>) -> u32 {
    return low.x | (low.y << 8u) | (high.x << 16u) | (high.y << 24u);
}

fn halves2(pair: vec2<u32>) -> u32 {
    return pair.x | (pair.y << 16u);
}

// The first weight that only its rounding makes infinite, into `status`.
fn report_past_half(place: Place) {
    if (infinite) {
        var found = 0xffffffffu;
        for (var column = 0u; column < BLOCK_K; column++) {
            // One of the eight loaded weights is used: this is rare, and the code is short.
            let w = load8(place.source, place.block * BLOCK_K + (column & 0x18u));
            let quad = select(w.b, w.a, (column & 4u) == 0u);
            let pair = select(quad.zw, quad.xy, (column & 2u) == 0u);
            let bits = select(pair.y, pair.x, (column & 1u) == 0u);
            let nibble = (nibbles >> (column & 0x1cu)) & 0xfu;
            let kept = !SPARSE || (nibble & 3u) == (column & 3u) || (nibble >> 2u) == (column & 3u);
            let past = (f32_bits_to_half(bits) & 0x7fffu) == 0x7c00u;
            if (kept && past && (bits & 0x7fffffffu) < F32_INFINITY) {
                found = min(found, column);
            }
        }
        if (found != 0xffffffffu) {
            let at = place.row * params.k + place.block * BLOCK_K + found;
            atomicMin(&status[params.status_at + 2u], at);
        }
    }
}

// The words of eight columns, as many as they have; int4's codes stand a byte apart.
fn words_of(place: Place, chunk: u32) -> vec4<u32> {
    let w = survey(place, chunk);
    if (SPARSE) {
        let pair = nibbles >> (8u * chunk);
        let a = codes2(kept_of(w.a, pair & 0xfu));
        let b = codes2(kept_of(w.b, (pair >> 4u) & 0xfu));
        if (ELEMENT_BITS == 32u) {
            return vec4<u32>(a, b);
        }
        if (ELEMENT_BITS == 16u) {
            return vec4<u32>(halves2(a), halves2(b), 0u, 0u);
        }
        return vec4<u32>(bytes4(a, b), 0u, 0u, 0u);
    }
    let ax = codes2(w.a.xy);
    let az = codes2(w.a.zw);
    let bx = codes2(w.b.xy);
    let bz = codes2(w.b.zw);
    if (ELEMENT_BITS == 16u) {
        return vec4<u32>(halves2(ax), halves2(az), halves2(bx), halves2(bz));
    }
    if (ELEMENT_BITS == 8u) {
        return vec4<u32>(bytes4(ax, az), bytes4(bx, bz), 0u, 0u);
    }
    return vec4<u32>(bytes4(ax, az) | (bytes4(bx, bz) << 4u), 0u, 0u, 0u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = invocation(group_id, group_count, lane);
    if (id >= params.rows * params.blocks) {
        return;
    }
    let place = place_of(id);
    let meta_word = place.record + place.block * PANEL;
    if (SPARSE && !RANK) {
        nibbles = side[meta_word];
    }
    if (!IS_FLOAT) {
        let group = group_of(place);
        divisor = divisor_of(group_scale(place.record, group));
        zero = group_zero(place.record, group);
    }
    let word = code_word(place.row, place.block * BLOCK_WORDS);
    if (BLOCK_WORDS == 32u) {
        for (var chunk = 0u; chunk < 4u; chunk++) {
            let w = survey(place, chunk);
            store4(word + 8u * chunk, w.a);
            store4(word + 8u * chunk + 4u, w.b);
        }
    } else if (BLOCK_WORDS == 16u) {
        for (var chunk = 0u; chunk < 4u; chunk++) {
            store4(word + 4u * chunk, words_of(place, chunk));
        }
    } else if (BLOCK_WORDS == 8u) {
        // Not a loop over pairs of chunks: SwiftShader had not compiled one after 500 s.
        var low = vec2<u32>();
        for (var chunk = 0u; chunk < 4u; chunk++) {
            let words = words_of(place, chunk);
            if ((chunk & 1u) == 1u) {
                store4(word + 2u * chunk - 2u, vec4<u32>(low, words.xy));
            }
            low = words.xy;
        }
    } else {
        let a = words_of(place, 0u).x;
        let b = words_of(place, 1u).x;
        let c = words_of(place, 2u).x;
        let d = words_of(place, 3u).x;
        if (BLOCK_WORDS == 4u) {
            store4(word, vec4<u32>(a, b, c, d));
        } else {
            store4(word, vec4<u32>(a | (b << 4u), c | (d << 4u), 0u, 0u));
        }
    }
    if (RANK) {
        side[meta_word] = nibbles;
    }
    if (IS_FLOAT) {
        report_not_finite(place);
        report_past_half(place);
    }
}
