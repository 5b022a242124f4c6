// Makes codes of 2, 3, 5 and 6 bits, and of 4 bits with zero points of 4 bits, one block an invocation:
// the low bits into the codes' buffer, the bits above them into the planes of the side row.
//
// Requires: quantize/make, access/weights_u32, lib/panel, lib/panel_codes, lib/reciprocal,
// lib/softfloat, lib/half, quantize/record, quantize/scale_float, const PANEL, const ELEMENT_BITS, const PLANE_BITS,
// const ZERO_BITS, const CODE_LOW, const CODE_HIGH, const CODE_ZERO.
// Provides: `main`, one invocation a block: rows·blocks of them.
//
// ELEMENT_BITS are the low bits of a code, PLANE_BITS those above them, as `format::DeviceLayout`
// arranges both. Groups of any size may begin and end anywhere.
// A column after K is a 0 of the last group of the row, and so it gets the code of zero.
// Caller: reset runs before it, and scales.

@group(0) @binding(4) var<storage, read_write> codes: array<u32>;

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
    let row = id / params.blocks;
    let block = id % params.blocks;
    let record = record_of(row);
    let source = params.weight_at + row * params.weight_stride;
    let first = block * BLOCK_K;

    var group = 0xffffffffu;
    var divisor: Divisor;
    var zero = 0;
    // A plane of two bits has four quads in a word, one of one bit eight.
    var low_planes = 0u;
    var high_planes = 0u;
    for (var w = 0u; w < ELEMENT_BITS; w++) {
        var word = 0u;
        for (var i = 0u; i < CODES_PER_WORD; i++) {
            let at = w * CODES_PER_WORD + i;
            let column = first + at;
            let inside = min(column, params.k - 1u);
            if (inside / params.group_size != group) {
                group = inside / params.group_size;
                divisor = divisor_of(group_scale(record, group));
                zero = group_zero(record, group);
            }
            let bits = select(0u, weights[source + inside], column < params.k);
            let steps = i32(steps_by(magnitude_of(bits), divisor));
            let signed_steps = select(steps, -steps, (bits >> 31u) == 1u);
            let code = bitcast<u32>(clamp(signed_steps + zero, CODE_LOW, CODE_HIGH));
            word |= extractBits(code, 0u, ELEMENT_BITS) << (8u * (i % 4u) + ELEMENT_BITS * (i / 4u));
            if (PLANE_BITS == 1u) {
                low_planes |= (code >> ELEMENT_BITS) << (8u * (at % 4u) + at / 4u);
            } else if (PLANE_BITS == 2u) {
                let plane = (code >> ELEMENT_BITS) << (8u * (at % 4u) + 2u * (at / 4u % 4u));
                low_planes |= select(0u, plane, at < 16u);
                high_planes |= select(plane, 0u, at < 16u);
            }
        }
        codes[code_word(row, block * ELEMENT_BITS + w)] = word;
    }
    if (PLANE_BITS > 0u) {
        side[record + block * PLANE_BITS * PANEL] = low_planes;
    }
    if (PLANE_BITS == 2u) {
        side[record + (block * PLANE_BITS + 1u) * PANEL] = high_planes;
    }
}
