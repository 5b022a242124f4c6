//! How fast kernels are, beside what the same adapter can do at most in the same run.

use super::data::{self, Random};
use super::{Case, Op, Values};
use crate::format::{PackedWeights, WeightFormat};
use crate::gpu::{Binding, Const, Kernels, Pipeline, Shader, fragment};
use crate::host::{Host, HostError};
use crate::ops::{
    BoundMatmul, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, FloatType,
    KernelChoice, MakeArgs, MakePlan, MakeSpec, MatmulArgs, MatmulPlan, MatmulSpec, Select,
    SourceRows,
};
use pollster::block_on;
use serde::Serialize;
use std::time::Instant;

/// What an adapter can do at most, measured by small kernels of their own.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// f32 operations a second; a multiply-add is two.
    pub operations_per_second: f64,
    /// 8-bit operations a second by `dot4I8Packed`; a multiply-add is two.
    pub dot_operations_per_second: f64,
    /// Bytes read a second where each lane reads a run of its own.
    pub read_runs_bytes_per_second: f64,
    /// Bytes read a second where neighbouring lanes read neighbouring words.
    pub read_coalesced_bytes_per_second: f64,
    /// Bytes a second read and written, both counted, where a kernel copies.
    pub copy_bytes_per_second: f64,
}

impl Limits {
    /// The better of the two ways to read.
    pub fn read_bytes_per_second(&self) -> f64 {
        self.read_runs_bytes_per_second.max(self.read_coalesced_bytes_per_second)
    }
}

/// One kernel's speed.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The op.
    pub op: &'static str,
    /// The weights' format.
    pub weights: String,
    /// The type of X.
    pub activations: &'static str,
    /// Rows of X; 0 where there is none.
    pub m: usize,
    /// Rows of W.
    pub n: usize,
    /// Columns of W.
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
    /// Milliseconds of the same on the host ([`PackedWeights::quantize`], on all processors
    /// with the feature `rayon`): the median of three. Only for compress.
    pub host_ms: Option<f64>,
    /// 2·M·N·K a second; 0 for ops that do not multiply.
    pub operations_per_second: f64,
    /// Bytes of W a second: as stored for a matmul; for compress and dequantize what is read
    /// and what is written, one of them f32.
    pub weight_bytes_per_second: f64,
    /// The larger of operations and bytes over the adapter's limits, as a share of the time:
    /// bytes over reads for a matmul, over copies for the others.
    pub share_of_limit: f64,
}

/// Bytes of weights that are gone through before any is read again, so that they come from
/// memory and not from a cache.
const COLD: u64 = 64 << 20;

/// Fewest samples of a median, and seconds after which more are not taken.
const SAMPLES: usize = 7;
const SECONDS: f64 = 1.0;

/// The shaders of [`limits`].
pub fn limit_shaders() -> Vec<Shader> {
    let shader = |name: &str, file: &'static str, consts| Shader {
        name: name.into(),
        consts,
        fragments: vec![fragment(file)],
        bindings: vec![Binding::Read, Binding::Write],
    };
    let read = |name, contiguous| {
        let consts = vec![("RUN", Const::U32(RUN)), ("CONTIGUOUS", Const::Bool(contiguous))];
        shader(name, "limits/read", consts)
    };
    vec![
        shader("limit_fma", "limits/fma", vec![("ROUNDS", Const::U32(ROUNDS))]),
        read("limit_read_runs", true),
        read("limit_read_coalesced", false),
        shader("limit_dot", "limits/dot", vec![("ROUNDS", Const::U32(ROUNDS))]),
        shader("limit_copy", "limits/copy", vec![("RUN", Const::U32(RUN))]),
    ]
}

const ROUNDS: u32 = 4096;
const RUN: u32 = 64;
/// Bytes that one workgroup of the reading kernel reads.
const READ_GROUP: u64 = 64 * RUN as u64 * 16;

