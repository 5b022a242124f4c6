// Products of f32 matrices with any strides: C = ±A · B, or C ± A · B.
// Requires: lib/dispatch, matrices.
// Implements: parameters, operands.
// Provides: p, Place, place_of, row_end, chunk_of, left_quad, right_quad, finish.
//
// A is [m, k], B [k, n] and C [m, n]; element (i, j) of a matrix is i · rows + j · columns elements from where
// it starts, so a transposed matrix is one with the strides exchanged. A batch has its matrices at equal
// distances. C may lie in the buffer of A or B, where tiles of C are no operand of other tiles.
//
// flags: 1 only tiles that reach the diagonal of C or lie above it; 2 A is an upper triangle, m ≤ k; 4 so is B;
// 8 the product is subtracted; 16 what C holds is kept. What A and B hold below a diagonal of tiles is then
// not read, and what they hold in tiles of the diagonal must be 0 below it.

struct DenseParams {
    m: u32,         // rows of A and of C
    n: u32,         // columns of B and of C
    k: u32,         // columns of A, rows of B
    batch: u32,     // matrices of the batch
    a_at: u32,      // the first element of A
    a_row: u32,     // elements from one row of it to the next
    a_column: u32,  // and from one column to the next
    a_batch: u32,   // and from one matrix of the batch to the next
    b_at: u32,      // the first element of B
    b_row: u32,     // elements from one row of it to the next
    b_column: u32,  // and from one column to the next
    b_batch: u32,   // and from one matrix of the batch to the next
    c_at: u32,      // the first element of C
    c_row: u32,     // elements from one row of it to the next
    c_column: u32,  // and from one column to the next
    c_batch: u32,   // and from one matrix of the batch to the next
    flags: u32,     // triangles, signs and the like, as above
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: DenseParams;

const ONLY_UPPER = 1u;
const LEFT_UPPER = 2u;
const RIGHT_UPPER = 4u;
const SUBTRACT = 8u;
const KEEP = 16u;

struct Place {
    live: bool,
    row: u32,
    column: u32,
    first: u32, // the first place of the sum
    end: u32,   // the end of its places
    a: u32,     // where A starts
    b: u32,
    c: u32,
}

fn has(flag: u32) -> bool {
    return (p.flags & flag) != 0u;
}

fn place_of(tile: u32) -> Place {
    let columns = (p.n + 63u) / 64u;
    let rows = (p.m + 63u) / 64u;
    let batch = tile / (rows * columns);
    let row = 64u * (tile / columns % rows);
    let column = 64u * (tile % columns);
    let first = select(0u, min(row, p.k), has(LEFT_UPPER));
    let end = select(p.k, min(column + 64u, p.k), has(RIGHT_UPPER));
    let below = has(ONLY_UPPER) && column + 64u <= row;
    return Place(
        batch < p.batch && !below,
        row,
        column,
        first,
        end,
        p.a_at + batch * p.a_batch,
        p.b_at + batch * p.b_batch,
        p.c_at + batch * p.c_batch,
    );
}

fn row_end() -> u32 {
    return p.m;
}

fn chunk_of() -> u32 {
    return p.k;
}

// Rows and columns past the end are the last one. Places past the end count as 0 in A.
fn left_quad(place: Place, k: u32, end: u32, i: u32) -> vec4<f32> {
    let row = place.row + i;
    let rows = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(p.m - 1u));
    let at = place.a + rows * p.a_row + min(k, p.k - 1u) * p.a_column;
    let values = vec4<f32>(load_a(at.x), load_a(at.y), load_a(at.z), load_a(at.w));
    return select(vec4<f32>(0.0), values, k < end);
}

fn right_quad(place: Place, k: u32, end: u32, j: u32) -> vec4<f32> {
    let column = place.column + j;
    let columns =
        min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(p.n - 1u));
    return right4(place.b + columns * p.b_column + min(k, p.k - 1u) * p.b_row);
}

fn finish(place: Place, i: u32, j: u32, values: vec4<f32>) {
    let row = place.row + i;
    if (row >= p.m) {
        return;
    }
    let column = place.column + j;
    let columns = vec4<u32>(column, column + 1u, column + 2u, column + 3u);
    let at = place.c + row * p.c_row + columns * p.c_column;
    let signed = select(values, -values, has(SUBTRACT));
    update4(at, columns < vec4<u32>(p.n), has(KEEP), signed);
}
