//! Cases of choosing tokens. Each must be one that the reference allows.

use super::data::{self, Random};
use super::matmul::SENTINEL;
use super::output::Floats;
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::{Case, Sampled};
use crate::host::Host;
use crate::ops::{SampleArgs, SamplePlan, SampleSettings, SampleSpec, SubBuffer};
use crate::reference::{self, SampleCase};

/// Elements before the logits, and words before settings and tokens, in a strided case.
const BEFORE: [usize; 3] = [8, 3, 5];

pub(super) async fn run(host: &Host, case: &Case, how: Sampled) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let mut random = Random::new(case.seed());
    let spec = spec(case, how);
    let plan = SamplePlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let (m, n) = (case.m, case.k);
    let [x_before, settings_before, before] = if case.strided { BEFORE } else { [0; 3] };
    // Logits of a model differ by a few units, so that many tokens are likely.
    let x = data::rows(case, &mut random);
    let x_at = Floats {
        float: case.activations,
        before: x_before,
        batch_stride: 0,
        stride: spec.x_stride,
    };
    let words = x_at.lay(spec.x_bytes(spec.max_m), (1, m, n), &x);
    let source = host.storage_async(&words).await.map_err(|e| text(&e))?;
    let settings = settings(how, &mut random);
    let words = [vec![SENTINEL; settings_before], settings.words().into()].concat();
    let buffer = host.storage_async(&words).await.map_err(|e| text(&e))?;
    let count = before + spec.max_m as usize + 8;
    let output = host.storage_async(&vec![SENTINEL; count]).await.map_err(|e| text(&e))?;
    let at = SubBuffer { buffer: &buffer, offset: 4 * settings_before as u64 };
    let bound = plan
        .bind(SampleArgs {
            activations: SubBuffer { buffer: &source, offset: x_at.offset() },
            settings: spec.random.then_some(at),
            output: SubBuffer { buffer: &output, offset: 4 * before as u64 },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let mut got = host.read_async(&output, 0, count).await.map_err(|e| text(&e))?;

    let shader = spec.shader(host.kernels().caps());
    let mut fault = None;
    for (row, x) in x.chunks(n.max(1)).enumerate() {
        let right = if spec.random {
            let [.., seed, seed_high, step, step_high] = settings.words();
            let words = reference::philox([row as u32, 0, step, step_high], [seed, seed_high]);
            reference::sampled(&SampleCase {
                x,
                temperature: settings.temperature,
                top_k: settings.top_k,
                top_p: settings.top_p,
                random: words[0],
                sums: shader.workgroup_size as usize,
            })
        } else {
            vec![reference::largest(x)]
        };
        let token = std::mem::replace(&mut got[before + row], SENTINEL);
        if !right.contains(&token) && fault.is_none() {
            fault = Some(format!("row {row}: the token is {token}, must be of {right:?}"));
        }
    }
    let outside = got.iter().position(|&word| word != SENTINEL);
    let outside = outside.map(|word| format!("word {word} of the tokens was overwritten"));
    let error_over_bound = ErrorOverBound::Exact("exact".into());
    Ok(Outcome { kernel: shader.id, error_over_bound, fault: fault.or(outside) })
}

/// Returns settings with a seed and a step of all their bits.
fn settings(how: Sampled, random: &mut Random) -> SampleSettings {
    let (temperature, top_k, top_p) = match how {
        Sampled::Largest => (1.0, 0, 1.0),
        Sampled::Cold => (0.0, 3, 0.5),
        Sampled::All => (0.75, 0, 1.0),
        Sampled::TopK => (1.5, 5, 1.0),
        Sampled::TopP => (1.0, 0, 0.9),
        Sampled::Both => (2.0, 40, 0.75),
    };
    SampleSettings { temperature, top_k, top_p, seed: random.next(), step: random.next() }
}

/// A strided case has gaps between rows and a plan for more rows than are recorded.
fn spec(case: &Case, how: Sampled) -> SampleSpec {
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let spec = SampleSpec::new(rows, case.k as u32).with_activations(case.activations);
    let spec = if how == Sampled::Largest { spec } else { spec.with_random() };
    // f32 rows are loaded in two ways, depending on the stride.
    let stride = spec.x_stride + if case.strided { [4, 6][case.m % 2] } else { 0 };
    spec.with_stride(stride)
}
