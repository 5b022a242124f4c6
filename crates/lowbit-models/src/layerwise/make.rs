//! Compresses one weight.

use super::device::{self, Layer};
use super::report::WeightReport;
use super::statistics::InputStatistics;
use super::{Device, LayerwiseRunError, Loaded, Method, Plan, Treatment};
use lowbit::compress::layerwise::{
    Budget, Gram, LayerwiseError, Pattern, clip_search, gptq, magnitude, magnitude_from,
    output_error, permute_for_two_four, prune_and_round, sparse_gpt, wanda,
};
use lowbit::compress::{Scheme, dequantize, quantize_scheme, relative_error};
use lowbit::format::PackedWeights;

/// The seed of the search for an order of columns, so that a run repeats.
const SEED: u64 = 0;

/// A matrix, and what was seen of its input.
struct Matrix<'a> {
    values: &'a [f32],
    n: usize,
    k: usize,
    gram: Option<&'a Gram>,
    /// The magnitude from which weights are kept, if it does not follow from the sparsity.
    threshold: Option<f32>,
    /// The device that goes through columns, if one does.
    device: Option<Device<'a>>,
}

impl Matrix<'_> {
    /// Rounds to nearest, after pruning by magnitude.
    fn plain(&self, scheme: &Scheme, sparsity: &Pattern) -> Result<PackedWeights, LayerwiseError> {
        let &Self { values, n, k, .. } = self;
        match sparsity {
            Pattern::Dense => Ok(quantize_scheme(values, n, k, scheme)?),
            _ => {
                let mask = match self.threshold {
                    Some(threshold) => magnitude_from(values, n, k, threshold)?,
                    None => magnitude(values, n, k, sparsity)?,
                };
                Ok(prune_and_round(values, n, k, &mask, scheme)?.packed)
            }
        }
    }

    /// Rounds after limiting each group to the range of least output error, if the format has such groups.
    fn clipped(
        &self,
        scheme: &Scheme,
        warnings: &mut Vec<String>,
    ) -> Result<PackedWeights, LayerwiseError> {
        let &Self { values, n, k, gram, .. } = self;
        let found = gram.map(|gram| clip_search(values, n, k, gram, scheme));
        match found {
            Some(Ok(found)) => Ok(quantize_scheme(&found.weights, n, k, scheme)?),
            Some(Err(error @ LayerwiseError::Unsupported { .. })) => {
                warnings.push(format!("ranges are not clipped: {error}"));
                self.plain(scheme, &Pattern::Dense)
            }
            Some(Err(error)) => Err(error),
            None => {
                warnings.push("ranges are not clipped: nothing is known of the input".into());
                self.plain(scheme, &Pattern::Dense)
            }
        }
    }

    /// Compresses by a method.
    fn made(
        &self,
        method: Method,
        scheme: &Scheme,
        treatment: &Treatment,
        warnings: &mut Vec<String>,
    ) -> Result<PackedWeights, LayerwiseError> {
        let &Self { values, n, k, gram, .. } = self;
        let Treatment { sparsity, clip, .. } = treatment;
        let loops = matches!(method, Method::Gptq | Method::SparseGpt);
        if let (Some(Device { host, asked }), Some(gram), true) = (self.device, gram, loops) {
            let on_host =
                |why: &dyn std::fmt::Display| format!("the host went through its columns: {why}");
            match device::made(host, Layer { values, n, k, gram }, method, scheme, treatment) {
                Ok(Ok(made)) => return Ok(made),
                Ok(Err(why)) if asked => warnings.push(on_host(&why)),
                Ok(Err(_)) => {}
                Err(error) => warnings.push(on_host(&error)),
            }
        }
        let made = match (method, gram) {
            (Method::Gptq, Some(gram)) => gptq(values, n, k, gram, scheme, &treatment.options())?,
            (Method::SparseGpt, Some(gram)) => {
                sparse_gpt(values, n, k, gram, sparsity, scheme, &treatment.options())?
            }
            (Method::Wanda, Some(gram)) => {
                let mask = wanda(values, n, k, &gram.diagonal(), sparsity)?;
                prune_and_round(values, n, k, &mask, scheme)?
            }
            (Method::Awq, _) => return self.clipped(scheme, warnings),
            (Method::Rtn, _) if *clip && *sparsity == Pattern::Dense => {
                return self.clipped(scheme, warnings);
            }
            _ => return self.plain(scheme, sparsity),
        };
        warnings.extend(made.warnings.iter().map(ToString::to_string));
        Ok(made.packed)
    }

    /// Does the same with columns in an order in which 2:4 pruning keeps more. The result has them in that order.
    fn permuted(
        &self,
        method: Method,
        scheme: &Scheme,
        treatment: &Treatment,
        warnings: &mut Vec<String>,
    ) -> Result<PackedWeights, LayerwiseError> {
        let &Self { values, n, k, gram, .. } = self;
        let scores: Vec<f32> = match gram {
            Some(gram) if method != Method::Magnitude => {
                let norms: Vec<f64> = gram.diagonal().into_iter().map(f64::sqrt).collect();
                let largest = norms.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
                let score =
                    |(at, w): (usize, &f32)| (f64::from(*w) * norms[at % k] / largest) as f32;
                values.iter().enumerate().map(score).collect()
            }
            _ => values.to_vec(),
        };
        let order = permute_for_two_four(&scores, n, k, SEED, Budget::default())?;
        let values = columns(values, k, &order);
        let gram = gram.map(|gram| permuted(gram, &order)).transpose()?;
        let (gram, device, threshold) = (gram.as_ref(), self.device, self.threshold);
        let matrix = Matrix { values: &values, n, k, gram, threshold, device };
        let made = matrix.made(method, scheme, treatment, warnings)?;
        let format = made.format().permuted();
        let mut parts = made.into_parts();
        parts.order = order;
        Ok(PackedWeights::new(format, n, k, parts)?)
    }
}

