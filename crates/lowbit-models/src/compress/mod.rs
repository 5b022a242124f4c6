//! Compresses the weights of a model file on a GPU.
//!
//! [`select`] finds the weights, [`ActivationPlan`] works out how their inputs become 8-bit codes if
//! that is wanted, and [`Compression`] makes the new file.

mod activations;
mod difference;
mod smooth;

pub use activations::{ActivationPlan, ActivationPlanError, ActivationRequest, SmoothRequest};
pub use difference::Difference;
pub use smooth::{Smoothing, SmoothingError};

use crate::checkpoint::{
    CompressedInfo, Dtype, Entry, IoError, LayerActivations, ModelFile, ModelWriter, Output,
    Tensor, matrix_shape,
};
use crate::progress::Step;
use lowbit::compress::{dequantize, quantize, relative_error};
use lowbit::format::{Geometry, PackedWeights, Sizes, WeightFormat};
use lowbit::host::{Host, HostError};
use std::collections::{BTreeMap, BTreeSet};

/// The reason why there are no weights to compress.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// The file contains compressed weights.
    #[error("the file is already compressed")]
    AlreadyCompressed,
    /// The file has no weights.
    #[error("the file has no F32, F16 or BF16 tensor of two or more dimensions")]
    NoWeights,
    /// The file has weights, and none of them is wanted.
    #[error("no weight of the file is selected")]
    NoneSelected {
        /// The names of the weights.
        weights: Vec<String>,
    },
}

/// Returns the weights of a file whose names `wanted` accepts: F32, F16 and BF16 tensors of two or
/// more dimensions.
///
/// # Errors
/// Returns [`SelectError`] if there are none, or if the file is already compressed.
pub fn select<'a>(
    model: &'a ModelFile,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Tensor<'a>>, SelectError> {
    if !model.compressed().is_empty() {
        return Err(SelectError::AlreadyCompressed);
    }
    let is_weight = |tensor: &Tensor<'_>| tensor.is_float() && matrix_shape(tensor.shape).is_some();
    let weights: Vec<Tensor<'_>> = model.tensors().filter(is_weight).collect();
    if weights.is_empty() {
        return Err(SelectError::NoWeights);
    }
    let selected: Vec<_> = weights.iter().filter(|tensor| wanted(tensor.name)).copied().collect();
    if selected.is_empty() {
        let weights = weights.iter().map(|tensor| tensor.name.to_owned()).collect();
        return Err(SelectError::NoneSelected { weights });
    }
    Ok(selected)
}

/// The reason why a file cannot be compressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A weight cannot be smoothed.
    #[error(transparent)]
    Smoothing(#[from] SmoothingError),
    /// The GPU cannot compress a weight.
    #[error("weight `{name}`")]
    Host {
        /// The weight.
        name: String,
        /// The reason.
        source: HostError,
    },
}

/// A compressed weight, as [`Compression::run`] reports it.
#[derive(Debug)]
#[non_exhaustive]
pub struct CompressedWeight {
    /// Its name.
    pub name: String,
    /// The shape of the tensor.
    pub shape: Vec<usize>,
    /// The element type of the input.
    pub from: Dtype,
    /// The bytes of the input.
    pub bytes_before: usize,
    /// The sizes of the compressed weight.
    pub sizes: Sizes,
    /// `‖w − ŵ‖₂ / ‖w‖₂`, where ŵ is what the file gives back. If X is smoothed, w is the smoothed
    /// weight.
    pub relative_error: f64,
    /// How its X becomes codes, if the file says it.
    pub activations: Option<LayerActivations>,
    /// Where the weight first differs from the CPU's, if it was compared.
    pub difference: Option<Difference>,
}

/// What [`Compression::run`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CompressionReport {
    /// The compressed weights, in the order in which they were selected.
    pub weights: Vec<CompressedWeight>,
    /// `‖w − ŵ‖₂ / ‖w‖₂` over all of them together.
    pub relative_error: f64,
    /// How many other tensors the file has.
    pub copied: usize,
    /// The bytes of the other tensors.
    pub copied_bytes: usize,
    /// Whether the file was written. It is not if a weight differs from the CPU's.
    pub written: bool,
}

/// A compression of a file that is laid out and not yet run.
#[derive(Debug)]
pub struct Compression<'a> {
    model: &'a ModelFile,
    selected: &'a [Tensor<'a>],
    format: WeightFormat,
    plan: &'a ActivationPlan,
    writer: ModelWriter,
}

