//! Ranges of activations in a file: what calibration observed of each layer, or the scale that it
//! chose.

use super::header::{Pairs, unique};
use super::{IoError, write_atomic};
use lowbit::compress::calibrate::{
    ActivationRange, Axis, CalibrateError, Calibration, Method, Statistics,
};
use lowbit::format::{ActivationFormat, ActivationGranularity, StaticScale};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The version that is written and the only one that is read.
const VERSION: u32 = 1;

/// The largest file that is read or written. It is far larger than the statistics of a large model by
/// tensors, and holds 30 of its layers by channels.
const MOST: u64 = 1 << 30;

/// The ranges of the activations of a layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LayerRanges {
    /// Observed statistics. Any method can take a range from them, and further batches can be added.
    Statistics(Box<Statistics>),
    /// A static scale and zero point.
    Calibration(Calibration),
}

impl LayerRanges {
    /// Returns the static scale and zero point of a format. `method` applies to statistics; a
    /// calibration is returned as it is.
    ///
    /// # Errors
    /// Returns the errors of [`Statistics::calibrate`], and [`CalibrateError::OtherFormat`] if the
    /// calibration is for another format.
    pub fn calibrate(
        &self,
        method: Method,
        format: ActivationFormat,
    ) -> Result<Calibration, CalibrateError> {
        match self {
            Self::Statistics(statistics) => statistics.calibrate(method, format),
            Self::Calibration(made) if made.format() == format => Ok(*made),
            Self::Calibration(made) => {
                Err(CalibrateError::OtherFormat { need: format, have: made.format() })
            }
        }
    }
}

/// Ranges of activations by layer, as one JSON file:
///
/// ```json
/// {"version": 1, "target": {"format": "int8-tensor", "method": "minmax"}, "layers": {
///   "encoder.0.query": {"statistics": {"version": 1, "layer": "encoder.0.query", "…": 0}},
///   "encoder.0.value": {"calibration": {"format": "int8-tensor-asym", "method": "mse",
///                       "min": -1.5, "max": 2.0, "scale": 0.013725491, "zero": -19}}
/// }, "channels": {
///   "encoder.0.query": {"version": 1, "layer": "encoder.0.query", "axis": "channel", "…": 0}
/// }}
/// ```
///
/// `target` and `channels` are absent if there are none. Numbers are read back bit for bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranges {
    /// The ranges of each layer, by its name.
    pub layers: BTreeMap<String, LayerRanges>,
    /// Statistics by channels of the same layers, which [`smooth`](lowbit::compress::smooth) uses.
    pub channels: BTreeMap<String, Statistics>,
    /// The scales for which the statistics were collected.
    pub target: Option<RangeTarget>,
}

/// The static scales for which statistics were collected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeTarget {
    /// The method that takes ranges from what was observed.
    pub method: Method,
    /// The format of the codes, an `int8-tensor` one.
    pub format: ActivationFormat,
}

impl Default for RangeTarget {
    /// Takes the whole range, for `int8-tensor`.
    fn default() -> Self {
        let format = ActivationFormat::int8(ActivationGranularity::Tensor);
        Self { method: Method::MinMax, format }
    }
}

/// The error of a file of ranges that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the ranges in `{}` cannot be used: {why}", path.display())]
pub struct RangesError {
    /// The file.
    pub path: PathBuf,
    /// The reason why the file cannot be used.
    pub why: BadRanges,
}

