//! The speed of ops that take weights: matmuls, compression, dequantization.

use super::{Milliseconds, floats, last, median};
use crate::format::{ActivationFormat, PackedWeights, WeightFormat};
use crate::gpu::{DeviceError, ImportError, KernelDesc, Kernels, fragment};
use crate::host::{COLD, Host, HostError, Instant};
use crate::ops::matmul::Scaling;
use crate::ops::{
    Activations, BoundMatmul, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights,
    FloatType, KernelChoice, MatmulArgs, MatmulPlan, MatmulSpec, QuantizeActivationsArgs,
    QuantizeActivationsPlan, QuantizeActivationsSpec, QuantizeWeightsArgs, QuantizeWeightsPlan,
    QuantizeWeightsSpec, Select, SourceRows,
};

/// A kernel less X and scales: what reading, unpacking and multiplying take at least in the
/// same loop.
///
/// # Errors
/// Returns [`ImportError`] if the fragments do not compose.
pub fn unpack_shader(choice: &KernelChoice) -> Result<KernelDesc, ImportError> {
    let mut kernel = choice.shader();
    kernel.id = format!("limit_unpack.{}", kernel.id);
    for other in ["limits/x_constant", "limits/part_constant"] {
        kernel.substitute(fragment(other))?;
    }
    if !matches!(choice.scaling, Scaling::General | Scaling::Block(_)) {
        kernel.substitute(fragment("scale/none"))?;
    }
    Ok(kernel)
}

pub(super) async fn matmul(
    host: &Host,
    how: &Select,
    weights: &DeviceWeights,
    activations: FloatType,
    m: usize,
) -> Result<(String, Milliseconds, f64), HostError> {
    let m = m as u32;
    let spec = MatmulSpec::of(m, weights).with_activations(activations);
    let plan = MatmulPlan::new(host.kernels(), &spec, how.clone()).await?;
    let x = floats(host, activations, spec.x_bytes(m)).await?;
    let y = host.zeros_async(spec.y_bytes(m)).await?;
    let sets = copies(host, weights, m).await?;
    let bind_all = async |plan: &MatmulPlan| {
        let mut all = Vec::new();
        for weights in &sets {
            let (activations, output) = ((&x).into(), (&y).into());
            all.push(plan.bind(MatmulArgs { activations, weights, bias: None, output }).await?);
        }
        Ok::<_, HostError>(all)
    };
    let bound = bind_all(&plan).await?;
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = bound[0].record(pass, m)).await?;
    recorded?;
    let record = async |bound: &[BoundMatmul]| {
        let all = |pass: &mut wgpu::ComputePass<'_>| {
            bound.iter().try_for_each(|bound| bound.record(pass, m))
        };
        let (wall, gpu) = median(host, all).await?;
        let copies = sets.len() as f64;
        Ok::<_, HostError>((wall / copies, gpu.map(|ms| ms / copies)))
    };
    let ms = record(&bound).await?;
    // A second plan runs the kernel without X and scales. It is planted under the kernel's id in
    // `Kernels` of its own, so that other plans keep the true kernel.
    let choice = *plan.kernel(m);
    let stripped = Kernels::new(host.device(), host.kernels().caps()).await?;
    let unpack = unpack_shader(&choice).and_then(|kernel| kernel.compose());
    let unpack = unpack.map_err(|error| DeviceError::from_import(choice.name(), &error))?;
    stripped.plant(&choice.shader(), &unpack.source).await?;
    let plan = MatmulPlan::new(&stripped, &spec, Select::Pinned(choice.schedule)).await?;
    Ok((choice.name(), ms, record(&bind_all(&plan).await?).await?.0))
}

/// Copies, so that weights that fit a cache are not timed out of it, where they are gone through
/// once or twice; for more rows of X they come out of it in any case.
async fn copies(
    host: &Host,
    weights: &DeviceWeights,
    m: u32,
) -> Result<Vec<DeviceWeights>, HostError> {
    let copies = if m <= 8 { (COLD / weights.device_bytes().max(1)).clamp(1, 16) } else { 1 };
    let packed = host.download_async(weights).await?;
    let mut sets = vec![weights.clone()];
    for _ in 1..copies {
        sets.push(host.upload_async(&packed).await?);
    }
    Ok(sets)
}

