// Keys and values that are f32.
// Requires: attention/octet, cache_words.
// Implements: cache.
// Provides: key_octet, value_octet, key_scale, value_scale.

fn floats(low: vec4<u32>, high: vec4<u32>) -> Octet {
    return Octet(bitcast<vec4<f32>>(low), bitcast<vec4<f32>>(high));
}

// Columns 8o to 8o + 7 of the row that starts at word `at`. Where the row has four more columns at
// most, the upper half repeats the lower one.
fn key_octet(at: u32, o: u32, whole: bool) -> Octet {
    let quad = at / 4u + 2u * o;
    return floats(key_quad(quad), key_quad(select(quad, quad + 1u, whole)));
}

fn value_octet(at: u32, o: u32, whole: bool) -> Octet {
    let quad = at / 4u + 2u * o;
    return floats(value_quad(quad), value_quad(select(quad, quad + 1u, whole)));
}

fn key_scale(head: u32, slot: u32) -> f32 {
    return 1.0;
}

fn value_scale(head: u32, slot: u32) -> f32 {
    return 1.0;
}
