// Keys and values that are f16.
// Requires: attention/octet, cache_words, half_pair.
// Implements: cache.
// Provides: key_octet, value_octet, key_scale, value_scale.

fn halves_of(words: vec4<u32>) -> Octet {
    return Octet(
        vec4<f32>(half2_to_f32(words.x), half2_to_f32(words.y)),
        vec4<f32>(half2_to_f32(words.z), half2_to_f32(words.w)),
    );
}

// Columns 8o to 8o + 7 of the row that starts at word `at`. What lies past the end of a row is
// arbitrary.
fn key_octet(at: u32, o: u32, whole: bool) -> Octet {
    return halves_of(key_quad(at / 4u + o));
}

fn value_octet(at: u32, o: u32, whole: bool) -> Octet {
    return halves_of(value_quad(at / 4u + o));
}

fn key_scale(head: u32, slot: u32) -> f32 {
    return 1.0;
}

fn value_scale(head: u32, slot: u32) -> f32 {
    return 1.0;
}
