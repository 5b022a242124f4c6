//! The speed of ops that take X alone: quantization, observation, fake quantization.

use super::{MeasuredLimits, Milliseconds, Timing, floats, heads, last, median};
use crate::conformance::Op;
use crate::conformance::case::{FakeScales, Sampled, axis_name};
use crate::conformance::output::scale;
use crate::format::{ActivationFormat, ActivationFunction, WeightFormat};
use crate::host::{Host, HostError};
use crate::ops::{
    FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec, FloatType, GateArgs,
    GatePlan, GateSpec, HadamardArgs, HadamardPlan, HadamardSpec, NormArgs, NormPlan, NormResidual,
    NormSpec, ObserveArgs, ObservePlan, ObserveSpec, PermuteColumnsArgs, PermuteColumnsPlan,
    PermuteColumnsSpec, QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeActivationsSpec,
    SampleArgs, SamplePlan, SampleSettings, SampleSpec, SoftmaxArgs, SoftmaxPlan, SoftmaxSpec,
};

/// Measures an op on X alone.
pub(super) async fn time_x(
    host: &Host,
    limits: &MeasuredLimits,
    op: Op,
    format: WeightFormat,
    float: FloatType,
    (m, k): (usize, usize),
) -> Result<Vec<Timing>, HostError> {
    // `m` and `k` of a matrix that is not there yet: plans refuse what is too large.
    let shape = (u32::try_from(m).unwrap_or(u32::MAX), u32::try_from(k).unwrap_or(u32::MAX));
    let (copy, read) = (limits.copy_bytes_per_second, limits.read_bytes_per_second());
    let (what, rate, timed) = match op {
        Op::Quantize { format, .. } => {
            (format.to_string(), copy, vec![quantize(host, format, float, shape).await?])
        }
        Op::Observe { axis, bins } => {
            let spec = ObserveSpec::new(shape.0, shape.1, axis, bins).with_activations(float);
            (format!("{}-bins{bins}", axis_name(axis)), read, vec![observe(host, &spec).await?])
        }
        Op::PermuteColumns => {
            let spec = PermuteColumnsSpec::new(shape.0, shape.1).with_activations(float);
            (String::new(), copy, vec![permute(host, &spec).await?])
        }
        Op::Hadamard { block } => {
            let spec = HadamardSpec::new(shape.0, shape.1)
                .with_activations(float)
                .with_output(float)
                .with_block(u32::try_from(block).unwrap_or(u32::MAX));
            (format!("b{block}"), copy, vec![hadamard(host, &spec).await?])
        }
        Op::Rotary(rotary) => return heads::time_rotary(host, limits, &rotary, float, m).await,
        Op::Gate { layout, output } => {
            let spec = GateSpec::new(shape.0, shape.1, ActivationFunction::Silu)
                .with_layout(layout)
                .with_activations(float)
                .with_output(output);
            let what = format!("silu {} {output}", layout.name());
            (what, copy, vec![gate(host, &spec).await?])
        }
        Op::Softmax { capped } => {
            let spec = SoftmaxSpec::new(shape.0, shape.1).with_types(float, float);
            let spec = if capped { spec.with_soft_cap(30.0) } else { spec };
            let what = if capped { "capped" } else { "plain" };
            (what.into(), copy, vec![softmax(host, &spec).await?])
        }
        Op::Sample(how) => {
            let spec = SampleSpec::new(shape.0, shape.1).with_activations(float);
            let spec = if how == Sampled::Largest { spec } else { spec.with_random() };
            (how.name().into(), read, vec![sample(host, &spec).await?])
        }
        Op::Norm(normalized) => {
            let spec = NormSpec::new(shape.0, shape.1, normalized.kind, 1e-5)
                .with_activations(float)
                .with_output(normalized.output);
            let residual = normalized.residual.map(|float| spec.clone().with_residual(float));
            let what = format!("{} {}", normalized.kind.name(), normalized.output);
            (what, copy, vec![norm(host, &residual.unwrap_or(spec)).await?])
        }
        _ => {
            let mut spec = FakeQuantSpec::new(shape.0, shape.1, format).with_types(float, float);
            spec.given = op != Op::FakeQuant(FakeScales::Dynamic);
            spec.gradient_scale = op == Op::FakeQuant(FakeScales::Lsq);
            (format.to_string(), copy, fake_quant(host, &spec).await?.into())
        }
    };
    let row = |(op, kernel, (ms, gpu_ms), bytes): OfX| Timing {
        op: op.into(),
        weights: what.clone(),
        activations: float.name().to_string(),
        m,
        n: 0,
        k,
        kernel,
        ms,
        gpu_ms,
        unpack_ms: None,
        quantize_ms: None,
        host_ms: None,
        operations_per_second: 0.0,
        weight_bytes_per_second: bytes as f64 / ms * 1e3,
        share_of_limit: bytes as f64 / rate / ms * 1e3,
    };
    Ok(timed.into_iter().map(row).collect())
}

