// The kernels that take W by blocks of 32 columns share this fragment. RANK says that the 2:4 mask is made
// here, by magnitude, and not read.
//
// Requires: quantize/make, source_weights, lib/panel, lib/softfloat, sparse/rank, const RANK.
// Provides:
//   Place, place_of(id)            where a block stands: rows·blocks of them
//   worst, nibbles                 the largest magnitude of the weights so far, and their
//                                  metadata, read or made
//   survey(place, chunk) -> W8     eight weights of a block; adds to both
//   report_not_finite(place)       if `worst` is not finite, notes its index in `status`
//   group_of(place) -> u32         the one group that a block lies in
//
// Why blocks: on a software adapter every load costs time, however many lanes share it. So a
// weight is loaded once a kernel, and metadata and scales once a block. Groups must be whole
// blocks, or one a row; otherwise the kernels without `block_` in their name are used.
// Caller: groups of W are multiples of 32 columns, or one a row.

struct Place {
    row: u32,
    block: u32,
    // The first words, in their buffers, of the row's weights and of its side row.
    source: u32,
    record: u32,
}

var<private> worst: u32;
var<private> nibbles: u32;

fn place_of(id: u32) -> Place {
    let row = id / params.blocks;
    let source = params.weight_at + row * params.weight_stride;
    return Place(row, id - row * params.blocks, source, record_of(row));
}

fn survey(place: Place, chunk: u32) -> W8 {
    let column = place.block * BLOCK_K + 8u * chunk;
    let w = load8(place.source, column);
    let magnitudes = w.a & vec4<u32>(0x7fffffffu);
    let high = max(magnitudes, w.b & vec4<u32>(0x7fffffffu));
    worst = max(worst, max(max(high.x, high.y), max(high.z, high.w)));
    if (RANK) {
        let pair = keep_two(w.a, column) | (keep_two(w.b, column + 4u) << 4u);
        nibbles |= pair << (8u * chunk);
    }
    return w;
}

fn report_not_finite(place: Place) {
    if (worst >= F32_INFINITY) {
        let first = place.block * BLOCK_K;
        var found = 0xffffffffu;
        for (var chunk = 0u; chunk < 4u; chunk++) {
            let w = load8(place.source, first + 8u * chunk);
            found = min(found, min(not_finite(w.a, 8u * chunk), not_finite(w.b, 8u * chunk + 4u)));
        }
        atomicMin(&status[params.status_at], place.row * params.k + first + found);
    }
}

fn not_finite(quad: vec4<u32>, at: u32) -> u32 {
    let bad = (quad & vec4<u32>(0x7fffffffu)) >= vec4<u32>(F32_INFINITY);
    let columns = vec4<u32>(at, at + 1u, at + 2u, at + 3u);
    let found = select(vec4<u32>(0xffffffffu), columns, bad);
    return min(min(found.x, found.y), min(found.z, found.w));
}

fn group_of(place: Place) -> u32 {
    return place.block * BLOCK_K / params.group_size;
}
