//! The loop over columns that GPTQ and SparseGPT share. Without a factor it rounds.

use super::dense::{self, Multiply};
use super::pattern::{greatest, without_lowest};
use super::rounder::{Rounder, RowScales};
use super::{LayerwiseError, Mask, Pattern};
use crate::compress::CompressError;
use crate::compress::rows::each_row;
use crate::format::{CodeType, PackedWeights};

/// Which weights are pruned.
#[derive(Clone, Copy)]
pub(super) enum Prune<'a> {
    /// By the scores of updated weights.
    Pattern(Pattern),
    /// A mask that is known before.
    Mask(&'a Mask),
}

/// What the loop runs on.
pub(super) struct Columns<'a> {
    /// `[n, k]`.
    pub w: &'a [f32],
    pub n: usize,
    pub k: usize,
    /// The upper triangular U with H⁻¹ = UᵀU, `[k, k]`, in the order of steps.
    pub factor: Option<&'a [f64]>,
    /// Columns whose weights become 0.
    pub dead: &'a [bool],
    /// The column that each step takes, or `None` if they are taken as they are.
    pub order: Option<&'a [u32]>,
    /// Whether groups are those of W, with scales that are found before the loop, and not those of the
    /// order of steps.
    pub static_groups: bool,
    pub prune: Prune<'a>,
    pub block: usize,
}

/// Packed weights and the mask by which they were pruned.
pub(super) struct Made {
    pub packed: PackedWeights,
    pub mask: Option<Mask>,
}

/// Rows that are updated together, and as many as make the update a product of matrices.
const TILE_ROWS: usize = 64;

/// A few rows of W, in the order of steps.
struct Tile {
    first_row: usize,
    rows: usize,
    /// The weights, updated. `[rows, k]`.
    w: Vec<f64>,
    /// The errors of the columns of a block, divided by the diagonal of U.
    errors: Vec<f64>,
    codes: Vec<i32>,
    keep: Vec<bool>,
    scales: Vec<RowScales>,
    failed: Option<LayerwiseError>,
}

