// The kernels that make weights share these parameters, bindings and the number of an invocation.
//
// The format determines constants, which the kernels require:
//   ELEMENT_BITS: u32      32, 16, 8 or 4
//   IS_FLOAT: bool         f32 and f16, which have no scales
//   ASYMMETRIC, SPARSE, F16_SCALES, PER_TENSOR: bool
//   CODE_LOW, CODE_HIGH, CODE_ZERO: i32
//                          the codes as stored; the zero of a symmetric format
//   SCALE_DIVISOR: u32     bits of the f32 that a range is divided by
//   SCALE_MOST: u32        bits of the largest scale, whose product with SCALE_DIVISOR is finite
//
// Requires: nothing.
// Implements: weight_parameters.
// Provides: `params`, all bindings except `weights` (access/weights_*) and `codes`, BLOCK_K,
// invocation(group, groups, lane) -> u32.
//
// Memory: one chunk of rows of W, and the same rows of the device layout
// (`format::DeviceLayout`). Every offset and stride counts u32 words.
//   weights   [rows, k] f32 bits, `weight_stride` apart from `weight_at` on
//   given     [rows, blocks] canonical 2:4 metadata from `given_at` on; read only
//             where the caller brings the mask
//   extremes  two words a group: the bits of max(x, 0) and of max(−x, 0). One pair for
//             the whole matrix under PER_TENSOR, shared by its chunks
//   codes     [rows, code_words] from row `row0` on, in panels (lib/panel_codes)
//   side      [rows, side_words] from row `row0` on, in panels (lib/panel)
//   status    four words a chunk from `status_at` on, lowest index of each fault, or
//             0xffffffff: a weight that is not finite, as row·k + column; a scale, as
//             row·groups + group; a weight past f16's range, as row·k + column; a quad
//             of given metadata, as row·8·blocks + quad
//
// Why u32 for W: a GPU may turn NaN into 0 in `max` and flush subnormals, but the bits are exact.
// One invocation owns each word that is not atomic, so nothing depends on the order of
// invocations. The atomic maxima and minima do not depend on it either.

struct MakeParams {
    rows: u32,          // of W in this chunk
    k: u32,             // columns
    blocks: u32,        // ⌈k/32⌉
    group_size: u32,    // columns that share a scale, at most max(k, 1)
    groups: u32,        // groups a row
    weight_at: u32,     // the first word of the chunk in `weights`
    weight_stride: u32, // words from one row of W to the next
    given_at: u32,      // the first word of the chunk in `given`
    row0: u32,          // the chunk's first row in the code and side buffers
    code_words: u32,    // words of codes of a row
    side_words: u32,    // words of a side row
    scale_at: u32,      // where in it the scales start, in words
    zero_at: u32,       // where in it the zero points start
    status_at: u32,     // the first of the chunk's four words of `status`
    extreme_words: u32, // words of `extremes` that this chunk clears
    pad: u32,
}

const BLOCK_K: u32 = 32u;

@group(0) @binding(0) var<uniform> params: MakeParams;
@group(0) @binding(2) var<storage, read> given: array<u32>;
@group(0) @binding(3) var<storage, read_write> extremes: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> side: array<u32>;
@group(0) @binding(6) var<storage, read_write> status: array<atomic<u32>>;

// The grid is folded into three dimensions where one is not enough; the last fold may
// reach past the work.
fn invocation(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.x + groups.x * (group.y + groups.y * group.z)) * 64u + lane;
}
