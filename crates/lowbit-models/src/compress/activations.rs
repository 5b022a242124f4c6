//! Plans how X of every selected weight becomes 8-bit codes.

use super::select::Chosen;
use super::smooth::{Smoothing, SmoothingError};
use crate::checkpoint::{LayerActivations, LayerRanges, ModelFile, Ranges, Tensor, matrix_shape};
use lowbit::compress::calibrate::{CalibrateError, Calibration, Method, Statistics};
use lowbit::format::Quantization;
use lowbit::format::{ActivationFormat, ActivationGranularity, WeightFormat};
use lowbit::ops::{Activations, MatmulSpec, PlanError};
use std::collections::BTreeMap;

/// The factors that are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum SmoothRequest {
    /// X is not smoothed.
    #[default]
    None,
    /// Every set of factors gets the α with the least estimated rounding error.
    Search,
    /// All factors have this α, within 0…1.
    Alpha(f64),
}

/// A request for quantized activations: the format, the source of the scales, and whether X is
/// smoothed.
#[derive(Clone, Copy, Debug)]
pub struct ActivationRequest<'a> {
    /// The format of the codes. The default is `int8-token` for scales taken at run time, and what
    /// the file of ranges names for static scales.
    pub format: Option<ActivationFormat>,
    /// Whether scales are fixed ahead, which takes `ranges`, or taken from X at run time.
    pub fixed: bool,
    /// What calibration observed.
    pub ranges: Option<&'a Ranges>,
    /// Whether and how X is smoothed, which takes `ranges` with channels.
    pub smooth: SmoothRequest,
}

/// How X of the selected weights becomes codes, and what smoothing does to the file.
#[derive(Debug, Default)]
pub struct ActivationPlan {
    /// How X of every selected weight becomes codes; empty if X stays a float.
    pub layers: BTreeMap<String, LayerActivations>,
    /// What smoothing does to the weights and biases.
    pub smoothing: Option<Smoothing>,
}

/// The reason why there is no plan for the activations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActivationPlanError {
    /// No kernel multiplies weights and activations of these formats.
    #[error("`{name}` as {weights} cannot be multiplied with {activations}")]
    Unsupported {
        /// The weight.
        name: String,
        /// The format of the weight.
        weights: WeightFormat,
        /// The format of its X.
        activations: ActivationFormat,
        /// The reason.
        source: PlanError,
    },
    /// Static scales or smoothing were asked for without ranges.
    #[error("there are no ranges, which static scales and smoothing follow from")]
    NoRanges,
    /// The ranges do not contain a selected weight.
    #[error("there are no ranges of `{name}`")]
    UnknownLayer {
        /// The weight.
        name: String,
    },
    /// The ranges do not contain the channels of a selected weight, which smoothing needs.
    #[error("there are no ranges of the channels of `{name}`, which smoothing needs")]
    NoChannels {
        /// The weight.
        name: String,
    },
    /// The ranges are those of another number of columns.
    #[error("the ranges of `{name}` are of {have} columns, and it has {need}")]
    Columns {
        /// The weight.
        name: String,
        /// The columns of the weight.
        need: usize,
        /// The columns that were observed.
        have: usize,
    },
    /// The ranges of a weight's X give no static scale.
    #[error("no scale for the input of `{name}`")]
    NoScale {
        /// The weight.
        name: String,
        /// The reason.
        source: CalibrateError,
    },
    /// The weights cannot be smoothed.
    #[error(transparent)]
    Smoothing(#[from] SmoothingError),
}

/// A scale for each row, taken at run time.
const TOKEN: ActivationFormat = ActivationFormat::int8(ActivationGranularity::Token);

