//! How fast kernels are, beside what the same adapter can do at most in the same run.

use super::case::{FakeScales, axis_name};
use super::data::{self, Random};
use super::{Case, Op, Values};
use crate::format::{ActivationFormat, PackedWeights, WeightFormat};
use crate::gpu::{
    AdapterClass, CODE_TEXTURE, DeviceError, ImportError, KernelDesc, Kernels, Pipeline, fragment,
};
use crate::host::{COLD, Host, HostError, Instant};
use crate::ops::limits::{Limit, ROUNDS, RUN};
use crate::ops::matmul::Scaling;
use crate::ops::{
    Activations, BoundMatmul, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights,
    FakeQuantArgs, FakeQuantBackwardArgs, FakeQuantPlan, FakeQuantSpec, FloatType, KernelChoice,
    MatmulArgs, MatmulPlan, MatmulSpec, ObserveArgs, ObservePlan, ObserveSpec,
    QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeActivationsSpec, QuantizeWeightsArgs,
    QuantizeWeightsPlan, QuantizeWeightsSpec, Select, SourceRows,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What an adapter can do at most, measured by small kernels of their own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MeasuredLimits {
    /// f32 operations a second; a multiply-add is two.
    pub operations_per_second: f64,
    /// 8-bit operations a second by `dot4I8Packed`; a multiply-add is two.
    pub dot_operations_per_second: f64,
    /// Bytes read a second where each lane reads a run of its own.
    pub read_runs_bytes_per_second: f64,
    /// Bytes read a second where neighbouring lanes read neighbouring words.
    pub read_coalesced_bytes_per_second: f64,
    /// Bytes read a second out of a texture; 0 where codes do not lie in textures.
    pub read_texture_bytes_per_second: f64,
    /// Bytes a second read and written, both counted, where a kernel copies.
    pub copy_bytes_per_second: f64,
}

impl MeasuredLimits {
    /// The best of the ways to read.
    pub fn read_bytes_per_second(&self) -> f64 {
        let buffers = self.read_runs_bytes_per_second.max(self.read_coalesced_bytes_per_second);
        buffers.max(self.read_texture_bytes_per_second)
    }
}

/// One kernel's speed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timing {
    /// The op.
    pub op: Cow<'static, str>,
    /// The weights' format; of ops on X alone what X becomes, or what is observed of it.
    pub weights: String,
    /// What X is: f32, f16 or the format that it is quantized to within the time.
    pub activations: String,
    /// Rows of X; 0 where there is none.
    pub m: usize,
    /// Rows of W; 0 where there is none.
    pub n: usize,
    /// Columns of W and X.
    pub k: usize,
    /// The kernel.
    pub kernel: String,
    /// Milliseconds: the median of at least seven submissions, the wait counted in.
    pub ms: f64,
    /// The same by the device's own clock, where it keeps one.
    pub gpu_ms: Option<f64>,
    /// Milliseconds of the same kernel without X and scales: it reads, unpacks and multiplies
    /// the weights. Only for a matmul.
    pub unpack_ms: Option<f64>,
    /// Milliseconds that quantizing X takes of `ms`, measured apart. Only for a matmul of quantized
    /// X, whose ranges are taken from f32 X each time.
    pub quantize_ms: Option<f64>,
    /// Milliseconds of the same on the host ([`PackedWeights::quantize`], on all processors
    /// with the feature `rayon`): the median of three. Only for compress.
    pub host_ms: Option<f64>,
    /// 2·M·N·K a second; 0 for ops that do not multiply.
    pub operations_per_second: f64,
    /// Bytes of W a second: as stored for a matmul; for the others what is read and what is
    /// written, each once.
    pub weight_bytes_per_second: f64,
    /// The larger of operations and bytes over the adapter's limits, as a share of the time:
    /// bytes over reads for a matmul and an observation, over copies for the others.
    pub share_of_limit: f64,
}

/// Fewest samples of a median, and seconds after which more are not taken.
const SAMPLES: usize = 7;
const SECONDS: f64 = 1.0;

/// Operations, or bytes, of so many workgroups.
fn work(limit: Limit, groups: u64) -> u64 {
    match limit {
        Limit::Fma => groups * 64 * u64::from(ROUNDS) * 64,
        Limit::Dot => groups * 64 * u64::from(ROUNDS) * 32,
        Limit::Copy => 2 * groups * READ_GROUP,
        _ => groups * READ_GROUP,
    }
}

/// Bytes that one workgroup of the reading kernel reads.
const READ_GROUP: u64 = 64 * RUN as u64 * 16;