/// The name of a timed op, its kernel, its time, and the bytes that it must move.
type OfX = (&'static str, String, Milliseconds, u64);

async fn quantize(
    host: &Host,
    format: ActivationFormat,
    float: FloatType,
    (m, k): (u32, u32),
) -> Result<OfX, HostError> {
    let spec = QuantizeActivationsSpec::new(m, k, format).with_activations(float);
    let plan = QuantizeActivationsPlan::new(host.kernels(), &spec).await?;
    let x = floats(host, float, spec.x_bytes(m)).await?;
    let output = host.zeros_async(plan.output_bytes(m)).await?;
    let args =
        QuantizeActivationsArgs { activations: (&x).into(), given: None, output: (&output).into() };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    let kernel = last(spec.shaders(host.kernels().caps()));
    Ok(("quantize", kernel, ms, spec.x_bytes(m) + plan.output_bytes(m)))
}

async fn observe(host: &Host, spec: &ObserveSpec) -> Result<OfX, HostError> {
    let m = spec.max_m;
    let plan = ObservePlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.activations, spec.x_bytes(m)).await?;
    let output = host.zeros_async(4 * spec.words()).await?;
    let args = ObserveArgs { activations: (&x).into(), output: (&output).into() };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    Ok(("observe", last(spec.shaders(host.kernels().caps())), ms, spec.x_bytes(m)))
}

/// In the reverse order.
async fn permute(host: &Host, spec: &PermuteColumnsSpec) -> Result<OfX, HostError> {
    let m = spec.max_m;
    let plan = PermuteColumnsPlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.activations, spec.x_bytes(m)).await?;
    let order: Vec<u32> = (0..spec.k).rev().collect();
    let order = host.storage_async(&order).await?;
    let output = host.zeros_async(spec.y_bytes(m)).await?;
    let (activations, order) = ((&x).into(), (&order).into());
    let args = PermuteColumnsArgs { activations, order, output: (&output).into() };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    Ok(("permute-columns", spec.shader().id, ms, spec.x_bytes(m) + spec.y_bytes(m)))
}

async fn gate(host: &Host, spec: &GateSpec) -> Result<OfX, HostError> {
    let m = spec.max_m;
    let plan = GatePlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.activations, spec.x_bytes(m)).await?;
    let output = host.zeros_async(spec.y_bytes(m)).await?;
    let args =
        GateArgs { activations: (&x).into(), scale: scale(spec.output), output: (&output).into() };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    let kernel = spec.shader(host.kernels().caps()).id;
    Ok(("gate", kernel, ms, spec.x_bytes(m) + spec.y_bytes(m)))
}

async fn softmax(host: &Host, spec: &SoftmaxSpec) -> Result<OfX, HostError> {
    let m = spec.max_m;
    let plan = SoftmaxPlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.activations, spec.x_bytes(m)).await?;
    let output = host.zeros_async(spec.y_bytes(m)).await?;
    let args = SoftmaxArgs { activations: (&x).into(), output: (&output).into() };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    let kernel = spec.shader(host.kernels().caps()).id;
    Ok(("softmax", kernel, ms, spec.x_bytes(m) + spec.y_bytes(m)))
}

/// With the settings of a chat.
async fn sample(host: &Host, spec: &SampleSpec) -> Result<OfX, HostError> {
    let m = spec.max_m;
    let plan = SamplePlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.activations, spec.x_bytes(m)).await?;
    let settings = SampleSettings { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 1, step: 1 };
    let settings = host.storage_async(&settings.words()).await?;
    let output = host.zeros_async(spec.token_bytes(m)).await?;
    let settings = spec.random.then(|| (&settings).into());
    let args = SampleArgs { activations: (&x).into(), settings, output: (&output).into() };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    Ok(("sample", spec.shader(host.kernels().caps()).id, ms, spec.x_bytes(m)))
}

