// One block of 32 columns of a row of X.
// Requires: lib/quads, an access fragment for X. Provides: load_x.

fn load_x(row_at: u32, b: u32) -> Quads {
    let k = b * 32u;
    return Quads(
        load_x4(row_at, k), load_x4(row_at, k + 4u),
        load_x4(row_at, k + 8u), load_x4(row_at, k + 12u),
        load_x4(row_at, k + 16u), load_x4(row_at, k + 20u),
        load_x4(row_at, k + 24u), load_x4(row_at, k + 28u),
    );
}