/// Measures what the adapter can do.
///
/// # Errors
/// [`HostError`].
#[cfg(not(target_arch = "wasm32"))]
pub fn limits(host: &Host) -> Result<MeasuredLimits, HostError> {
    pollster::block_on(limits_async(host))
}

/// [`limits`], to be awaited.
///
/// # Errors
/// The same.
pub async fn limits_async(host: &Host) -> Result<MeasuredLimits, HostError> {
    let bytes = COLD.min(host.kernels().caps().max_binding).min(host.kernels().caps().max_buffer);
    let groups = (bytes / READ_GROUP).clamp(1, 4096) as u32;
    let source = host.zeros_async(u64::from(groups) * READ_GROUP).await?;
    host.queue().write_buffer(&source, 0, bytemuck::cast_slice(&[1.000_000_1f32; 4]));
    let sink = host.zeros_async(u64::from(groups) * READ_GROUP).await?;
    let caps = host.kernels().caps();
    let texels = u64::from(groups) * READ_GROUP / 16;
    let height = texels.div_ceil(caps.texture_width().max(1).into());
    // Stated limits may be too small for so many bytes.
    let width = if height > caps.texture_extent.into() { 0 } else { caps.texture_width() };
    let texels = match width {
        0 => None,
        width => Some(
            host.kernels()
                .guarded("a texture", || {
                    let texture = host.device().create_texture(&wgpu::TextureDescriptor {
                        label: Some("lowbit limit"),
                        size: wgpu::Extent3d {
                            width,
                            height: height as u32,
                            depth_or_array_layers: 1,
                        },
                        mip_level_count: 1,
                        sample_count: 1,
                        dimension: wgpu::TextureDimension::D2,
                        format: CODE_TEXTURE,
                        usage: wgpu::TextureUsages::STORAGE_BINDING,
                        view_formats: &[],
                    });
                    texture.create_view(&Default::default())
                })
                .await?,
        ),
    };
    let rate = async |limit: Limit| {
        if !Limit::all(width).contains(&limit) {
            return Ok(0.0);
        }
        // Software has few lanes, and these take it seconds a sample.
        let arithmetic = matches!(limit, Limit::Fma | Limit::Dot);
        let groups = match caps.class {
            AdapterClass::Cpu if arithmetic => groups.div_ceil(16),
            _ => groups,
        };
        let shader = limit.shader();
        let pipeline = host.kernels().pipeline(&shader).await?;
        let resource = |binding| match (binding, &texels) {
            (1, _) => sink.as_entire_binding(),
            (4, Some(texels)) => wgpu::BindingResource::TextureView(texels),
            _ => source.as_entire_binding(),
        };
        let numbers = shader.bindings.iter().map(|binding| binding.number);
        let entries: Vec<_> = numbers
            .map(|binding| wgpu::BindGroupEntry { binding, resource: resource(binding) })
            .collect();
        let group = host.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&shader.id),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let (ms, _) = median(host, |pass| dispatch(pass, &pipeline, &group, groups)).await?;
        Ok::<f64, HostError>(work(limit, groups.into()) as f64 / ms * 1e3)
    };
    Ok(MeasuredLimits {
        operations_per_second: rate(Limit::Fma).await?,
        dot_operations_per_second: rate(Limit::Dot).await?,
        read_runs_bytes_per_second: rate(Limit::ReadRuns).await?,
        read_coalesced_bytes_per_second: rate(Limit::ReadCoalesced).await?,
        read_texture_bytes_per_second: rate(Limit::ReadTexture(width)).await?,
        copy_bytes_per_second: rate(Limit::Copy).await?,
    })
}

fn dispatch(
    pass: &mut wgpu::ComputePass<'_>,
    pipeline: &Pipeline,
    group: &wgpu::BindGroup,
    groups: u32,
) {
    pass.set_pipeline(&pipeline.pipeline);
    pass.set_bind_group(0, group, &[]);
    pass.dispatch_workgroups(groups, 1, 1);
}

