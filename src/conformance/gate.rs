//! Cases of gated activations. Results and codes are checked against the bound of their definition.

use super::Case;
use super::data::{self, Random};
use super::matmul::output as output_type;
use super::output::{Floats, UNDEFINED, judge, scale};
use super::report::{ErrorOverBound, Outcome, Trouble};
use crate::host::Host;
use crate::ops::{FloatType, GateArgs, GateLayout, GatePlan, GateSpec, Output, SubBuffer};
use crate::reference::{self, OutputType};

/// Elements before X in a strided case, and before the output, where they are words of codes.
const BEFORE: [usize; 2] = [8, 12];

pub(super) async fn run(
    host: &Host,
    case: &Case,
    layout: GateLayout,
    output: Output,
) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let mut random = Random::new(case.seed());
    let spec = spec(case, layout, output);
    let plan = GatePlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let (m, n, max_m) = (case.m, case.k, spec.max_m);
    let (gate, up) = (data::rows(case, &mut random), data::rows(case, &mut random));
    let rows = gate.chunks(n.max(1)).zip(up.chunks(n.max(1)));
    let x: Vec<f32> = match layout {
        GateLayout::Halves => rows.flat_map(|(gate, up)| [gate, up].concat()).collect(),
        GateLayout::Interleaved => gate.iter().zip(&up).flat_map(|(&g, &u)| [g, u]).collect(),
    };
    let before = |i: usize| match BEFORE.get(i) {
        Some(&before) if case.strided => before,
        _ => 0,
    };
    let at = |float, before, stride| Floats { float, before, batch_stride: 0, stride };
    let x_at = at(case.activations, before(0), spec.x_stride);
    let words = x_at.lay(spec.x_bytes(max_m), (1, m, 2 * n), &x);
    let source = host.storage_async(&words).await.map_err(|e| text(&e))?;
    let float = match output {
        Output::Float(float) => float,
        _ => FloatType::F32,
    };
    let y_at = at(float, before(1), spec.y_stride);
    let words = y_at.words(spec.y_bytes(max_m));
    let target = host.storage_async(&words).await.map_err(|e| text(&e))?;
    let bound = plan
        .bind(GateArgs {
            activations: SubBuffer { buffer: &source, offset: x_at.offset() },
            scale: scale(output),
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

    let kind = match output {
        Output::Float(float) => output_type(float),
        _ => OutputType::F32,
    };
    let mut expected = reference::gate(&gate, &up, case.function, kind).map_err(|e| text(&e))?;
    // Infinities have no defined result, and rows of codes with one have no defined codes.
    for ((want, gate), up) in expected.iter_mut().zip(&gate).zip(&up) {
        if !want.value.is_nan() && (gate.is_infinite() || up.is_infinite()) {
            *want = UNDEFINED;
        }
    }
    let known: Vec<_> = expected.chunks(n.max(1)).map(|row| !row.contains(&UNDEFINED)).collect();
    let known = if n == 0 { vec![true; m] } else { known };
    let judged = judge(output, &y_at, (1, m, n), got, &expected, &known)?;
    let kernel = spec.shader(host.kernels().caps()).id;
    let error_over_bound = ErrorOverBound::Ratio(judged.error_over_bound);
    Ok(Outcome { kernel, error_over_bound, fault: judged.fault })
}

/// A strided case has gaps between rows and a plan for more rows than are recorded.
fn spec(case: &Case, layout: GateLayout, output: Output) -> GateSpec {
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let spec = GateSpec::new(rows, case.k as u32, case.function)
        .with_layout(layout)
        .with_activations(case.activations)
        .with_output(output);
    if !case.strided {
        return spec;
    }
    // f32 rows are loaded in two ways, depending on the stride.
    let (x, y) = (spec.x_stride + [4, 6][case.m % 2], spec.y_stride + 4);
    spec.with_strides(x, y)
}
