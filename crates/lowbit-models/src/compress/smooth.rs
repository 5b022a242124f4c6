//! SmoothQuant on the weights of a model file: which linear layers share factors, and where `1/s`
//! goes.
//!
//! SmoothQuant divides the channels of X by factors and multiplies the columns of W with them. In
//! pre-norm networks the division is folded into the preceding LayerNorm, whose output nothing else
//! reads. BERT is post-norm: the output of a LayerNorm is also the residual, so folding factors into
//! the norm would change the network. Therefore:
//!
//! - `attention.output.dense` takes sums of values, weighted by a softmax that does not depend on
//!   the values. Channel j of its X is row j of the value's W (and its bias) times something that
//!   does not depend on that row. Dividing those rows by s is exact, and X needs nothing at run time.
//! - Every other weight keeps its factors beside it, and X is divided by them when it is quantized.
//!   Query, key and value take the same X and have one set of factors. GELU stands between the two
//!   feed-forward weights and commutes with no factor.
//!
//! An α that suits one layer harms another: if W varies more between channels than X does, smoothing
//! gives X outliers that it did not have. Unless α is given, each set of factors gets the α with the
//! least estimated rounding error, and no factors if not smoothing is better.
//!
//! Factors are powers of two. No product or quotient is rounded, and the f32 network gives the same
//! bits as before as long as nothing leaves the range of normal numbers.

use crate::checkpoint::{Dtype, IoError, ModelFile, Tensor, matrix_shape};
use crate::inputs::shared_input;
use lowbit::compress::calibrate::{ActivationRange, Statistics};
use lowbit::compress::smooth::{
    Channels, Linear, Options, SmoothError, factors, fold_into_rows, scale_columns,
    search_channels, smoothed_range, weight_absmax,
};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The reason why the weights of a file cannot be smoothed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SmoothingError {
    /// A tensor cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The factors of a weight cannot be found or applied.
    #[error("`{name}`")]
    Smooth {
        /// The weight or bias; for weights that share factors, the first of them.
        name: String,
        /// The reason.
        source: SmoothError,
    },
}

fn failed(name: &str) -> impl Fn(SmoothError) -> SmoothingError {
    move |source| SmoothingError::Smooth { name: name.to_owned(), source }
}

/// What smoothing does to one weight.
#[derive(Debug)]
struct Weight {
    /// The factors that its columns are multiplied with.
    columns: Vec<f32>,
    /// Whether the factors are folded into the layer that produces X.
    folded: bool,
    /// The range of X divided by the factors.
    range: ActivationRange,
}

/// What smoothing does to the weights and biases of a file.
#[derive(Debug)]
pub struct Smoothing {
    weights: BTreeMap<String, Weight>,
    /// What rows of weights and elements of biases are divided by.
    rows: BTreeMap<String, Vec<f32>>,
}

