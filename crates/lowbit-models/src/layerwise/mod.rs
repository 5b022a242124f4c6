//! Compresses a model layer by layer, each with what its layers take after those before them are compressed.
//!
//! [`run`] goes through the model in [stages](crate::device::Stage). In each, the calibration texts run through the stage
//! as it is, and the inputs of its linear layers are observed; then its weights are compressed with what was
//! observed ([`Treatment`]); then the texts run through it again, as compressed, so that the next stage sees the inputs
//! that it will have. One stage's weights are on the device at a time. The result is an [`Overlay`] over the model.

mod device;
pub(crate) mod fold;
pub(crate) mod make;
mod norms;
mod plans;
mod record;
mod report;
mod resume;
pub(crate) mod statistics;
mod statistics_file;
mod text_part;
#[cfg(feature = "text")]
mod texts;
mod threshold;
mod treatment;

pub use norms::input_norms;
pub use plans::{Plans, plans};
pub use record::{Recording, record};
pub use report::WeightReport;
pub(crate) use resume::Folder;
pub use resume::Identity;
pub use statistics_file::{BadStatistics, StatisticsError, StatisticsFile};
pub use text_part::{TextPart, Twice, next_sample};
#[cfg(feature = "text")]
pub use texts::{Samples, SamplesError, samples, samples_after};
pub use treatment::{ColumnOrder, Fold, Method, Treatment};

use crate::architecture::Blueprint;
use crate::checkpoint::source::{Data, Item, ItemKind, ModelSource, Overlay, SourceError};
use crate::checkpoint::{IoError, LayerActivations, Tensor, matrix_shape};
use crate::device::{Input, RunError, Stage, StagedRun};
use lowbit::compress::layerwise::LayerwiseError;
use lowbit::compress::{Scheme, dequantize};
use lowbit::format::{ActivationFormat, PackedWeights, Quantization};
use lowbit::host::Host;
use statistics::InputStatistics;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use threshold::Thresholds;

/// The reason why a model cannot be compressed layer by layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerwiseRunError {
    /// The texts cannot run through the model.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A weight cannot be compressed by its method.
    #[error("weight `{name}`")]
    Weight {
        /// The weight.
        name: String,
        /// The reason.
        source: LayerwiseError,
    },
    /// A weight is stored in a way that cannot be compressed layer by layer.
    #[error("weight `{name}`: {why}")]
    Unsupported {
        /// The weight.
        name: String,
        /// The reason.
        why: String,
    },
    /// Weights that take one input disagree on what it becomes.
    #[error(
        "`{first}` and `{second}` take one input, which is {} for the first and {} for the second",
        said(*of_first), said(*of_second)
    )]
    Activations {
        /// A weight.
        first: String,
        /// What its input is to become; `None` stands for floats.
        of_first: Option<Quantization>,
        /// Another weight that takes the same input.
        second: String,
        /// What its input is to become.
        of_second: Option<Quantization>,
    },
    /// A method needs a calibration text, and there is none.
    #[error("{method} needs a calibration text: it looks at what the layers take")]
    NoTexts {
        /// The method, `clip` if it is rounding that looks at inputs only because ranges are clipped.
        method: &'static str,
    },
    /// There are no samples, and no statistics to merge, or no device on which samples could run.
    #[error("there are no samples to run and no statistics to merge")]
    NoSamples,
    /// A file of statistics cannot be used.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// A part of a text would be counted twice.
    #[error(transparent)]
    Twice(#[from] Twice),
    /// The folder of an earlier run cannot be used.
    #[error("cannot {doing} `{}`", path.display())]
    Folder {
        /// What failed.
        doing: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// The reason of the operating system.
        source: std::io::Error,
    },
    /// The folder is of a run with another model, recipe or text.
    #[error("`{}` holds what a run with another model, recipe or calibration text did", path.display())]
    Other {
        /// The folder or file.
        path: PathBuf,
    },
}

/// Names what an input becomes.
fn said(activations: Option<Quantization>) -> String {
    match activations {
        None => "floats".into(),
        Some(Quantization::Dynamic(format)) => format.to_string(),
        Some(how @ Quantization::Static(_)) => format!("{} with a given scale", how.format()),
    }
}

/// The format of a weight, and how it is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The format.
    pub scheme: Scheme,
    /// How it is made.
    pub treatment: Treatment,
}

/// Where GPTQ and SparseGPT go through columns. What no kernel makes is made on the host in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loops {
    /// On the device, unless it is a software adapter, which has no more processors than the host.
    #[default]
    Auto,
    /// On the device, in f32.
    Device,
    /// On the host, in f64.
    Host,
}

