// Where a word of a row's codes stands in its buffer.
//
// Requires: weight_parameters, const PANEL, const ELEMENT_BITS, const SPARSE.
// Provides: code_word(row, word).
//
// Memory: PANEL rows lie block by block side by side; `row0` is where a chunk's rows start.

const BLOCK_WORDS: u32 = select(ELEMENT_BITS, ELEMENT_BITS / 2u, SPARSE);

fn code_word(row: u32, word: u32) -> u32 {
    let at = params.row0 + row;
    let block = (at / PANEL * params.blocks + word / BLOCK_WORDS) * PANEL + at % PANEL;
    return block * BLOCK_WORDS + word % BLOCK_WORDS;
}
