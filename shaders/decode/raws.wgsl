// Loads blocks of two rows where nothing but codes is loaded.
// Requires: lib/matmul, dense_decoder.
// Implements: raws.
// Provides: Raws, load_raws.

struct Raws {
    a: Raw,
    b: Raw,
}

// Loads a block of two neighbouring rows each.
fn load_raws(r0: Row, r1: Row, b: u32, piece: u32) -> Raws {
    return Raws(load_raw(r0, b, piece), load_raw(r1, b, piece));
}
