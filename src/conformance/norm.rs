//! Cases of normalizing rows. Results, sums and codes are checked against the bounds of their
//! definition.

use super::data::{self, Random};
use super::matmul::{SENTINEL, output as output_type};
use super::output::{Floats, floats, judge, scale};
use super::report::{ErrorOverBound, Outcome, Trouble};
use super::{Case, Normalized};
use crate::host::Host;
use crate::ops::{
    FloatType, NormArgs, NormKind, NormPlan, NormResidual, NormSpec, Output, SubBuffer,
};
use crate::reference::{self, Judgement, NormCase, OutputType};

/// Elements before X, the residual, the sum and the output in a strided case, which are words before
/// codes, and words before weight and bias.
const BEFORE: [usize; 4] = [8, 6, 10, 12];
const BEFORE_VECTOR: usize = 3;

const EPSILON: f32 = 1e-5;

pub(super) async fn run(host: &Host, case: &Case, op: Normalized) -> Result<Outcome, Trouble> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let mut random = Random::new(case.seed());
    let spec = spec(case, op);
    let plan = NormPlan::new(host.kernels(), &spec).await;
    let plan = plan.map_err(|error| Trouble::of(case, &error))?;
    let (m, k, batch, max_m) = (case.m, case.k, spec.batch, spec.max_m);
    let before = if case.strided { BEFORE } else { [0; 4] };
    let part = |float, i: usize, stride, batch_stride| {
        let before = before.get(i).copied().unwrap_or(0);
        Floats { float, before, batch_stride, stride }
    };
    let input = |at: &Floats, bytes, values: &[f32]| at.lay(bytes, (batch, m, k), values);
    let many = |float, random: &mut Random| {
        let case = Case { activations: float, ..case.clone() };
        let values = (0..batch).flat_map(|_| data::rows(&case, random));
        values.collect::<Vec<f32>>()
    };
    let x = many(case.activations, &mut random);
    let x_at = part(case.activations, 0, spec.x_stride, spec.x_batch_stride);
    let x_words = input(&x_at, spec.x_bytes(max_m), &x);
    let source = host.storage_async(&x_words).await.map_err(|e| text(&e))?;
    // A residual and its sum; of no type, they are not bound.
    let float = op.residual.unwrap_or(FloatType::F32);
    let r = op.residual.map(|float| many(float, &mut random)).unwrap_or_default();
    let r_at = part(float, 1, spec.residual_stride, spec.residual_batch_stride);
    let r_words = input(&r_at, spec.residual_bytes(max_m), &r);
    let residual = host.storage_async(&r_words).await.map_err(|e| text(&e))?;
    let sum_at = part(float, 2, spec.sum_stride, spec.sum_batch_stride);
    let sum_words = sum_at.words(spec.sum_bytes(max_m));
    let sum = host.storage_async(&sum_words).await.map_err(|e| text(&e))?;
    let y_float = match op.output {
        Output::Float(float) => float,
        _ => FloatType::F32,
    };
    let y_at = part(y_float, 3, spec.y_stride, spec.y_batch_stride);
    let y_words = y_at.words(spec.y_bytes(max_m));
    let output = host.storage_async(&y_words).await.map_err(|e| text(&e))?;

    let weight: Vec<f32> = (0..k).map(|i| (i % 13) as f32 / 8.0 - 0.5).collect();
    let bias: Vec<f32> = (0..k).map(|i| (i % 17) as f32 / 4.0 - 2.0).collect();
    let mut vectors = Vec::new();
    for vector in [&weight, &bias] {
        let words: Vec<u32> = vector.iter().map(|v| v.to_bits()).collect();
        let words = [&[SENTINEL; BEFORE_VECTOR][..], &words, &[SENTINEL; 4]].concat();
        vectors.push(host.storage_async(&words).await.map_err(|e| text(&e))?);
    }
    let vector = |i: usize| {
        let offset = 4 * BEFORE_VECTOR as u64;
        vectors.get(i).map(|buffer| SubBuffer { buffer, offset })
    };
    let scale = scale(op.output);
    let bound = plan
        .bind(NormArgs {
            activations: SubBuffer { buffer: &source, offset: x_at.offset() },
            residual: op.residual.map(|_| NormResidual {
                input: SubBuffer { buffer: &residual, offset: r_at.offset() },
                sum: SubBuffer { buffer: &sum, offset: sum_at.offset() },
            }),
            weight: vector(0).filter(|_| spec.weight),
            bias: vector(1).filter(|_| spec.bias),
            scale,
            output: SubBuffer { buffer: &output, offset: y_at.offset() },
        })
        .await
        .map_err(|e| text(&e))?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m as u32))
        .await
        .map_err(|e| text(&e))?;
    recorded.map_err(|e| text(&e))?;

    let shader = spec.shader(host.kernels().caps());
    let of = |output| {
        let case = NormCase {
            x: &x,
            residual: op.residual.map(|_| &r[..]),
            k,
            centered: op.kind == NormKind::Layer,
            epsilon: EPSILON,
            weight: spec.weight.then_some(&weight[..]),
            offset: spec.weight_offset,
            bias: spec.bias.then_some(&bias[..]),
            // Four columns a lane.
            sums: 4 * shader.workgroup_size as usize,
        };
        reference::normalize(&case, output).map_err(|e| e.to_string())
    };
    let mut judged = Judgement::default();
    if op.residual.is_some() {
        let got = host.read_async(&sum, 0, sum_words.len()).await.map_err(|e| text(&e))?;
        let expected = reference::residual_sum(&x, &r, output_type(float));
        let expected = expected.map_err(|e| text(&e))?;
        judged = judged.and(floats(&sum_at, (batch, m, k), &got, &expected, "sum"));
    }
    let got = host.read_async(&output, 0, y_words.len()).await.map_err(|e| text(&e))?;
    let expected = of(match op.output {
        Output::Float(_) => output_type(y_float),
        _ => OutputType::F32,
    })?;
    let every = vec![true; batch as usize * m];
    judged = judged.and(judge(op.output, &y_at, (batch, m, k), got, &expected, &every)?);
    let error_over_bound = ErrorOverBound::Ratio(judged.error_over_bound);
    Ok(Outcome { kernel: shader.id, error_over_bound, fault: judged.fault })
}

