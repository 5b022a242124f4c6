//! Compresses one weight.

use super::report::WeightReport;
use super::statistics::InputStatistics;
use super::{LayerwiseRunError, Loaded, Method, Plan};
use lowbit::compress::layerwise::{
    LayerwiseError, Pattern, gptq, magnitude, output_error, prune_and_round, sparse_gpt, wanda,
};
use lowbit::compress::{dequantize, quantize_scheme, relative_error};
use lowbit::format::PackedWeights;

/// Compresses a weight with what was seen of its input.
pub(super) fn weight(
    name: &str,
    weight: &Loaded,
    seen: Option<&InputStatistics>,
    plan: &Plan,
) -> Result<(PackedWeights, WeightReport), LayerwiseRunError> {
    let failed = |source| LayerwiseRunError::Weight { name: name.to_owned(), source };
    let Plan { scheme, treatment } = plan;
    let &Loaded { n, k, ref values, .. } = weight;
    let sparsity = &treatment.sparsity;
    let plain = || -> Result<PackedWeights, LayerwiseError> {
        match sparsity {
            Pattern::Dense => Ok(quantize_scheme(values, n, k, scheme)?),
            _ => {
                let mask = magnitude(values, n, k, sparsity)?;
                Ok(prune_and_round(values, n, k, &mask, scheme)?.packed)
            }
        }
    };
    let mut warnings = Vec::new();
    let method = match (treatment.method, seen) {
        (method, None) if method.needs_inputs() => {
            let instead = if method.prunes() { Method::Magnitude } else { Method::Rtn };
            warnings.push(format!(
                "nothing runs through this weight when the model reads text, so that {instead} made it"
            ));
            instead
        }
        (method, _) => method,
    };
    let made = match (method, seen) {
        (Method::Gptq, Some(seen)) => {
            Some(gptq(values, n, k, &seen.gram, scheme, &treatment.options()))
        }
        (Method::SparseGpt, Some(seen)) => {
            let options = treatment.options();
            Some(sparse_gpt(values, n, k, &seen.gram, sparsity, scheme, &options))
        }
        (Method::Wanda, Some(seen)) => Some(
            wanda(values, n, k, &seen.gram.diagonal(), sparsity)
                .and_then(|mask| prune_and_round(values, n, k, &mask, scheme)),
        ),
        _ => None,
    };
    let before = plain().map_err(failed)?;
    let packed = match made {
        Some(made) => {
            let made = made.map_err(failed)?;
            warnings.extend(made.warnings.iter().map(ToString::to_string));
            made.packed
        }
        None => before.clone(),
    };
    let kept = dequantize(&packed);
    let errors = match seen {
        Some(seen) => {
            let all = output_error(&seen.gram, values, &vec![0.0; values.len()], n).map_err(failed)?;
            let before = output_error(&seen.gram, values, &dequantize(&before), n);
            let before = before.map_err(failed)?;
            let after = output_error(&seen.gram, values, &kept, n).map_err(failed)?;
            let relative = |error: f64| if error == 0.0 { 0.0 } else { (error / all).sqrt() };
            Some((relative(before), relative(after)))
        }
        None => None,
    };
    let report = WeightReport {
        name: name.to_owned(),
        shape: [n, k],
        method: super::Treatment { method, ..treatment.clone() }.name(),
        format: scheme.to_string(),
        sparsity: sparsity.to_string(),
        bytes: packed.geometry().sizes().total(),
        bytes_before: 4 * values.len(),
        weight_error: relative_error(values, &kept),
        output_error_before: errors.map(|(before, _)| before),
        output_error: errors.map(|(_, after)| after),
        tokens: seen.map_or(0, |seen| seen.gram.rows()),
        warnings,
    };
    Ok((packed, report))
}
