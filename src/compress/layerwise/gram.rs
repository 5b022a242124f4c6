use super::dense::{self, Multiply};
use super::error::{LayerwiseError, check_length};
use crate::compress::rows::each_row;

/// The Gram matrix XᵀX of the inputs of a layer, as exact sums.
///
/// X is `[rows, columns]`. A sum is an integer in units of 2⁻⁷². The rows of one call of
/// [`add`](Self::add) are taken in chunks of 64. The products of a chunk, which are exact in f64, are
/// summed in f64 and rounded to a unit once; chunks are then added as integers. So Gram matrices
/// [merge](Self::merge) exactly and in any order, and the error of a sum is at most
/// `64 · 2⁻⁵³ · Σ|x_i · x_j|` and half a unit for each chunk.
///
/// ```
/// use lowbit::compress::layerwise::Gram;
/// let mut gram = Gram::new(2)?;
/// gram.add(&[1.0, 2.0, 3.0, -4.0])?;
/// assert_eq!((gram.rows(), gram.value(0, 0), gram.value(1, 0)), (2, 10.0, -10.0));
/// let mut other = Gram::new(2)?;
/// other.add(&[0.5, 0.0])?;
/// gram.merge(&other)?;
/// assert_eq!(gram.diagonal(), [10.25, 20.0]);
/// # Ok::<(), lowbit::compress::layerwise::LayerwiseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gram {
    columns: usize,
    rows: u64,
    /// The upper triangle row by row: (0, 0), (0, 1) … (1, 1) ….
    sums: Vec<i128>,
}

/// The number of rows that are summed in f64 before they are rounded to units.
const CHUNK: usize = 64;
/// The number of columns of a tile of the sums of a chunk.
const TILE: usize = 128;
/// The units in 1: 2⁷².
const UNITS: f64 = (1u128 << 72) as f64;
/// The greatest magnitude of a sum, in units: 2¹²⁶, which is 2⁵⁴.
const MOST: i128 = 1 << 126;

/// Returns the number of entries of the upper triangle, or `None` if it overflows.
fn entries(columns: usize) -> Option<usize> {
    let twice = columns.checked_mul(columns.checked_add(1)?)?;
    // All entries of the full matrix as f64 must be addressable as well.
    let bytes = twice.checked_mul(size_of::<i128>())?;
    (bytes <= isize::MAX as usize).then_some(twice / 2)
}

impl Gram {
    /// Creates the Gram matrix of no rows.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::TooLarge`] if its size overflows or there is no memory for it.
    pub fn new(columns: usize) -> Result<Self, LayerwiseError> {
        let too_large = LayerwiseError::TooLarge { columns };
        let Some(count) = entries(columns) else { return Err(too_large) };
        let mut sums = Vec::new();
        if sums.try_reserve_exact(count).is_err() {
            return Err(too_large);
        }
        sums.resize(count, 0);
        Ok(Self { columns, rows: 0, sums })
    }

    /// Creates a Gram matrix from its parts: the number of rows that were added, and the upper
    /// triangle row by row in units of 2⁻⁷².
    ///
    /// # Errors
    /// Returns [`LayerwiseError::TooLarge`] if the size overflows, [`LayerwiseError::WrongLength`] if
    /// there are not `columns · (columns + 1) / 2` sums, and [`LayerwiseError::Overflow`] if one of
    /// them exceeds 2⁵⁴.
    pub fn from_parts(columns: usize, rows: u64, sums: Vec<i128>) -> Result<Self, LayerwiseError> {
        let need = entries(columns).ok_or(LayerwiseError::TooLarge { columns })?;
        check_length("the upper triangle of a Gram matrix", need, sums.len())?;
        let gram = Self { columns, rows, sums };
        match gram.sums.iter().position(|sum| !(-MOST..=MOST).contains(sum)) {
            None => Ok(gram),
            Some(at) => Err(gram.overflow(at)),
        }
    }

    /// Returns the number of columns of X.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the number of rows that were added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the upper triangle row by row, in units of 2⁻⁷².
    pub fn sums(&self) -> &[i128] {
        &self.sums
    }

    /// Adds rows `[rows, columns]`. If this is an error, nothing was added.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::Rows`] if `x` is not a whole number of rows,
    /// [`LayerwiseError::NonFinite`] with the row within `x` and the column of a NaN or an infinity,
    /// and [`LayerwiseError::Overflow`] if a sum exceeds 2⁵⁴.
    pub fn add(&mut self, x: &[f32]) -> Result<(), LayerwiseError> {
        let columns = self.columns;
        if columns == 0 || !x.len().is_multiple_of(columns) {
            if x.is_empty() {
                return Ok(());
            }
            return Err(LayerwiseError::Rows { have: x.len(), columns });
        }
        if let Some(at) = x.iter().position(|x| !x.is_finite()) {
            return Err(LayerwiseError::NonFinite {
                what: "the input",
                row: (at / columns) as u64,
                column: at % columns,
                value: x[at].into(),
            });
        }
        let rows = (x.len() / columns) as u64;
        let Some(rows) = self.rows.checked_add(rows) else {
            return Err(LayerwiseError::Overflow { first: 0, second: 0 });
        };
        let mut added = Self::new(columns)?;
        added.sum(x)?;
        self.merge(&added)?;
        self.rows = rows;
        Ok(())
    }