/// A strided case has a batch of two, whose rows lie side by side or apart, with gaps, and a plan for
/// more rows than are recorded. Some have no weight, or one with an offset.
fn spec(case: &Case, op: Normalized) -> NormSpec {
    let (m, k) = (case.m as u32, case.k as u32);
    let rows = m + if case.strided { 2 } else { 0 };
    let mut spec = NormSpec::new(rows, k, op.kind, EPSILON)
        .with_activations(case.activations)
        .with_output(op.output);
    if let Some(float) = op.residual {
        spec = spec.with_residual(float);
    }
    if case.bias {
        spec = spec.with_bias();
    }
    match (m + k) % 4 {
        0 => spec = spec.without_weight(),
        1 => spec = spec.with_weight_offset(1.0),
        _ => {}
    }
    if !case.strided {
        return spec;
    }
    let side_by_side = m % 2 == 1;
    let gap = |stride: u32, gap: u32| {
        let (own, all) = (stride + gap, (stride + gap) * rows);
        if side_by_side { (2 * own + gap, own) } else { (own, all + gap) }
    };
    // f32 rows whose length is a multiple of 4 are loaded in two ways, depending on the strides.
    let x = gap(spec.x_stride, [4, 6][m as usize / 2 % 2]);
    let (r, sum) = (gap(spec.residual_stride, 2), gap(spec.sum_stride, 6));
    let y = gap(spec.y_stride, 4);
    spec.with_batch(2)
        .with_x_strides(x.0, x.1)
        .with_residual_strides(r.0, r.1)
        .with_sum_strides(sum.0, sum.1)
        .with_y_strides(y.0, y.1)
}
