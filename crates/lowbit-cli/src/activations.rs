//! `--activations`: how X of compressed weights becomes 8-bit codes.

use crate::error::{CliError, printable};
use crate::smooth::{Failure, Smoothing};
use lowbit::compress::calibrate::{Calibration, Method, Statistics};
use lowbit::format::{
    ActivationFormat, ActivationGranularity, Quantization, StaticScale, WeightFormat,
};
use lowbit::ops::{Activations, MatmulSpec};
use lowbit_models::checkpoint::{
    LayerActivations, LayerRanges, ModelFile, Ranges, Tensor, matrix_shape,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `FORMAT:dynamic[=RANGES.json]` or `FORMAT:static=RANGES.json`.
#[derive(Clone)]
pub struct ActivationsArg {
    /// None for `int8`: each row its own scale where dynamic, what the file says where static.
    format: Option<ActivationFormat>,
    fixed: bool,
    ranges: Option<PathBuf>,
}

impl FromStr for ActivationsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let needed = "int8:dynamic or int8:static=RANGES.json is needed, or another format before \
                      the colon, as int8-g64:dynamic";
        let (format, scales) = text.split_once(':').ok_or(needed)?;
        let (scales, ranges) = match scales.split_once('=') {
            Some((scales, path)) if !path.is_empty() => (scales, Some(PathBuf::from(path))),
            Some(_) => return Err("the name of the file is empty".to_owned()),
            None => (scales, None),
        };
        let fixed = match (scales, &ranges) {
            ("dynamic", _) => false,
            ("static", Some(_)) => true,
            ("static", None) => {
                return Err("static scales come from a file: static=RANGES.json".to_owned());
            }
            _ => return Err(needed.to_owned()),
        };
        let format = match format {
            "int8" => None,
            name => Some(name.parse::<ActivationFormat>().map_err(|error| error.to_string())?),
        };
        match format {
            Some(format) if fixed && format.granularity() != ActivationGranularity::Tensor => {
                Err(format!("{format} takes its scales from X; static ones are of int8-tensor"))
            }
            _ => Ok(Self { format, fixed, ranges }),
        }
    }
}

impl ActivationsArg {
    /// The file of ranges.
    pub fn ranges(&self) -> Option<&Path> {
        self.ranges.as_deref()
    }
}

/// What is known of X of the selected weights, and what smoothing makes of them.
#[derive(Default)]
pub struct Plan {
    /// Of every selected weight, where anything was asked for.
    pub layers: BTreeMap<String, LayerActivations>,
    pub smoothing: Option<Smoothing>,
}