    /// Adds finite rows, in whichever state an error leaves the sums.
    fn sum(&mut self, x: &[f32]) -> Result<(), LayerwiseError> {
        let columns = self.columns;
        // One item for each row of tiles: its rows of the triangle, and whether all of them fit.
        let mut bands: Vec<(&mut [i128], bool)> = Vec::new();
        let mut rest = self.sums.as_mut_slice();
        for first in (0..columns).step_by(TILE) {
            let count = (first..columns.min(first + TILE)).map(|i| columns - i).sum();
            let (band, others) = rest.split_at_mut(count);
            bands.push((band, true));
            rest = others;
        }
        for chunk in x.chunks(CHUNK * columns) {
            let rows = chunk.len() / columns;
            let chunk: Vec<f64> = chunk.iter().map(|&x| x.into()).collect();
            each_row(&mut bands, 1, |index, bands| {
                for (band, fits) in bands {
                    *fits &= add_band(band, &chunk, rows, columns, index * TILE);
                }
            });
        }
        if bands.iter().all(|(_, fits)| *fits) {
            return Ok(());
        }
        let at = self.sums.iter().position(|sum| !(-MOST..=MOST).contains(sum));
        Err(self.overflow(at.unwrap_or(0)))
    }

    /// Adds the rows of another Gram matrix. The sums are exact. If this is an error, nothing was
    /// added.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::Columns`] if the other one has another width, and
    /// [`LayerwiseError::Overflow`] if a sum exceeds 2⁵⁴.
    pub fn merge(&mut self, other: &Self) -> Result<(), LayerwiseError> {
        if self.columns != other.columns {
            return Err(LayerwiseError::Columns { need: self.columns, have: other.columns });
        }
        // Two sums of at most 2¹²⁶ do not overflow.
        let sum = |(a, b): (&i128, &i128)| a + b;
        let fits = |sum: i128| (-MOST..=MOST).contains(&sum);
        let mut sums = self.sums.iter().zip(&other.sums).map(sum);
        if let Some(at) = sums.position(|sum| !fits(sum)) {
            return Err(self.overflow(at));
        }
        let rows = self.rows.checked_add(other.rows);
        self.rows = rows.ok_or(LayerwiseError::Overflow { first: 0, second: 0 })?;
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// Returns the index of entry (i, j), i ≤ j, of the triangle.
    fn index(&self, i: usize, j: usize) -> usize {
        i * (2 * self.columns - i + 1) / 2 + (j - i)
    }

    fn overflow(&self, at: usize) -> LayerwiseError {
        let last = |i: &usize| self.index(*i, self.columns - 1) >= at;
        let first = (0..self.columns).find(last).unwrap_or(0);
        let second = if self.columns == 0 { 0 } else { first + at - self.index(first, first) };
        LayerwiseError::Overflow { first, second }
    }

    /// Returns the sum of products of columns `i` and `j`, rounded to f64. Panics if there is no such
    /// column.
    pub fn value(&self, i: usize, j: usize) -> f64 {
        self.sums[self.index(i.min(j), i.max(j))] as f64 / UNITS
    }

    /// Returns the sum of squares of each column, rounded to f64.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.columns).map(|i| self.value(i, i)).collect()
    }
}

/// Adds the products of a chunk of rows to the rows of the triangle from `first` on, and returns
/// whether all sums fit.
fn add_band(band: &mut [i128], x: &[f64], rows: usize, columns: usize, first: usize) -> bool {
    let height = TILE.min(columns - first);
    let width = columns - first;
    let mut products = vec![0.0; height * width];
    dense::multiply(Multiply {
        out: (&mut products, width),
        left: (&x[first..], columns),
        transposed: true,
        right: (&x[first..], columns),
        shape: (height, rows, width),
        factor: 1.0,
    });
    let (mut rest, mut fits) = (band, true);
    for (i, row) in products.chunks_exact(width.max(1)).enumerate() {
        let (sums, others) = rest.split_at_mut(width - i);
        for (sum, product) in sums.iter_mut().zip(&row[i..]) {
            // Out of range becomes the greatest integer.
            let units = (product * UNITS).round_ties_even() as i128;
            *sum = sum.saturating_add(units);
            fits &= (-MOST..=MOST).contains(sum);
        }
        rest = others;
    }
    fits
}