impl Loops {
    fn on_device(self, host: &Host) -> bool {
        match self {
            Self::Auto => host.adapter_info().device_type != lowbit::wgpu::DeviceType::Cpu,
            Self::Device => true,
            Self::Host => false,
        }
    }
}

/// The device that goes through columns.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    host: &'a Host,
    /// Whether the user asked for it, so that it is a surprise if the host does it.
    asked: bool,
}

/// A model to compress.
#[derive(Debug)]
pub struct Job<'a, 'j> {
    /// The model.
    pub source: &'a dyn ModelSource,
    /// What it is.
    pub blueprint: &'j Blueprint,
    /// What becomes of its weights, by their names. Others stay as they are.
    pub plans: BTreeMap<String, Plan>,
    /// The tokens of the calibration texts. They may be empty if no method looks at inputs.
    pub texts: &'j [Vec<u32>],
    /// Statistics of the inputs of the model as it is, which are used instead of texts: no text runs then.
    pub statistics: Option<&'j StatisticsFile>,
    /// The largest number of tokens of a step.
    pub rows: usize,
    /// Where GPTQ and SparseGPT go through columns.
    pub loops: Loops,
    /// The folder in which finished stages are kept, and what the run is of.
    pub folder: Option<(PathBuf, Identity)>,
}

/// What [`run`] is doing.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Doing<'a> {
    /// Texts run through a stage, so that the inputs of its layers are seen.
    Observing(Stage),
    /// A weight is being compressed.
    Compressing(&'a str),
    /// A weight is compressed.
    Compressed(&'a WeightReport),
    /// Texts run through a stage whose weights are compressed.
    Advancing(Stage),
}

/// What a stage gave.
#[derive(Debug, Default)]
struct StageResult {
    /// Compressed weights, with the shapes of their tensors.
    packed: BTreeMap<String, (Vec<usize>, PackedWeights)>,
    /// Tensors that changed, such as norms into which factors are folded.
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    reports: Vec<WeightReport>,
}

/// Compresses a model; the texts run on a device. Returns it, and what became of each weight, in the order in which they were compressed.
///
/// # Errors
/// Returns [`LayerwiseRunError`]. Stages that were finished stay in the folder of the job, and another run with the same
/// job goes on after them.
pub async fn run<'a>(
    host: Option<&Arc<Host>>,
    job: &Job<'a, '_>,
    progress: &mut dyn FnMut(Doing<'_>),
) -> Result<(Overlay<'a>, Vec<WeightReport>), LayerwiseRunError> {
    let mut needs = job.plans.values().filter(|plan| plan.treatment.needs_inputs());
    let blind = host.is_none() || job.texts.iter().all(Vec::is_empty);
    if let (Some(plan), true, None) = (needs.next(), blind, job.statistics) {
        let method = plan.treatment.method;
        let method = if method.needs_inputs() { method.name() } else { "clip" };
        return Err(LayerwiseRunError::NoTexts { method });
    }
    check_activations(job)?;
    let folder = match &job.folder {
        Some((path, identity)) => Some(Folder::open(path, identity)?),
        None => None,
    };
    let items = job.source.items()?.into_iter().map(|item| (item.name.clone(), item)).collect();
    let mut work = Work {
        overlay: Overlay::new(job.source),
        thresholds: threshold::thresholds(job.source, &items, &job.plans)?,
        items,
        plans: &job.plans,
        blueprint: job.blueprint,
        device: host
            .filter(|host| job.loops.on_device(host))
            .map(|host| Device { host, asked: job.loops == Loops::Device }),
        reports: Vec::new(),
    };
    let stages = Stage::all(job.blueprint);
    let mut done = BTreeSet::new();
    let mut texts = match (host, job.statistics) {
        (Some(host), None) if !blind => {
            Some(StagedRun::new(host, job.blueprint, job.texts, job.rows)?)
        }
        _ => None,
    };
    if texts.is_some() || job.statistics.is_some() {
        let inputs: Vec<Vec<Input>> =
            stages.iter().map(|stage| stage.inputs(job.blueprint)).collect();
        let wanted = |inputs: &Vec<Input>| inputs.iter().any(|input| work.wants(input));
        let last = inputs.iter().rposition(wanted);
        for (index, (&stage, inputs)) in stages.iter().zip(&inputs).enumerate() {
            if last.is_none_or(|last| index > last) {
                break;
            }
            if inputs.iter().any(|input| work.wants(input)) {
                let found = folder.as_ref().map(|folder| folder.load(index)).transpose()?.flatten();
                let result = match found {
                    Some(result) => result,
                    None => {
                        progress(Doing::Observing(stage));
                        let seen = work.seen(texts.as_ref(), job.statistics, inputs).await?;
                        let result = work.stage(stage, inputs, seen, progress)?;
                        if let Some(folder) = &folder {
                            folder.save(index, &result)?;
                        }
                        result
                    }
                };
                done.extend(result.packed.keys().cloned());
                work.take(result, progress)?;
            }
            if let Some(texts) = texts.as_mut().filter(|_| last != Some(index)) {
                progress(Doing::Advancing(stage));
                texts.advance(&work.overlay).await?;
            }
        }
    }
    // What no text runs through: all weights if there is no text, and those that the network does not use.
    let rest: Vec<String> =
        job.plans.keys().filter(|name| !done.contains(*name)).cloned().collect();
    let result = work.unseen(&rest, progress)?;
    work.take(result, progress)?;
    Ok((work.overlay, work.reports))
}

/// Returns what a file says of a weight whose input becomes codes, with scales that are taken from it.
pub(crate) fn dynamic(format: ActivationFormat) -> LayerActivations {
    LayerActivations { quantization: Quantization::Dynamic(format), factors: None }
}

/// Checks that kernels multiply all weights with the codes that their inputs are to become, and that weights that take one
/// input agree on them.
fn check_activations(job: &Job<'_, '_>) -> Result<(), LayerwiseRunError> {
    let wanted = |plan: &Plan| plan.treatment.activations.is_some();
    if !job.plans.values().any(wanted) {
        return Ok(());
    }
    for item in job.source.items()? {
        let plan = job.plans.get(&item.name).filter(|plan| wanted(plan));
        let (Some(plan), Some((n, k))) = (plan, matrix_shape(&item.shape)) else { continue };
        if let Some(why) = plan.treatment.refused_activations(plan.scheme.format(), n, k) {
            return Err(LayerwiseRunError::Unsupported { name: item.name, why });
        }
    }
    for input in job.blueprint.inputs() {
        let mut first: Option<(&str, Option<Quantization>)> = None;
        for linear in input {
            let name = linear.matrix.tensor.as_str();
            let now = match job.plans.get(name) {
                Some(plan) => plan.treatment.activations.map(Quantization::Dynamic),
                None => job.source.activations(name)?.map(|found| found.quantization),
            };
            let &mut (other, before) = first.get_or_insert((name, now));
            if before != now {
                return Err(LayerwiseRunError::Activations {
                    first: other.to_owned(),
                    of_first: before,
                    second: name.to_owned(),
                    of_second: now,
                });
            }
        }
    }
    Ok(())
}

/// A run at work.
struct Work<'a, 'j> {
    overlay: Overlay<'a>,
    items: BTreeMap<String, Item>,
    thresholds: Thresholds,
    plans: &'j BTreeMap<String, Plan>,
    blueprint: &'j Blueprint,
    device: Option<Device<'j>>,
    reports: Vec<WeightReport>,
}

/// A weight before it is compressed.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) shape: Vec<usize>,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) values: Vec<f32>,
    /// The magnitude from which weights are kept, if it is one for all weights.
    threshold: Option<f32>,
}