/// Measures what the adapter can do.
///
/// # Errors
/// [`HostError`].
pub fn limits(host: &Host) -> Result<Limits, HostError> {
    let bytes = COLD.min(host.kernels().caps().max_binding).min(host.kernels().caps().max_buffer);
    let groups = (bytes / READ_GROUP).clamp(1, 4096) as u32;
    let source = host.zeros(u64::from(groups) * READ_GROUP)?;
    host.queue().write_buffer(&source, 0, bytemuck::cast_slice(&[1.000_000_1f32; 4]));
    let sink = host.zeros(u64::from(groups) * READ_GROUP)?;
    let mut rates = Vec::new();
    for shader in limit_shaders() {
        let pipeline = block_on(host.kernels().pipeline(&shader))?;
        let group = host.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&shader.name),
            layout: &pipeline.layout,
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: source.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: sink.as_entire_binding() },
            ],
        });
        let (ms, _) = median(host, |pass| dispatch(pass, &pipeline, &group, groups))?;
        let work = match rates.len() {
            0 => u64::from(groups) * 64 * u64::from(ROUNDS) * 64,
            3 => u64::from(groups) * 64 * u64::from(ROUNDS) * 32,
            4 => 2 * u64::from(groups) * READ_GROUP,
            _ => u64::from(groups) * READ_GROUP,
        };
        rates.push(work as f64 / ms * 1e3);
    }
    Ok(Limits {
        operations_per_second: rates[0],
        read_runs_bytes_per_second: rates[1],
        read_coalesced_bytes_per_second: rates[2],
        dot_operations_per_second: rates[3],
        copy_bytes_per_second: rates[4],
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
fn median(
    host: &Host,
    record: impl Fn(&mut wgpu::ComputePass<'_>),
) -> Result<(f64, Option<f64>), HostError> {
    let sample = |calls: usize| {
        let start = Instant::now();
        host.submit(|pass| (0..calls).for_each(|_| record(pass)))?;
        Ok::<f64, HostError>(start.elapsed().as_secs_f64() * 1e3 / calls as f64)
    };
    // The first compiles; the second says how many calls fill 20 ms.
    sample(1)?;
    let calls = (20.0 / sample(1)?.max(0.01)).clamp(1.0, 256.0) as usize;
    let start = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < SAMPLES || (samples.len() < 25 && start.elapsed().as_secs_f64() < SECONDS)
    {
        samples.push(sample(calls)?);
    }
    let mut on_device = Vec::new();
    for _ in 0..SAMPLES {
        let timed = host.submit_timed(|pass| (0..calls).for_each(|_| record(pass)))?;
        on_device.extend(timed.map(|ms| ms / calls as f64));
    }
    let middle = |mut samples: Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied()
    };
    Ok((middle(samples).unwrap_or_default(), middle(on_device)))
}

/// Measures one op at one format and shape, `m` rows of X; a matmul's kernel is chosen as
/// `how` says.
///
/// # Errors
/// [`HostError`].
pub fn time(
    host: &Host,
    limits: &Limits,
    how: &Select,
    op: Op,
    format: WeightFormat,
    activations: FloatType,
    (m, n, k): (usize, usize, usize),
) -> Result<Timing, HostError> {
    let case = Case::matmul(format, (activations, FloatType::F32), (m, n, k), Values::Normal);
    let w = data::values(Values::Normal, n.saturating_mul(k), &mut Random::new(case.seed()));
    let weights = host.compress(&w, n, k, &format)?;
    let stored = weights.sizes().total() as f64;
    let (mut unpack_ms, mut host_ms) = (None, None);
    let (kernel, (ms, gpu_ms), bytes, operations) = match op {
        Op::Matmul => {
            let (kernel, ms, unpack) = matmul(host, how, &weights, activations, m)?;
            unpack_ms = Some(unpack);
            (kernel, ms, stored, 2.0 * m as f64 * n as f64 * k as f64)
        }
        Op::Compress => {
            let (kernel, ms) = make(host, &w, &weights)?;
            host_ms = on_host(&w, n, k, &format);
            (kernel, ms, 4.0 * w.len() as f64 + stored, 0.0)
        }
        Op::Dequantize | Op::Gather => {
            let (kernel, ms) = dequantize(host, &weights)?;
            (kernel, ms, 4.0 * w.len() as f64 + stored, 0.0)
        }
    };
    let rate = match op {
        Op::Matmul => limits.read_bytes_per_second(),
        _ => limits.copy_bytes_per_second,
    };
    let floor = (operations / limits.operations_per_second).max(bytes / rate);
    let seconds = ms / 1e3;
    Ok(Timing {
        op: op.name(),
        weights: format.to_string(),
        activations: activations.name(),
        m: if op == Op::Matmul { m } else { 0 },
        n,
        k,
        kernel,
        ms,
        gpu_ms,
        unpack_ms,
        host_ms,
        operations_per_second: operations / seconds,
        weight_bytes_per_second: bytes / seconds,
        share_of_limit: floor / seconds,
    })
}

/// Wall time, and the device's own.
type Milliseconds = (f64, Option<f64>);

/// A kernel less X and scales: what reading, unpacking and multiplying take at least in the
/// same loop.
pub fn unpack_shader(choice: &KernelChoice) -> Shader {
    let mut shader = choice.shader();
    shader.name = format!("limit_unpack.{}", shader.name);
    for part in &mut shader.fragments {
        *part = match part.name {
            name if name.starts_with("access/x_") => fragment("limits/x_constant"),
            name if name.starts_with("lib/part_") => fragment("limits/part_constant"),
            "scale/aligned" => fragment("scale/none"),
            _ => *part,
        };
    }
    shader
}

fn matmul(
    host: &Host,
    how: &Select,
    weights: &DeviceWeights,
    activations: FloatType,
    m: usize,
) -> Result<(String, Milliseconds, f64), HostError> {
    let m = m as u32;
    let spec = MatmulSpec::of(m, weights).with_activations(activations);
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, how.clone()))?;
    let elements = (spec.x_bytes(m) / activations.bytes()) as usize;
    let x = data::values(Values::Normal, elements.next_multiple_of(2), &mut Random::new(7));
    let halves: Vec<half::f16> = x.iter().map(|&v| half::f16::from_f32(v)).collect();
    let words: Vec<u32> = match activations {
        FloatType::F32 => bytemuck::cast_slice(&x).to_vec(),
        FloatType::F16 => bytemuck::pod_collect_to_vec(&halves),
    };
    let x = host.storage(&words)?;
    let y = host.zeros(spec.y_bytes(m))?;
    // Copies, so that weights that fit a cache are not timed out of it, where they are gone
    // through once or twice; for more rows of X they come out of it in any case.
    let copies = if m <= 8 { (COLD / weights.device_bytes().max(1)).clamp(1, 16) } else { 1 };
    let packed = host.download(weights)?;
    let mut sets = vec![weights.clone()];
    for _ in 1..copies {
        sets.push(host.upload(&packed)?);
    }
    let bind_all = |plan: &MatmulPlan| {
        let bind = |weights| {
            let (activations, output) = ((&x).into(), (&y).into());
            block_on(plan.bind(MatmulArgs { activations, weights, bias: None, output }))
        };
        sets.iter().map(bind).collect::<Result<Vec<_>, _>>()
    };
    let bound = bind_all(&plan)?;
    let mut recorded = Ok(());
    host.submit(|pass| recorded = bound[0].record(pass, m))?;
    recorded?;
    let record = |bound: &[BoundMatmul]| {
        let (wall, gpu) = median(host, |pass| {
            // That `m` is not too large has just been shown.
            bound.iter().for_each(|bound| drop(bound.record(pass, m)));
        })?;
        Ok::<_, HostError>((wall / copies as f64, gpu.map(|ms| ms / copies as f64)))
    };
    let ms = record(&bound)?;
    // The same plan with another kernel in its place, and kernels of its own to hold it.
    let choice = *plan.kernel(m);
    let stripped = block_on(Kernels::new(host.device(), host.kernels().caps()))?;
    block_on(stripped.plant(&choice.shader(), &unpack_shader(&choice).compose().source))?;
    let plan = block_on(MatmulPlan::new(&stripped, &spec, Select::Pinned(choice.schedule)))?;
    Ok((choice.name(), ms, record(&bind_all(&plan)?)?.0))
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

fn make(
    host: &Host,
    w: &[f32],
    weights: &DeviceWeights,
) -> Result<(String, Milliseconds), HostError> {
    let (n, k, format) = (weights.n(), weights.k(), weights.format());
    let spec = MakeSpec::new(n as u32, k as u32, format);
    let plan = block_on(MakePlan::new(host.kernels(), &spec))?;
    let source = host.storage(bytemuck::cast_slice(w))?;
    let output = block_on(DeviceWeights::allocate(host.kernels(), format, n, k))?;
    let rows = [SourceRows { at: (&source).into(), rows: n }];
    let bound = block_on(plan.bind(MakeArgs { source: &rows, mask: None, output: &output }))?;
    let ms = median(host, |pass| bound.record(pass))?;
    let last = plan.shaders().pop().map(|shader| shader.name);
    Ok((last.unwrap_or_default(), ms))
}

fn dequantize(host: &Host, weights: &DeviceWeights) -> Result<(String, Milliseconds), HostError> {
    let spec = DequantizeSpec::of(weights);
    let plan = block_on(DequantizePlan::new(host.kernels(), &spec))?;
    let output = host.zeros(spec.output_bytes(spec.rows()))?;
    let args = DequantizeArgs { weights, indices: None, output: (&output).into() };
    let bound = block_on(plan.bind(args))?;
    let ms = median(host, |pass| bound.record(pass))?;
    Ok((spec.shader(host.kernels().caps()).name, ms))
}
