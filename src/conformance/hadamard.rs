//! Cases of transforming rows. Every result is checked against the product with the matrix.

use super::data::{self, Random};
use super::matmul::output;
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::rows::Rows;
use super::table::{FLOATS, X_SHAPES};
use super::{Case, Extent, Op, Values};
use crate::format::WeightFormat;
use crate::host::Host;
use crate::ops::{HadamardArgs, HadamardPlan, HadamardSpec, SubBuffer};
use crate::reference::{self, Judgement};

pub(super) async fn run(host: &Host, case: &Case, block: usize) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let x = data::rows(case, &mut Random::new(case.seed()));
    let spec = spec(case, block);
    let plan = HadamardPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let max_m = spec.max_m as usize;
    let [x_at, y_at] = if case.strided { [8, 6] } else { [0; 2] };
    let (stride, k) = (spec.x_stride as usize, case.k);
    let x_rows = Rows { float: case.activations, offset: x_at, stride, k };
    let stride = spec.y_stride as usize;
    let y_rows = Rows { float: case.output, offset: y_at, stride, k };
    let source = host.storage_async(&x_rows.lay(max_m, &x)).await.map_err(|e| text(&e))?;
    let blank = y_rows.lay(max_m, &[]);
    let y = host.storage_async(&blank).await.map_err(|e| text(&e))?;
    let bound = plan
        .bind(HadamardArgs {
            activations: SubBuffer { buffer: &source, offset: x_rows.bytes() },
            output: SubBuffer { buffer: &y, offset: y_rows.bytes() },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read_async(&y, 0, blank.len()).await.map_err(|e| text(&e))?;
    let got = y_rows.take(&got, case.m)?;
    let mut judged = Judgement::default();
    let rows = x.chunks(k.max(1)).zip(got.chunks(k.max(1)));
    for (row, (x, got)) in rows.enumerate() {
        let expected = reference::hadamard(x, block, output(case.output)).map_err(|e| text(&e))?;
        let verdict = reference::check_head(&expected, got).map_err(|e| text(&e))?;
        let fault = verdict.fault.map(|fault| format!("row {row}: {fault}"));
        judged = judged.and(Judgement { fault, ..verdict });
    }
    Ok(Outcome {
        kernel: spec.shader(host.kernels().caps()).id,
        error_over_bound: ErrorOverBound::Ratio(judged.error_over_bound),
        fault: judged.fault,
    })
}

/// A strided case has gaps between rows, and a plan for more rows than are recorded.
fn spec(case: &Case, block: usize) -> HadamardSpec {
    let more = u32::from(case.strided) * 2;
    let spec = HadamardSpec::new(case.m as u32 + more, case.k as u32)
        .with_activations(case.activations)
        .with_output(case.output)
        .with_block(block as u32);
    // f32 rows whose length is a multiple of 4 are loaded in two ways, depending on the stride.
    let (x, y) = (spec.x_stride + [2, 3][case.m % 2] * more, spec.y_stride + more);
    spec.with_strides(x, y)
}

/// Rows and columns beside those of other ops over X: blocks of 256 to 4096 columns, alone and with
/// others, and the longest rows of models that exist.
const LONG: [(usize, usize); 6] =
    [(3, 768), (2, 11008), (2, 4096), (1, 14336), (3, 6144), (1, 28672)];

/// Adds transforms of rows: both types in and out, every shape and pattern, in blocks of the largest power
/// of two, and of a smaller one in turn.
pub(super) fn transforming(extent: Extent, cases: &mut Vec<Case>) {
    let patterns = Values::ALL.into_iter().chain(Values::ODD);
    for (j, types) in FLOATS.into_iter().flat_map(|x| FLOATS.map(|y| (x, y))).enumerate() {
        for (a, (m, k)) in X_SHAPES.into_iter().chain(LONG).enumerate() {
            for (b, values) in patterns.clone().enumerate() {
                // The reference is slow for long rows, so that they have one pattern each.
                let one = extent == Extent::Quick || k > 2080;
                if one && (a + j) % 8 != b
                    || extent == Extent::Quick && (2 * a + j + a / 4) % 4 != 0
                {
                    continue;
                }
                let whole = if k == 0 { 1 } else { 1 << k.trailing_zeros() };
                let block =
                    if (a + b + j) % 4 == 3 { 1 << (k.trailing_zeros() / 2) } else { whole };
                let block = if k == 0 { 1 } else { block };
                let op = Op::Hadamard { block };
                let mut case = Case::of_x(op, WeightFormat::f32(), types, (m, k), values);
                case.strided = (a + b + j / 2) % 2 == 0;
                cases.push(case);
            }
        }
    }
}
