//! Cases of softmax. Results are checked against the bound of their definition.

use super::Case;
use super::data::{self, Random};
use super::matmul::output as output_type;
use super::output::{Floats, floats};
use super::report::{ErrorOverBound, Outcome, Trouble};
use crate::host::Host;
use crate::ops::{SoftmaxArgs, SoftmaxPlan, SoftmaxSpec, SubBuffer};
use crate::reference::{self, SoftmaxCase};

/// Elements before X and before the output in a strided case.
const BEFORE: [usize; 2] = [8, 6];

const SCALE: f32 = 1.5;
const SOFT_CAP: f32 = 5.0;

pub(super) async fn run(host: &Host, case: &Case, capped: bool) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let spec = spec(case, capped);
    let plan = SoftmaxPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let (m, n, max_m) = (case.m, case.k, spec.max_m);
    let x = data::rows(case, &mut Random::new(case.seed()));
    let [x_before, y_before] = if case.strided { BEFORE } else { [0; 2] };
    let at = |float, before, stride| Floats { float, before, batch_stride: 0, stride };
    let x_at = at(case.activations, x_before, spec.x_stride);
    let words = x_at.lay(spec.x_bytes(max_m), (1, m, n), &x);
    let source = host.storage_async(&words).await.map_err(|e| text(&e))?;
    let y_at = at(case.output, y_before, spec.y_stride);
    let words = y_at.words(spec.y_bytes(max_m));
    let target = host.storage_async(&words).await.map_err(|e| text(&e))?;
    let bound = plan
        .bind(SoftmaxArgs {
            activations: SubBuffer { buffer: &source, offset: x_at.offset() },
            output: SubBuffer { buffer: &target, offset: y_at.offset() },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read_async(&target, 0, words.len()).await.map_err(|e| text(&e))?;

    let shader = spec.shader(host.kernels().caps());
    let (scale, soft_cap) = (spec.scale, spec.soft_cap);
    // Four columns a lane.
    let sums = 4 * shader.workgroup_size as usize;
    let reference = SoftmaxCase { x: &x, k: n, scale, soft_cap, sums };
    let expected = reference::softmax(&reference, output_type(case.output));
    let judged = floats(&y_at, (1, m, n), &got, &expected.map_err(|e| text(&e))?, "y");
    let error_over_bound = ErrorOverBound::Ratio(judged.error_over_bound);
    Ok(Outcome { kernel: shader.id, error_over_bound, fault: judged.fault })
}

/// A strided case has gaps between rows and a plan for more rows than are recorded.
fn spec(case: &Case, capped: bool) -> SoftmaxSpec {
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let spec = SoftmaxSpec::new(rows, case.k as u32)
        .with_types(case.activations, case.output)
        .with_scale(SCALE);
    let spec = if capped { spec.with_soft_cap(SOFT_CAP) } else { spec };
    if !case.strided {
        return spec;
    }
    // f32 rows are loaded in two ways, depending on the stride.
    let (x, y) = (spec.x_stride + [4, 6][case.m % 2], spec.y_stride + 4);
    spec.with_strides(x, y)
}
