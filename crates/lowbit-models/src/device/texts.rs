//! Texts that share a step, one after the other without padding: what each of their rows sees.

use crate::architecture::Blueprint;

/// The words that describe the rows of a step for attention with one window: a position, a slot, and the slots
/// that it sees for each of `room` rows, and after these the list of positions in the table of positions.
pub(super) fn describe(
    blueprint: &Blueprint,
    lengths: impl IntoIterator<Item = usize>,
    window: Option<u32>,
    room: usize,
) -> Vec<u32> {
    let causal = blueprint.layers.iter().any(|layer| layer.attention.causal);
    let positions = &blueprint.embedding.positions;
    let base = positions.as_ref().map_or(0, |(_, first)| *first as u32);
    let mut words = vec![0u32; 5 * room];
    let mut first = 0u32;
    for length in lengths {
        let end = first + length as u32;
        for row in first..end {
            let seen = if causal {
                first.max((row + 1).saturating_sub(window.unwrap_or(u32::MAX)))..row + 1
            } else {
                first..end
            };
            let (position, at) = (row - first, 4 * row as usize);
            words[at..at + 4].copy_from_slice(&[position, row, seen.start, seen.end]);
            words[4 * room + row as usize] = position + base;
        }
        first = end;
    }
    words
}

/// Returns how many of the first texts fit into `rows` rows together: at least one if there is one.
pub(super) fn fitting(texts: &[Vec<u32>], rows: usize) -> usize {
    let mut tokens = 0usize;
    let fits = |text: &&Vec<u32>| {
        tokens = tokens.saturating_add(text.len());
        tokens <= rows
    };
    texts.iter().take_while(fits).count().max(1).min(texts.len())
}
