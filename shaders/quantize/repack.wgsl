// Moves compressed weights from the canonical layout (`format::Geometry`) to the one that kernels
// read (`format::DeviceLayout`).
//
// Requires: lib/panel, lib/panel_codes, const PANEL, const SCALE_BITS, const ZERO_BITS,
// const ELEMENT_BITS, const PER_TENSOR, const CODE_ZERO.
// Implements: weight_parameters.
// Provides: `main`, one invocation a word of the device layout: rows·(code_words + side_words).
//
// Memory, of rows [row, row + rows) of W:
//   canonical_codes  [rows, canonical_words] words from `code_at` on
//   metadata         [rows, blocks] words from `meta_at` on, under 2:4
//   scales           [rows, groups] or one, f32, f16 or bytes; the first is number `scale_base`
//   zeros            [rows, groups] or one, a byte each; or two a byte, where each row starts a
//                    byte. The first byte is number `zero_base`
//   codes, side      a block of rows of the device layout, of which these start at `row0`

struct RepackParams {
    rows: u32,            // of W in this chunk
    row0: u32,            // the first of them in the code and side buffers
    blocks: u32,          // ⌈k/32⌉
    groups: u32,          // groups a row
    code_words: u32,      // words of codes of a row, in the device layout
    side_words: u32,      // words of a side row
    scale_at: u32,        // where in it the scales start, in words
    zero_at: u32,         // where in it the zero points start
    canonical_words: u32, // words of codes of a row, in the canonical layout
    code_at: u32,         // the first word of the chunk in `canonical_codes`
    meta_at: u32,         // the first word of the chunk in `metadata`
    scale_base: u32,      // the number of the chunk's first scale in `scales`
    zero_base: u32,       // the number of its first byte of zero points in `zeros`
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: RepackParams;
@group(0) @binding(1) var<storage, read> canonical_codes: array<u32>;
@group(0) @binding(2) var<storage, read> metadata: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read> zeros: array<u32>;
@group(0) @binding(5) var<storage, read_write> codes: array<u32>;
@group(0) @binding(6) var<storage, read_write> side: array<u32>;

fn place_of(row: u32, group: u32) -> u32 {
    return select(row * params.groups + group, 0u, PER_TENSOR);
}

// 0 where the row has no such group.
fn scale_bits(row: u32, group: u32) -> u32 {
    if (group >= params.groups) {
        return 0u;
    }
    const PER_WORD: u32 = 32u / SCALE_BITS;
    let at = params.scale_base + place_of(row, group);
    return extractBits(scales[at / PER_WORD], SCALE_BITS * (at % PER_WORD), SCALE_BITS);
}

fn zero_bits(row: u32, group: u32) -> u32 {
    if (group >= params.groups) {
        return 0u;
    }
    if (ZERO_BITS == 4u) {
        let first = select(row * ((params.groups + 1u) / 2u), 0u, PER_TENSOR);
        let at = params.zero_base + first + group / 2u;
        return extractBits(zeros[at / 4u], 8u * (at % 4u) + 4u * (group % 2u), 4u);
    }
    let at = params.zero_base + place_of(row, group);
    return extractBits(zeros[at / 4u], 8u * (at % 4u), 8u);
}

// Four nibbles to the low halves of four bytes.
fn spread(nibbles: u32) -> u32 {
    let pairs = (nibbles | (nibbles << 8u)) & 0x00ff00ffu;
    return (pairs | (pairs << 4u)) & 0x0f0f0f0fu;
}

// Four pairs of bits to the lowest bits of four bytes.
fn spread_pairs(pairs: u32) -> u32 {
    let halves = (pairs | (pairs << 12u)) & 0x000f000fu;
    return (halves | (halves << 6u)) & 0x03030303u;
}

// A word of the codes of a row; past the canonical ones the code of zero.
fn code_of(row: u32, word: u32) -> u32 {
    var bits = 0u;
    if (word < params.canonical_words) {
        bits = canonical_codes[params.code_at + row * params.canonical_words + word];
    } else if (ELEMENT_BITS <= 8u) {
        var zero = bitcast<u32>(CODE_ZERO);
        if (ZERO_BITS > 0u) {
            zero = zero_bits(row, params.groups - 1u);
        }
        // As often as it fits.
        const FIELD: u32 = 0xffffffffu >> (32u - min(ELEMENT_BITS, 8u));
        bits = (zero & FIELD) * (0xffffffffu / FIELD);
    }
    if (ELEMENT_BITS == 4u) {
        return spread(bits & 0xffffu) | (spread(bits >> 16u) << 4u);
    }
    if (ELEMENT_BITS == 2u) {
        return spread_pairs(bits & 0xffu) | (spread_pairs((bits >> 8u) & 0xffu) << 2u)
            | (spread_pairs((bits >> 16u) & 0xffu) << 4u) | (spread_pairs(bits >> 24u) << 6u);
    }
    return bits;
}

// Returns a word of a side row.
fn side_of(row: u32, word: u32) -> u32 {
    if (word < params.scale_at) {
        return metadata[params.meta_at + row * params.blocks + word];
    }
    var out = 0u;
    if (word < params.zero_at) {
        const PER_WORD: u32 = 32u / SCALE_BITS;
        let first = PER_WORD * (word - params.scale_at);
        for (var i = 0u; i < PER_WORD; i++) {
            out |= scale_bits(row, first + i) << (SCALE_BITS * i);
        }
        return out;
    }
    const ZEROS: u32 = 32u / max(ZERO_BITS, 4u);
    let first = ZEROS * (word - params.zero_at);
    for (var i = 0u; i < ZEROS; i++) {
        out |= zero_bits(row, first + i) << (max(ZERO_BITS, 4u) * i);
    }
    return out;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = group_id.x + group_count.x * (group_id.y + group_count.y * group_id.z);
    let id = workgroup * 64u + lane;
    let words = params.code_words + params.side_words;
    let row = id / words;
    let word = id % words;
    if (row >= params.rows) {
        return;
    }
    if (word < params.code_words) {
        codes[code_word(row, word)] = code_of(row, word);
    } else {
        let at = word - params.code_words;
        side[record_of(row) + at * PANEL] = side_of(row, at);
    }
}
