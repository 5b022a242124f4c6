//! Operations over slices, on a device that this module opens itself. For tests, tools and small
//! programs.
//!
//! Only this module submits work and waits for it. An engine that has its own device uses
//! [`gpu`](crate::gpu) and [`ops`](crate::ops) instead, and creates its kernels with
//! [`Kernels::for_adapter`].
//!
//! Every operation exists twice: `matmul` blocks the calling thread, and `matmul_async` returns a
//! future. In a browser, where no thread may block, only the `_async` functions exist. On other
//! platforms their futures block inside `poll` and are ready when first polled, so any executor
//! can run them.

#[cfg(not(target_arch = "wasm32"))]
use crate::gpu::pipeline_file;
use crate::gpu::{Caps, Kernels};
use blocking::with_blocking;
#[cfg(not(target_arch = "wasm32"))]
use std::path::{Path, PathBuf};
use std::time::Duration;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use std::time::Instant;
// The standard library's `Instant` panics in a browser.
#[cfg(target_arch = "wasm32")]
pub(crate) use web_time::Instant;

mod answer;
mod blocking;
mod error;
mod fake_quant;
mod gptq;
mod gram;
mod limits;
mod observe;
mod probe;
mod quantized;
mod read_back;
mod read_log;
mod slices;
mod submit;
mod tune;

pub use error::HostError;
pub use fake_quant::{FakeQuantGradients, FakeQuantized};
pub use gptq::Gptq;
pub use limits::RefusedLimit;
pub use probe::probe_shader;
pub use read_back::ReadBack;
use read_log::ReadLog;
#[cfg(feature = "conformance")]
pub(crate) use tune::COLD;

/// The default of [`Host::with_timeout`].
const TIMEOUT: Duration = Duration::from_secs(120);

/// A device with its queue and kernels.
#[derive(Debug)]
pub struct Host {
    info: wgpu::AdapterInfo,
    queue: wgpu::Queue,
    kernels: Kernels,
    reads: ReadLog,
    timeout: Duration,
}

impl Host {
    with_blocking!(
        new,
        /// Opens the fastest adapter of this machine. Software adapters count.
        ///
        /// # Errors
        /// Returns [`HostError::NoAdapter`] if wgpu finds no adapter or was built without a
        /// backend, and [`HostError::NoDevice`] if the adapter provides no device.
        pub async fn new_async() -> Result<Self, HostError> {
            error::backends_enabled(wgpu::Instance::enabled_backend_features())?;
            let instance = wgpu::Instance::default();
            let adapter = instance
                .request_adapter(&wgpu::RequestAdapterOptions {
                    power_preference: wgpu::PowerPreference::HighPerformance,
                    ..Default::default()
                })
                .await;
            Self::with_adapter_async(&adapter.map_err(error::no_adapter)?).await
        }
    );

    with_blocking!(
        with_adapter,
        /// Opens a device of this adapter with all of the adapter's limits, and with timestamps if
        /// the adapter supports them. On a GPU it also runs the probe
        /// [`exact_f16_unpack`](Self::exact_f16_unpack) once.
        ///
        /// # Errors
        /// Returns [`HostError::NoDevice`] if the adapter provides no device.
        pub async fn with_adapter_async(adapter: &wgpu::Adapter) -> Result<Self, HostError> {
            Self::with_limits_async(adapter, adapter.limits()).await
        }
    );

    with_blocking!(
        with_limits,
        /// Opens a device as [`with_adapter_async`](Self::with_adapter_async) does, with lower
        /// limits.
        ///
        /// # Errors
        /// Returns [`HostError::Limits`] if `limits` exceed the adapter's, and
        /// [`HostError::NoDevice`] if the adapter provides no device.
        pub async fn with_limits_async(
            adapter: &wgpu::Adapter,
            limits: wgpu::Limits,
        ) -> Result<Self, HostError> {
            Self::with_features_async(adapter, wgpu::Features::all(), limits).await
        }
    );