impl Work<'_, '_> {
    /// Returns whether a weight that takes this input is to be compressed.
    fn wants(&self, input: &Input) -> bool {
        input.weights().iter().any(|name| self.plans.contains_key(*name))
    }

    /// Returns whether factors are to be found for an input, for which magnitudes are needed.
    fn folds(&self, inputs: &[Input]) -> bool {
        inputs.iter().flat_map(Input::weights).any(|name| {
            self.plans.get(name).is_some_and(|plan| plan.treatment.method == Method::Awq)
        })
    }

    /// Returns statistics of the inputs of the stage that texts have reached, or what a file has of them.
    async fn seen(
        &self,
        texts: Option<&StagedRun>,
        file: Option<&StatisticsFile>,
        inputs: &[Input],
    ) -> Result<Vec<Option<InputStatistics>>, LayerwiseRunError> {
        if let Some(texts) = texts {
            let abs = self.folds(inputs);
            return statistics::observe(texts, &self.overlay, inputs, abs).await;
        }
        let read = |input| match file {
            Some(file) if self.wants(input) => Ok(Some(file.read(input)?)),
            _ => Ok(None),
        };
        inputs.iter().map(read).collect()
    }

    fn item(&self, name: &str) -> Result<&Item, LayerwiseRunError> {
        self.items.get(name).ok_or_else(|| LayerwiseRunError::Unsupported {
            name: name.to_owned(),
            why: "the model has no such weight".into(),
        })
    }

    /// Reads a weight as floats, as it is by now.
    fn load(&self, name: &str) -> Result<Loaded, LayerwiseRunError> {
        let threshold = self.thresholds.get(name).copied();
        Ok(Loaded { threshold, ..load(&self.overlay, self.item(name)?)? })
    }

