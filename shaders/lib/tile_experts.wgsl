// Where the tile of a workgroup is: a list names the row of X and the expert of each row of Y, and W
// stacks the matrices of the experts, p.y_slice rows each.
// Requires: lib/matmul.
// Implements: tile.
// Provides: TilePlace, tile_at, w_row, column_end, x_start, x_starts.
// Memory: `list` holds a row of X, which p.own_rows ignores, and an expert for each row of Y. Where the expert is none, nothing is
// stored. The rows of a tile that are the first one's expert's come first; the others are of none.
// Caller: rows of X of different experts lie in different tiles of the list.
// Caller: p.batch is 1, and where n0 is not 0 or rows not all of W, all are multiples of 4.

@group(0) @binding(8) var<storage, read> list: array<vec2<u32>>;

struct TilePlace {
    live: bool, // or there is none for the workgroup
    batch: u32,
    row0: u32,   // of the list
    n0: u32,     // of the expert's rows of W
    m: u32,      // the end of the rows of the list that are the expert's
    column: u32, // of Y, where row 0 of the expert goes
    first: u32,  // where row 0 of the expert is in this block of rows of W; it may lie before it
}

fn tile_at(tile: u32, m: u32, rows_of_x: u32, rows_of_w: u32) -> TilePlace {
    let m_tiles = (m + rows_of_x - 1u) / rows_of_x;
    let n_tiles = (p.y_slice + rows_of_w - 1u) / rows_of_w;
    let row0 = tile % m_tiles * rows_of_x;
    let n0 = tile / m_tiles % n_tiles * rows_of_w;
    let expert = list[p.list_at + row0].y;
    var rows = 1u;
    for (var i = 1u; i < rows_of_x; i += 1u) {
        if (row0 + i < m && list[p.list_at + row0 + i].y == expert) {
            rows = i + 1u;
        }
    }
    let first = expert * p.y_slice - p.n0;
    // A workgroup none of whose rows are in this block of rows of W has nothing to do.
    let start = bitcast<i32>(first + n0);
    let meets = start < i32(p.rows) && start + i32(rows_of_w) > 0;
    let live = tile < n_tiles * m_tiles && expert < p.experts && meets;
    return TilePlace(live, 0u, row0, n0, row0 + rows, 0u, first);
}

// Rows past the ends of the block are the last one; nothing is stored for them.
fn w_row(here: TilePlace, n: u32) -> Row {
    return row_at(min(here.first + n, p.rows - 1u));
}

// The end of the columns of Y, for a lane whose first row of W is n: 0 if this block of rows of W does
// not have it.
fn column_end(here: TilePlace, n: u32) -> u32 {
    return select(0u, p.y_slice, here.first + n < p.rows);
}

fn x_start(here: TilePlace, row: u32) -> u32 {
    let of_x = select(list[p.list_at + row].x, row, p.own_rows == 1u);
    return p.x_offset + of_x * p.x_stride;
}

fn x_starts(here: TilePlace, rows: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(
        x_start(here, rows.x), x_start(here, rows.y), x_start(here, rows.z), x_start(here, rows.w),
    );
}
