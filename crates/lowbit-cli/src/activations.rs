//! The option `--activations`: how X of compressed weights becomes 8-bit codes.

use crate::error::{CliError, printable};
use lowbit::compress::smooth::SmoothError;
use lowbit::format::Quantization;
use lowbit::format::{ActivationFormat, ActivationGranularity, StaticScale};
use lowbit_models::checkpoint::{LayerActivations, ModelFile, Ranges};
use lowbit_models::compress::{
    ActivationPlan, ActivationPlanError, ActivationRequest, Chosen, SmoothRequest, SmoothingError,
};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `FORMAT:dynamic[=RANGES.json]` or `FORMAT:static=RANGES.json`.
#[derive(Clone)]
pub struct ActivationsArg {
    /// `None` for `int8`: a scale for each row if dynamic, and what the file says if static.
    format: Option<ActivationFormat>,
    fixed: bool,
    ranges: Option<PathBuf>,
}

impl FromStr for ActivationsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let needed = "give int8:dynamic or int8:static=RANGES.json, or another format before the \
                      colon, as in int8-g64:dynamic";
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
                Err(format!("{format} takes its scales from X; static scales need int8-tensor"))
            }
            _ => Ok(Self { format, fixed, ranges }),
        }
    }
}

/// How X is smoothed.
#[derive(Clone, Copy, PartialEq)]
pub enum SmoothArg {
    /// By this α, from 0 to 1.
    Alpha(f64),
    /// By the α that is best for all layers together.
    Search,
}

impl SmoothArg {
    /// Returns the α, if it is given.
    pub fn alpha(self) -> Option<f64> {
        match self {
            Self::Alpha(alpha) => Some(alpha),
            Self::Search => None,
        }
    }
}

impl FromStr for SmoothArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "search" {
            return Ok(Self::Search);
        }
        let alpha = text.parse().ok().filter(|alpha| (0.0..=1.0).contains(alpha));
        alpha.map(Self::Alpha).ok_or("give a number from 0 to 1, or `search`")
    }
}

impl ActivationsArg {
    /// Returns the format if scales are taken at run time and there is no file of ranges.
    pub fn without_ranges(&self) -> Option<ActivationFormat> {
        let token = ActivationFormat::int8(ActivationGranularity::Token);
        (!self.fixed && self.ranges.is_none()).then_some(self.format.unwrap_or(token))
    }

    /// Returns what is asked for, without smoothing.
    pub fn request<'a>(&self, ranges: Option<&'a Ranges>) -> ActivationRequest<'a> {
        let smooth = SmoothRequest::None;
        ActivationRequest { format: self.format, fixed: self.fixed, ranges, smooth }
    }

    /// Reads the file of ranges, if there is one.
    pub fn read_ranges(&self) -> Result<Option<Ranges>, CliError> {
        let read = |path: &PathBuf| {
            Ranges::read(path).map_err(|error| {
                CliError::new("cannot take the activations' scales")
                    .because(error)
                    .hint("`lowbit calibrate` writes such a file")
            })
        };
        self.ranges.as_ref().map(read).transpose()
    }

    /// Returns the file of ranges.
    pub fn ranges(&self) -> Option<&Path> {
        self.ranges.as_deref()
    }
}

/// Works out how X of the selected weights becomes codes; `smooth` holds an α, or `None` for the
/// best ones.
pub fn plan(
    arg: &ActivationsArg,
    smooth: Option<Option<f64>>,
    model: &ModelFile,
    selected: &[Chosen<'_>],
) -> Result<ActivationPlan, CliError> {
    let ranges = arg.read_ranges()?;
    let smooth = match smooth {
        None => SmoothRequest::None,
        Some(None) => SmoothRequest::Search,
        Some(Some(alpha)) => SmoothRequest::Alpha(alpha),
    };
    let request = ActivationRequest { smooth, ..arg.request(ranges.as_ref()) };
    ActivationPlan::new(&request, model, selected)
        .map_err(|error| refused(error, arg, ranges.as_ref()))
}

/// Adds the names of files and options to the reason why there is no plan.
pub fn refused(
    error: ActivationPlanError,
    arg: &ActivationsArg,
    ranges: Option<&Ranges>,
) -> CliError {
    use ActivationPlanError as Error;
    let path = arg.ranges.as_deref().unwrap_or(Path::new("")).display();
    match error {
        Error::NoRanges => {
            CliError::new("--smooth needs the ranges of channels, and there is no file of them")
                .hint(
                    "--activations int8:static=RANGES.json, or int8:dynamic=RANGES.json, with a \
                     file of `lowbit calibrate --per-channel`",
                )
        }
        Error::UnknownLayer { name } => {
            let near = ranges.and_then(|ranges| nearest(&name, ranges.layers.keys()));
            let near = near.map_or(String::new(), |near| {
                format!("the nearest name there is `{}`; ", printable(near))
            });
            CliError::new(format!("`{path}` has no ranges of `{}`", printable(&name)))
                .hint(format!("{near}--tensors chooses weights that have ranges"))
        }
        Error::NoChannels { name } => CliError::new(format!(
            "`{path}` has no ranges of the channels of `{}`, which --smooth needs",
            printable(&name)
        ))
        .hint("`lowbit calibrate --per-channel` keeps them"),
        Error::Columns { name, need, have } => CliError::new(format!(
            "`{path}` saw inputs of {have} columns for `{}`, which has {need}",
            printable(&name)
        ))
        .hint("calibrate the model that is to be compressed"),
        Error::Smoothing(error) => {
            let hint = match error {
                SmoothingError::Io(_) => "`lowbit inspect` lists what the file holds",
                SmoothingError::Smooth { source: SmoothError::Calibrate(_), .. } => {
                    "calibrate again with `lowbit calibrate`"
                }
                _ => "weights must be finite; --tensors leaves some out",
            };
            CliError::new("cannot smooth the activations").because(error).hint(hint)
        }
        error => {
            let hint = match error {
                Error::Unsupported { .. } => {
                    "--scheme int8 or int4, --group a multiple of 32 (or 16 without --asymmetric \
                     and --sparsity), `channel` or `tensor`; \
                     --tensors chooses other weights; without --activations X stays as it is"
                }
                _ => "`lowbit calibrate` makes another file; --tensors leaves weights out",
            };
            CliError::new("cannot quantize the activations").because(error).hint(hint)
        }
    }
}

/// The longest name that is compared. A comparison takes time proportional to the product of both
/// lengths.
const LONGEST_NAME: usize = 256;

/// Returns the name that differs from this one by the fewest insertions, deletions and replacements.
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

/// [`LayerActivations`] as reports show them.
#[derive(Serialize)]
pub struct ActivationsJson {
    format: String,
    /// `dynamic` or `static`.
    scales: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_point: Option<i32>,
    /// Whether X is divided by factors that the file contains.
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