impl Columns<'_> {
    /// Runs the loop.
    ///
    /// # Errors
    /// Returns [`LayerwiseError::Compress`] if the format cannot hold the weights and
    /// [`LayerwiseError::Diverged`] if updates leave the range of f32; of several, those of the lowest
    /// columns and then of the lowest rows.
    pub fn run(&self, mut rounder: Rounder) -> Result<Made, LayerwiseError> {
        let mut tiles = self.tiles();
        self.see_whole(&mut rounder, &tiles)?;
        each_row(&mut tiles, 1, |_, tiles| tiles.iter_mut().for_each(|t| t.start(self, &rounder)));
        check(&mut tiles)?;
        let bounds = self.bounds(&rounder);
        for pair in bounds.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            if let (true, Prune::Pattern(pattern @ Pattern::Fraction(_))) =
                (start.is_multiple_of(self.block), self.prune)
            {
                self.prune_block(&mut tiles, start, pattern);
            }
            each_row(&mut tiles, 1, |_, tiles| {
                tiles.iter_mut().for_each(|tile| tile.block(self, &rounder, start, end));
            });
            check(&mut tiles)?;
        }
        self.finish(&rounder, &tiles)
    }

    fn column(&self, step: usize) -> usize {
        self.order.map_or(step, |order| order[step] as usize)
    }

    /// The place of a step along K of the packed weights, which decides its group.
    fn place(&self, step: usize) -> usize {
        if self.static_groups { self.column(step) } else { step }
    }

    /// The score by which a weight is pruned: by how much the error grows at least if it is 0.
    fn score(&self, step: usize, w: f64) -> f64 {
        let diagonal = self.factor.map_or(1.0, |factor| factor[step * self.k + step]);
        (w / diagonal) * (w / diagonal)
    }

    /// The places where a block ends. Blocks are cut where a group, or a run of an N:M pattern, starts
    /// that the end of a block would cut, so that both begin with columns that are up to date.
    fn bounds(&self, rounder: &Rounder) -> Vec<usize> {
        let mut is_bound = vec![false; self.k + 1];
        let mut todo: Vec<usize> = (0..self.k).step_by(self.block).chain([self.k]).collect();
        todo.iter().for_each(|&at| is_bound[at] = true);
        let run = match self.prune {
            Prune::Pattern(Pattern::OfM { of, .. }) => Some(usize::from(of)),
            _ => None,
        };
        let unit = rounder.unit().filter(|_| !self.static_groups);
        while let Some(at) = todo.pop() {
            // The end of a row cuts nothing that goes on behind it.
            for size in [run, unit].into_iter().flatten().filter(|_| at < self.k) {
                let start = at - at % size;
                if !is_bound[start] {
                    is_bound[start] = true;
                    todo.push(start);
                }
            }
        }
        (0..=self.k).filter(|&at| is_bound[at]).collect()
    }

    fn tiles(&self) -> Vec<Tile> {
        let (n, k) = (self.n, self.k);
        let filled = if k == 0 { 0 } else { n };
        let tile = |first_row: usize| Tile {
            first_row,
            rows: TILE_ROWS.min(n - first_row),
            w: Vec::new(),
            errors: Vec::new(),
            codes: Vec::new(),
            keep: Vec::new(),
            scales: Vec::new(),
            failed: None,
        };
        let mut tiles: Vec<Tile> = (0..filled).step_by(TILE_ROWS).map(tile).collect();
        each_row(&mut tiles, 1, |_, tiles| {
            for tile in tiles {
                let count = tile.rows * k;
                tile.w = Vec::with_capacity(count);
                for row in tile.first_row..tile.first_row + tile.rows {
                    let weight = |step| {
                        let column = self.column(step);
                        if self.dead[column] { 0.0 } else { f64::from(self.w[row * k + column]) }
                    };
                    tile.w.extend((0..k).map(weight));
                }
                tile.codes = vec![0; count];
                tile.errors = vec![0.0; tile.rows * self.block.min(k)];
                tile.keep = match self.prune {
                    Prune::Pattern(_) => vec![true; count],
                    Prune::Mask(mask) => (0..count)
                        .map(|at| mask.keeps(tile.first_row + at / k, self.column(at % k)))
                        .collect(),
                };
            }
        });
        tiles
    }

    /// Shows the whole matrix, in the order of places, to formats whose scales depend on it.
    fn see_whole(&self, rounder: &mut Rounder, tiles: &[Tile]) -> Result<(), LayerwiseError> {
        if !rounder.needs_whole() {
            return Ok(());
        }
        let mut whole = Vec::with_capacity(self.w.len());
        for tile in tiles {
            for row in 0..tile.rows {
                whole.extend(tile.likely(self, row, 0, self.k));
            }
        }
        rounder.see_whole(&whole)
    }

    /// Prunes a fraction of a block of columns.
    fn prune_block(&self, tiles: &mut [Tile], start: usize, pattern: Pattern) {
        let end = self.k.min(start + self.block);
        let (k, width) = (self.k, end - start);
        let rows = tiles.iter().flat_map(|tile| tile.w.chunks_exact(k));
        let scores: Vec<f64> =
            rows.flat_map(|row| (start..end).map(|step| self.score(step, row[step]))).collect();
        let keep = without_lowest(&scores, pattern.pruned_of(scores.len()));
        let rows = tiles.iter_mut().flat_map(|tile| tile.keep.chunks_exact_mut(k));
        for (row, keep) in rows.zip(keep.chunks_exact(width)) {
            row[start..end].copy_from_slice(keep);
        }
    }

    fn finish(&self, rounder: &Rounder, tiles: &[Tile]) -> Result<Made, LayerwiseError> {
        let (n, k) = (self.n, self.k);
        let prunes = !matches!(self.prune, Prune::Pattern(Pattern::Dense));
        let mut steps: Vec<usize> = (0..k).collect();
        if let Some(order) = self.order {
            order.iter().enumerate().for_each(|(step, &column)| steps[column as usize] = step);
        }
        let row = |row: usize| (&tiles[row / TILE_ROWS], row % TILE_ROWS * k);
        let mask = if prunes {
            let keeps = |at: usize, column: usize| {
                let (tile, start) = row(at);
                tile.keep[start + steps[column]]
            };
            Some(Mask::from_fn(n, k, keeps)?)
        } else {
            None
        };
        let format = rounder.geometry().format;
        let mask24 = match &mask {
            Some(mask) if format.is_sparse() => Some(mask.to_mask24()?),
            _ => None,
        };
        // An order of columns is stored only if groups follow it.
        let stored_order = self.order.filter(|_| !self.static_groups && rounder.has_groups());
        let mut codes: Vec<i32> = Vec::with_capacity(self.w.len());
        for at in 0..if k == 0 { 0 } else { n } {
            let (tile, start) = row(at);
            let row = &tile.codes[start..][..k];
            match stored_order {
                Some(_) => codes.extend(row),
                None => codes.extend(steps.iter().map(|&step| row[step])),
            }
        }
        let scales: Vec<RowScales> = tiles.iter().flat_map(|tile| tile.scales.clone()).collect();
        let packed = rounder.pack(&scales, &codes, mask24.as_ref(), stored_order)?;
        Ok(Made { packed, mask })
    }
}

/// Returns the failure of the lowest row.
fn check(tiles: &mut [Tile]) -> Result<(), LayerwiseError> {
    match tiles.iter_mut().find_map(|tile| tile.failed.take()) {
        None => Ok(()),
        Some(failed) => Err(failed),
    }
}

impl Tile {
    /// Finds scales that do not wait for updates.
    fn start(&mut self, columns: &Columns<'_>, rounder: &Rounder) {
        self.scales = vec![rounder.row(); self.rows];
        let Some(unit) = rounder.unit().filter(|_| columns.static_groups) else { return };
        let k = columns.k;
        for row in 0..self.rows {
            // In the order of W.
            let mut x = vec![0.0; k];
            for (step, value) in self.likely(columns, row, 0, k).into_iter().enumerate() {
                x[columns.column(step)] = value;
            }
            for (index, x) in x.chunks(unit).enumerate() {
                let scales = &mut self.scales[row];
                if let Err(error) = rounder.find(self.first_row + row, index, x, scales) {
                    self.failed = Some(error.into());
                    return;
                }
            }
        }
    }

