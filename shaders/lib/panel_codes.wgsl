// Finds a word of the codes of a row in its buffer. `params` must have row0 and blocks.
//
// Requires: weight_parameters, const PANEL, const ELEMENT_BITS, const SPARSE.
// Provides: code_word(row, word).
//
// Memory: the blocks of PANEL rows are interleaved. The rows of a chunk start at `row0`.

const BLOCK_WORDS: u32 = select(ELEMENT_BITS, ELEMENT_BITS / 2u, SPARSE);

fn code_word(row: u32, word: u32) -> u32 {
    let at = params.row0 + row;
    let block = (at / PANEL * params.blocks + word / BLOCK_WORDS) * PANEL + at % PANEL;
    return block * BLOCK_WORDS + word % BLOCK_WORDS;
}