impl Smoothing {
    /// Computes the factors `s_j = max|X_j|^α / max|W_j|^(1 − α)` of all selected weights, with the
    /// given α or the best one for each set of weights that share X. `channels` holds what was
    /// observed of the channels of each weight's X.
    ///
    /// # Errors
    /// Returns [`SmoothingError`] if a tensor cannot be read, if a weight is not finite, or if the
    /// statistics are of another number of columns or give no range.
    pub fn new(
        model: &ModelFile,
        selected: &[Tensor<'_>],
        channels: &BTreeMap<&str, &Statistics>,
        alpha: Option<f64>,
    ) -> Result<Self, SmoothingError> {
        let mut smoothing = Self { weights: BTreeMap::new(), rows: BTreeMap::new() };
        let (outputs, others): (Vec<&Tensor<'_>>, _) =
            selected.iter().partition(|tensor| value_of(model, selected, tensor).is_some());
        // The output projections come first, because they divide rows of the values, and the
        // factors of the values follow from the rows as divided.
        for output in outputs {
            smoothing.add(&[output], channels, alpha)?;
            let Some((value, bias)) = value_of(model, selected, output) else { continue };
            let Some(weight) = smoothing.weights.get_mut(output.name) else { continue };
            weight.folded = true;
            smoothing.rows.insert(value.name.to_owned(), weight.columns.clone());
            smoothing.rows.insert(bias.name.to_owned(), weight.columns.clone());
        }
        let mut groups: BTreeMap<&str, Vec<&Tensor<'_>>> = BTreeMap::new();
        for tensor in others {
            groups.entry(shared_input(tensor.name)).or_default().push(tensor);
        }
        for group in groups.values() {
            smoothing.add(group, channels, alpha)?;
        }
        Ok(smoothing)
    }

    /// Adds the factors of weights that take the same X.
    fn add(
        &mut self,
        group: &[&Tensor<'_>],
        channels: &BTreeMap<&str, &Statistics>,
        alpha: Option<f64>,
    ) -> Result<(), SmoothingError> {
        let (Some(first), Some(k)) =
            (group.first(), group.first().and_then(|tensor| columns(tensor)))
        else {
            return Ok(());
        };
        let failed = failed(first.name);
        let mut x = Channels::new(k);
        let mut weights = Vec::new();
        for tensor in group {
            weights.push(self.divided(tensor)?);
            if let Some(seen) = channels.get(tensor.name) {
                x.add(seen).map_err(&failed)?;
            }
        }
        let linear = |weights: &'_ Vec<f32>| weights.len() / k.max(1);
        let linears: Vec<Linear<'_>> =
            weights.iter().map(|weights| Linear { weights, rows: linear(weights) }).collect();
        let columns = match alpha {
            Some(alpha) => {
                let most = weight_absmax(k, &linears).map_err(&failed)?;
                factors(&x.absmax(), &most, alpha, true).map_err(&failed)?
            }
            // There is nothing to search for without rows or columns.
            None if weights.iter().all(Vec::is_empty) => vec![1.0; k],
            None => {
                let options = Options { powers_of_two: true, ..Options::default() };
                let found = search_channels(&x, &linears, &options).map_err(&failed)?;
                found.factors().to_vec()
            }
        };
        let range = smoothed_range(x.ranges(), &columns).map_err(&failed)?;
        for tensor in group {
            let weight = Weight { columns: columns.clone(), folded: false, range };
            self.weights.insert(tensor.name.to_owned(), weight);
        }
        Ok(())
    }

    /// Reads a weight and divides its rows by the factors that are folded into them.
    fn divided(&self, tensor: &Tensor<'_>) -> Result<Vec<f32>, SmoothingError> {
        let mut weights = tensor.to_f32()?;
        if let (Some(rows), Some(k)) = (self.rows.get(tensor.name), columns(tensor)) {
            fold_into_rows(&mut weights, None, k, rows).map_err(failed(tensor.name))?;
        }
        Ok(weights)
    }

    /// Returns a weight as it is to be compressed.
    ///
    /// # Errors
    /// Returns [`SmoothingError`] if the tensor cannot be read or a product is not finite.
    pub fn weight(&self, tensor: &Tensor<'_>) -> Result<Vec<f32>, SmoothingError> {
        let weights = self.divided(tensor)?;
        match self.weights.get(tensor.name) {
            Some(weight) => scale_columns(&weights, &weight.columns).map_err(failed(tensor.name)),
            None => Ok(weights),
        }
    }

    /// Returns the bytes of a tensor that is not compressed. Only biases into which factors are
    /// folded differ from the file.
    ///
    /// # Errors
    /// Returns [`SmoothingError`] if the tensor cannot be read or a quotient is not finite.
    pub fn plain<'a>(&self, tensor: &Tensor<'a>) -> Result<Cow<'a, [u8]>, SmoothingError> {
        let Some(rows) = self.rows.get(tensor.name) else { return Ok(tensor.bytes.into()) };
        let mut bias = tensor.to_f32()?;
        fold_into_rows(&mut bias, None, 1, rows).map_err(failed(tensor.name))?;
        Ok(bias.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// A weight whose X is smoothed.
    fn changed(&self, name: &str) -> Option<&Weight> {
        self.weights.get(name).filter(|weight| weight.columns.iter().any(|&s| s != 1.0))
    }

    /// Returns the factors that X of a weight is to be divided by at run time. `None` if X is not
    /// smoothed, or if the factors are folded into the previous layer.
    pub fn factors(&self, name: &str) -> Option<&[f32]> {
        self.changed(name).filter(|weight| !weight.folded).map(|weight| &weight.columns[..])
    }

    /// Returns the factors that X of a weight is divided by, at run time or by the previous layer.
    pub(super) fn divisors(&self, name: &str) -> Option<&[f32]> {
        self.changed(name).map(|weight| &weight.columns[..])
    }

    /// Returns what the rows of a weight are divided by, which are the factors of a layer that takes its output.
    pub(super) fn row_divisors(&self, name: &str) -> Option<&[f32]> {
        self.rows.get(name).map(|rows| &rows[..])
    }

    /// Returns the range of a weight's smoothed X, or `None` if X is not smoothed.
    pub fn range(&self, name: &str) -> Option<ActivationRange> {
        self.changed(name).map(|weight| weight.range)
    }
}

fn columns(tensor: &Tensor<'_>) -> Option<usize> {
    matrix_shape(tensor.shape).map(|(_, k)| k)
}

/// Returns the value projection, weight and bias, whose outputs `output` sums, if there is one whose
/// shapes fit and that can be changed.
fn value_of<'a>(
    model: &'a ModelFile,
    selected: &[Tensor<'a>],
    output: &Tensor<'_>,
) -> Option<(Tensor<'a>, Tensor<'a>)> {
    let stem = output.name.strip_suffix("attention.output.dense.weight")?;
    let name = format!("{stem}attention.self.value");
    let value = format!("{name}.weight");
    let value = *selected.iter().find(|tensor| tensor.name == value)?;
    // A quotient that is exact in f32 may be rounded in another type.
    let bias = model.tensor(&format!("{name}.bias")).filter(|bias| bias.dtype == Dtype::F32)?;
    let k = columns(output)?;
    (matrix_shape(value.shape)?.0 == k && bias.shape == [k]).then_some((value, bias))
}