impl Plan {
    /// Works out and checks what was asked for; `smooth` with an α, or with the best of them.
    pub fn new(
        arg: &ActivationsArg,
        smooth: Option<Option<f64>>,
        model: &ModelFile,
        selected: &[Tensor<'_>],
        format: WeightFormat,
    ) -> Result<Self, CliError> {
        for tensor in selected {
            check_integers(tensor, format, arg.format.unwrap_or(TOKEN))?;
        }
        let known = arg.ranges.as_deref().map(|path| Known::read(path, selected)).transpose()?;
        let smoothing = match (smooth, &known) {
            (None, _) => None,
            (Some(_), None) => {
                let message = "--smooth goes by ranges of channels, and there is no file of them";
                return Err(CliError::new(message).hint(
                    "--activations int8:static=RANGES.json, or int8:dynamic=RANGES.json, of \
                     `lowbit calibrate --per-channel`",
                ));
            }
            (Some(alpha), Some(known)) => {
                let smoothing = Smoothing::new(model, selected, &known.channels(selected)?, alpha);
                Some(smoothing.map_err(|error| {
                    let hint = match error {
                        Failure::Io(_) => "`lowbit inspect` lists what the file holds",
                        Failure::Calibrate(_) => "calibrate again with `lowbit calibrate`",
                        Failure::Smooth { .. } => {
                            "weights must be finite; --tensors leaves some out"
                        }
                    };
                    CliError::new("cannot smooth the activations").because(error).hint(hint)
                })?)
            }
        };
        let mut layers = BTreeMap::new();
        for tensor in selected {
            let smoothing = smoothing.as_ref();
            let quantization = match &known {
                Some(known) if arg.fixed => known.quantization(tensor, arg.format, smoothing)?,
                _ => Quantization::Dynamic(arg.format.unwrap_or(TOKEN)),
            };
            let factors = smoothing.and_then(|all| all.factors(tensor.name)).map(<[f32]>::to_vec);
            layers.insert(tensor.name.to_owned(), LayerActivations { quantization, factors });
        }
        Ok(Self { layers, smoothing })
    }
}

/// A scale a row.
const TOKEN: ActivationFormat = ActivationFormat::int8(ActivationGranularity::Token);

/// Refuses weights that integer products do not take.
fn check_integers(
    tensor: &Tensor<'_>,
    weights: WeightFormat,
    activations: ActivationFormat,
) -> Result<(), CliError> {
    // The file's writer says of shapes what is wrong with them.
    let Some((n, k)) = matrix_shape(tensor.shape) else { return Ok(()) };
    let spec = MatmulSpec::new(1, n as u32, k as u32, weights)
        .with_activations(Activations::Int8(activations));
    spec.check().map_err(|error| {
        let message = format!(
            "`{}` as {weights} cannot be multiplied with {activations}",
            printable(tensor.name)
        );
        CliError::new(message).because(error).hint(
            "--scheme int8 or int4, --group a multiple of 32, `channel` or `tensor`; --tensors \
             chooses other weights; without --activations X stays as it is",
        )
    })
}

/// A file of ranges that has all selected weights.
struct Known {
    path: PathBuf,
    ranges: Ranges,
}

impl Known {
    fn read(path: &Path, selected: &[Tensor<'_>]) -> Result<Self, CliError> {
        let ranges = Ranges::read(path).map_err(|error| {
            CliError::new("cannot take the activations' scales")
                .because(error)
                .hint("`lowbit calibrate` writes such a file")
        })?;
        let known = Self { path: path.to_owned(), ranges };
        for tensor in selected {
            let layer = known.layer(tensor.name)?;
            if let LayerRanges::Statistics(seen) = layer {
                known.check_columns(tensor, seen)?;
            }
        }
        Ok(known)
    }

    fn layer(&self, name: &str) -> Result<&LayerRanges, CliError> {
        self.ranges.layers.get(name).ok_or_else(|| {
            let message =
                format!("`{}` has no ranges of `{}`", self.path.display(), printable(name));
            let hint = match nearest(name, self.ranges.layers.keys()) {
                Some(near) => format!("the nearest name there is `{}`; ", printable(near)),
                None => String::new(),
            };
            CliError::new(message).hint(format!("{hint}--tensors chooses weights that have ranges"))
        })
    }

    fn check_columns(&self, tensor: &Tensor<'_>, seen: &Statistics) -> Result<(), CliError> {
        let (have, need) = (seen.observer().columns(), matrix_shape(tensor.shape));
        match need {
            Some((_, need)) if need != have => Err(CliError::new(format!(
                "`{}` saw inputs of {have} columns for `{}`, which has {need}",
                self.path.display(),
                printable(tensor.name)
            ))
            .hint("calibrate the model that is to be compressed")),
            _ => Ok(()),
        }
    }

    /// Statistics by channels of every weight.
    fn channels<'a>(
        &'a self,
        selected: &[Tensor<'a>],
    ) -> Result<BTreeMap<&'a str, &'a Statistics>, CliError> {
        let channels = |tensor: &Tensor<'a>| {
            let seen = self.ranges.channels.get(tensor.name).ok_or_else(|| {
                CliError::new(format!(
                    "`{}` has no ranges of the channels of `{}`, which --smooth goes by",
                    self.path.display(),
                    printable(tensor.name)
                ))
                .hint("`lowbit calibrate --per-channel` keeps them")
            })?;
            self.check_columns(tensor, seen)?;
            Ok((tensor.name, seen))
        };
        selected.iter().map(channels).collect()
    }