async fn norm(host: &Host, spec: &NormSpec) -> Result<OfX, HostError> {
    let m = spec.max_m;
    let plan = NormPlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.activations, spec.x_bytes(m)).await?;
    let weight = host.zeros_async(4 * u64::from(spec.k)).await?;
    let residual = host.zeros_async(spec.residual_bytes(m)).await?;
    let sum = host.zeros_async(spec.sum_bytes(m)).await?;
    let output = host.zeros_async(spec.y_bytes(m)).await?;
    let args = NormArgs {
        activations: (&x).into(),
        residual: spec
            .residual
            .map(|_| NormResidual { input: (&residual).into(), sum: (&sum).into() }),
        weight: Some((&weight).into()),
        bias: None,
        scale: scale(spec.output),
        output: (&output).into(),
    };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    let bytes = spec.x_bytes(m) + spec.residual_bytes(m) + spec.sum_bytes(m) + spec.y_bytes(m);
    Ok(("norm", spec.shader(host.kernels().caps()).id, ms, bytes))
}

async fn hadamard(host: &Host, spec: &HadamardSpec) -> Result<OfX, HostError> {
    let m = spec.max_m;
    let plan = HadamardPlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.activations, spec.x_bytes(m)).await?;
    let output = host.zeros_async(spec.y_bytes(m)).await?;
    let args = HadamardArgs { activations: (&x).into(), output: (&output).into() };
    let bound = plan.bind(args).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound.record(pass, m)).await?;
    recorded?;
    let ms = median(host, |pass| bound.record(pass, m)).await?;
    let kernel = spec.shader(host.kernels().caps()).id;
    Ok(("hadamard", kernel, ms, spec.x_bytes(m) + spec.y_bytes(m)))
}

/// Forward and backward.
async fn fake_quant(host: &Host, spec: &FakeQuantSpec) -> Result<[OfX; 2], HostError> {
    let m = spec.max_m;
    let plan = FakeQuantPlan::new(host.kernels(), spec).await?;
    let x = floats(host, spec.input, spec.x_bytes(m)).await?;
    let dy = floats(host, spec.output, spec.y_bytes(m)).await?;
    let (y, dx) =
        (host.zeros_async(spec.y_bytes(m)).await?, host.zeros_async(spec.x_bytes(m)).await?);
    let groups = spec.scales(m);
    // Most of X is inside.
    let (low, high) = spec.codes();
    let side = async |value: f32| host.storage_async(&vec![value.to_bits(); groups as usize]).await;
    let scales = side(4.0 / (high - low).max(1) as f32).await?;
    let zeros = side((low + high) as f32 / 2.0).await?;
    let (ds, dz) = (host.zeros_async(4 * groups).await?, host.zeros_async(4 * groups).await?);
    let asymmetric = !spec.format.is_symmetric();
    let forward = plan
        .bind(FakeQuantArgs {
            input: (&x).into(),
            scales: (&scales).into(),
            zeros: asymmetric.then(|| (&zeros).into()),
            output: (&y).into(),
        })
        .await?;
    let backward = plan
        .bind_backward(FakeQuantBackwardArgs {
            input: (&x).into(),
            scales: (&scales).into(),
            zeros: asymmetric.then(|| (&zeros).into()),
            output_gradient: (&dy).into(),
            input_gradient: (&dx).into(),
            scale_gradients: spec.given.then(|| (&ds).into()),
            zero_gradients: (spec.given && asymmetric).then(|| (&dz).into()),
        })
        .await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = forward.record(pass, m).and(backward.record(pass, m)))
        .await?;
    recorded?;
    let (caps, side) = (host.kernels().caps(), if asymmetric { 8 } else { 4 } * groups);
    let (x, y) = (spec.x_bytes(m), spec.y_bytes(m));
    let ms = median(host, |pass| forward.record(pass, m)).await?;
    let first = ("fake-quant", last(spec.forward_shaders(caps)), ms, x + y + side);
    let ms = median(host, |pass| backward.record(pass, m)).await?;
    let kernel = spec.backward_shaders(caps).into_iter().next().map(|shader| shader.id);
    let gradients = if spec.given { side } else { 0 };
    let moved = 2 * x + y + side + gradients;
    Ok([first, ("fake-quant backward", kernel.unwrap_or_default(), ms, moved)])
}