    /// Returns the weights of steps of a row in f32, with 0 where they are pruned, or would be if
    /// an N:M pattern were chosen now.
    fn likely(&self, columns: &Columns<'_>, row: usize, start: usize, end: usize) -> Vec<f32> {
        let k = columns.k;
        let (w, keep) = (&self.w[row * k..][..k], &self.keep[row * k..][..k]);
        let mut x: Vec<f32> =
            (start..end).map(|step| if keep[step] { w[step] as f32 } else { 0.0 }).collect();
        if let Prune::Pattern(Pattern::OfM { keep, of }) = columns.prune {
            let of = usize::from(of);
            // A run that began before was chosen then.
            let mut run = start.next_multiple_of(of);
            while run < end {
                let kept = columns.choose(w, run, keep);
                for step in run..end.min(run + of) {
                    if kept >> (step - run) & 1 == 0 {
                        x[step - start] = 0.0;
                    }
                }
                run += of;
            }
        }
        x
    }

    /// Takes the columns of a block, and brings those behind it up to date.
    fn block(&mut self, columns: &Columns<'_>, rounder: &Rounder, start: usize, end: usize) {
        for row in 0..self.rows {
            if let Err(failed) = self.row_block(columns, rounder, row, start, end) {
                self.failed = Some(failed);
                return;
            }
        }
        let (k, width) = (columns.k, end - start);
        let Some(factor) = columns.factor.filter(|_| end < k) else { return };
        dense::multiply(Multiply {
            out: (&mut self.w[end..], k),
            left: (&self.errors, width),
            transposed: false,
            right: (&factor[start * k + end..], k),
            shape: (self.rows, width, k - end),
            factor: -1.0,
        });
    }

    fn row_block(
        &mut self,
        columns: &Columns<'_>,
        rounder: &Rounder,
        row: usize,
        start: usize,
        end: usize,
    ) -> Result<(), LayerwiseError> {
        let (k, width) = (columns.k, end - start);
        let unit = rounder.unit().filter(|_| !columns.static_groups);
        for step in start..end {
            self.choose(columns, row, step);
            if let Some(unit) = unit.filter(|&unit| step.is_multiple_of(unit)) {
                let x = self.likely(columns, row, step, k.min(step + unit));
                rounder.find(self.first_row + row, step / unit, &x, &mut self.scales[row])?;
            }
            let (at, place) = (row * k + step, columns.place(step));
            let w = self.w[at];
            if !(w as f32).is_finite() {
                let (row, column) = (self.first_row + row, columns.column(step));
                return Err(LayerwiseError::Diverged { row, column, value: w });
            }
            let scales = &self.scales[row];
            let (code, value) = if self.keep[at] {
                rounder.round(scales, place, w as f32)
            } else {
                (rounder.zero(scales, place), 0.0)
            };
            if value.is_infinite() && rounder.geometry().format.code_type() == CodeType::F16 {
                let (row, col) = (self.first_row + row, columns.column(step));
                return Err(CompressError::F16Overflow { row, col, value: w as f32 }.into());
            }
            self.codes[at] = code;
            let Some(factor) = columns.factor else { continue };
            let factors = &factor[step * k..][step..end];
            let error = (w - f64::from(value)) / factors[0];
            self.errors[row * width + step - start] = error;
            let behind = &mut self.w[row * k..][step + 1..end];
            for (w, u) in behind.iter_mut().zip(&factors[1..]) {
                *w -= error * u;
            }
        }
        Ok(())
    }

    /// Chooses which weights of a run are kept, if one starts here.
    fn choose(&mut self, columns: &Columns<'_>, row: usize, step: usize) {
        let Prune::Pattern(Pattern::OfM { keep, of }) = columns.prune else { return };
        let (k, of) = (columns.k, usize::from(of));
        if !step.is_multiple_of(of) {
            return;
        }
        let kept = columns.choose(&self.w[row * k..][..k], step, keep);
        for (at, keep) in self.keep[row * k..][step..k.min(step + of)].iter_mut().enumerate() {
            *keep = kept >> at & 1 == 1;
        }
    }
}

impl Columns<'_> {
    /// Returns which weights of the run that starts at a step an N:M pattern keeps, as bits.
    fn choose(&self, row: &[f64], run: usize, keep: u8) -> u32 {
        let Prune::Pattern(Pattern::OfM { of, .. }) = self.prune else { return u32::MAX };
        let end = self.k.min(run + usize::from(of));
        let mut scores = [0.0; 16];
        let count = (end - run).min(scores.len());
        for (score, step) in scores.iter_mut().zip(run..end) {
            *score = self.score(step, row[step]);
        }
        greatest(&scores[..count], usize::from(keep))
    }
}
