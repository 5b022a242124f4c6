//! Slices in, slices out: a device of its own, for tests, tools and small programs.
//!
//! With what lies below it, the only module that submits, polls and waits. An engine that has a
//! device uses [`gpu`](crate::gpu) and [`ops`](crate::ops) instead.
//!
//! Every call is there twice: `matmul` waits, `matmul_async` is to be awaited. In a browser, where
//! nothing can wait, there are only the latter. Elsewhere their futures wait within a poll,
//! so that any executor will do, and they are ready when first polled.

#[cfg(not(target_arch = "wasm32"))]
use crate::gpu::pipeline_file;
use crate::gpu::{Caps, Kernels};
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
mod error;
mod fake_quant;
mod limits;
mod observe;
mod probe;
mod quantized;
mod read_log;
mod slices;
mod submit;
mod tune;

pub use error::HostError;
pub use fake_quant::{FakeQuantGradients, FakeQuantized};
pub use limits::RefusedLimit;
pub use probe::probe_shader;
use read_log::ReadLog;
#[cfg(feature = "conformance")]
pub(crate) use tune::COLD;

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
    /// [`exact_f16_unpack`](Self::exact_f16_unpack) is asked once.
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
}

fn to_u32(what: &'static str, value: usize) -> Result<u32, HostError> {
    let limit = i32::MAX as usize;
    let too_large = HostError::TooLarge { what, value, limit };
    u32::try_from(value).ok().filter(|&v| v <= limit as u32).ok_or(too_large)
}
