// Scales weights as they are decoded, by whole blocks of 32 columns: for groups of 16 columns, and for
// minima. The whole row is one run.
// Requires: lib/matmul, scale/one_run, dense_decoder, raws, scale/side, const MINIMA, const BLOCK_GROUPS.
// Implements: scale, run_steps, decoder.
// Provides: Block, load_block, Blocks, load_blocks, first_words, second_words, load_blocks_of, quad_f,
// dot_quad, add_quad, tile_quad, run_steps.
// BLOCK_GROUPS is the number of groups of a block: 2 of 16 columns, 1 of 32, or 0 if a group is some
// other multiple of 16 columns or the whole row.

struct Block {
    raw: Raw,
    low: vec3<f32>,  // scale, minimum and zero point of the first 16 columns
    high: vec3<f32>, // and of the others
}

struct Blocks {
    a: Block,
    b: Block,
}

// The group of half a block.
fn half_group(half_block: u32) -> u32 {
    if (BLOCK_GROUPS == 2u) {
        return min(half_block, p.groups - 1u);
    }
    if (BLOCK_GROUPS == 1u) {
        return half_block >> 1u;
    }
    return min(half_block * 16u / p.group_size, p.groups - 1u);
}

// Both halves' groups share their words if two of them fit in one, because the first has an even number.
const SHARED = BLOCK_GROUPS == 2u && 2u * ENTRY_BITS <= 32u;

fn load_block(row: Row, b: u32, piece: u32) -> Block {
    let group = half_group(2u * b);
    let words = affine_words(row, group);
    let low = vec3<f32>(affine_in(words, group), zero_of(row, group));
    if (BLOCK_GROUPS == 1u) {
        return Block(load_raw(row, b, piece), low, low);
    }
    let next = half_group(2u * b + 1u);
    var others = words;
    if (!SHARED) {
        others = affine_words(row, next);
    }
    let high = vec3<f32>(affine_in(others, next), zero_of(row, next));
    return Block(load_raw(row, b, piece), low, high);
}

// Loads a block of two neighbouring rows each.
fn load_blocks(r0: Row, r1: Row, b: u32, piece: u32) -> Blocks {
    return load_blocks_of(r0, r1, b, first_words(r0, r1, b));
}

// Two blocks of which the first has an even number share the upper level, if there is one and
// BLOCK_GROUPS is not 0, and words of scales if one word has those of all their groups.
const ONE_WORD = BLOCK_GROUPS > 0u && 2u * BLOCK_GROUPS * ENTRY_BITS <= 32u;

// The words of a block of two neighbouring rows.
fn first_words(r0: Row, r1: Row, b: u32) -> AffinesWords {
    return affines_words(r0, r1, half_group(2u * b));
}

// The words of the second of two blocks, whose number is b.
fn second_words(r0: Row, r1: Row, b: u32, first: AffinesWords) -> AffinesWords {
    if (ONE_WORD) {
        return first;
    }
    return affines_under(r0, r1, half_group(2u * b), first.a.upper, first.b.upper);
}

// Loads a block of two neighbouring rows, given its words.
fn load_blocks_of(r0: Row, r1: Row, b: u32, words: AffinesWords) -> Blocks {
    let raws = load_raws(r0, r1, b, 0u);
    let group = half_group(2u * b);
    let zeros = zeros_of(r0, r1, group);
    let low_a = vec3<f32>(affine_in(words.a, group), zeros.x);
    let low_b = vec3<f32>(affine_in(words.b, group), zeros.y);
    if (BLOCK_GROUPS == 1u) {
        return Blocks(Block(raws.a, low_a, low_a), Block(raws.b, low_b, low_b));
    }
    let next = half_group(2u * b + 1u);
    var others = words;
    if (!SHARED) {
        others = affines_words(r0, r1, next);
    }
    let next_zeros = zeros_of(r0, r1, next);
    return Blocks(
        Block(raws.a, low_a, vec3<f32>(affine_in(others.a, next), next_zeros.x)),
        Block(raws.b, low_b, vec3<f32>(affine_in(others.b, next), next_zeros.y)),
    );
}

// Columns 4i to 4i + 3 of a block.
fn quad_f(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    let affine = select(block.high, block.low, i < 4u);
    let values = raw_quad(block.raw, i, vec4<f32>(affine.z));
    if (MINIMA == 0u) {
        return values * affine.x;
    }
    return fma(values, vec4<f32>(affine.x), vec4<f32>(affine.y));
}

// Σ w · x over quad i of a block: four products share a scale. The sum of x is the same for every row
// of W, so that compilers make it once.
fn dot_quad(block: Block, i: u32, z: f32, xq: vec4<f32>) -> f32 {
    let affine = select(block.high, block.low, i < 4u);
    let product = dot(raw_quad(block.raw, i, vec4<f32>(affine.z)), xq) * affine.x;
    if (MINIMA == 0u) {
        return product;
    }
    return fma(affine.y, (xq.x + xq.y) + (xq.z + xq.w), product);
}

fn add_quad(block: Block, i: u32, z: f32, xq: vec4<f32>, sum: f32) -> f32 {
    let affine = select(block.high, block.low, i < 4u);
    let w = raw_quad(block.raw, i, vec4<f32>(affine.z));
    let product = fma(w.w, xq.w, fma(w.z, xq.z, fma(w.y, xq.y, w.x * xq.x)));
    if (MINIMA == 0u) {
        return fma(product, affine.x, sum);
    }
    return fma(affine.y, (xq.x + xq.y) + (xq.z + xq.w), fma(product, affine.x, sum));
}

fn tile_quad(block: Block, i: u32, z: vec4<f32>) -> vec4<f32> {
    return quad_f(block, i, z);
}

fn run_steps() -> u32 {
    return p.blocks;
}
