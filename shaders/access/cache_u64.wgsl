// Loads words of the caches of keys and of values as 64-bit words.
// Requires: nothing.
// Implements: cache_words.
// Features: int64.
// Provides: key_word, key_pair, key_quad, value_word, value_pair, value_quad.
// They take the number of a word, of a pair of words and of four words.
// Why u64: see access/codes16_u64.

@group(0) @binding(4) var<storage, read> keys: array<vec2<u64>>;
@group(0) @binding(5) var<storage, read> values: array<vec2<u64>>;

fn halves(word: u64) -> vec2<u32> {
    return vec2<u32>(u32(word), u32(word >> 32u));
}

fn key_pair(at: u32) -> vec2<u32> {
    return halves(keys[at / 2u][at % 2u]);
}

fn key_word(at: u32) -> u32 {
    let pair = key_pair(at / 2u);
    return select(pair.x, pair.y, at % 2u == 1u);
}

fn key_quad(at: u32) -> vec4<u32> {
    let quad = keys[at];
    return vec4<u32>(halves(quad.x), halves(quad.y));
}

fn value_pair(at: u32) -> vec2<u32> {
    return halves(values[at / 2u][at % 2u]);
}

fn value_word(at: u32) -> u32 {
    let pair = value_pair(at / 2u);
    return select(pair.x, pair.y, at % 2u == 1u);
}

fn value_quad(at: u32) -> vec4<u32> {
    let quad = values[at];
    return vec4<u32>(halves(quad.x), halves(quad.y));
}
