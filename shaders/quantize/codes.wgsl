// Makes codes of the device layout from weights and from complete side rows.
//
// Requires: quantize/make, access/weights_u32, lib/panel, lib/panel_codes, quantize/record,
// quantize/scale_float, sparse/metadata, lib/softfloat, lib/half, const ELEMENT_BITS, const IS_FLOAT, const SPARSE,
// const CODE_LOW, const CODE_HIGH.
// Provides: `main`, one invocation a word of codes: rows·code_words of them.
//
//   integers  q = clamp(rne(x / s) + z), x / s rounded to f32 first, as the host rounds it
//   f16       rounded to nearest even; a finite weight that becomes infinite goes into
//             `status`
//   f32       the bits
// Positions after the row, and indices of a ragged last quad that point after K, get the code of
// zero of the last group of the row (0 for floats).
// Caller: reset runs before it, for integers scales, and under 2:4 prune or place.

@group(0) @binding(4) var<storage, read_write> codes: array<u32>;

// The code of the weight at `column`, below K, in the low ELEMENT_BITS.
fn code_of(row: u32, column: u32, record: u32) -> u32 {
    let bits = weights[params.weight_at + row * params.weight_stride + column];
    if (IS_FLOAT) {
        if (ELEMENT_BITS == 32u) {
            return bits;
        }
        let rounded = f32_bits_to_half(bits);
        if ((rounded & 0x7fffu) == 0x7c00u && (bits & 0x7fffffffu) < F32_INFINITY) {
            atomicMin(&status[params.status_at + 2u], row * params.k + column);
        }
        return rounded;
    }
    let group = column / params.group_size;
    let quotient = div_f32(magnitude_of(bits), group_scale(record, group));
    // Any bound past all codes will do; this one cannot overflow.
    let steps = i32(min(rne_to_int(quotient), 0x10000u));
    let signed_steps = select(steps, -steps, (bits >> 31u) == 1u);
    let code = clamp(signed_steps + group_zero(record, group), CODE_LOW, CODE_HIGH);
    return bitcast<u32>(code);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = invocation(group_id, group_count, lane);
    if (id >= params.rows * params.code_words) {
        return;
    }
    let row = id / params.code_words;
    let first = (id % params.code_words) * CODES_PER_WORD;
    let record = record_of(row);
    let field = 0xffffffffu >> (32u - ELEMENT_BITS);

    var word = 0u;
    for (var i = 0u; i < CODES_PER_WORD; i++) {
        let position = first + i;
        var column = position;
        if (SPARSE) {
            // Quads past the row have metadata too, with indices past K.
            let quad = position / 2u;
            column = 4u * quad + ((quad_nibble(record, quad) >> (2u * (position % 2u))) & 3u);
        }
        var code = 0u;
        if (column < params.k) {
            code = code_of(row, column, record);
        } else if (!IS_FLOAT) {
            code = bitcast<u32>(group_zero(record, params.groups - 1u));
        }
        word |= (code & field) << code_shift(position);
    }
    codes[code_word(row, id % params.code_words)] = word;
}
