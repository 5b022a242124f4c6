// Loads words of the caches of keys and of values, up to 16 bytes at a time.
// Requires: nothing.
// Implements: cache_words.
// Provides: key_word, key_pair, key_quad, value_word, value_pair, value_quad.
// They take the number of a word, of a pair of words and of four words.
// Why a pair is two loads: drivers make one of eight bytes of them; of a whole quad the other half would be
// loaded for nothing.

@group(0) @binding(4) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> values: array<vec4<u32>>;

fn key_word(at: u32) -> u32 {
    return keys[at / 4u][at % 4u];
}

fn key_pair(at: u32) -> vec2<u32> {
    let first = at % 2u * 2u;
    return vec2<u32>(keys[at / 2u][first], keys[at / 2u][first + 1u]);
}

fn key_quad(at: u32) -> vec4<u32> {
    return keys[at];
}

fn value_word(at: u32) -> u32 {
    return values[at / 4u][at % 4u];
}

fn value_pair(at: u32) -> vec2<u32> {
    let first = at % 2u * 2u;
    return vec2<u32>(values[at / 2u][first], values[at / 2u][first + 1u]);
}

fn value_quad(at: u32) -> vec4<u32> {
    return values[at];
}
