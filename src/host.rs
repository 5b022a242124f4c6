//! Slices in, slices out: a device of its own, for tests, tools and small programs.
//!
//! This is the only module that submits, polls and waits. An engine that has a device uses
//! [`gpu`](crate::gpu) and [`ops`](crate::ops) instead.
//!
//! Every call is there twice: `matmul` waits, `matmul_async` is to be awaited. In a browser, where
//! nothing can wait, there are only the latter. Elsewhere their futures wait within a poll,
//! so that any executor will do, and they are ready when first polled.

use crate::compress::calibrate::CalibrateError;
use crate::format::{DeviceImage, FormatError, PackedWeights, Scales, WeightFormat};
#[cfg(not(target_arch = "wasm32"))]
use crate::gpu::pipeline_file;
use crate::gpu::{BufferFill, Caps, DeviceError, Kernels};
use crate::ops::matmul::{RecordError, code_textures_pay};
use crate::ops::{
    BindError, Codes, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights,
    FakeQuantError, MakeArgs, MakeError, MakePlan, MakeSpec, MatmulArgs, MatmulPlan, MatmulSpec,
    ObserveError, PlanError, RepackArgs, RepackPlan, RepackSpec, Select, SourceRows, SubBuffer,
    WeightsError,
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
#[cfg(not(target_arch = "wasm32"))]
use std::path::{Path, PathBuf};
use std::time::Duration;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use std::time::Instant;
// That of the standard library panics in a browser.
#[cfg(target_arch = "wasm32")]
pub(crate) use web_time::Instant;

mod answer;
#[cfg(not(target_arch = "wasm32"))]
mod blocking;
mod fake_quant;
mod limits;
mod observe;
mod probe;
mod quantized;
mod read_log;
mod tune;

pub use fake_quant::{FakeQuantGradients, FakeQuantized};
pub use limits::RefusedLimit;
pub use probe::probe_shader;
pub use quantized::Quantization;
use read_log::ReadLog;
#[cfg(feature = "conformance")]
pub(crate) use tune::COLD;

/// Why a host call failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// There is no adapter.
    #[error(
        "no GPU adapter found ({0}); install a Vulkan driver: on Debian `apt-get install mesa-vulkan-drivers libvulkan1` gives a software one"
    )]
    NoAdapter(String),
    /// The adapter gives no device.
    #[error("adapter {adapter} gives no device: {message}")]
    NoDevice {
        /// The adapter's name.
        adapter: String,
        /// Its words.
        message: String,
    },
    /// Limits that the adapter does not have: ask for [`wgpu::Adapter::limits`] at most.
    #[error("adapter {adapter} refuses these limits: {}", limits::listed(.refused))]
    Limits {
        /// The adapter's name.
        adapter: String,
        /// Each of them.
        refused: Vec<RefusedLimit>,
    },
    /// A slice has the wrong length.
    #[error("{what} holds {have} elements where {need} are needed")]
    WrongLength {
        /// Which slice.
        what: &'static str,
        /// Elements needed.
        need: usize,
        /// Elements given.
        have: usize,
    },
    /// A dimension exceeds what kernels index.
    #[error("{what} = {value} exceeds {limit}")]
    TooLarge {
        /// Which dimension.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The most there can be.
        limit: usize,
    },
    /// The device did not finish in time. It may yet finish: wait longer
    /// ([`Host::with_timeout`]), or drop the host and make a new one.
    #[error(
        "the device did not finish {what} within {:.3} s; wait longer, or go on with a new device",
        waited.as_secs_f64()
    )]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// Results could not be read back.
    #[error("reading back failed: {0}")]
    ReadBack(String),
    /// A bad format, or a device that returned impossible data.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Weights that cannot be placed on the device.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Weights that cannot be quantized, with row and column.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// Activations that cannot be observed.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The same on the device.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No plan of fake quantization.
    #[error(transparent)]
    FakeQuant(#[from] FakeQuantError),
    /// No binding.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No recording.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The device said no.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// How long a submission may take, where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A device, its queue and its kernels.
#[derive(Debug)]
pub struct Host {
    info: wgpu::AdapterInfo,
    queue: wgpu::Queue,
    kernels: Kernels,
    reads: ReadLog,
    timeout: Duration,
}

impl Host {
    /// The best adapter there is, software included.
    ///
    /// # Errors
    /// [`HostError::NoAdapter`], [`HostError::NoDevice`].
    pub async fn new_async() -> Result<Self, HostError> {
        let instance = wgpu::Instance::default();
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await;
        Self::with_adapter_async(&adapter.map_err(|error| HostError::NoAdapter(error.to_string()))?)
            .await
    }

    /// A device of this adapter, with all limits it has and timestamps where it has them. On a GPU
    /// [`exact_halves`](Self::exact_halves) is asked once.
    ///
    /// # Errors
    /// [`HostError::NoDevice`].
    pub async fn with_adapter_async(adapter: &wgpu::Adapter) -> Result<Self, HostError> {
        Self::with_limits_async(adapter, adapter.limits()).await
    }

    /// The same with lower limits.
    ///
    /// # Errors
    /// [`HostError::Limits`] for such as the adapter does not have, [`HostError::NoDevice`].
    pub async fn with_limits_async(
        adapter: &wgpu::Adapter,
        limits: wgpu::Limits,
    ) -> Result<Self, HostError> {
        Self::with_features_async(adapter, wgpu::Features::all(), limits).await
    }

    /// The same with fewer features: of those that kernels and measurements use, the adapter's that
    /// are among `features`.
    ///
    /// # Errors
    /// As [`with_limits_async`](Self::with_limits_async).
    pub async fn with_features_async(
        adapter: &wgpu::Adapter,
        features: wgpu::Features,
        limits: wgpu::Limits,
    ) -> Result<Self, HostError> {
        let info = adapter.get_info();
        let refused = limits::refused(&limits, &adapter.limits());
        if !refused.is_empty() {
            return Err(HostError::Limits { adapter: info.name, refused });
        }
        let no_device =
            |message: String| HostError::NoDevice { adapter: info.name.clone(), message };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("lowbit host"),
                required_features: adapter.features()
                    & features
                    & (Caps::useful_features()
                        | wgpu::Features::TIMESTAMP_QUERY
                        | wgpu::Features::PIPELINE_CACHE),
                required_limits: limits.clone(),
                ..Default::default()
            })
            .await
            .map_err(|error| no_device(error.to_string()))?;
        Self::with_device_async(info, device, queue, &limits).await?.probed().await
    }

    /// As [`with_adapter`](Self::with_adapter), with the driver's compiled code of earlier
    /// runs out of a folder, where the adapter has [`wgpu::Features::PIPELINE_CACHE`]:
    /// [`save_pipelines`](Self::save_pipelines) puts it there. A file that is missing, torn
    /// or another driver's is ignored.
    ///
    /// # Errors
    /// [`HostError::NoDevice`], [`HostError::Device`].
    ///
    /// # Safety
    /// Drivers run what the files hold: only the user, and nobody else, may write in `folder`.
    #[cfg(not(target_arch = "wasm32"))]
    pub unsafe fn with_pipelines_in(
        adapter: &wgpu::Adapter,
        folder: &Path,
    ) -> Result<Self, HostError> {
        let mut host = Self::with_adapter(adapter)?;
        let data = host.pipeline_file(folder).and_then(|path| pipeline_file::read(&path));
        let (device, caps) = (host.device().clone(), host.kernels.caps().clone());
        let lost = host.kernels.lost_flag().clone();
        // SAFETY: `save_pipelines` wrote it, which writes what a driver returned: nobody else
        // does, the caller says, and a checksum says that it is whole.
        let kernels = unsafe { Kernels::with_pipeline_cache(&device, &caps, data.as_deref()) };
        host.kernels = pollster::block_on(kernels)?.with_lost_flag(lost);
        Ok(host)
    }

    /// Keeps the driver's compiled code for later runs: whether there was any to keep. Only a
    /// host [`with_pipelines_in`](Self::with_pipelines_in) a folder has it.
    ///
    /// # Errors
    /// Where the file cannot be written; an earlier one then stays.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save_pipelines(&self, folder: &Path) -> std::io::Result<bool> {
        match (self.pipeline_file(folder), self.kernels.pipeline_cache_data()) {
            (Some(path), Some(data)) => pipeline_file::write(&path, &data).map(|()| true),
            _ => Ok(false),
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn pipeline_file(&self, folder: &Path) -> Option<PathBuf> {
        Some(folder.join(wgpu::util::pipeline_cache_key(&self.info)?))
    }

    /// Takes a device that exists, with the limits it was requested with. Takes over its
    /// lost callback.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub async fn with_device_async(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        limits: &wgpu::Limits,
    ) -> Result<Self, HostError> {
        let caps = Caps::new(&info, limits, device.features());
        Self::with_caps_async(info, device, queue, &caps).await
    }

    /// The same with the facts that kernels are to go by, which may state lower limits.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub async fn with_caps_async(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        caps: &Caps,
    ) -> Result<Self, HostError> {
        let kernels = Kernels::new(&device, caps).await?;
        let lost = kernels.lost_flag().clone();
        device.set_device_lost_callback(move |_, message| lost.set(message));
        Ok(Self::with_kernels(info, queue, kernels))
    }

    /// The same with kernels that exist, say an engine's, which keep what is compiled here.
    /// The device's lost callback stays the engine's; it is to set
    /// [`Kernels::lost_flag`].
    pub fn with_kernels(info: wgpu::AdapterInfo, queue: wgpu::Queue, kernels: Kernels) -> Self {
        Self { info, queue, kernels, reads: ReadLog::default(), timeout: TIMEOUT }
    }

    /// The same that waits so long for a submission, or for data to be read back, and no longer;
    /// 120 s else. After [`HostError::Timeout`] the device may still be at work on it: what comes
    /// next waits for that too, each time so long.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The adapter.
    pub fn adapter_info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// The kernels, for use beside the calls of this module.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        self.kernels.device()
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Copies packed weights to the device, their codes into textures where those
    /// [pay](code_textures_pay).
    ///
    /// # Errors
    /// [`HostError::Weights`].
    pub async fn upload_async(&self, packed: &PackedWeights) -> Result<DeviceWeights, HostError> {
        self.settled(self.run(DeviceWeights::upload(&self.kernels, packed)).await?).await
    }

    /// With textures where those pay, hold the codes, and find memory: for a moment the codes
    /// are there twice.
    async fn settled(&self, weights: DeviceWeights) -> Result<DeviceWeights, HostError> {
        let k = to_u32("k", weights.k())?;
        if !code_textures_pay(&weights.format(), k, self.kernels.caps()) {
            return Ok(weights);
        }
        self.textured_async(&weights).await.or_else(|error| match error {
            HostError::Weights(
                WeightsError::Texture { .. }
                | WeightsError::Device(DeviceError::OutOfMemory { .. }),
            ) => Ok(weights),
            error => Err(error),
        })
    }

    /// The same weights with their codes in textures: see [`DeviceWeights::with_textures`].
    ///
    /// # Errors
    /// [`HostError::Weights`], and what the device refuses.
    pub async fn textured_async(
        &self,
        weights: &DeviceWeights,
    ) -> Result<DeviceWeights, HostError> {
        let mut encoder = self.device().create_command_encoder(&Default::default());
        let weights = self.run(weights.with_textures(&self.kernels, &mut encoder)).await?;
        let submit = || self.queue.submit([encoder.finish()]);
        let what = "a copy into textures";
        let index = self.run(self.kernels.guarded(what, submit)).await?;
        self.wait(what, index).await?;
        Ok(weights)
    }

    /// The same, converted to the layout of kernels on the device and not here.
    ///
    /// # Errors
    /// What the device refuses, a part of the weights larger than a buffer among it.
    pub async fn repack_async(&self, packed: &PackedWeights) -> Result<DeviceWeights, HostError> {
        let (n, k, format) = (packed.n(), packed.k(), packed.format());
        let spec = RepackSpec::new(to_u32("n", n)?, to_u32("k", k)?, format);
        let plan = self.run(RepackPlan::new(&self.kernels, &spec)).await?;
        let output = self.run(DeviceWeights::allocate(&self.kernels, format, n, k)).await?;
        let part = async |bytes: &[u8]| {
            // The last word is filled up with zeros.
            let mut words = vec![0u32; bytes.len().div_ceil(4)];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
            self.storage_async(&words).await
        };
        let there = async |wanted: bool, bytes: &[u8]| match wanted {
            true => part(bytes).await.map(Some),
            false => Ok(None),
        };
        let codes = self.storage_async(packed.codes()).await?;
        let metadata = there(format.is_sparse(), bytemuck::cast_slice(packed.metadata())).await?;
        let scales = match packed.scales() {
            Scales::F32(scales) => bytemuck::cast_slice(scales),
            Scales::F16(scales) => bytemuck::cast_slice(scales),
        };
        let scales = there(format.element().is_integer(), scales).await?;
        let zeros = there(!format.is_symmetric(), packed.zeros()).await?;
        let bound = self
            .run(plan.bind(RepackArgs {
                codes: (&codes).into(),
                metadata: metadata.as_ref().map(Into::into),
                scales: scales.as_ref().map(Into::into),
                zeros: zeros.as_ref().map(Into::into),
                output: &output,
            }))
            .await?;
        self.submit_async(|pass| bound.record(pass)).await?;
        self.settled(output).await
    }

    /// Copies weights back and checks them.
    ///
    /// # Errors
    /// [`HostError::ReadBack`], [`HostError::Timeout`], and [`HostError::Format`] where the
    /// device returned what cannot be.
    pub async fn download_async(
        &self,
        weights: &DeviceWeights,
    ) -> Result<PackedWeights, HostError> {
        let layout = weights.layout();
        Ok(layout.unpack(&self.download_rows_async(weights).await?)?)
    }

    /// Copies the kernel layout back, one row after the other whatever their order.
    ///
    /// # Errors
    /// [`HostError::ReadBack`], [`HostError::Timeout`].
    pub async fn download_rows_async(
        &self,
        weights: &DeviceWeights,
    ) -> Result<DeviceImage, HostError> {
        let layout = weights.layout();
        let mut image = DeviceImage { codes: Vec::new(), side: Vec::new() };
        for block in weights.blocks() {
            let (codes, side) = layout.words(block.rows.len());
            let codes = match &block.codes {
                Codes::Buffer(buffer) => self.read_async(buffer, 0, codes).await?,
                Codes::Texture(texture) => self.read_texture(texture, codes).await?,
            };
            let side = self.read_async(&block.side, 0, side).await?;
            let rows = layout.by_rows(&DeviceImage { codes, side }, block.rows.len())?;
            image.codes.extend(rows.codes);
            image.side.extend(rows.side);
        }
        Ok(image)
    }

    /// Uploads `w`, `[n, k]` f32 row-major, and prunes (by magnitude, where the format is
    /// 2:4), quantizes and packs it on the device: what
    /// [`compress::quantize`](crate::compress::quantize) makes, bit for bit.
    ///
    /// # Errors
    /// [`HostError::Make`] for weights that the format cannot hold (NaN, say), and what the
    /// device refuses.
    pub async fn compress_async(
        &self,
        w: &[f32],
        n: usize,
        k: usize,
        format: &WeightFormat,
    ) -> Result<DeviceWeights, HostError> {
        let need = n.saturating_mul(k);
        if w.len() != need {
            return Err(HostError::WrongLength { what: "W", need, have: w.len() });
        }
        let spec = MakeSpec::new(to_u32("n", n)?, to_u32("k", k)?, *format);
        let plan = self.run(MakePlan::new(&self.kernels, &spec)).await?;
        let output = self.run(DeviceWeights::allocate(&self.kernels, *format, n, k)).await?;
        // f32 rows may need more buffers than the compressed ones.
        let caps = self.kernels.caps();
        let fit = caps.max_binding.min(caps.max_buffer) / (4 * k.max(1)) as u64;
        let rows = usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, n.max(1));
        let mut buffers = Vec::new();
        for chunk in w.chunks(rows.saturating_mul(k).max(1)) {
            buffers.push((self.storage_async(bytemuck::cast_slice(chunk)).await?, chunk.len() / k));
        }
        if buffers.is_empty() {
            buffers.push((self.zeros_async(0).await?, n));
        }
        let source: Vec<_> = buffers
            .iter()
            .map(|(buffer, rows)| SourceRows { at: buffer.into(), rows: *rows })
            .collect();
        let args = MakeArgs { source: &source, mask: None, output: &output };
        let bound = self.run(plan.bind(args)).await?;
        self.submit_async(|pass| bound.record(pass)).await?;
        bound.check(&self.read_async(bound.status(), 0, bound.status_words()).await?)?;
        self.settled(output).await
    }

    /// All weights as f32, `[N, K]`; pruned ones are 0.
    ///
    /// # Errors
    /// What the device refuses.
    pub async fn dequantize_async(&self, weights: &DeviceWeights) -> Result<Vec<f32>, HostError> {
        self.rows(&DequantizeSpec::of(weights), weights, None).await
    }

    /// Rows of the weights as f32, `[rows.len(), K]`: a lookup in an embedding table.
    ///
    /// # Errors
    /// [`HostError::TooLarge`] for a row that is not below N, and what the device refuses.
    pub async fn gather_async(
        &self,
        weights: &DeviceWeights,
        rows: &[u32],
    ) -> Result<Vec<f32>, HostError> {
        let n = to_u32("n", weights.n())?;
        if let Some(&row) = rows.iter().find(|&&row| row >= n) {
            let limit = weights.n().saturating_sub(1);
            return Err(HostError::TooLarge { what: "row", value: row as usize, limit });
        }
        let spec = DequantizeSpec::of(weights).with_gather(to_u32("rows", rows.len())?);
        let indices = self.storage_async(rows).await?;
        self.rows(&spec, weights, Some((&indices).into())).await
    }

    async fn rows(
        &self,
        spec: &DequantizeSpec,
        weights: &DeviceWeights,
        indices: Option<SubBuffer<'_>>,
    ) -> Result<Vec<f32>, HostError> {
        let plan = self.run(DequantizePlan::new(&self.kernels, spec)).await?;
        let bytes = spec.output_bytes(spec.rows());
        let output = self.zeros_async(bytes).await?;
        let args = DequantizeArgs { weights, indices, output: (&output).into() };
        let bound = self.run(plan.bind(args)).await?;
        self.submit_async(|pass| bound.record(pass)).await?;
        let words = self.read_async(&output, 0, (bytes / 4) as usize).await?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    /// `Y = X · Wᵀ (+ bias)`: X `[m, K]` and Y `[m, N]` row-major f32.
    ///
    /// # Errors
    /// [`HostError`]: wrong lengths, or what the device refuses.
    pub async fn matmul_async(
        &self,
        x: &[f32],
        m: usize,
        weights: &DeviceWeights,
        bias: Option<&[f32]>,
    ) -> Result<Vec<f32>, HostError> {
        self.check_lengths(x, m, weights, bias)?;
        let n = weights.n();
        let mut spec = MatmulSpec::of(to_u32("m", m)?, weights);
        if bias.is_some() {
            spec = spec.with_bias();
        }
        let plan = self.run(MatmulPlan::new(&self.kernels, &spec, Select::Auto)).await?;
        let activations = self.storage_async(bytemuck::cast_slice(x)).await?;
        let bias = self.optional(bias).await?;
        let output = self.zeros_async(spec.y_bytes(spec.max_m)).await?;
        let bound = self
            .run(plan.bind(MatmulArgs {
                activations: (&activations).into(),
                weights,
                bias: bias.as_ref().map(Into::into),
                output: (&output).into(),
            }))
            .await?;
        let mut recorded = Ok(());
        self.submit_async(|pass| recorded = bound.record(pass, spec.max_m)).await?;
        recorded?;
        let words = self.read_async(&output, 0, m * n).await?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    fn check_lengths(
        &self,
        x: &[f32],
        m: usize,
        weights: &DeviceWeights,
        bias: Option<&[f32]>,
    ) -> Result<(), HostError> {
        let (n, k) = (weights.n(), weights.k());
        let need = m.saturating_mul(k);
        if x.len() != need {
            return Err(HostError::WrongLength { what: "X", need, have: x.len() });
        }
        if let Some(bias) = bias
            && bias.len() != n
        {
            return Err(HostError::WrongLength { what: "the bias", need: n, have: bias.len() });
        }
        Ok(())
    }

    /// A storage buffer that holds these words.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub async fn storage_async(&self, words: &[u32]) -> Result<wgpu::Buffer, HostError> {
        self.run(self.kernels.buffer("lowbit host", USAGE, BufferFill::Words(words))).await
    }

    /// A buffer of what is there.
    pub(crate) async fn optional(
        &self,
        values: Option<&[f32]>,
    ) -> Result<Option<wgpu::Buffer>, HostError> {
        match values {
            Some(values) => self.storage_async(bytemuck::cast_slice(values)).await.map(Some),
            None => Ok(None),
        }
    }

    /// A storage buffer of zeros.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub async fn zeros_async(&self, bytes: u64) -> Result<wgpu::Buffer, HostError> {
        let bytes = bytes.checked_next_multiple_of(4).unwrap_or(u64::MAX);
        self.run(self.kernels.buffer("lowbit host", USAGE, BufferFill::Zeros(bytes))).await
    }

    /// Records one compute pass, submits it and waits for it.
    ///
    /// # Errors
    /// [`HostError::Device`] for whatever the device refuses, [`HostError::Timeout`].
    pub async fn submit_async(
        &self,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<(), HostError> {
        let device = self.device();
        let what = "a submission";
        let index = self
            .run(self.kernels.guarded(what, || {
                let mut encoder = device.create_command_encoder(&Default::default());
                record(&mut encoder.begin_compute_pass(&Default::default()));
                self.queue.submit([encoder.finish()])
            }))
            .await?;
        self.wait(what, index).await
    }

    /// As [`submit`](Self::submit), and the milliseconds that the device says the pass took;
    /// `None` where it keeps no time.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`HostError::ReadBack`].
    pub async fn submit_timed_async(
        &self,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<Option<f64>, HostError> {
        let device = self.device();
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            self.submit_async(record).await?;
            return Ok(None);
        }
        let what = "a timed submission";
        let (index, ticks) = self
            .run(self.kernels.guarded(what, || {
                let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("lowbit time"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                });
                let ticks = device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("lowbit time"),
                    size: 16,
                    usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                });
                let mut encoder = device.create_command_encoder(&Default::default());
                let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                });
                let pass = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                record(&mut encoder.begin_compute_pass(&pass));
                encoder.resolve_query_set(&queries, 0..2, &ticks, 0);
                (self.queue.submit([encoder.finish()]), ticks)
            }))
            .await?;
        self.wait(what, index).await?;
        let words = self.read_async(&ticks, 0, 4).await?;
        let tick = |i: usize| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32;
        let period = f64::from(self.queue.get_timestamp_period());
        Ok(Some(tick(1).saturating_sub(tick(0)) as f64 * period / 1e6))
    }

    /// How long a submission takes, from recording to the end of waiting.
    async fn timed(
        &self,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<Duration, HostError> {
        let start = Instant::now();
        self.submit_async(record).await?;
        Ok(start.elapsed())
    }

    /// Runs what makes device objects, and tells a lost device from other errors.
    async fn run<T, E: Into<HostError>>(
        &self,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<T, HostError> {
        self.check()?;
        make.await.map_err(|error| {
            // One that is destroyed at work refuses what is asked, and says why once it is idle.
            #[cfg(not(target_arch = "wasm32"))]
            let _ = self
                .poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(self.timeout) });
            self.check().err().unwrap_or_else(|| error.into())
        })
    }

    /// An error once the device is lost: a destroyed device says so when it is polled.
    fn check(&self) -> Result<(), HostError> {
        let _ = self.poll(wgpu::PollType::Poll)?;
        Ok(())
    }

    fn poll(
        &self,
        poll: wgpu::PollType,
    ) -> Result<Result<wgpu::PollStatus, wgpu::PollError>, HostError> {
        // wgpu 30 panics where the driver loses the device during a poll. By then it has
        // called the lost callback and holds no lock.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device().poll(poll)));
        match self.kernels.lost_flag().reason() {
            Some(reason) => Err(DeviceError::Lost(reason.into()).into()),
            None => Ok(polled.unwrap_or_else(|panic| resume_unwind(panic))),
        }
    }

    /// Waits for a submission; in a browser, whose own watchdog ends what takes too long, for all.
    #[cfg(target_arch = "wasm32")]
    async fn wait(&self, _: &'static str, _: wgpu::SubmissionIndex) -> Result<(), HostError> {
        let (done, answer) = answer::channel();
        self.queue.on_submitted_work_done(move || done.send(()));
        // Unanswered, it has gone with the device.
        let answered = answer.wait(self.timeout).await;
        self.check()?;
        answered.ok_or_else(|| HostError::ReadBack("a submission was never answered".into()))
    }

    #[cfg(not(target_arch = "wasm32"))]
    async fn wait(
        &self,
        what: &'static str,
        index: wgpu::SubmissionIndex,
    ) -> Result<(), HostError> {
        let timeout = Some(self.timeout);
        let poll = wgpu::PollType::Wait { submission_index: Some(index), timeout };
        let start = Instant::now();
        let polled = self.poll(poll);
        // A device lost while waiting explains whatever poll said.
        self.check()?;
        match polled? {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => {
                Err(HostError::Timeout { what, waited: start.elapsed() })
            }
            Err(error) => Err(HostError::ReadBack(error.to_string())),
        }
    }

    /// Copies the first words of a texture of codes back.
    async fn read_texture(
        &self,
        texture: &wgpu::Texture,
        words: usize,
    ) -> Result<Vec<u32>, HostError> {
        let (width, height) = (texture.width(), texture.height());
        let buffer = self.zeros_async(u64::from(width) * u64::from(height) * 16).await?;
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(width * 16),
            rows_per_image: None,
        };
        let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        let what = "a copy out of a texture";
        let index = self
            .run(self.kernels.guarded(what, || {
                let mut encoder = self.device().create_command_encoder(&Default::default());
                encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
                self.queue.submit([encoder.finish()])
            }))
            .await?;
        self.wait(what, index).await?;
        self.read_async(&buffer, 0, words).await
    }

    /// Copies words back from a buffer with `COPY_SRC` usage.
    ///
    /// # Errors
    /// [`HostError::ReadBack`], [`HostError::Timeout`], [`HostError::Device`].
    pub async fn read_async(
        &self,
        buffer: &wgpu::Buffer,
        first: usize,
        words: usize,
    ) -> Result<Vec<u32>, HostError> {
        if words == 0 {
            return Ok(Vec::new());
        }
        let limit = usize::MAX / 4;
        for (what, value) in [("words", words), ("first word", first)] {
            if value > limit {
                return Err(HostError::TooLarge { what, value, limit });
            }
        }
        let bytes = 4 * words as u64;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self
            .run(self.kernels.buffer("lowbit read back", usage, BufferFill::Zeros(bytes)))
            .await?;
        let device = self.device();
        let what = "a read back";
        let (mapped, answer) = answer::channel();
        let index = self
            .run(self.kernels.guarded(what, || {
                let mut encoder = device.create_command_encoder(&Default::default());
                encoder.copy_buffer_to_buffer(buffer, 4 * first as u64, &staging, 0, bytes);
                let index = self.queue.submit([encoder.finish()]);
                staging.map_async(wgpu::MapMode::Read, ..bytes, move |result| mapped.send(result));
                index
            }))
            .await?;
        self.wait(what, index).await?;
        // Another thread's poll may have taken this callback and not have called it yet.
        match answer.wait(self.timeout).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                // A browser answers so where the device was lost.
                self.check()?;
                return Err(HostError::ReadBack(error.to_string()));
            }
            None => return Err(HostError::Timeout { what: "a mapping", waited: self.timeout }),
        }
        let view = staging
            .get_mapped_range(..bytes)
            .map_err(|error| HostError::ReadBack(error.to_string()))?;
        // Not a cast: the view need not be aligned.
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let words: Vec<u32> = view.chunks_exact(4).map(word).collect();
        self.reads.add(&words);
        Ok(words)
    }

    /// A checksum of all words that were read back since the last call, which is kept from the first
    /// call on: the same where all results have the same bits. Reads of several threads mix.
    #[doc(hidden)]
    pub fn restart_read_checksum(&self) -> Option<u64> {
        self.reads.restart()
    }
}

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

fn to_u32(what: &'static str, value: usize) -> Result<u32, HostError> {
    let limit = i32::MAX as usize;
    let too_large = HostError::TooLarge { what, value, limit };
    u32::try_from(value).ok().filter(|&v| v <= limit as u32).ok_or(too_large)
}
