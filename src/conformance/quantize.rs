//! Cases of quantizing X to 8-bit codes. Codes, scales, zero points and sums are checked against
//! their definition.

use super::Case;
use super::data::{self, Random};
use super::matmul::SENTINEL;
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::rows::Rows;
use crate::format::{ActivationFormat, ActivationLayout, StaticScale};
use crate::host::Host;
use crate::ops::{
    QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeActivationsSpec, SubBuffer,
};
use crate::reference;

/// A static scale that rows of size 1 fill and larger rows exceed.
const STATIC: StaticScale = StaticScale { scale: 0.03125, zero_point: -17 };

/// Number of words before the codes in a strided case. It is not a multiple of a binding's
/// alignment.
const BEFORE: usize = 12;

pub(super) async fn run(
    host: &Host,
    case: &Case,
    format: ActivationFormat,
    given: bool,
) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let x = data::rows(case, &mut Random::new(case.seed()));
    let spec = spec(case, format, given);
    let plan = QuantizeActivationsPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let layout = *plan.layout();
    let zero_point = if format.is_symmetric() { 0 } else { STATIC.zero_point };
    let scale = given.then_some((STATIC.scale, zero_point));

    let offset = if case.strided { 8 } else { 0 };
    let stride = spec.x_stride as usize;
    let rows = Rows { float: case.activations, offset, stride, k: case.k };
    let source =
        host.storage_async(&rows.lay(spec.max_m as usize, &x)).await.map_err(|e| text(&e))?;
    let before = if case.strided { BEFORE } else { 0 };
    let count = before + (plan.output_bytes(spec.max_m) / 4) as usize + 8;
    let output = host.storage_async(&vec![SENTINEL; count]).await.map_err(|e| text(&e))?;
    let side = scale.map(|(scale, zero)| [SENTINEL, scale.to_bits(), zero as u32, SENTINEL]);
    let side = match side {
        Some(words) => Some(host.storage_async(&words).await.map_err(|e| text(&e))?),
        None => None,
    };
    let bound = plan
        .bind(QuantizeActivationsArgs {
            activations: SubBuffer { buffer: &source, offset: rows.bytes() },
            given: side.as_ref().map(|buffer| SubBuffer { buffer, offset: 4 }),
            output: SubBuffer { buffer: &output, offset: 4 * before as u64 },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let mut got = host.read_async(&output, 0, count).await.map_err(|e| text(&e))?;
    let packed_rows = take(&mut got, before, case, &layout);

    let judged = reference::check_activations(format, &layout, &x, scale, &packed_rows);
    let judged = judged.map_err(|e| text(&e))?;
    let written = got.iter().position(|&word| word != SENTINEL);
    let outside = |word| format!("word {word}, which is outside of the rows, was overwritten");
    let kernel = spec.shaders(host.kernels().caps()).pop().map(|shader| shader.id);
    Ok(Outcome {
        kernel: kernel.unwrap_or_default(),
        error_over_bound: ErrorOverBound::Ratio(judged.error_over_bound),
        fault: judged.fault.or(written.map(outside)),
    })
}

fn spec(case: &Case, format: ActivationFormat, given: bool) -> QuantizeActivationsSpec {
    // The plan is for more rows than are recorded.
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let mut spec = QuantizeActivationsSpec::new(rows, case.k as u32, format)
        .with_activations(case.activations);
    if case.strided {
        // f32 rows whose length is a multiple of 4 are loaded in two ways, depending on the stride.
        // Both ways are used.
        spec.x_stride += [4, 6][case.m % 2];
    }
    if given { spec.with_given_scale() } else { spec }
}

/// Removes the words of the rows from `got`, which leaves sentinels in their place. Padding words
/// remain in `got`.
fn take(got: &mut [u32], before: usize, case: &Case, layout: &ActivationLayout) -> Vec<u32> {
    if case.k == 0 {
        return Vec::new();
    }
    let mut packed_rows = got[before..][..case.m * layout.row_words].to_vec();
    let used = layout.sum_at + layout.blocks;
    for row in 0..case.m {
        let first = row * layout.row_words;
        got[before + first..][..used].fill(SENTINEL);
        // The reference does not check padding words. They stay in `got`, where they must be
        // sentinels.
        packed_rows[first + used..first + layout.row_words].fill(0);
    }
    packed_rows
}
