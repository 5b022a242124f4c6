//! Cases of Gram matrices. Sums are checked against the bound of their definition, and a second recording
//! must add exactly what the first one did.

use super::data::{self, Random};
use super::matmul::SENTINEL;
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::rows::Rows;
use super::table::{FLOATS, X_SHAPES, x_values};
use super::{Case, Extent, Op};
use crate::format::WeightFormat;
use crate::host::Host;
use crate::ops::{GRAM_ROWS, GRAM_UNIT, GramArgs, GramError, GramPlan, GramSpec, SubBuffer};
use crate::reference::{self, Judgement};

/// Words before the sums and before the status in a strided case.
const BEFORE: [usize; 2] = [4, 3];

pub(super) async fn run(host: &Host, case: &Case) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let x = data::rows(case, &mut Random::new(case.seed()));
    let spec = spec(case);
    let plan = GramPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let offset = if case.strided { 8 } else { 0 };
    let stride = spec.x_stride as usize;
    let rows = Rows { float: case.activations, offset, stride, k: case.k };
    let source =
        host.storage_async(&rows.lay(spec.max_m as usize, &x)).await.map_err(|e| text(&e))?;
    let [before, state_before] = if case.strided { BEFORE } else { [0; 2] };
    let words = (spec.sums_bytes() / 4) as usize;
    // Every integer is −1 at first.
    let mut sums = vec![SENTINEL; before + words + 8];
    sums[before..][..words].fill(u32::MAX);
    let mut state = vec![SENTINEL; state_before + 2 + 4];
    state[state_before..][..2].fill(0);
    let sums_at = host.storage_async(&sums).await.map_err(|e| text(&e))?;
    let state_at = host.storage_async(&state).await.map_err(|e| text(&e))?;
    let bound = plan
        .bind(GramArgs {
            activations: SubBuffer { buffer: &source, offset: rows.bytes() },
            sums: SubBuffer { buffer: &sums_at, offset: 4 * before as u64 },
            status: SubBuffer { buffer: &state_at, offset: 4 * state_before as u64 },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut decoded = Vec::new();
    let mut outside = None;
    for _ in 0..2 {
        let mut recorded = Ok(());
        host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
            .await
            .map_err(|e| text(&e))?;
        recorded.map_err(|e| text(&e))?;
        let got = host.read_async(&sums_at, 0, sums.len()).await.map_err(|e| text(&e))?;
        let state = host.read_async(&state_at, 0, state.len()).await.map_err(|e| text(&e))?;
        let around = got[..before].iter().chain(&got[before + words..]);
        let around = around.chain(&state[..state_before]).chain(&state[state_before + 2..]);
        if around.clone().any(|&word| word != SENTINEL) {
            outside = Some("words around the sums were written".to_string());
        }
        decoded.push(spec.decode(&got[before..][..words], &state[state_before..][..2]));
    }
    let parts = case.m.div_ceil(GRAM_ROWS);
    let expected = reference::gram(&x, case.k, GRAM_ROWS, parts).map_err(|e| text(&e))?;
    let judged = judge(&expected, &decoded);
    Ok(Outcome {
        kernel: spec.shader(host.kernels().caps()).id,
        error_over_bound: ErrorOverBound::Ratio(judged.error_over_bound),
        fault: judged.fault.or(outside),
    })
}

fn judge(expected: &[reference::Expected], decoded: &[Result<Vec<i128>, GramError>]) -> Judgement {
    let mut judged = Judgement::default();
    let fault = |text: String| Judgement { fault: Some(text), error_over_bound: f64::INFINITY };
    if expected.iter().any(|expected| expected.value.is_nan()) {
        let found = decoded.iter().all(|got| matches!(got, Err(GramError::NotFinite { .. })));
        return if found { judged } else { fault("what is not finite was not reported".into()) };
    }
    let [Ok(once), Ok(twice)] = decoded else {
        let error = decoded.iter().find_map(|got| got.as_ref().err());
        return fault(error.map_or_else(String::new, ToString::to_string));
    };
    let unit = 2f64.powi(GRAM_UNIT);
    for (at, expected) in expected.iter().enumerate() {
        let (Some(once), Some(twice)) = (once.get(at), twice.get(at)) else {
            return fault(format!("{at} sums, must be {}", decoded.len()));
        };
        if twice + 1 != 2 * (once + 1) {
            return fault(format!("sum {at}: {once} after one recording, {twice} after two"));
        }
        let got = (once + 1) as f64 * unit;
        let error = (got - expected.value).abs();
        let ratio = if error == 0.0 { 0.0 } else { error / expected.bound };
        let wrong = || format!("sum {at}: {got}, must be {} ± {}", expected.value, expected.bound);
        if !judged.see(ratio, wrong) {
            return judged;
        }
    }
    judged
}

/// A strided case has gaps between rows, and a plan for more rows than are recorded.
fn spec(case: &Case) -> GramSpec {
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let mut spec = GramSpec::new(rows, case.k as u32).with_activations(case.activations);
    if case.strided {
        // f32 rows are loaded in two ways, depending on the stride.
        spec.x_stride += [4, 6][case.m % 2];
    }
    spec
}

/// Rows and columns beside those of other ops over X: several parts of 64 rows, and tiles that end within.
const MORE: [(usize, usize); 3] = [(300, 66), (64, 128), (65, 200)];

/// Adds Gram matrices: both types, every shape and pattern.
pub(super) fn gram(extent: Extent, cases: &mut Vec<Case>) {
    for (j, activations) in FLOATS.into_iter().enumerate() {
        for (a, shape) in X_SHAPES.into_iter().chain(MORE).enumerate() {
            for (b, values) in x_values().enumerate() {
                // Quick: a pattern each, in turn. The reference is slow for many columns.
                let one = extent == Extent::Quick || shape.1 > 1000;
                if one && (a + 3 * j) % 8 != b {
                    continue;
                }
                let types = (activations, FLOATS[0]);
                cases.push(Case::of_x(Op::Gram, WeightFormat::f32(), types, shape, values));
            }
        }
    }
}