/// Median milliseconds of one call of `record`, and the same by the device's clock. Warm-up
/// apart; many calls a submission where they are short; the wait is inside.
async fn median(
    host: &Host,
    record: impl Fn(&mut wgpu::ComputePass<'_>),
) -> Result<(f64, Option<f64>), HostError> {
    let sample = async |calls: usize| {
        let start = Instant::now();
        host.submit_async(|pass| (0..calls).for_each(|_| record(pass))).await?;
        Ok::<f64, HostError>(start.elapsed().as_secs_f64() * 1e3 / calls as f64)
    };
    // The first compiles; the second says how many calls fill 20 ms.
    sample(1).await?;
    let calls = (20.0 / sample(1).await?.max(0.01)).clamp(1.0, 256.0) as usize;
    let start = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < SAMPLES || (samples.len() < 25 && start.elapsed().as_secs_f64() < SECONDS)
    {
        samples.push(sample(calls).await?);
    }
    let mut on_device = Vec::new();
    for _ in 0..SAMPLES {
        let timed = host.submit_timed_async(|pass| (0..calls).for_each(|_| record(pass))).await?;
        on_device.extend(timed.map(|ms| ms / calls as f64));
    }
    let middle = |mut samples: Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied()
    };
    Ok((middle(samples).unwrap_or_default(), middle(on_device)))
}

/// Measures one op at one format and shape, `m` rows of X; a matmul's kernel is chosen as
/// `how` says. Fake quantization has two results: its passes.
///
/// # Errors
/// [`HostError`].
#[cfg(not(target_arch = "wasm32"))]
pub fn time(
    host: &Host,
    limits: &MeasuredLimits,
    how: &Select,
    op: Op,
    format: WeightFormat,
    activations: Activations,
    shape: (usize, usize, usize),
) -> Result<Vec<Timing>, HostError> {
    pollster::block_on(time_async(host, limits, how, op, format, activations, shape))
}

/// [`time`], to be awaited.
///
/// # Errors
/// The same.
pub async fn time_async(
    host: &Host,
    limits: &MeasuredLimits,
    how: &Select,
    op: Op,
    format: WeightFormat,
    activations: Activations,
    (m, n, k): (usize, usize, usize),
) -> Result<Vec<Timing>, HostError> {
    if !op.has_weights() {
        let float = match activations {
            Activations::Float(float) => float,
            Activations::Int8(_) => FloatType::F32,
        };
        return time_x(host, limits, op, format, float, (m, k)).await;
    }
    let floats = (FloatType::F32, FloatType::F32);
    let case = Case::matmul(format, floats, (m, n, k), Values::Normal);
    let w = data::values(Values::Normal, n.saturating_mul(k), &mut Random::new(case.seed()));
    let weights = host.compress_async(&w, n, k, &format).await?;
    let stored = weights.sizes().total() as f64;
    let (mut unpack_ms, mut quantize_ms, mut host_ms) = (None, None, None);
    let (kernel, (ms, gpu_ms), bytes, operations) = match op {
        Op::Matmul | Op::IntegerMatmul(_) => {
            let (kernel, ms) = match activations {
                Activations::Float(float) => {
                    let (kernel, ms, unpack) = matmul(host, how, &weights, float, m).await?;
                    unpack_ms = Some(unpack);
                    (kernel, ms)
                }
                Activations::Int8(format) => {
                    let (kernel, ms, quantize) =
                        integer_matmul(host, how, &weights, format, m).await?;
                    quantize_ms = Some(quantize);
                    (kernel, ms)
                }
            };
            (kernel, ms, stored, 2.0 * m as f64 * n as f64 * k as f64)
        }
        Op::Compress => {
            let (kernel, ms) = make(host, &w, &weights).await?;
            host_ms = on_host(&w, n, k, &format);
            (kernel, ms, 4.0 * w.len() as f64 + stored, 0.0)
        }
        _ => {
            let (kernel, ms) = dequantize(host, &weights).await?;
            (kernel, ms, 4.0 * w.len() as f64 + stored, 0.0)
        }
    };
    let rate = match op {
        Op::Matmul | Op::IntegerMatmul(_) => limits.read_bytes_per_second(),
        _ => limits.copy_bytes_per_second,
    };
    let operations_limit = match activations {
        Activations::Float(_) => limits.operations_per_second,
        Activations::Int8(_) => limits.dot_operations_per_second,
    };
    let floor = (operations / operations_limit).max(bytes / rate);
    let seconds = ms / 1e3;
    Ok(vec![Timing {
        op: op.name().into(),
        weights: format.to_string(),
        activations: activations.to_string(),
        m: if op == Op::Matmul { m } else { 0 },
        n,
        k,
        kernel,
        ms,
        gpu_ms,
        unpack_ms,
        quantize_ms,
        host_ms,
        operations_per_second: operations / seconds,
        weight_bytes_per_second: bytes / seconds,
        share_of_limit: floor / seconds,
    }])
}

