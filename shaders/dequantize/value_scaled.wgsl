// Weights that are the number of a code times a scale, plus a minimum if there are minima. `params` must
// have group_size.
//
// Requires: stored_codes, number, scales, lib/half, const MINIMA, const FLOAT_ZERO.
// Implements: values.
// Provides: stored_value(row, record, position, place) -> u32, bits of the f32;
//   stored_half(row, record, position, place) -> u32, bits of the f16.
//
// Each of v·s, z·s of a zero point that is a float, and the sum is one f32 operation, which a GPU may
// round either way.

fn stored_value(row: u32, record: u32, position: u32, place: u32) -> u32 {
    let group = place / params.group_size;
    let number = number_of(stored_code(row, record, position), record, group);
    let scale = bitcast<f32>(group_scale(record, group));
    if (!MINIMA) {
        return bitcast<u32>(number * scale);
    }
    var minimum = group_minimum(record, group);
    if (FLOAT_ZERO) {
        minimum *= -scale;
    }
    return bitcast<u32>(number * scale + minimum);
}

fn stored_half(row: u32, record: u32, position: u32, place: u32) -> u32 {
    return f32_bits_to_half(stored_value(row, record, position, place));
}