/// Returns a matrix whose columns are in another order.
fn columns(values: &[f32], k: usize, order: &[u32]) -> Vec<f32> {
    let rows = values.chunks_exact(k.max(1));
    rows.flat_map(|row| order.iter().map(|&column| row[column as usize])).collect()
}

/// Returns the Gram matrix of inputs whose columns are in another order.
fn permuted(gram: &Gram, order: &[u32]) -> Result<Gram, LayerwiseError> {
    let (k, sums) = (gram.columns(), gram.sums());
    // Row i of the upper triangle starts after rows of k, k − 1, … elements.
    let at = |i: usize, j: usize| {
        let (i, j) = (i.min(j), i.max(j));
        sums[i * k - i * (i + 1) / 2 + j]
    };
    let mut all = Vec::with_capacity(sums.len());
    for (place, &i) in order.iter().enumerate() {
        all.extend(order[place..].iter().map(|&j| at(i as usize, j as usize)));
    }
    Gram::from_parts(k, gram.rows(), all)
}

/// Returns the part of weights that is 0.
fn pruned(kept: &[f32]) -> f64 {
    kept.iter().filter(|&&w| w == 0.0).count() as f64 / kept.len().max(1) as f64
}

/// Compresses a weight with what was seen of its input, on a device where one is given and has kernels for it.
pub(crate) fn weight(
    name: &str,
    weight: &Loaded,
    seen: Option<&InputStatistics>,
    plan: &Plan,
    device: Option<Device<'_>>,
) -> Result<(PackedWeights, WeightReport), LayerwiseRunError> {
    let failed = |source| LayerwiseRunError::Weight { name: name.to_owned(), source };
    let Plan { scheme, treatment } = plan;
    let &Loaded { n, k, ref values, threshold, .. } = weight;
    if treatment.global && threshold.is_none() {
        return Err(LayerwiseRunError::Unsupported {
            name: name.to_owned(),
            why: "the threshold of all weights together is not known here".to_owned(),
        });
    }
    let sparsity = &treatment.sparsity;
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
    let matrix = Matrix { values, n, k, gram: seen.map(|seen| &seen.gram), threshold, device };
    let made = if treatment.permute { Matrix::permuted } else { Matrix::made };
    let packed = made(&matrix, method, scheme, treatment, &mut warnings).map_err(failed)?;
    let kept = dequantize(&packed);
    let errors = match seen {
        Some(seen) => {
            let all =
                output_error(&seen.gram, values, &vec![0.0; values.len()], n).map_err(failed)?;
            let before = dequantize(&matrix.plain(scheme, sparsity).map_err(failed)?);
            let before = output_error(&seen.gram, values, &before, n).map_err(failed)?;
            let after = output_error(&seen.gram, values, &kept, n).map_err(failed)?;
            let relative = |error: f64| if error == 0.0 { 0.0 } else { (error / all).sqrt() };
            Some((relative(before), relative(after)))
        }
        None => None,
    };
    let report = WeightReport {
        name: name.to_owned(),
        shape: [n, k],
        method: Treatment { method, ..treatment.clone() }.name(),
        format: scheme.to_string(),
        sparsity: match threshold {
            Some(_) => format!("{:.4}", pruned(&kept)),
            None => sparsity.to_string(),
        },
        activations: treatment.activations.map(|format| format.to_string()),
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
