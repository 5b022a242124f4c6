//! Compresses the weights of a model file, on a GPU or on the CPU.
//!
//! [`select()`] finds the weights and their schemes, [`ActivationPlan`] works out how their inputs become
//! 8-bit codes if that is wanted, and [`Compression`] makes the new file.

mod activations;
mod alpha;
mod difference;
mod recipe;
mod roles;
mod select;
mod smooth;

pub use crate::schemes::has_kernels;
pub use activations::{ActivationPlan, ActivationPlanError, ActivationRequest, SmoothRequest};
pub use alpha::{AlphaError, AlphaSearch, FoundAlpha, WeightErrors, search_alpha};
pub use difference::Difference;
pub use recipe::{Pattern, Recipe, RecipeError, Rule};
pub use select::{Chosen, SelectError, SelectRequest, Selection, select};
pub use smooth::{Smoothing, SmoothingError};

use crate::checkpoint::{
    CompressedInfo, Dtype, Entry, IoError, LayerActivations, ModelFile, ModelWriter, Output,
    read_compressed,
};
use crate::progress::Step;
use lowbit::compress::{CompressError, Scheme, dequantize, quantize_scheme, relative_error};
use lowbit::format::{Geometry, PackedWeights, Sizes};
use lowbit::host::{Host, HostError};
use std::collections::{BTreeMap, BTreeSet};

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
    /// The CPU cannot compress a weight.
    #[error("weight `{name}`")]
    Compress {
        /// The weight.
        name: String,
        /// The reason.
        source: CompressError,
    },
}

/// What compresses the weights. All give the same bits. A scheme for which there are no kernels is
/// always made on the CPU.
#[derive(Clone, Copy)]
pub enum Maker<'a> {
    /// The device of a host.
    Device(&'a Host),
    /// The device of a host; every weight is compressed on the CPU as well and compared.
    Checked(&'a Host),
    /// All cores of the CPU.
    Cpu,
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
    /// Its format, and the rule that made it.
    pub scheme: Scheme,
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
    /// How many other tensors the file has, weights that were compressed before among them.
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
    selected: &'a [Chosen<'a>],
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
        selected: &'a [Chosen<'a>],
        plan: &'a ActivationPlan,
    ) -> Result<Self, IoError> {
        let mut layers = plan.layers.clone();
        for name in model.compressed().keys() {
            layers.extend(model.activations(name)?.map(|found| (name.clone(), found)));
        }
        let entries = entries(model, selected);
        let writer =
            ModelWriter::create_with_activations(output, entries, layers, model.metadata())?;
        Ok(Self { model, selected, plan, writer })
    }

    /// Compresses the selected weights, one by one, and writes the file. What is compressed already is
    /// written again as it is. If the results of [`Maker::Checked`] differ, nothing is written.
    ///
    /// # Errors
    /// Returns [`CompressionError`] if a tensor cannot be read, smoothed, compressed or written.
    /// Nothing is written in that case.
    pub fn run(
        mut self,
        maker: Maker<'_>,
        progress: &mut dyn FnMut(Step<'_>),
    ) -> Result<CompressionReport, CompressionError> {
        let mut report = CompressionReport::default();
        let mut sums = Sums::default();
        for chosen in self.selected {
            progress(Step::Started(chosen.tensor.name));
            report.weights.push(self.weight(maker, chosen, &mut sums)?);
            progress(Step::Finished(chosen.tensor.name));
        }
        report.relative_error = sums.relative_error();
        let chosen: BTreeSet<&str> =
            self.selected.iter().map(|chosen| chosen.tensor.name).collect();
        let others = self.model.plain().filter(|tensor| !chosen.contains(tensor.name));
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
        for name in self.model.compressed().keys() {
            report.copied += 1;
            report.copied_bytes += self.model.check_compressed(name)?.sizes().total();
            if report.written {
                self.writer.write_compressed(name, &read_compressed(self.model, name)?)?;
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
        maker: Maker<'_>,
        &Chosen { tensor, scheme }: &Chosen<'_>,
        sums: &mut Sums,
    ) -> Result<CompressedWeight, CompressionError> {
        let name = tensor.name;
        let format = scheme.format();
        let info = CompressedInfo { format, shape: tensor.shape.to_vec() };
        let geometry = info.geometry(name)?;
        let w = match &self.plan.smoothing {
            Some(smoothing) => smoothing.weight(&tensor)?,
            None => tensor.to_f32()?,
        };
        let on_cpu = || quantize_scheme(&w, geometry.n, geometry.k, &scheme);
        let on_device = has_kernels(&scheme);
        let packed = match maker {
            Maker::Device(host) | Maker::Checked(host) if on_device => {
                compress_on_gpu(host, name, &w, &geometry)?
            }
            _ => on_cpu()
                .map_err(|source| CompressionError::Compress { name: name.to_owned(), source })?,
        };
        let difference = match maker {
            Maker::Checked(_) if on_device => match on_cpu() {
                Ok(cpu) => Difference::first(&packed, &cpu),
                Err(error) => Some(Difference::Refused(error)),
            },
            _ => None,
        };
        let relative_error = relative_error(&w, &dequantize(&packed));
        sums.add(&w, relative_error);
        self.writer.write_compressed(name, &packed)?;
        Ok(CompressedWeight {
            name: name.to_owned(),
            shape: info.shape,
            from: tensor.dtype,
            scheme,
            bytes_before: tensor.bytes.len(),
            sizes: geometry.sizes(),
            relative_error,
            activations: self.plan.layers.get(name).cloned(),
            difference,
        })
    }
}

/// Declares what the new file contains.
fn entries(model: &ModelFile, selected: &[Chosen<'_>]) -> BTreeMap<String, Entry> {
    let mut entries: BTreeMap<String, Entry> = model
        .plain()
        .map(|tensor| {
            let shape = tensor.shape.to_vec();
            (tensor.name.to_owned(), Entry::Plain { dtype: tensor.dtype, shape })
        })
        .collect();
    let before = model.compressed().iter();
    entries.extend(before.map(|(name, info)| (name.clone(), Entry::Compressed(info.clone()))));
    for Chosen { tensor, scheme } in selected {
        let info = CompressedInfo { format: scheme.format(), shape: tensor.shape.to_vec() };
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
