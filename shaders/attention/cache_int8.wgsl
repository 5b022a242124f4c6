// Keys and values that are int8 codes, with a scale for each head and slot.
// Requires: attention/octet, attention/query, cache_words.
// Implements: cache.
// Provides: key_octet, value_octet, key_scale, value_scale. Octets are codes.

fn codes_of(words: vec2<u32>) -> Octet {
    return Octet(vec4<f32>(unpack4xI8(words.x)), vec4<f32>(unpack4xI8(words.y)));
}

// Columns 8o to 8o + 7 of the row that starts at word `at`. What lies past the end of a row is
// arbitrary.
fn key_octet(at: u32, o: u32, whole: bool) -> Octet {
    return codes_of(key_pair(at / 2u + o));
}

fn value_octet(at: u32, o: u32, whole: bool) -> Octet {
    return codes_of(value_pair(at / 2u + o));
}

fn key_scale(head: u32, slot: u32) -> f32 {
    return bitcast<f32>(key_word(p.keys_at + p.scales_at + head * p.slots + slot));
}

fn value_scale(head: u32, slot: u32) -> f32 {
    return bitcast<f32>(value_word(p.values_at + p.scales_at + head * p.slots + slot));
}