/// Measures an op on X alone.
async fn time_x(
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

/// What was timed, its kernel, its time, and the bytes that it must move.
type OfX = (&'static str, String, Milliseconds, u64);

/// A buffer of numbers about 1.
async fn floats(host: &Host, float: FloatType, bytes: u64) -> Result<wgpu::Buffer, HostError> {
    let count = (bytes / float.bytes()) as usize;
    let x = data::values(Values::Normal, count.next_multiple_of(2), &mut Random::new(7));
    match float {
        FloatType::F32 => host.storage_async(bytemuck::cast_slice(&x)).await,
        FloatType::F16 => {
            let halves: Vec<_> = x.iter().map(|&v| half::f16::from_f32(v)).collect();
            host.storage_async(&bytemuck::pod_collect_to_vec::<_, u32>(&halves)).await
        }
    }
}

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
    let ms = median(host, |pass| drop(bound.record(pass, m))).await?;
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
    let ms = median(host, |pass| drop(bound.record(pass, m))).await?;
    Ok(("observe", last(spec.shaders(host.kernels().caps())), ms, spec.x_bytes(m)))
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
    let ms = median(host, |pass| drop(forward.record(pass, m))).await?;
    let first = ("fake-quant", last(spec.forward_shaders(caps)), ms, x + y + side);
    let ms = median(host, |pass| drop(backward.record(pass, m))).await?;
    let kernel = spec.backward_shaders(caps).into_iter().next().map(|shader| shader.id);
    let gradients = if spec.given { side } else { 0 };
    let moved = 2 * x + y + side + gradients;
    Ok([first, ("fake-quant backward", kernel.unwrap_or_default(), ms, moved)])
}

fn last(mut shaders: Vec<KernelDesc>) -> String {
    shaders.pop().map(|shader| shader.id).unwrap_or_default()
}

/// Wall time, and the device's own.
type Milliseconds = (f64, Option<f64>);

/// A kernel less X and scales: what reading, unpacking and multiplying take at least in the
/// same loop.
///
/// # Errors
/// [`ImportError`] if the fragments do not compose.
pub fn unpack_shader(choice: &KernelChoice) -> Result<KernelDesc, ImportError> {
    let mut kernel = choice.shader();
    kernel.id = format!("limit_unpack.{}", kernel.id);
    for other in ["limits/x_constant", "limits/part_constant"] {
        kernel.substitute(fragment(other))?;
    }
    if choice.scaling != Scaling::General {
        kernel.substitute(fragment("scale/none"))?;
    }
    Ok(kernel)
}

async fn matmul(
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
        let (wall, gpu) = median(host, |pass| {
            // That `m` is not too large has just been shown.
            bound.iter().for_each(|bound| drop(bound.record(pass, m)));
        })
        .await?;
        let copies = sets.len() as f64;
        Ok::<_, HostError>((wall / copies, gpu.map(|ms| ms / copies)))
    };
    let ms = record(&bound).await?;
    // The same plan with another kernel in its place, and kernels of its own to hold it.
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

/// The kernel, what quantizing X and multiplying take, and what of it quantizing takes.
async fn integer_matmul(
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
    let (wall, gpu) = median(host, |pass| {
        // That `m` is not too large has just been shown.
        for bound in &bound {
            drop(quantize.record(pass, m).and(bound.record(pass, m)));
        }
    })
    .await?;
    let (alone, _) = median(host, |pass| drop(quantize.record(pass, m))).await?;
    let copies = sets.len() as f64;
    Ok((plan.kernel(m).name(), (wall / copies, gpu.map(|ms| ms / copies)), alone))
}

/// Milliseconds of the host's own way to make weights, the median of three; none where it
/// refuses them.
fn on_host(w: &[f32], n: usize, k: usize, format: &WeightFormat) -> Option<f64> {
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

async fn make(
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
    let ms = median(host, |pass| bound.record(pass)).await?;
    Ok((last(plan.shaders()), ms))
}

async fn dequantize(
    host: &Host,
    weights: &DeviceWeights,
) -> Result<(String, Milliseconds), HostError> {
    let spec = DequantizeSpec::of(weights);
    let plan = DequantizePlan::new(host.kernels(), &spec).await?;
    let output = host.zeros_async(spec.output_bytes(spec.rows())).await?;
    let args = DequantizeArgs { weights, indices: None, output: (&output).into() };
    let bound = plan.bind(args).await?;
    let ms = median(host, |pass| bound.record(pass)).await?;
    Ok((spec.shader(host.kernels().caps()).id, ms))
}
