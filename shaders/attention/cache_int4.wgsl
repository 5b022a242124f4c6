// Keys and values that are int4 codes, stored with 8 added, with a scale for each head and slot.
// Requires: attention/octet, attention/query, cache_words.
// Implements: cache.
// Provides: key_octet, value_octet, key_scale, value_scale. Octets are codes.

// The low halves of the bytes are columns 0 to 3, the high halves columns 4 to 7.
fn codes_of(word: u32) -> Octet {
    return Octet(
        vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0,
        vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu)) - 8.0,
    );
}

// Columns 8o to 8o + 7 of the row that starts at word `at`. What lies past the end of a row is
// arbitrary.
fn key_octet(at: u32, o: u32, whole: bool) -> Octet {
    return codes_of(key_word(at + o));
}

fn value_octet(at: u32, o: u32, whole: bool) -> Octet {
    return codes_of(value_word(at + o));
}

fn key_scale(head: u32, slot: u32) -> f32 {
    return bitcast<f32>(key_word(p.keys_at + p.scales_at + head * p.slots + slot));
}

fn value_scale(head: u32, slot: u32) -> f32 {
    return bitcast<f32>(value_word(p.values_at + p.scales_at + head * p.slots + slot));
}