    /// The static scale of a weight's X: where that is smoothed, of its whole range, since other
    /// methods go by a histogram that smoothing changes.
    fn quantization(
        &self,
        tensor: &Tensor<'_>,
        format: Option<ActivationFormat>,
        smoothing: Option<&Smoothing>,
    ) -> Result<Quantization, CliError> {
        let target = self.ranges.target.unwrap_or_default();
        let layer = self.layer(tensor.name)?;
        let format = match (format, layer, self.ranges.target) {
            (Some(format), ..) => format,
            // What a library wrote for one format alone.
            (None, LayerRanges::Calibration(made), None) => made.format(),
            _ => target.format,
        };
        let made = match smoothing.and_then(|all| all.range(tensor.name)) {
            Some(range) => Calibration::new(format, Method::MinMax, range),
            None => layer.calibrate(target.method, format),
        };
        made.map(|made| Quantization::Static(made.scheme())).map_err(|error| {
            CliError::new(format!("no scale for the input of `{}`", printable(tensor.name)))
                .because(error)
                .hint("`lowbit calibrate` makes another file; --tensors leaves weights out")
        })
    }
}

/// Longer names are compared with none: it takes the product of two lengths.
const LONGEST_NAME: usize = 256;

/// The name with the fewest insertions, deletions and replacements to this one.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let short = |name: &str| name.len() <= LONGEST_NAME;
    let there = names.filter(|there| short(there) && short(name));
    there.min_by_key(|there| distance(name, there))
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// [`LayerActivations`] in reports.
#[derive(Serialize)]
pub struct ActivationsJson {
    format: String,
    /// `dynamic` or `static`.
    scales: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_point: Option<i32>,
    /// Whether X is divided by factors that the file holds.
    smoothed: bool,
}

impl From<&LayerActivations> for ActivationsJson {
    fn from(from: &LayerActivations) -> Self {
        let given = match from.quantization {
            Quantization::Dynamic(_) => None,
            Quantization::Static(StaticScale { scale, zero_point }) => Some((scale, zero_point)),
        };
        Self {
            format: from.quantization.format().to_string(),
            scales: if given.is_some() { "static" } else { "dynamic" },
            scale: given.map(|(scale, _)| scale),
            zero_point: given.map(|(_, zero_point)| zero_point),
            smoothed: from.factors.is_some(),
        }
    }
}

impl std::fmt::Display for ActivationsJson {
    /// `int8-token`, `int8-tensor-asym 0.01235 zero -19, smoothed`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.format)?;
        if let Some(scale) = self.scale {
            write!(f, " {scale:.5}")?;
        }
        if let Some(zero_point) = self.zero_point.filter(|&zero_point| zero_point != 0) {
            write!(f, " zero {zero_point}")?;
        }
        f.write_str(if self.smoothed { ", smoothed" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let read = |text: &str| text.parse::<ActivationsArg>();
        let read = |text: &str| {
            let ActivationsArg { format, fixed, ranges } = read(text)?;
            let format = format.map_or("int8".to_owned(), |format| format.to_string());
            Ok::<_, String>((format, fixed, ranges.map(|path| path.display().to_string())))
        };
        let some = |path: &str| Some(path.to_owned());
        let int8 = || "int8".to_owned();
        assert_eq!(read("int8:dynamic"), Ok((int8(), false, None)));
        assert_eq!(read("int8:dynamic=a"), Ok((int8(), false, some("a"))));
        assert_eq!(read("int8:static=a=b:c"), Ok((int8(), true, some("a=b:c"))));
        assert_eq!(read("int8-g64-asym:dynamic"), Ok(("int8-g64-asym".to_owned(), false, None)));
        let tensor = "int8-tensor-asym".to_owned();
        assert_eq!(read("int8-tensor-asym:static=a"), Ok((tensor, true, some("a"))));
        for (bad, why) in [
            ("", "int8:dynamic"),
            ("int8", "int8:dynamic"),
            ("int8:", "int8:dynamic"),
            ("int8:statc=a", "int8:dynamic"),
            ("int8:static", "static=RANGES.json"),
            ("int8:static=", "empty"),
            ("int4:dynamic", "int4"),
            ("int8-token:static=a", "int8-token"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn the_nearest_name() {
        for (a, b, want) in
            [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
        let names = ["layer.0.key.weight", "layer.0.query.weight"].map(str::to_owned);
        assert_eq!(nearest("layer.0.query", names.iter()), Some(&names[1]));
        assert_eq!(nearest(&"x".repeat(300), names.iter()), None);
        assert_eq!(nearest("x", [].iter()), None);
    }
}