    /// Compresses the weights of a stage.
    fn stage(
        &self,
        stage: Stage,
        inputs: &[Input],
        mut seen: Vec<Option<InputStatistics>>,
        progress: &mut dyn FnMut(Doing<'_>),
    ) -> Result<StageResult, LayerwiseRunError> {
        let mut result = StageResult::default();
        let mut loaded = BTreeMap::new();
        for input in inputs {
            for linear in &input.linears {
                let name = &linear.matrix.tensor;
                let Some(_) = self.plans.get(name) else { continue };
                let plain = matches!(self.item(name)?.kind, ItemKind::Plain(_));
                if linear.matrix.transposed && plain {
                    return Err(LayerwiseRunError::Unsupported {
                        name: name.clone(),
                        why: "it is stored as [K, N], and formats are [N, K]".into(),
                    });
                }
                if !loaded.contains_key(name) {
                    loaded.insert(name.clone(), self.load(name)?);
                }
            }
        }
        let folded = fold::fold(self, stage, inputs, &mut seen, &mut loaded, &mut result)?;
        for (input, seen) in inputs.iter().zip(&seen) {
            for name in input.weights() {
                let Some(plan) = self.plans.get(name) else { continue };
                // The rows of a tensor may be several layers.
                let Some(weight) = loaded.remove(name) else { continue };
                progress(Doing::Compressing(name));
                let (packed, mut report) =
                    make::weight(name, &weight, seen.as_ref(), plan, self.device)?;
                if plan.treatment.method == Method::Awq && !folded.contains(name) {
                    report.warnings.push(
                        "awq only clips ranges, as factors cannot be folded into what makes its input"
                            .to_owned(),
                    );
                }
                result.packed.insert(name.to_owned(), (weight.shape, packed));
                result.reports.push(report);
            }
        }
        Ok(result)
    }

    /// Compresses weights of which nothing is known: by rounding, or by a method that looks at weights only.
    fn unseen(
        &self,
        names: &[String],
        progress: &mut dyn FnMut(Doing<'_>),
    ) -> Result<StageResult, LayerwiseRunError> {
        let mut result = StageResult::default();
        for name in names {
            let Some(plan) = self.plans.get(name) else { continue };
            progress(Doing::Compressing(name));
            let weight = self.load(name)?;
            let (packed, report) = make::weight(name, &weight, None, plan, None)?;
            result.packed.insert(name.clone(), (weight.shape, packed));
            result.reports.push(report);
        }
        Ok(result)
    }

    /// Puts the results of a stage into the model.
    fn take(
        &mut self,
        result: StageResult,
        progress: &mut dyn FnMut(Doing<'_>),
    ) -> Result<(), LayerwiseRunError> {
        for (name, (shape, values)) in result.floats {
            self.overlay.put_floats(&name, shape, &values)?;
        }
        for (name, (shape, packed)) in result.packed {
            let plan = self.plans.get(&name);
            let activations = plan.and_then(|plan| plan.treatment.activations);
            self.overlay.put_packed(&name, shape, packed, activations.map(dynamic))?;
        }
        for report in result.reports {
            progress(Doing::Compressed(&report));
            self.reports.push(report);
        }
        Ok(())
    }
}

/// Reads a weight as floats.
pub(crate) fn load(source: &dyn ModelSource, item: &Item) -> Result<Loaded, LayerwiseRunError> {
    let (n, k) = match (matrix_shape(&item.shape), item.shape.len()) {
        (Some(shape), 2) => shape,
        _ => {
            return Err(LayerwiseRunError::Unsupported {
                name: item.name.clone(),
                why: format!("a tensor of shape {:?} is no matrix of one layer", item.shape),
            });
        }
    };
    let values = floats(source, item)?;
    Ok(Loaded { shape: item.shape.clone(), n, k, values, threshold: None })
}

/// Reads an item as floats.
pub(crate) fn floats(source: &dyn ModelSource, item: &Item) -> Result<Vec<f32>, LayerwiseRunError> {
    let name = item.name.as_str();
    match (source.read(name)?, &item.kind) {
        (Data::Compressed(packed), _) => Ok(dequantize(&packed)),
        (Data::Plain(bytes), &ItemKind::Plain(dtype)) => {
            Ok(Tensor { name, dtype, shape: &item.shape, bytes: &bytes }.to_f32()?)
        }
        (Data::Plain(_), _) => Err(LayerwiseRunError::Unsupported {
            name: name.to_owned(),
            why: "its type has no numbers".into(),
        }),
    }
}

/// Removes the folder of a run whose result was written.
///
/// # Errors
/// Returns [`LayerwiseRunError::Folder`] if the operating system does not let it be removed.
pub fn remove_folder(path: &Path) -> Result<(), LayerwiseRunError> {
    Folder::at(path).remove()
}
