//! The speed of preparing queries, keys and values.

use super::{MeasuredLimits, Timing, floats, median};
use crate::conformance::case::Rotary;
use crate::conformance::rotary::NORM;
use crate::host::{Host, HostError};
use crate::ops::{FloatType, RotaryArgs, RotaryPlan, RotarySpec};

/// Measures `m` rows, each at a slot of its own, with a rotation and a norm if the case has them.
pub(super) async fn time_rotary(
    host: &Host,
    limits: &MeasuredLimits,
    op: &Rotary,
    float: FloatType,
    m: usize,
) -> Result<Vec<Timing>, HostError> {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let rows = number(m);
    let mut spec =
        RotarySpec::new(rows, number(op.heads), number(op.kv_heads), number(op.head_dim))
            .with_rotation(op.pairs, number(op.rotary_dim), rows)
            .with_cache(op.cache, rows)
            .with_hadamard(op.hadamard, op.hadamard)
            .with_activations(float)
            .with_output(float);
    spec.norm = op.norm.then_some(NORM);
    let plan = RotaryPlan::new(host.kernels(), &spec).await?;
    let layout = *plan.cache_layout();
    let x = floats(host, float, spec.x_bytes(rows)).await?;
    let table = floats(host, FloatType::F32, spec.table_bytes()).await?;
    let weights = floats(host, FloatType::F32, 4 * u64::from(spec.head_dim)).await?;
    let each: Vec<u32> = (0..rows).flat_map(|row| [row, row, 0, row + 1]).collect();
    let each = host.storage_async(&each).await?;
    let q = host.zeros_async(spec.q_bytes(rows)).await?;
    let (keys, values) =
        (host.zeros_async(layout.bytes()).await?, host.zeros_async(layout.bytes()).await?);
    let (queries, cached) = (op.heads > 0, op.kv_heads > 0);
    let bound = plan
        .bind(RotaryArgs {
            activations: (&x).into(),
            rows: (&each).into(),
            angles: (op.rotary_dim > 0).then(|| (&table).into()),
            query_norm: (op.norm && queries).then(|| (&weights).into()),
            key_norm: (op.norm && cached).then(|| (&weights).into()),
            queries: queries.then(|| (&q).into()),
            keys: cached.then(|| (&keys).into()),
            values: cached.then(|| (&values).into()),
        })
        .await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, rows)).await?;
    recorded?;
    let (ms, gpu_ms) = median(host, |pass| bound.record(pass, rows)).await?;
    let bytes = spec.x_bytes(rows) + spec.q_bytes(rows) + 2 * layout.bytes();
    Ok(vec![Timing {
        op: "rotary".into(),
        weights: op.to_string(),
        activations: float.name().to_string(),
        m,
        n: 0,
        k: spec.columns() as usize,
        kernel: spec.shader(host.kernels().caps()).id,
        ms,
        gpu_ms,
        unpack_ms: None,
        quantize_ms: None,
        host_ms: None,
        operations_per_second: 0.0,
        weight_bytes_per_second: bytes as f64 / ms * 1e3,
        share_of_limit: bytes as f64 / limits.copy_bytes_per_second / ms * 1e3,
    }])
}
