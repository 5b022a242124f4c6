//! Slices in, slices out: a device of its own, for tests, tools and small programs.
//!
//! This is the only module that submits, polls and waits. An engine that has a device uses
//! [`gpu`](crate::gpu) and [`ops`](crate::ops) instead.

use crate::format::{DeviceImage, FormatError, PackedWeights, WeightFormat};
use crate::gpu::{BufferFill, Caps, DeviceError, Kernels};
use crate::ops::matmul::RecordError;
use crate::ops::{
    BindError, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, MakeArgs, MakeError,
    MakePlan, MakeSpec, MatmulArgs, MatmulPlan, MatmulSpec, PlanError, Select, SourceRows,
    WeightsError,
};
use pollster::block_on;
use std::sync::mpsc;
use std::time::Duration;

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
    /// The device did not finish in time.
    #[error("the device did not answer within {0} s")]
    Timeout(u64),
    /// Results could not be read back.
    #[error("reading back failed: {0}")]
    ReadBack(String),
    /// A bad format, or a device that returned impossible data.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Weights that cannot be placed on the device.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No binding.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No recording.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Weights that cannot be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The device said no.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// How long a submission may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A device, its queue and its kernels.
#[derive(Debug)]
pub struct Host {
    info: wgpu::AdapterInfo,
    queue: wgpu::Queue,
    kernels: Kernels,
}