impl<'a> Compression<'a> {
    /// Lays out the new file. It appears under its name only at the end of [`run`](Self::run).
    ///
    /// # Errors
    /// Returns [`IoError`] if the file cannot be created, or if a tensor has a name that a part of a
    /// compressed weight takes.
    pub fn create(
        output: impl Into<Output>,
        model: &'a ModelFile,
        selected: &'a [Tensor<'a>],
        format: WeightFormat,
        plan: &'a ActivationPlan,
    ) -> Result<Self, IoError> {
        let (entries, layers) = (entries(model, selected, format), plan.layers.clone());
        let writer =
            ModelWriter::create_with_activations(output, entries, layers, model.metadata())?;
        Ok(Self { model, selected, format, plan, writer })
    }

    /// Compresses the selected weights on the device of `host`, one by one, and writes the file.
    ///
    /// With `check`, every weight is compressed on the CPU as well and compared; if one differs,
    /// nothing is written.
    ///
    /// # Errors
    /// Returns [`CompressionError`] if a tensor cannot be read, smoothed, compressed or written.
    /// Nothing is written in that case.
    pub fn run(
        mut self,
        host: &Host,
        check: bool,
        progress: &mut dyn FnMut(Step<'_>),
    ) -> Result<CompressionReport, CompressionError> {
        let mut report = CompressionReport::default();
        let mut sums = Sums::default();
        for tensor in self.selected {
            progress(Step::Started(tensor.name));
            report.weights.push(self.weight(host, tensor, check, &mut sums)?);
            progress(Step::Finished(tensor.name));
        }
        report.relative_error = sums.relative_error();
        let chosen: BTreeSet<&str> = self.selected.iter().map(|tensor| tensor.name).collect();
        let others = self.model.tensors().filter(|tensor| !chosen.contains(tensor.name));
        report.written = report.weights.iter().all(|weight| weight.difference.is_none());
        for tensor in others {
            report.copied += 1;
            report.copied_bytes += tensor.bytes.len();
            if report.written {
                let bytes = match &self.plan.smoothing {
                    Some(smoothing) => smoothing.plain(&tensor)?,
                    None => tensor.bytes.into(),
                };
                self.writer.write_plain(tensor.name, &bytes)?;
            }
        }
        if report.written {
            self.writer.finish()?;
        }
        Ok(report)
    }

    /// Compresses and writes one weight.
    fn weight(
        &mut self,
        host: &Host,
        tensor: &Tensor<'_>,
        check: bool,
        sums: &mut Sums,
    ) -> Result<CompressedWeight, CompressionError> {
        let name = tensor.name;
        let info = CompressedInfo { format: self.format, shape: tensor.shape.to_vec() };
        let geometry = info.geometry(name)?;
        let w = match &self.plan.smoothing {
            Some(smoothing) => smoothing.weight(tensor)?,
            None => tensor.to_f32()?,
        };
        let packed = compress_on_gpu(host, name, &w, &geometry)?;
        let compare = || match quantize(&w, geometry.n, geometry.k, &self.format) {
            Ok(cpu) => Difference::first(&packed, &cpu),
            Err(error) => Some(Difference::Refused(error)),
        };
        let difference = if check { compare() } else { None };
        let relative_error = relative_error(&w, &dequantize(&packed));
        sums.add(&w, relative_error);
        self.writer.write_compressed(name, &packed)?;
        Ok(CompressedWeight {
            name: name.to_owned(),
            shape: info.shape,
            from: tensor.dtype,
            bytes_before: tensor.bytes.len(),
            sizes: geometry.sizes(),
            relative_error,
            activations: self.plan.layers.get(name).cloned(),
            difference,
        })
    }
}

/// Declares what the new file contains.
fn entries(
    model: &ModelFile,
    selected: &[Tensor<'_>],
    format: WeightFormat,
) -> BTreeMap<String, Entry> {
    let mut entries: BTreeMap<String, Entry> = model
        .tensors()
        .map(|tensor| {
            let shape = tensor.shape.to_vec();
            (tensor.name.to_owned(), Entry::Plain { dtype: tensor.dtype, shape })
        })
        .collect();
    for tensor in selected {
        let info = CompressedInfo { format, shape: tensor.shape.to_vec() };
        entries.insert(tensor.name.to_owned(), Entry::Compressed(info));
    }
    entries
}

fn compress_on_gpu(
    host: &Host,
    name: &str,
    w: &[f32],
    geometry: &Geometry,
) -> Result<PackedWeights, CompressionError> {
    let failed = |source| CompressionError::Host { name: name.to_owned(), source };
    let weights = host.compress(w, geometry.n, geometry.k, &geometry.format).map_err(failed)?;
    host.download(&weights).map_err(failed)
}

/// Sums of squares, for the relative error of all weights together.
#[derive(Default)]
struct Sums {
    error: f64,
    norm: f64,
}

impl Sums {
    fn add(&mut self, w: &[f32], relative_error: f64) {
        let norm: f64 = w.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        self.norm += norm;
        self.error += relative_error * relative_error * norm;
    }

    fn relative_error(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.norm).sqrt() }
    }
}
