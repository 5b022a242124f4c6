//! `lowbit compress --smooth=search`: one α for all layers, by what they make of a text.

use crate::activations::{self, ActivationsArg};
use crate::compress::Args;
use crate::error::{CliError, printable, warn};
use crate::layerwise::{open_device, read_samples};
use crate::report;
use lowbit_models::architecture;
use lowbit_models::checkpoint::ModelFile;
use lowbit_models::compress::{
    ActivationPlan, ActivationRequest, AlphaError, AlphaSearch, Chosen, FoundAlpha, SmoothRequest,
    WeightErrors, search_alpha,
};
use pollster::block_on;
use serde::Serialize;

/// What `--json` says of the search.
#[derive(Serialize)]
pub struct SearchJson {
    /// The α that was found; null if none is better than not smoothing.
    pub alpha: Option<f64>,
    /// The output error with it, and without smoothing: the root of the mean of the squares of all layers' errors.
    output_error: Option<f64>,
    output_error_before: Option<f64>,
    samples: usize,
    tokens: usize,
    /// The rows of each input on which errors were measured.
    rows: usize,
    tried: Vec<Tried>,
    layers: Vec<Layer>,
}

#[derive(Serialize)]
struct Tried {
    /// The α; null for no smoothing.
    alpha: Option<f64>,
    output_error: f64,
}

/// The output error of a layer, as a share of its output.
#[derive(Serialize)]
struct Layer {
    name: String,
    output_error_before: f64,
    output_error: f64,
    /// The best α of this layer alone; null if it is best without smoothing.
    best_alpha: Option<f64>,
    best_output_error: f64,
}

impl SearchJson {
    fn new(found: &FoundAlpha, samples: usize, tokens: usize) -> Self {
        let tried = found.tried.iter();
        let layer = |weight: &WeightErrors| Layer {
            name: weight.name.clone(),
            output_error_before: weight.before,
            output_error: weight.found,
            best_alpha: weight.best_alpha,
            best_output_error: weight.best,
        };
        Self {
            alpha: found.alpha,
            output_error: found.error(found.alpha),
            output_error_before: found.error(None),
            samples,
            tokens,
            rows: found.rows,
            tried: tried.map(|&(alpha, output_error)| Tried { alpha, output_error }).collect(),
            layers: found.weights.iter().map(layer).collect(),
        }
    }

    /// Returns a table of the errors of layers, and a line on all of them.
    pub fn text(&self) -> String {
        let percent = |error: f64| report::right(format!("{:.3} %", 100.0 * error));
        let alpha = |alpha: Option<f64>| alpha.map_or("none".to_owned(), |a| format!("{a:.2}"));
        let header = ["layer", "not smoothed", "output error", "its own best", "its α"];
        let mut table = report::table(&header, true);
        for layer in &self.layers {
            let name = layer.name.strip_suffix(".weight").unwrap_or(&layer.name);
            table.add_row([
                printable(name).into(),
                percent(layer.output_error_before),
                percent(layer.output_error),
                percent(layer.best_output_error),
                report::right(alpha(layer.best_alpha)),
            ]);
        }
        let error = |error: Option<f64>| 100.0 * error.unwrap_or_default();
        let on = format!(
            "{} of {} and {}",
            report::count(self.rows, "row"),
            report::count(self.samples, "sample"),
            report::count(self.tokens, "token"),
        );
        let (now, before) = (error(self.output_error), error(self.output_error_before));
        let found = match self.alpha {
            Some(alpha) => {
                format!("smoothed by α = {alpha}: output error {now:.3} %, {before:.3} % without")
            }
            None => format!("not smoothed: no α is better than the {before:.3} % without"),
        };
        format!("{}{found}, on {on}\n", report::text(&table))
    }
}

/// Searches for the α, and plans how X of the selected weights becomes codes with it.
pub fn search(
    args: &Args,
    arg: &ActivationsArg,
    model: &ModelFile,
    selected: &[Chosen<'_>],
) -> Result<(ActivationPlan, SearchJson), CliError> {
    let Some(text) = &args.method.calibration else {
        return Err(CliError::new("--smooth=search reads a text, and there is none")
            .hint("--calibration names one; --smooth without `search` looks at ranges only"));
    };
    if args.host {
        return Err(CliError::new("--smooth=search runs the model, for which it takes an adapter")
            .hint("leave out --host"));
    }
    let blueprint = architecture::read(model).map_err(|error| {
        CliError::new(format!("cannot run the model in `{}`", args.input.display()))
            .because(error)
            .hint("--smooth without `search` does not run it")
    })?;
    let samples = read_samples(args, text, &blueprint)?;
    let ranges = arg.read_ranges()?;
    let request = arg.request(ranges.as_ref());
    let host = open_device(&args.adapter)?;
    let search = AlphaSearch {
        blueprint: &blueprint,
        texts: &samples.texts,
        step: samples.texts.iter().map(Vec::len).max().unwrap_or(1).max(512),
        rows: AlphaSearch::ROWS,
        alphas: AlphaSearch::usual_alphas(),
    };
    let bar = report::long_progress(blueprint.layers.len() + 1);
    let mut progress = |stage| {
        bar.set_message(format!("{stage}: searching for α"));
        bar.inc(1);
    };
    let found = search_alpha(&host, model, selected, &request, &search, &mut progress);
    let found = block_on(found);
    bar.finish_and_clear();
    let refused = |error| activations::refused(error, arg, ranges.as_ref());
    let found = found.map_err(|error| match error {
        AlphaError::Plan(error) => refused(*error),
        error => {
            let hint = match error {
                AlphaError::Unseen { .. } => "--exclude leaves the weight out",
                AlphaError::Compress { .. } => {
                    "--exclude leaves the weight out, --scheme and --scales choose another format"
                }
                AlphaError::Observe { .. } => "see whether the model's weights are finite",
                _ => {
                    "--adapter chooses another adapter, fewer --samples or --sample-tokens take \
                     less memory"
                }
            };
            CliError::new("cannot search for α").because(error).hint(hint)
        }
    })?;
    if found.alpha.is_none() {
        warn("the inputs are not smoothed, because no α is better than not to smooth");
    }
    let smooth = found.alpha.map_or(SmoothRequest::None, SmoothRequest::Alpha);
    let known = request.ranges.unwrap_or(&found.ranges);
    let request = ActivationRequest { ranges: Some(known), smooth, ..request };
    let plan = ActivationPlan::new(&request, model, selected).map_err(refused)?;
    let (count, tokens, _) = samples.identity();
    Ok((plan, SearchJson::new(&found, count, tokens)))
}
