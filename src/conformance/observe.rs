//! Cases of observing X for calibration. Ranges, sums and histograms must equal the host's bit for
//! bit.

use super::Case;
use super::data::{self, Random};
use super::matmul::SENTINEL;
use super::report::{ErrorOverBound, Outcome};
use super::rows::Rows;
use crate::compress::calibrate::{Axis, Batch, Observer};
use crate::host::Host;
use crate::ops::{ObserveArgs, ObservePlan, ObserveSpec, SubBuffer};

/// Number of words before the observation in a strided case. It is not a multiple of a binding's
/// alignment.
const BEFORE: usize = 5;

pub(super) async fn run(
    host: &Host,
    case: &Case,
    axis: Axis,
    bins: u32,
) -> Result<Outcome, String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let x = data::rows(case, &mut Random::new(case.seed()));
    let spec = spec(case, axis, bins);
    let plan = ObservePlan::new(host.kernels(), &spec).await.map_err(|e| text(&e))?;
    let offset = if case.strided { 8 } else { 0 };
    let stride = spec.x_stride as usize;
    let rows = Rows { float: case.activations, offset, stride, k: case.k };
    let source =
        host.storage_async(&rows.lay(spec.max_m as usize, &x)).await.map_err(|e| text(&e))?;
    let before = if case.strided { BEFORE } else { 0 };
    let words = spec.words() as usize;
    let count = before + words + 8;
    let output = host.storage_async(&vec![SENTINEL; count]).await.map_err(|e| text(&e))?;
    let bound = plan
        .bind(ObserveArgs {
            activations: SubBuffer { buffer: &source, offset: rows.bytes() },
            output: SubBuffer { buffer: &output, offset: 4 * before as u64 },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    // The kernel runs twice, because the earlier contents of the output must not matter. In a
    // strided case, the first run also includes rows of sentinels.
    host.submit_async(|pass| {
        let first = bound.record(pass, spec.max_m);
        recorded = first.and(bound.record(pass, case.m as u32));
    })
    .await
    .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read_async(&output, 0, count).await.map_err(|e| text(&e))?;
    let mut around = got[..before].iter().chain(&got[before + words..]);
    let outside = around.any(|&word| word != SENTINEL);
    let outside = outside.then(|| "words around the observation were written".to_string());
    let got = plan.batch(case.m as u32, &got[before..][..words]).map_err(|e| text(&e))?;

    let observer = match axis {
        Axis::Tensor => Observer::tensor("x", case.k),
        Axis::Channel => Observer::channels("x", case.k),
    };
    let want = Batch::of(&observer.with_bins(bins as usize), &x).map_err(|e| text(&e))?;
    let kernel = spec.shaders(host.kernels().caps()).pop().map(|shader| shader.id);
    Ok(Outcome {
        kernel: kernel.unwrap_or_default(),
        error_over_bound: ErrorOverBound::Exact("exact".into()),
        fault: difference(&got, &want).or(outside),
    })
}

fn spec(case: &Case, axis: Axis, bins: u32) -> ObserveSpec {
    // The plan is for more rows than are recorded.
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let spec = ObserveSpec::new(rows, case.k as u32, axis, bins);
    let mut spec = spec.with_activations(case.activations);
    if case.strided {
        // f32 rows whose length is a multiple of 4 are loaded in two ways, depending on the stride.
        // Both ways are used.
        spec.x_stride += [4, 6][case.m % 2];
    }
    spec
}

/// Returns the first difference from the host's observation, if there is one. −0 and 0 are
/// different here.
fn difference(got: &Batch, want: &Batch) -> Option<String> {
    if (got.rows, got.not_finite) != (want.rows, want.not_finite) {
        let ((rows, bad), (want_rows, want_bad)) =
            ((got.rows, got.not_finite), (want.rows, want.not_finite));
        return Some(format!("{rows} rows, {bad:?}; must be {want_rows}, {want_bad:?}"));
    }
    if got.channels.len() != want.channels.len() {
        let (got, want) = (got.channels.len(), want.channels.len());
        return Some(format!("there are {got} channels, must be {want}"));
    }
    got.channels.iter().zip(&want.channels).enumerate().find_map(|(at, (got, want))| {
        let ends = [got.min, got.max, want.min, want.max].map(f32::to_bits);
        let what = if ends[..2] != ends[2..] {
            format!("{}…{}, must be {}…{}", got.min, got.max, want.min, want.max)
        } else if got.abs_units != want.abs_units {
            format!("Σ|x| is {} units, must be {}", got.abs_units, want.abs_units)
        } else if got.histogram != want.histogram {
            let counts = got.histogram.counts().iter().zip(want.histogram.counts());
            let bin = counts.clone().position(|(got, want)| got != want);
            format!("the histogram differs, first in bin {bin:?}")
        } else {
            return None;
        };
        Some(format!("channel {at}: {what}"))
    })
}
