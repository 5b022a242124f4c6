//! The search for the α of a layer.

use super::measured::Measured;
use super::{
    Channels, Linear, Options, SmoothError, Smoothing, check_length, check_matrix, factors,
    smoothed_absmax, weight_absmax, widen,
};
use crate::compress::calibrate::ActivationRange;

/// Searches for the α whose output in W8A8 is nearest to the layer's own output on the rows of `x`,
/// `[m, k]`. Weights are symmetric int8 with a scale for each row, as
/// [`quantize`](crate::compress::quantize()) makes them; activations are symmetric int8 with one
/// static scale, which follows from the smoothed ranges.
///
/// Not smoothing at all is one of the choices, and of equal choices the first is taken, so the error
/// is never above the error without smoothing.
///
/// The search takes `(1 + alphas) · m · k · Σ rows` multiplications; a hundred rows are enough.
///
/// # Errors
/// Returns [`SmoothError`] if there are no linears, channels or rows, if lengths do not match, if a
/// value is not finite, if an α lies outside of 0…1 or there is none, or if int8 cannot hold the
/// weights as they are.
pub fn search(
    x: &[f32],
    k: usize,
    linears: &[Linear<'_>],
    options: &Options,
) -> Result<Smoothing, SmoothError> {
    check_there_are("rows of X", x.len(), k, linears)?;
    check_matrix("X", x, x.len() / k, k)?;
    let mut x_absmax = calibrated_absmax(k, options)?;
    let w_absmax = weight_absmax(k, linears)?;
    widen(&mut x_absmax, x);
    let measured = Measured::new(x, k, linears);
    best(&x_absmax, &w_absmax, options, |factors, range| measured.error(factors, range))
}

/// Searches for the α with the least rounding error as [`Channels::rounding_error`] estimates it
/// from ranges and mean magnitudes of channels, where there are no rows of X to measure on.
///
/// [`Smoothing::error`] is that estimate. It serves to compare factors of the same layer and nothing
/// else.
///
/// # Errors
/// Returns [`SmoothError`] if there are no linears or channels, if lengths do not match, if a weight
/// is not finite, or if an α lies outside of 0…1 or there is none.
pub fn search_channels(
    channels: &Channels,
    linears: &[Linear<'_>],
    options: &Options,
) -> Result<Smoothing, SmoothError> {
    let k = channels.ranges().len();
    check_there_are("channels", k, k, linears)?;
    let mut x_absmax = calibrated_absmax(k, options)?;
    let w_absmax = weight_absmax(k, linears)?;
    widen(&mut x_absmax, &channels.absmax());
    best(&x_absmax, &w_absmax, options, |factors, _| Ok(channels.rounding_error(linears, factors)))
}

fn check_there_are(
    what: &'static str,
    count: usize,
    k: usize,
    linears: &[Linear<'_>],
) -> Result<(), SmoothError> {
    let nothing = [
        ("linears", linears.iter().all(|linear| linear.rows == 0)),
        ("channels", k == 0),
        (what, count == 0),
    ];
    match nothing.into_iter().find(|(_, nothing)| *nothing) {
        Some((what, _)) => Err(SmoothError::Nothing(what)),
        None => Ok(()),
    }
}

fn calibrated_absmax(k: usize, options: &Options) -> Result<Vec<f32>, SmoothError> {
    match &options.absmax {
        Some(absmax) => check_length("max|X|", k, absmax.len()).map(|()| absmax.clone()),
        None => Ok(vec![0.0; k]),
    }
}

/// Tries every α and keeps the one with the least error. `error` gets the factors and the symmetric
/// range of the smoothed X.
fn best(
    x_absmax: &[f32],
    w_absmax: &[f32],
    options: &Options,
    error: impl Fn(&[f32], ActivationRange) -> Result<f64, SmoothError>,
) -> Result<Smoothing, SmoothError> {
    let judge = |factors: &[f32]| {
        let absmax = smoothed_absmax(x_absmax, factors)?;
        let range = ActivationRange::of(-absmax, absmax);
        Ok::<_, SmoothError>((error(factors, range)?, range))
    };
    if options.alphas.is_empty() {
        return Err(SmoothError::Alpha(f64::NAN));
    }
    let factors_before = vec![1.0; x_absmax.len()];
    let (error_before, range) = judge(&factors_before)?;
    let mut best = Smoothing {
        alpha: None,
        factors: factors_before,
        range,
        error: error_before,
        error_before,
        tried: Vec::new(),
    };
    for &alpha in &options.alphas {
        let factors = factors(x_absmax, w_absmax, alpha, options.powers_of_two)?;
        // If int8 cannot hold the weights with these factors, other factors may still work.
        let Ok((error, range)) = judge(&factors) else { continue };
        best.tried.push((alpha, error));
        if error < best.error {
            best = Smoothing { alpha: Some(alpha), factors, range, error, ..best };
        }
    }
    Ok(best)
}
