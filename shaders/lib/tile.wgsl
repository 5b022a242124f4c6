// Where the tile of a workgroup is: rows of X and of W as they lie.
// Requires: lib/matmul.
// Implements: tile.
// Provides: TilePlace, tile_at, w_row, column_end, x_start, x_starts.

struct TilePlace {
    live: bool, // or there is none for the workgroup
    batch: u32,
    row0: u32,   // of X
    n0: u32,     // of W
    m: u32,      // the end of the rows of X
    column: u32, // of Y, where row 0 of W goes
}

// Tiles of so many rows of X and of W. Neighbouring workgroups take the same rows of W, which come
// from memory once.
fn tile_at(tile: u32, m: u32, rows_of_x: u32, rows_of_w: u32) -> TilePlace {
    let m_tiles = (m + rows_of_x - 1u) / rows_of_x;
    let n_tiles = (p.rows + rows_of_w - 1u) / rows_of_w;
    return TilePlace(
        tile < n_tiles * m_tiles * p.batch,
        tile / (n_tiles * m_tiles),
        tile % m_tiles * rows_of_x,
        tile / m_tiles % n_tiles * rows_of_w,
        m,
        p.n0,
    );
}

// Rows past the end are the last one.
fn w_row(here: TilePlace, n: u32) -> Row {
    return row_at(min(n, p.rows - 1u));
}

// The end of the columns of Y, for a lane whose first row of W is n.
fn column_end(here: TilePlace, n: u32) -> u32 {
    return p.n0 + p.rows;
}

// Where rows of X start.
fn x_start(here: TilePlace, row: u32) -> u32 {
    return p.x_offset + here.batch * p.x_batch + row * p.x_stride;
}

fn x_starts(here: TilePlace, rows: vec4<u32>) -> vec4<u32> {
    return p.x_offset + here.batch * p.x_batch + rows * p.x_stride;
}
