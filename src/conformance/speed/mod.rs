//! The speed of kernels, beside what the same adapter can do at most in the same run.

mod heads;
mod limits;
mod rows;
mod weights;

#[cfg(not(target_arch = "wasm32"))]
pub use limits::limits;
pub use limits::limits_async;
pub use weights::unpack_shader;

use super::data::{self, Random};
use super::{Case, Op, Values};
use crate::format::{WeightFormat, random_weights};
use crate::gpu::KernelDesc;
use crate::host::{Host, HostError, Instant};
use crate::ops::{Activations, FloatType, FormatUse, RecordError, Select};
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
    /// Returns the best of the ways to read.
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
    /// Rows of X; 0 for ops without X.
    pub m: usize,
    /// Rows of W; 0 for ops without W.
    pub n: usize,
    /// Columns of W and X.
    pub k: usize,
    /// The kernel.
    pub kernel: String,
    /// The median of at least seven submissions in milliseconds, including the wait.
    pub ms: f64,
    /// The median in milliseconds by the device's timestamps; `None` if it has none.
    pub gpu_ms: Option<f64>,
    /// Milliseconds of this kernel without X and scales: it reads, unpacks and multiplies the
    /// weights. Only for a matmul.
    pub unpack_ms: Option<f64>,
    /// Milliseconds of `ms` in which X is quantized, measured separately. Only for a matmul of
    /// quantized X with dynamic scales.
    pub quantize_ms: Option<f64>,
    /// Milliseconds of the same work on the host, by
    /// [`PackedWeights::quantize`](crate::format::PackedWeights::quantize), on all processors with
    /// the feature `rayon`: the median of three. Only for compress.
    pub host_ms: Option<f64>,
    /// 2·M·N·K per second; 0 for ops that do not multiply.
    pub operations_per_second: f64,
    /// Bytes per second: of W as it is stored for a matmul, and of everything that is read and
    /// written, each once, for other ops.
    pub weight_bytes_per_second: f64,
    /// The least time that the adapter's measured limits allow, divided by the measured time. The
    /// least time is the larger of operations ÷ limit and bytes ÷ limit. The limit of bytes is that
    /// of reading for a matmul and an observation, and that of copying for other ops.
    pub share_of_limit: f64,
}

/// Fewest samples of a median, and seconds after which more are not taken.
const SAMPLES: usize = 7;
const SECONDS: f64 = 1.0;

/// Median milliseconds of one call of `record`, and the same by the device's clock. Warm-up
/// apart; many calls a submission where they are short; the wait is inside.
async fn median(
    host: &Host,
    record: impl Fn(&mut wgpu::ComputePass<'_>) -> Result<(), RecordError>,
) -> Result<(f64, Option<f64>), HostError> {
    let repeat =
        |pass: &mut wgpu::ComputePass<'_>, calls| (0..calls).try_for_each(|_| record(pass));
    let sample = async |calls: usize| {
        let start = Instant::now();
        let mut recorded = Ok(());
        host.submit_async(|pass| recorded = repeat(pass, calls)).await?;
        recorded?;
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
        let mut recorded = Ok(());
        let timed = host.submit_timed_async(|pass| recorded = repeat(pass, calls)).await?;
        recorded?;
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
/// Returns [`HostError`] if a plan, a binding or the device fails.
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
        return rows::time_x(host, limits, op, format, float, (m, k)).await;
    }
    let floats = (FloatType::F32, FloatType::F32);
    let case = Case::matmul(format, floats, (m, n, k), Values::Normal);
    let w = data::values(Values::Normal, n.saturating_mul(k), &mut Random::new(case.seed()));
    // Weights of formats that the device does not quantize to are random.
    let made = if op == Op::Compress || FormatUse::QuantizeWeights.check(&format).is_ok() {
        host.compress_async(&w, n, k, &format).await?
    } else {
        let packed = random_weights(format, n, k, 1, false)?;
        host.upload_async(&packed).await?
    };
    let stored = made.sizes().total() as f64;
    let (mut unpack_ms, mut quantize_ms, mut host_ms) = (None, None, None);
    let (kernel, (ms, gpu_ms), bytes, operations) = match op {
        Op::Matmul | Op::IntegerMatmul(_) => {
            let (kernel, ms) = match activations {
                Activations::Float(float) => {
                    let (kernel, ms, unpack) = weights::matmul(host, how, &made, float, m).await?;
                    unpack_ms = Some(unpack);
                    (kernel, ms)
                }
                Activations::Int8(format) => {
                    let (kernel, ms, quantize) =
                        weights::integer_matmul(host, how, &made, format, m).await?;
                    quantize_ms = Some(quantize);
                    (kernel, ms)
                }
            };
            (kernel, ms, stored, 2.0 * m as f64 * n as f64 * k as f64)
        }
        Op::Compress => {
            let (kernel, ms) = weights::make(host, &w, &made).await?;
            host_ms = weights::on_host(&w, n, k, &format);
            (kernel, ms, 4.0 * w.len() as f64 + stored, 0.0)
        }
        _ => {
            let (kernel, ms) = weights::dequantize(host, &made).await?;
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

fn last(mut shaders: Vec<KernelDesc>) -> String {
    shaders.pop().map(|shader| shader.id).unwrap_or_default()
}

/// Wall time, and the device's own.
type Milliseconds = (f64, Option<f64>);
