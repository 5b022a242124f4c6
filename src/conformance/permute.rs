//! Cases of permuting the columns of X. Every bit must be that of the column that it came from.

use super::Case;
use super::data::{self, Random};
use super::matmul::{SENTINEL, put, put_bits, rows, take};
use super::report::{ErrorOverBound, Outcome, Trouble};
use crate::host::Host;
use crate::ops::{PermuteColumnsArgs, PermuteColumnsPlan, PermuteColumnsSpec, SubBuffer};

/// Number of values before X and before the output in a strided case, and of words before the order.
/// None is a multiple of a binding's alignment.
const BEFORE: [usize; 3] = [10, 6, 3];

pub(super) async fn run(host: &Host, case: &Case) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let mut random = Random::new(case.seed());
    let (spec, float) = (spec(case), case.activations);
    let [x_at, y_at, order_at] = if case.strided { BEFORE } else { [0; 3] };
    let mut order: Vec<u32> = (0..case.k as u32).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    let plan = PermuteColumnsPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let words =
        |at: usize, bytes: u64| (at as u64 * float.bytes() + bytes).div_ceil(4) as usize + 8;
    let mut x = vec![SENTINEL; words(x_at, spec.x_bytes(spec.max_m))];
    let mut want = vec![SENTINEL; words(y_at, spec.y_bytes(spec.max_m))];
    let x_rows = rows(spec.batch, case.m, x_at as u32, spec.x_batch_stride, spec.x_stride);
    let y_rows = rows(spec.batch, case.m, y_at as u32, spec.y_batch_stride, spec.y_stride);
    for (from, to) in x_rows.zip(y_rows) {
        let values = data::rows(&Case { m: 1, ..case.clone() }, &mut random);
        for (column, &value) in values.iter().enumerate() {
            put(&mut x, float, from + column, value);
        }
        for (j, &column) in order.iter().enumerate() {
            put_bits(&mut want, float, to + j, take(&x, float, from + column as usize).0);
        }
    }
    let order = [&vec![SENTINEL; order_at][..], &order, &[SENTINEL; 4]].concat();
    let source = host.storage_async(&x).await.map_err(|e| text(&e))?;
    let order = host.storage_async(&order).await.map_err(|e| text(&e))?;
    let output = host.storage_async(&vec![SENTINEL; want.len()]).await.map_err(|e| text(&e))?;
    let bytes = |at: usize| at as u64 * float.bytes();
    let bound = plan
        .bind(PermuteColumnsArgs {
            activations: SubBuffer { buffer: &source, offset: bytes(x_at) },
            order: SubBuffer { buffer: &order, offset: 4 * order_at as u64 },
            output: SubBuffer { buffer: &output, offset: bytes(y_at) },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, case.m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;
    let got = host.read_async(&output, 0, want.len()).await.map_err(|e| text(&e))?;
    let wrong = got.iter().zip(&want).position(|(got, want)| got != want);
    let fault = wrong.map(|word| {
        format!("word {word} of the output is {:08x}, must be {:08x}", got[word], want[word])
    });
    let error_over_bound = ErrorOverBound::Exact("exact".into());
    Ok(Outcome { kernel: spec.shader().id, error_over_bound, fault })
}

/// A strided case has two X of a batch, gaps between rows, and a plan for more rows than are recorded.
fn spec(case: &Case) -> PermuteColumnsSpec {
    let rows = case.m as u32 + if case.strided { 2 } else { 0 };
    let spec = PermuteColumnsSpec::new(rows, case.k as u32).with_activations(case.activations);
    if !case.strided {
        return spec;
    }
    let (x, y) = (spec.x_stride + 4, spec.y_stride + 2);
    spec.with_batch(2).with_x_strides(x, x * rows + 2).with_y_strides(y, y * rows + 6)
}
