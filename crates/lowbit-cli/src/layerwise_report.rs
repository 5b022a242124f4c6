//! The report of `lowbit compress` by methods: JSON, and a table of the same.

use crate::error::printable;
use crate::report::{self, right};
use lowbit_models::layerwise::{TextPart, WeightReport};
use serde::Serialize;

/// What `--json` holds.
#[derive(Serialize)]
pub struct Json {
    pub input: String,
    pub output: String,
    /// The recipe, as `--recipe` takes it.
    pub recipe: String,
    pub calibration: Option<CalibrationJson>,
    /// The adapter; null if no text ran.
    pub adapter: Option<String>,
    pub seconds: f64,
    pub weights: Vec<WeightReport>,
    pub totals: Totals,
}

/// The calibration of a run, which is also written into the file.
#[derive(Serialize)]
pub struct CalibrationJson {
    pub text: String,
    pub samples: usize,
    pub tokens: usize,
    pub checksum: String,
    /// The parts of texts of which `--statistics` has statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Vec<TextPart>>,
}

/// Sums over all weights.
#[derive(Serialize)]
pub struct Totals {
    weights: usize,
    bytes_before: usize,
    bytes_after: usize,
    bits_per_weight: f64,
    /// Roots of the means of squares over all weights.
    output_error_before: Option<f64>,
    output_error: Option<f64>,
}

/// Adds up what became of all weights.
pub fn totals(weights: &[WeightReport]) -> Totals {
    let count = weights.iter().map(|weight| weight.shape[0] * weight.shape[1]).sum();
    let bytes_after = weights.iter().map(|weight| weight.bytes).sum();
    let mean = |of: fn(&WeightReport) -> Option<f64>| {
        let squares: Vec<f64> = weights.iter().filter_map(of).map(|error| error * error).collect();
        let count = squares.len() as f64;
        (!squares.is_empty()).then(|| (squares.iter().sum::<f64>() / count).sqrt())
    };
    Totals {
        weights: count,
        bytes_before: weights.iter().map(|weight| weight.bytes_before).sum(),
        bytes_after,
        bits_per_weight: report::bits_per_weight(bytes_after, count),
        output_error_before: mean(|weight| weight.output_error_before),
        output_error: mean(|weight| weight.output_error),
    }
}

/// Returns the report as a table.
pub fn text(json: &Json) -> String {
    let percent = |error: Option<f64>| match error {
        Some(error) => right(format!("{:.2} %", 100.0 * error)),
        None => right("–"),
    };
    let mut header = vec!["weight", "method", "format", "sparsity", "rounded", "output error"];
    let activations = json.weights.iter().any(|weight| weight.activations.is_some());
    if activations {
        header.insert(4, "activations");
    }
    let mut table = report::table(&header, true);
    for weight in &json.weights {
        let name = weight.name.strip_suffix(".weight").unwrap_or(&weight.name);
        let mut cells = vec![
            printable(name).into(),
            weight.method.clone().into(),
            weight.format.clone().into(),
            weight.sparsity.clone().into(),
            percent(weight.output_error_before),
            percent(weight.output_error),
        ];
        if activations {
            cells.insert(4, weight.activations.as_deref().unwrap_or("floats").into());
        }
        table.add_row(cells);
    }
    let totals = &json.totals;
    let on = json.calibration.as_ref().map_or(String::new(), |calibration| {
        format!(
            " on {} and {}",
            report::count(calibration.samples, "sample"),
            report::count(calibration.tokens, "token")
        )
    });
    let error = totals.output_error.map_or(String::new(), |error| {
        let before = totals.output_error_before.unwrap_or(error);
        format!(
            ", output error {:.2} % (by rounding or magnitude {:.2} %)",
            100.0 * error,
            100.0 * before
        )
    });
    format!(
        "{}{}{on}: {} → {}, {:.2} bits a weight{error}, in {:.0} s → {}\n",
        report::text(&table),
        report::count(json.weights.len(), "weight"),
        report::bytes(totals.bytes_before as u64),
        report::bytes(totals.bytes_after as u64),
        totals.bits_per_weight,
        json.seconds,
        printable(&json.output),
    )
}