impl Host {
    /// The best adapter there is, software included.
    ///
    /// # Errors
    /// [`HostError::NoAdapter`], [`HostError::NoDevice`].
    pub fn new() -> Result<Self, HostError> {
        let instance = wgpu::Instance::default();
        let adapter = block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        }));
        Self::with_adapter(&adapter.map_err(|error| HostError::NoAdapter(error.to_string()))?)
    }

    /// A device of this adapter, with all limits it has and timestamps where it has them.
    ///
    /// # Errors
    /// [`HostError::NoDevice`].
    pub fn with_adapter(adapter: &wgpu::Adapter) -> Result<Self, HostError> {
        Self::with_limits(adapter, adapter.limits())
    }

    /// The same with lower limits.
    ///
    /// # Errors
    /// [`HostError::NoDevice`], also for limits that the adapter does not have.
    pub fn with_limits(adapter: &wgpu::Adapter, limits: wgpu::Limits) -> Result<Self, HostError> {
        let info = adapter.get_info();
        let no_device =
            |message: String| HostError::NoDevice { adapter: info.name.clone(), message };
        let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("lowbit host"),
            required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
            required_limits: limits.clone(),
            ..Default::default()
        }))
        .map_err(|error| no_device(error.to_string()))?;
        Self::with_device(info, device, queue, &limits)
    }

    /// Takes a device that exists, with the limits it was requested with. Takes over its
    /// lost callback.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub fn with_device(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        limits: &wgpu::Limits,
    ) -> Result<Self, HostError> {
        let caps = Caps::new(&info, limits);
        Self::with_caps(info, device, queue, &caps)
    }

    /// The same with the facts that kernels are to go by, which may state lower limits.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub fn with_caps(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        caps: &Caps,
    ) -> Result<Self, HostError> {
        let kernels = block_on(Kernels::new(&device, caps))?;
        let lost = kernels.lost_flag().clone();
        device.set_device_lost_callback(move |_, message| lost.set(message));
        Ok(Self { info, queue, kernels })
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

    /// Copies packed weights to the device.
    ///
    /// # Errors
    /// [`HostError::Weights`].
    pub fn upload(&self, packed: &PackedWeights) -> Result<DeviceWeights, HostError> {
        Ok(block_on(DeviceWeights::upload(&self.kernels, packed))?)
    }

    /// Copies weights back and checks them.
    ///
    /// # Errors
    /// [`HostError::ReadBack`], [`HostError::Timeout`], and [`HostError::Format`] where the
    /// device returned what cannot be.
    pub fn download(&self, weights: &DeviceWeights) -> Result<PackedWeights, HostError> {
        let layout = weights.layout();
        let mut image = DeviceImage { codes: Vec::new(), side: Vec::new() };
        for block in weights.blocks() {
            let rows = block.rows.len();
            image.codes.extend(self.read(&block.codes, 0, rows * layout.code_words)?);
            image.side.extend(self.read(&block.side, 0, rows * layout.side_words)?);
        }
        Ok(layout.unpack(&image)?)
    }

    /// `Y = X · Wᵀ (+ bias)`: X `[m, K]` and Y `[m, N]` row-major f32.
    ///
    /// # Errors
    /// [`HostError`]: wrong lengths, or what the device refuses.
    pub fn matmul(
        &self,
        x: &[f32],
        m: usize,
        weights: &DeviceWeights,
        bias: Option<&[f32]>,
    ) -> Result<Vec<f32>, HostError> {
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
        let mut spec =
            MatmulSpec::new(to_u32("m", m)?, to_u32("n", n)?, to_u32("k", k)?, weights.format());
        if bias.is_some() {
            spec = spec.with_bias();
        }
        let plan = block_on(MatmulPlan::new(&self.kernels, &spec, Select::Auto))?;
        let activations = self.storage(bytemuck::cast_slice(x))?;
        let bias = bias.map(|bias| self.storage(bytemuck::cast_slice(bias))).transpose()?;
        let output = self.zeros(spec.y_bytes(spec.max_m))?;
        let bound = block_on(plan.bind(MatmulArgs {
            activations: (&activations).into(),
            weights,
            bias: bias.as_ref().map(Into::into),
            output: (&output).into(),
        }))?;
        let mut recorded = Ok(());
        self.submit(|pass| recorded = bound.record(pass, spec.max_m))?;
        recorded?;
        let words = self.read(&output, 0, m * n)?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    /// Makes compressed weights on the device from `w`, `[n, k]` row-major f32; 2:4 formats
    /// keep the two of greatest magnitude of every four. Equal to
    /// [`compress::quantize`](crate::compress::quantize) bit for bit.
    ///
    /// # Errors
    /// [`HostError::Make`] for what the kernels refuse, naming row and column; and wrong
    /// lengths, or what the device refuses.
    pub fn quantize(
        &self,
        w: &[f32],
        n: usize,
        k: usize,
        format: &WeightFormat,
    ) -> Result<DeviceWeights, HostError> {
        let geometry = format.geometry(n, k)?;
        let need = geometry.sizes().weights;
        if w.len() != need {
            return Err(HostError::WrongLength { what: "W", need, have: w.len() });
        }
        let spec = MakeSpec::new(to_u32("n", n)?, to_u32("k", k)?, *format);
        let plan = block_on(MakePlan::new(&self.kernels, &spec))?;
        let output = block_on(DeviceWeights::allocate(&self.kernels, *format, n, k))?;
        // Whole rows, as many as a buffer holds.
        let row_bytes = 4 * k.max(1) as u64;
        let fit = (self.kernels.caps().max_buffer / row_bytes).max(1);
        let fit = usize::try_from(fit).unwrap_or(usize::MAX).saturating_mul(k.max(1));
        let buffers: Vec<_> = w
            .chunks(fit)
            .map(|rows| Ok((self.storage(bytemuck::cast_slice(rows))?, rows.len() / k)))
            .collect::<Result<_, HostError>>()?;
        let mut source: Vec<_> = buffers
            .iter()
            .map(|(buffer, rows)| SourceRows { at: buffer.into(), rows: *rows })
            .collect();
        let empty;
        if need == 0 {
            empty = self.zeros(0)?;
            source.push(SourceRows { at: (&empty).into(), rows: n });
        }
        let args = MakeArgs { source: &source, mask: None, output: &output };
        let bound = block_on(plan.bind(args))?;
        self.submit(|pass| bound.record(pass))?;
        bound.check(&self.read(bound.status(), 0, bound.status_words())?)?;
        Ok(output)
    }

    /// All weights as f32, `[n, k]` row-major; pruned ones are 0.
    ///
    /// # Errors
    /// [`HostError`]: what the device refuses.
    pub fn dequantize(&self, weights: &DeviceWeights) -> Result<Vec<f32>, HostError> {
        let (n, k) = (to_u32("n", weights.n())?, to_u32("k", weights.k())?);
        self.rows(weights, &DequantizeSpec::new(n, k, weights.format()), None)
    }

    /// Rows of weights as f32, `[indices, k]` row-major; an index of N or more gives NaN.
    ///
    /// # Errors
    /// [`HostError`]: what the device refuses.
    pub fn gather(&self, weights: &DeviceWeights, indices: &[u32]) -> Result<Vec<f32>, HostError> {
        let (n, k) = (to_u32("n", weights.n())?, to_u32("k", weights.k())?);
        let rows = to_u32("rows", indices.len())?;
        let spec = DequantizeSpec::gather(rows, n, k, weights.format());
        self.rows(weights, &spec, Some(indices))
    }

    fn rows(
        &self,
        weights: &DeviceWeights,
        spec: &DequantizeSpec,
        indices: Option<&[u32]>,
    ) -> Result<Vec<f32>, HostError> {
        let plan = block_on(DequantizePlan::new(&self.kernels, spec))?;
        let indices = indices.map(|indices| self.storage(indices)).transpose()?;
        let bytes = spec.output_bytes(spec.rows());
        let output = self.zeros(bytes)?;
        let bound = block_on(plan.bind(DequantizeArgs {
            weights,
            indices: indices.as_ref().map(Into::into),
            output: (&output).into(),
        }))?;
        self.submit(|pass| bound.record(pass))?;
        let words = self.read(&output, 0, bytes as usize / 4)?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    /// A storage buffer that holds these words.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub fn storage(&self, words: &[u32]) -> Result<wgpu::Buffer, HostError> {
        Ok(block_on(self.kernels.buffer("lowbit host", USAGE, BufferFill::Words(words)))?)
    }

    /// A storage buffer of zeros.
    ///
    /// # Errors
    /// [`HostError::Device`].
    pub fn zeros(&self, bytes: u64) -> Result<wgpu::Buffer, HostError> {
        let bytes = bytes.checked_next_multiple_of(4).unwrap_or(u64::MAX);
        Ok(block_on(self.kernels.buffer("lowbit host", USAGE, BufferFill::Zeros(bytes)))?)
    }

    /// Records one compute pass, submits it and waits for it.
    ///
    /// # Errors
    /// [`HostError::Device`] for whatever the device refuses, [`HostError::Timeout`].
    pub fn submit(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<(), HostError> {
        let device = self.device();
        let index = block_on(self.kernels.guarded("a submission", || {
            let mut encoder = device.create_command_encoder(&Default::default());
            record(&mut encoder.begin_compute_pass(&Default::default()));
            self.queue.submit([encoder.finish()])
        }))?;
        self.wait(index)
    }

    fn wait(&self, index: wgpu::SubmissionIndex) -> Result<(), HostError> {
        let poll = wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(TIMEOUT) };
        let polled = self.device().poll(poll);
        // A device lost while waiting explains whatever poll said.
        if let Some(reason) = self.kernels.lost_flag().reason() {
            return Err(DeviceError::Lost(reason.into()).into());
        }
        match polled {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => Err(HostError::Timeout(TIMEOUT.as_secs())),
            Err(error) => Err(HostError::ReadBack(error.to_string())),
        }
    }

    /// Copies words back from a buffer with `COPY_SRC` usage.
    ///
    /// # Errors
    /// [`HostError::ReadBack`], [`HostError::Timeout`], [`HostError::Device`].
    pub fn read(
        &self,
        buffer: &wgpu::Buffer,
        first: usize,
        words: usize,
    ) -> Result<Vec<u32>, HostError> {
        if words == 0 {
            return Ok(Vec::new());
        }
        let bytes = 4 * words as u64;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging =
            block_on(self.kernels.buffer("lowbit read back", usage, BufferFill::Zeros(bytes)))?;
        let device = self.device();
        let (send, receive) = mpsc::channel();
        let index = block_on(self.kernels.guarded("a read back", || {
            let mut encoder = device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, 4 * first as u64, &staging, 0, bytes);
            let index = self.queue.submit([encoder.finish()]);
            // The receiver may be gone after an early error; nobody then wants the answer.
            staging.map_async(wgpu::MapMode::Read, ..bytes, move |result| drop(send.send(result)));
            index
        }))?;
        self.wait(index)?;
        // Another thread's poll may have taken this callback and not have called it yet.
        match receive.recv_timeout(TIMEOUT) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(HostError::ReadBack(error.to_string())),
            Err(_) => return Err(HostError::ReadBack("the mapping was never answered".into())),
        }
        let view = staging
            .get_mapped_range(..bytes)
            .map_err(|error| HostError::ReadBack(error.to_string()))?;
        // Not a cast: the view need not be aligned.
        Ok(view.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
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
