use super::RefusedLimit;
use crate::compress::calibrate::CalibrateError;
use crate::format::FormatError;
use crate::gpu::DeviceError;
use crate::ops::{
    BindError, ObserveError, PlanError, QuantizeWeightsError, RecordError, WeightsError,
};
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
    /// Limits that the adapter does not have: ask for [`wgpu::Adapter::limits`] at most.
    #[error("adapter {adapter} refuses these limits: {}", super::limits::listed(.refused))]
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
    /// ([`Host::with_timeout`](super::Host::with_timeout)), or drop the host and make a new one.
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
    Make(#[from] QuantizeWeightsError),
    /// Activations that cannot be observed.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The same on the device.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
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

impl HostError {
    /// The device's error, if the device caused this one.
    pub fn device(&self) -> Option<&DeviceError> {
        match self {
            Self::Device(error) => Some(error),
            Self::Plan(error) => error.device(),
            Self::Bind(error) => error.device(),
            Self::Weights(error) => error.device(),
            _ => None,
        }
    }

    /// Whether the device has refused something, and not this crate.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn is_the_devices(&self) -> bool {
        let Some(error) = self.device() else { return false };
        !matches!(error, DeviceError::Limit { .. } | DeviceError::Lost(_))
    }
}
