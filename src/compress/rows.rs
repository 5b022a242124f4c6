//! A loop over independent rows, which runs on all processors if the feature `rayon` is enabled.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

/// Calls `f` with the index of every row and its `per_row` items.
#[cfg(feature = "rayon")]
pub(super) fn each_row<T: Send>(
    items: &mut [T],
    per_row: usize,
    f: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    // Rows may be empty, but a chunk needs at least one item.
    items.par_chunks_mut(per_row.max(1)).enumerate().for_each(|(row, items)| f(row, items));
}

/// Calls `f` with the index of every row and its `per_row` items.
#[cfg(not(feature = "rayon"))]
pub(super) fn each_row<T: Send>(
    items: &mut [T],
    per_row: usize,
    f: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    // Rows may be empty, but a chunk needs at least one item.
    items.chunks_mut(per_row.max(1)).enumerate().for_each(|(row, items)| f(row, items));
}

#[cfg(test)]
mod tests {
    use super::each_row;

    #[test]
    fn rows_come_once_with_their_numbers() {
        let mut items = [0; 12];
        each_row(&mut items, 4, |row, items| items.iter_mut().for_each(|item| *item += row + 1));
        assert_eq!(items, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        each_row(&mut [0; 0], 0, |_, _| panic!("there is no row"));
        each_row(&mut [0; 0], 3, |_, _| panic!("there is no row"));
    }
}