    with_blocking!(
        with_features,
        /// Opens a device with lower limits and fewer features. Of the features that kernels and
        /// measurements use, it requests those that the adapter has and `features` contains.
        ///
        /// # Errors
        /// Returns the errors of [`with_limits_async`](Self::with_limits_async).
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
            Self::with_device_async(info, device, queue, &limits).await
        }
    );

    /// Opens a device as [`with_adapter`](Self::with_adapter) does, and loads the code that the
    /// driver compiled in earlier runs from `folder`, where
    /// [`save_pipelines`](Self::save_pipelines) wrote it. It ignores a file that is missing,
    /// truncated or from another driver. Only adapters with [`wgpu::Features::PIPELINE_CACHE`]
    /// load anything.
    ///
    /// # Errors
    /// Returns [`HostError::NoDevice`] if the adapter provides no device, and
    /// [`HostError::Device`] if the device refuses the cache.
    ///
    /// # Safety
    /// Drivers execute what the files contain, so no one but the user may be able to write to
    /// `folder`.
    #[cfg(not(target_arch = "wasm32"))]
    pub unsafe fn with_pipelines_in(
        adapter: &wgpu::Adapter,
        folder: &Path,
    ) -> Result<Self, HostError> {
        let mut host = Self::with_adapter(adapter)?;
        let data = host.pipeline_file(folder).and_then(|path| pipeline_file::read(&path));
        let (device, caps) = (host.device().clone(), host.kernels.caps().clone());
        let lost = host.kernels.lost_flag().clone();
        // SAFETY: the file comes from `save_pipelines`, which writes what a driver returned. The
        // caller guarantees that no one else writes there, and a checksum that it is complete.
        let kernels = unsafe { Kernels::with_pipeline_cache(&device, &caps, data.as_deref()) };
        host.kernels = pollster::block_on(kernels)?.with_lost_flag(lost);
        Ok(host)
    }

    /// Writes the code that the driver has compiled to `folder`, for later runs. Returns `false`
    /// if there is none, because this host was not opened by
    /// [`with_pipelines_in`](Self::with_pipelines_in) or its adapter has no pipeline cache.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written. An earlier file then stays as it was.
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

    with_blocking!(
        with_device,
        /// Uses an existing device. `limits` are those that it was requested with. The host
        /// replaces the device's lost callback. On a GPU it runs the probe
        /// [`exact_f16_unpack`](Self::exact_f16_unpack) once.
        ///
        /// # Errors
        /// Returns [`HostError::Device`] if the device refuses the kernels' buffers.
        pub async fn with_device_async(
            info: wgpu::AdapterInfo,
            device: wgpu::Device,
            queue: wgpu::Queue,
            limits: &wgpu::Limits,
        ) -> Result<Self, HostError> {
            let caps = Caps::new(&info, limits, device.features());
            Self::with_caps_async(info, device, queue, &caps).await?.probed().await
        }
    );

    with_blocking!(
        with_caps,
        /// Uses an existing device with the capabilities that `caps` states, which may be lower
        /// than the device's. The host replaces the device's lost callback.
        ///
        /// # Errors
        /// Returns [`HostError::Device`] if the device refuses the kernels' buffers.
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
    );

    /// Uses existing kernels, for example an engine's. Kernels that this host compiles are added
    /// to their cache. The device keeps its lost callback, which must set
    /// [`Kernels::lost_flag`].
    pub fn with_kernels(info: wgpu::AdapterInfo, queue: wgpu::Queue, kernels: Kernels) -> Self {
        Self { info, queue, kernels, reads: ReadLog::default(), timeout: TIMEOUT }
    }

    /// Sets how long to wait for a submission or a read-back. The default is 120 s.
    ///
    /// After [`HostError::Timeout`] the device may still be executing the submission. Later calls
    /// then wait for it too, each for at most this long.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Returns information about the adapter.
    pub fn adapter_info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Returns the kernels, to record operations directly.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Returns the device.
    pub fn device(&self) -> &wgpu::Device {
        self.kernels.device()
    }

    /// Returns the queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }
}

fn to_u32(what: &'static str, value: usize) -> Result<u32, HostError> {
    let limit = i32::MAX as usize;
    let too_large = HostError::TooLarge { what, value, limit };
    u32::try_from(value).ok().filter(|&v| v <= limit as u32).ok_or(too_large)
}