/// The reason why a file of ranges cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadRanges {
    /// The file does not exist or cannot be read.
    #[error("{0}")]
    Unreadable(std::io::Error),
    /// The file is larger than any that is written.
    #[error("it holds more than {0} bytes")]
    TooLarge(u64),
    /// The JSON is not valid, lacks fields or has bad values. The message names layer and field.
    #[error("{0}")]
    Json(serde_json::Error),
    /// The file is of another version.
    #[error("its version is {0}; this crate reads version 1")]
    Version(u32),
    /// Two layers have the same name.
    #[error("layer `{0}` appears twice")]
    Duplicate(String),
    /// The statistics name another layer than the one under which they are stored.
    #[error("the statistics under `{name}` are of `{layer}`")]
    OtherLayer {
        /// The name in the file.
        name: String,
        /// The layer that the statistics name.
        layer: String,
    },
    /// The statistics under `channels` are of X as a whole.
    #[error("the statistics of `{0}` among the channels are of all of X")]
    NotByChannels(String),
    /// The target has a bad format or method.
    #[error("target, field `{field}`: {why}")]
    Target {
        /// The field.
        field: &'static str,
        /// A description of the problem.
        why: String,
    },
    /// A calibration is not valid.
    #[error("layer `{name}`, field `{field}`: {why}")]
    Calibration {
        /// The layer.
        name: String,
        /// The field.
        field: &'static str,
        /// A description of the problem.
        why: String,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<RawTarget>,
    layers: BTreeMap<&'a str, WrittenLayer<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    channels: &'a BTreeMap<String, Statistics>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    format: String,
    method: String,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum WrittenLayer<'a> {
    Statistics(&'a Statistics),
    Calibration(RawCalibration),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(rename = "version")]
    _version: u32,
    target: Option<RawTarget>,
    layers: Pairs<RawLayer>,
    #[serde(default = "no_channels")]
    channels: Pairs<Statistics>,
}