/// Returns the kernel, what quantizing X and multiplying take, and what of it quantizing takes.
pub(super) async fn integer_matmul(
    host: &Host,
    how: &Select,
    weights: &DeviceWeights,
    format: ActivationFormat,
    m: usize,
) -> Result<(String, Milliseconds, f64), HostError> {
    let m = m as u32;
    let spec = MatmulSpec::of(m, weights).with_activations(Activations::Int8(format));
    let plan = MatmulPlan::new(host.kernels(), &spec, how.clone()).await?;
    let quantize = QuantizeActivationsSpec::new(m, spec.k, format);
    let quantize = QuantizeActivationsPlan::new(host.kernels(), &quantize).await?;
    let x = floats(host, FloatType::F32, quantize.spec().x_bytes(m)).await?;
    let codes = host.zeros_async(quantize.output_bytes(m)).await?;
    let y = host.zeros_async(spec.y_bytes(m)).await?;
    let args =
        QuantizeActivationsArgs { activations: (&x).into(), given: None, output: (&codes).into() };
    let quantize = quantize.bind(args).await?;
    let sets = copies(host, weights, m).await?;
    let mut bound = Vec::new();
    for weights in &sets {
        let (activations, output) = ((&codes).into(), (&y).into());
        bound.push(plan.bind(MatmulArgs { activations, weights, bias: None, output }).await?);
    }
    let mut recorded = Ok(());
    host.submit_async(|pass| recorded = quantize.record(pass, m).and(bound[0].record(pass, m)))
        .await?;
    recorded?;
    let all = |pass: &mut wgpu::ComputePass<'_>| {
        let mut all = bound.iter();
        all.try_for_each(|bound| quantize.record(pass, m).and(bound.record(pass, m)))
    };
    let (wall, gpu) = median(host, all).await?;
    let (alone, _) = median(host, |pass| quantize.record(pass, m)).await?;
    let copies = sets.len() as f64;
    Ok((plan.kernel(m).name(), (wall / copies, gpu.map(|ms| ms / copies)), alone))
}

/// Milliseconds of the host's own way to make weights, the median of three; none where it
/// refuses them.
pub(super) fn on_host(w: &[f32], n: usize, k: usize, format: &WeightFormat) -> Option<f64> {
    let mut samples = [0.0; 3];
    for sample in &mut samples {
        let start = Instant::now();
        let packed = PackedWeights::quantize(w, n, k, format).ok()?;
        *sample = start.elapsed().as_secs_f64() * 1e3;
        drop(packed);
    }
    samples.sort_by(f64::total_cmp);
    Some(samples[1])
}

pub(super) async fn make(
    host: &Host,
    w: &[f32],
    weights: &DeviceWeights,
) -> Result<(String, Milliseconds), HostError> {
    let (n, k, format) = (weights.n(), weights.k(), weights.format());
    let spec = QuantizeWeightsSpec::new(n as u32, k as u32, format);
    let plan = QuantizeWeightsPlan::new(host.kernels(), &spec).await?;
    let source = host.storage_async(bytemuck::cast_slice(w)).await?;
    let output = DeviceWeights::allocate(host.kernels(), format, n, k).await?;
    let rows = [SourceRows { at: (&source).into(), rows: n }];
    let bound =
        plan.bind(QuantizeWeightsArgs { source: &rows, mask: None, output: &output }).await?;
    let ms = median(host, |pass| bound.record(pass, n as u32)).await?;
    Ok((last(plan.shaders()), ms))
}

pub(super) async fn dequantize(
    host: &Host,
    weights: &DeviceWeights,
) -> Result<(String, Milliseconds), HostError> {
    let spec = DequantizeSpec::of(weights);
    let plan = DequantizePlan::new(host.kernels(), &spec).await?;
    let output = host.zeros_async(spec.output_bytes(spec.rows())).await?;
    let args = DequantizeArgs { weights, indices: None, output: (&output).into() };
    let bound = plan.bind(args).await?;
    let ms = median(host, |pass| bound.record(pass, spec.rows())).await?;
    Ok((spec.shader(host.kernels().caps()).id, ms))
}