impl ActivationPlan {
    /// Works out and checks what was asked for.
    ///
    /// # Errors
    /// Returns [`ActivationPlanError`] if there is no kernel for the formats, if the ranges lack what
    /// is needed, or if the weights cannot be smoothed.
    pub fn new(
        request: &ActivationRequest<'_>,
        model: &ModelFile,
        selected: &[Chosen<'_>],
    ) -> Result<Self, ActivationPlanError> {
        for Chosen { tensor, scheme } in selected {
            check_integers(tensor, scheme.format(), request.format.unwrap_or(TOKEN))?;
        }
        let selected: &[Tensor<'_>] =
            &selected.iter().map(|chosen| chosen.tensor).collect::<Vec<_>>();
        let known = request.ranges.map(|ranges| Known::new(ranges, selected)).transpose()?;
        let alpha = match request.smooth {
            SmoothRequest::None => None,
            SmoothRequest::Search => Some(None),
            SmoothRequest::Alpha(alpha) => Some(Some(alpha)),
        };
        let smoothing = match (alpha, &known) {
            (None, _) => None,
            (Some(_), None) => return Err(ActivationPlanError::NoRanges),
            (Some(alpha), Some(known)) => {
                Some(Smoothing::new(model, selected, &known.channels(selected)?, alpha)?)
            }
        };
        let mut layers = BTreeMap::new();
        for tensor in selected {
            let smoothing = smoothing.as_ref();
            let quantization = match (&known, request.fixed) {
                (Some(known), true) => known.quantization(tensor, request.format, smoothing)?,
                (None, true) => return Err(ActivationPlanError::NoRanges),
                (_, false) => Quantization::Dynamic(request.format.unwrap_or(TOKEN)),
            };
            let factors = smoothing.and_then(|all| all.factors(tensor.name)).map(<[f32]>::to_vec);
            layers.insert(tensor.name.to_owned(), LayerActivations { quantization, factors });
        }
        Ok(Self { layers, smoothing })
    }
}

/// Refuses weights that integer products cannot take.
fn check_integers(
    tensor: &Tensor<'_>,
    weights: WeightFormat,
    activations: ActivationFormat,
) -> Result<(), ActivationPlanError> {
    // If the shape is not that of a matrix, the file's writer reports it.
    let Some((n, k)) = matrix_shape(tensor.shape) else { return Ok(()) };
    let spec = MatmulSpec::new(1, n as u32, k as u32, weights)
        .with_activations(Activations::Int8(activations));
    spec.check().map_err(|source| ActivationPlanError::Unsupported {
        name: tensor.name.to_owned(),
        weights,
        activations,
        source,
    })
}

/// Ranges that contain all selected weights.
struct Known<'a> {
    ranges: &'a Ranges,
    /// The names under which the ranges of the weights are kept.
    names: BTreeMap<String, &'a str>,
}

impl<'a> Known<'a> {
    fn new(ranges: &'a Ranges, selected: &[Tensor<'_>]) -> Result<Self, ActivationPlanError> {
        let mut known = Self { ranges, names: BTreeMap::new() };
        let mut prefix = None;
        for tensor in selected {
            let missing = || ActivationPlanError::UnknownLayer { name: tensor.name.to_owned() };
            let (own, name) = kept_as(ranges, tensor.name).ok_or_else(missing)?;
            // With two prefixes there are two models in the file, and the ranges are those of one.
            if *prefix.get_or_insert(own) != own {
                return Err(missing());
            }
            known.names.insert(tensor.name.to_owned(), name);
            if let LayerRanges::Statistics(seen) = known.layer(tensor.name)? {
                check_columns(tensor, seen)?;
            }
        }
        Ok(known)
    }

    fn layer(&self, name: &str) -> Result<&'a LayerRanges, ActivationPlanError> {
        let missing = || ActivationPlanError::UnknownLayer { name: name.to_owned() };
        let found = self.names.get(name).and_then(|name| self.ranges.layers.get(*name));
        found.ok_or_else(missing)
    }

    /// Returns the statistics of the channels of every weight.
    fn channels<'b>(
        &self,
        selected: &[Tensor<'b>],
    ) -> Result<BTreeMap<&'b str, &'a Statistics>, ActivationPlanError> {
        let channels = |tensor: &Tensor<'b>| {
            let missing = || ActivationPlanError::NoChannels { name: tensor.name.to_owned() };
            let kept = self.names.get(tensor.name);
            let seen = kept.and_then(|name| self.ranges.channels.get(*name)).ok_or_else(missing)?;
            check_columns(tensor, seen)?;
            Ok((tensor.name, seen))
        };
        selected.iter().map(channels).collect()
    }

    /// Returns the static scale of a weight's X. If X is smoothed, the scale covers the whole range,
    /// since the other methods need a histogram, which smoothing changes.
    fn quantization(
        &self,
        tensor: &Tensor<'_>,
        format: Option<ActivationFormat>,
        smoothing: Option<&Smoothing>,
    ) -> Result<Quantization, ActivationPlanError> {
        let target = self.ranges.target.unwrap_or_default();
        let layer = self.layer(tensor.name)?;
        let format = match (format, layer, self.ranges.target) {
            (Some(format), ..) => format,
            // A calibration that a library wrote is for one format only.
            (None, LayerRanges::Calibration(made), None) => made.format(),
            _ => target.format,
        };
        let made = match smoothing.and_then(|all| all.range(tensor.name)) {
            Some(range) => Calibration::new(format, Method::MinMax, range),
            None => layer.calibrate(target.method, format),
        };
        made.map(|made| Quantization::Static(made.scheme()))
            .map_err(|source| ActivationPlanError::NoScale { name: tensor.name.to_owned(), source })
    }
}

/// Returns the name under which the ranges of a weight are kept, and what stands before it in the name of
/// the weight. Calibration leaves out the prefix that a model has in its file, such as `bert.`.
fn kept_as<'a, 'b>(ranges: &'a Ranges, weight: &'b str) -> Option<(&'b str, &'a str)> {
    let starts = std::iter::once(0).chain(weight.match_indices('.').map(|(dot, _)| dot + 1));
    starts.into_iter().find_map(|start| {
        let (prefix, name) = weight.split_at_checked(start)?;
        Some((prefix, ranges.layers.get_key_value(name)?.0.as_str()))
    })
}

pub(super) fn check_columns(
    tensor: &Tensor<'_>,
    seen: &Statistics,
) -> Result<(), ActivationPlanError> {
    let (have, need) = (seen.observer().columns(), matrix_shape(tensor.shape));
    match need {
        Some((_, need)) if need != have => {
            Err(ActivationPlanError::Columns { name: tensor.name.to_owned(), need, have })
        }
        _ => Ok(()),
    }
}
