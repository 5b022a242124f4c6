//! Methods that compress a layer with the statistics of its inputs, on the host and in f64.
//!
//! They make the weights Ŵ that change a layer's outputs least: `‖X(W − Ŵ)ᵀ‖²` over its inputs X, which
//! is a function of the [Gram matrix](Gram) XᵀX alone. Kernels that do the same in f32 are compared
//! with these functions.
//!
//! - [`gptq()`] quantizes to any format that has a rule.
//! - [`sparse_gpt`] prunes by a [`Pattern`], and quantizes in the same pass.
//! - [`wanda`] and [`magnitude`] choose which weights to prune, and [`prune_and_round`] does it without
//!   updates.
//! - [`awq()`] finds factors of columns before rounding, and [`clip_search`] the ranges of groups.
//! - [`permute_for_two_four`] orders columns so that 2:4 keeps more.
//!
//! Results do not depend on the number of threads.
//!
//! ```
//! use lowbit::compress::layerwise::{Gram, Options, gptq};
//! // Inputs whose second and third columns are nearly equal.
//! let x: Vec<f32> = (0..64).flat_map(|i| {
//!     let (a, b) = ((i as f32 * 0.9).sin(), (i as f32 * 0.7).cos());
//!     [a, b, b + 0.01 * a, a - b]
//! }).collect();
//! let mut gram = Gram::new(4)?;
//! gram.add(&x)?;
//! let w = [0.9, 0.3, 0.35, -0.2, 0.1, -0.8, 0.45, 0.6];
//! let made = gptq(&w, 2, 4, &gram, &"int2-channel-asym".parse()?, &Options::default())?;
//! assert!(made.error < made.error_before);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod awq;
mod columns;
mod dense;
mod error;
mod gptq;
mod gram;
mod mask;
mod objective;
mod pattern;
mod permute;
mod rounder;
mod sparse;

pub use awq::{Awq, Clipped, awq, clip_search};
pub use error::LayerwiseError;
pub use gptq::gptq;
pub use gram::Gram;
pub use mask::Mask;
pub use objective::output_error;
pub use pattern::Pattern;
pub use permute::{Budget, permute_for_two_four};
pub use sparse::{
    magnitude, magnitude_from, magnitude_threshold, prune_and_round, sparse_gpt, wanda,
};

use crate::format::{PackedWeights, WeightFormat};
use error::check_length;

/// The order in which columns are quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// From the first to the last.
    #[default]
    AsIs,
    /// From the first to the last, with scales from the weights before all updates.
    AsIsStatic,
    /// By falling diagonal of the Gram matrix (act-order), so that the columns that matter most have
    /// the most columns behind them to correct their errors.
    ByDiagonal {
        /// Whether groups are columns that are neighbors in W, with scales from the weights before all
        /// updates. Without, they are columns that are neighbors in this order, and formats with groups
        /// become [permuted](WeightFormat::permuted).
        static_groups: bool,
    },
}

/// Options of [`gptq()`] and [`sparse_gpt`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The number that is added to the diagonal of the Gram matrix, as a multiple of its mean over the
    /// columns that are not 0.
    pub damping: f64,
    /// The number of columns after which all columns behind are updated at once. It changes the result
    /// by rounding only, except that fractions are pruned from each block.
    pub block: usize,
    /// The order of columns.
    pub order: Order,
    /// Whether the range of each group is shrunk, to 0.99, 0.98 … 0.21 of itself, where that lowers the
    /// sum of |w − ŵ|^2.4 over its weights.
    pub clip: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { damping: 0.01, block: 128, order: Order::AsIs, clip: false }
    }
}

impl Options {
    /// Checks the ranges of options.
    fn check(&self) -> Result<(), LayerwiseError> {
        if !(0.0..=1.0).contains(&self.damping) {
            let (what, range) = ("the damping", "0…1");
            return Err(LayerwiseError::Option { what, value: self.damping, range });
        }
        if self.block == 0 {
            let (what, range) = ("the number of columns of a block", "at least 1");
            return Err(LayerwiseError::Option { what, value: 0.0, range });
        }
        Ok(())
    }
}

/// What happened besides a result.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// The inputs of these columns were always 0. Their weights do not matter and became 0.
    DeadColumns {
        /// The number of columns.
        count: usize,
        /// The first of them.
        first: usize,
    },
    /// The Gram matrix is so nearly singular that it needed more damping than was asked for.
    Damped {
        /// The damping of the options.
        asked: f64,
        /// The damping that was used.
        used: f64,
    },
    /// The Gram matrix could not be factored with any damping, so that weights were pruned by
    /// magnitude and rounded to nearest.
    Rounded {
        /// The greatest damping that was tried.
        damping: f64,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DeadColumns { count, first } => write!(
                f,
                "the inputs of {count} columns are always 0, of column {first} first; their weights became 0"
            ),
            Self::Damped { asked, used } => write!(
                f,
                "the inputs are so nearly dependent that they needed a damping of {used} instead of {asked}"
            ),
            Self::Rounded { damping } => write!(
                f,
                "the statistics of the inputs could not be factored even with a damping of {damping}; the weights were rounded to nearest; collect more inputs"
            ),
        }
    }
}

/// A layer as a method made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The packed weights.
    pub packed: PackedWeights,
    /// Which weights are kept, if any were pruned.
    pub mask: Option<Mask>,
    /// The weights that `packed` represents, `[n, k]`.
    pub kept: Vec<f32>,
    /// What happened besides.
    pub warnings: Vec<Warning>,
    /// The [`output_error`] of the plain method in the same format: rounding to nearest, after pruning by
    /// magnitude if the method prunes.
    pub error_before: f64,
    /// The [`output_error`] of the result.
    pub error: f64,
}

/// Checks that a matrix is `[n, k]` and finite.
fn check_matrix(what: &'static str, w: &[f32], n: usize, k: usize) -> Result<(), LayerwiseError> {
    WeightFormat::f32().geometry(n, k)?;
    check_length(what, n * k, w.len())?;
    match w.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(LayerwiseError::NonFinite {
            what,
            row: (at / k) as u64,
            column: at % k,
            value: w[at].into(),
        }),
    }
}

/// Checks that a Gram matrix has k columns and that rows were added.
fn check_gram(gram: &Gram, k: usize) -> Result<(), LayerwiseError> {
    if gram.columns() != k {
        return Err(LayerwiseError::Columns { need: k, have: gram.columns() });
    }
    if gram.rows() == 0 {
        return Err(LayerwiseError::Nothing("rows of inputs"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
