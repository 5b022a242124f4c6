//! Cases of describing the rows of a step: all words must be right, and the number of tokens after it.

use super::Case;
use super::matmul::SENTINEL;
use super::report::{ErrorOverBound, Outcome, Trouble};
use crate::host::Host;
use crate::ops::{PositionsArgs, PositionsPlan, PositionsSpec, SubBuffer};

pub(super) async fn run(host: &Host, case: &Case, window: Option<u32>) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| Trouble::Failed(e.to_string());
    let (m, before) = (case.m as u32, case.k as u32);
    // A strided case begins in the middle of buffers, is planned for more rows and counts nothing.
    let (at, extra) = if case.strided { (3, 9) } else { (0, 0) };
    let mut spec = PositionsSpec::new(m + extra);
    spec.window = window;
    spec.advance = !case.strided;
    spec.index_base = extra;
    let plan = PositionsPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let mut state = vec![SENTINEL; at + 2];
    state[at] = before;
    let mut want = vec![SENTINEL; at + spec.output_bytes() as usize / 4 + 8];
    let buffer = host.storage_async(&want).await.map_err(|e| text(&e))?;
    let state_buffer = host.storage_async(&state).await.map_err(|e| text(&e))?;
    for (i, row) in want[at..].chunks_exact_mut(4).take(m as usize).enumerate() {
        let position = before + i as u32;
        let seen = window.unwrap_or(u32::MAX).min(position + 1);
        row.copy_from_slice(&[position, position, position + 1 - seen, position + 1]);
    }
    let index_at = at + spec.index_offset() as usize / 4;
    for (i, index) in want[index_at..].iter_mut().take(m as usize).enumerate() {
        *index = before + i as u32 + spec.index_base;
    }
    if spec.advance {
        state[at] += m;
    }
    let offset = 4 * at as u64;
    let (state_at, output) =
        (SubBuffer { buffer: &state_buffer, offset }, SubBuffer { buffer: &buffer, offset });
    let bound = plan.bind(PositionsArgs { state: state_at, output }).await;
    let bound = bound.map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await.map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let mut fault = None;
    for (what, buffer, want) in [("the rows", &buffer, &want), ("the state", &state_buffer, &state)]
    {
        let got = host.read_async(buffer, 0, want.len()).await.map_err(|e| text(&e))?;
        let wrong = got.iter().zip(want).position(|(got, want)| got != want);
        fault = fault.or(wrong.map(|word| {
            format!("word {word} of {what} is {:08x}, must be {:08x}", got[word], want[word])
        }));
    }
    let error_over_bound = ErrorOverBound::Exact("exact".into());
    Ok(Outcome { kernel: spec.shader().id, error_over_bound, fault })
}