fn no_channels() -> Pairs<Statistics> {
    Pairs(Vec::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawLayer {
    Statistics(Box<Statistics>),
    Calibration(RawCalibration),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCalibration {
    format: String,
    method: String,
    min: f32,
    max: f32,
    scale: f32,
    zero: i32,
}

impl Ranges {
    /// Reads a file.
    ///
    /// # Errors
    /// Returns [`RangesError`] if the file does not exist, is damaged, too large or of another
    /// version, or contains values that are not valid.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, RangesError> {
        let path = path.as_ref();
        let text = read(path);
        let ranges = text.and_then(|text| Self::from_json(&text));
        ranges.map_err(|why| RangesError { path: path.to_owned(), why })
    }

    /// Reads what [`to_json`](Self::to_json) returns.
    ///
    /// # Errors
    /// Returns [`BadRanges`] if the text is not such a file.
    pub fn from_json(text: &[u8]) -> Result<Self, BadRanges> {
        // The version comes first, because the other fields depend on it.
        let Version { version } = serde_json::from_slice(text).map_err(BadRanges::Json)?;
        if version != VERSION {
            return Err(BadRanges::Version(version));
        }
        let RawFile { target, layers, channels, .. } =
            serde_json::from_slice(text).map_err(BadRanges::Json)?;
        let layers = once(layers)?.into_iter().map(|(name, raw)| match raw {
            RawLayer::Statistics(statistics) => {
                check_name(&name, &statistics)?;
                Ok((name, LayerRanges::Statistics(statistics)))
            }
            RawLayer::Calibration(raw) => match raw.check() {
                Ok(calibration) => Ok((name, LayerRanges::Calibration(calibration))),
                Err((field, why)) => Err(BadRanges::Calibration { name, field, why }),
            },
        });
        let layers = layers.collect::<Result<_, _>>()?;
        let channels = once(channels)?;
        for (name, statistics) in &channels {
            check_name(name, statistics)?;
            if statistics.observer().axis() != Axis::Channel {
                return Err(BadRanges::NotByChannels(name.clone()));
            }
        }
        let target = target.map(|raw| raw.check()).transpose();
        let target = target.map_err(|(field, why)| BadRanges::Target { field, why })?;
        Ok(Self { layers, channels, target })
    }

    /// Returns the text of the file.
    ///
    /// # Errors
    /// Returns [`IoError::Io`] if serialization fails.
    pub fn to_json(&self) -> Result<Vec<u8>, IoError> {
        let layers = self.layers.iter().map(|(name, layer)| {
            let layer = match layer {
                LayerRanges::Statistics(statistics) => WrittenLayer::Statistics(statistics),
                LayerRanges::Calibration(made) => WrittenLayer::Calibration(made.into()),
            };
            (name.as_str(), layer)
        });
        let file = Written {
            version: VERSION,
            target: self.target.as_ref().map(RawTarget::from),
            layers: layers.collect(),
            channels: &self.channels,
        };
        let mut text = serde_json::to_vec(&file).map_err(|error| IoError::Io {
            doing: "write",
            path: PathBuf::new(),
            source: error.into(),
        })?;
        text.push(b'\n');
        Ok(text)
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// Returns the errors of [`write_atomic`], and an error if the file would be larger than what
    /// [`read`](Self::read) accepts.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), IoError> {
        let text = self.to_json()?;
        if text.len() as u64 > MOST {
            let source = std::io::Error::other("more than 2^30 bytes of ranges; take fewer bins");
            let path = path.as_ref().to_owned();
            return Err(IoError::Io { doing: "write", path, source });
        }
        write_atomic(path, &text)
    }

    /// Stores statistics under the name of their layer and replaces what was there.
    pub fn insert(&mut self, statistics: Statistics) {
        let name = statistics.layer().to_string();
        self.layers.insert(name, LayerRanges::Statistics(Box::new(statistics)));
    }

    /// Stores statistics by channels under the name of their layer and replaces what was there.
    pub fn insert_channels(&mut self, statistics: Statistics) {
        self.channels.insert(statistics.layer().to_string(), statistics);
    }
}

/// Reads the version and skips all other fields.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Makes a map of named values, and refuses a name that appears twice.
fn once<V>(pairs: Pairs<V>) -> Result<BTreeMap<String, V>, BadRanges> {
    unique(pairs.0).map_err(|error| match error {
        IoError::DuplicateName { name } => BadRanges::Duplicate(name),
        other => BadRanges::Duplicate(other.to_string()),
    })
}

fn check_name(name: &str, statistics: &Statistics) -> Result<(), BadRanges> {
    let layer = statistics.layer();
    if layer == name {
        return Ok(());
    }
    Err(BadRanges::OtherLayer { name: name.into(), layer: layer.into() })
}

impl From<&RangeTarget> for RawTarget {
    fn from(target: &RangeTarget) -> Self {
        Self { format: target.format.to_string(), method: target.method.to_string() }
    }
}

impl RawTarget {
    fn check(&self) -> Result<RangeTarget, (&'static str, String)> {
        let format = self.format.parse::<ActivationFormat>();
        let format = format.map_err(|error| ("format", error.to_string()))?;
        if format.granularity() != ActivationGranularity::Tensor {
            return Err(("format", CalibrateError::NotStatic { format }.to_string()));
        }
        let method = self.method.parse::<Method>();
        let method = method.map_err(|error| ("method", error.to_string()))?;
        Ok(RangeTarget { method, format })
    }
}

impl From<&Calibration> for RawCalibration {
    fn from(made: &Calibration) -> Self {
        let StaticScale { scale, zero_point: zero } = made.scheme();
        Self {
            format: made.format().to_string(),
            method: made.method().to_string(),
            min: made.range().min(),
            max: made.range().max(),
            scale,
            zero,
        }
    }
}

impl RawCalibration {
    fn check(&self) -> Result<Calibration, (&'static str, String)> {
        let format = self.format.parse::<ActivationFormat>();
        let format = format.map_err(|error| ("format", error.to_string()))?;
        let method = self.method.parse::<Method>();
        let method = method.map_err(|error| ("method", error.to_string()))?;
        let range = ActivationRange::new(self.min, self.max);
        let range = range.map_err(|error| ("min", error.to_string()))?;
        let made = Calibration::new(format, method, range);
        let made = made.map_err(|error| ("format", error.to_string()))?;
        let StaticScale { scale, zero_point: zero } = made.scheme();
        if self.scale.to_bits() != scale.to_bits() {
            return Err(("scale", format!("{} where the range gives {scale}", self.scale)));
        }
        if self.zero != zero {
            return Err(("zero", format!("{} where the range gives {zero}", self.zero)));
        }
        Ok(made)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BadRanges> {
    super::read_limited(path, MOST).map_err(BadRanges::Unreadable)?.ok_or(BadRanges::TooLarge(MOST))
}
