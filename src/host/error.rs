use super::RefusedLimit;
use crate::compress::calibrate::CalibrateError;
use crate::format::FormatError;
use crate::gpu::DeviceError;
use crate::ops::{
    BindError, ColumnsError, FactorError, GramError, ObserveError, PlanError, QuantizeWeightsError,
    RecordError, WeightsError,
};
use std::time::Duration;

/// Why a call of [`Host`](super::Host) failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// wgpu found no adapter, or was built without a backend. The text says which.
    #[error("no GPU adapter found: {0}")]
    NoAdapter(String),
    /// The adapter provided no device.
    #[error("adapter {adapter} provides no device: {message}")]
    NoDevice {
        /// The adapter's name.
        adapter: String,
        /// The driver's message.
        message: String,
    },
    /// The limits asked for exceed the adapter's. Ask for at most [`wgpu::Adapter::limits`].
    #[error("adapter {adapter} does not support these limits: {}", super::limits::listed(.refused))]
    Limits {
        /// The adapter's name.
        adapter: String,
        /// Every limit that exceeds the adapter's.
        refused: Vec<RefusedLimit>,
    },
    /// A slice has the wrong length.
    #[error("{what} holds {have} elements where {need} are needed")]
    WrongLength {
        /// Which slice.
        what: &'static str,
        /// The number of elements needed.
        need: usize,
        /// The number of elements given.
        have: usize,
    },
    /// A dimension is larger than kernels can index.
    #[error("{what} = {value} exceeds {limit}")]
    TooLarge {
        /// Which dimension.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The largest value allowed.
        limit: usize,
    },
    /// The device did not finish in time. It may still finish: wait longer
    /// ([`Host::with_timeout`](super::Host::with_timeout)), or drop the host and open a new one.
    #[error(
        "the device did not finish {what} within {:.3} s; wait longer, or go on with a new device",
        waited.as_secs_f64()
    )]
    Timeout {
        /// The work that did not finish.
        what: &'static str,
        /// How long the host waited.
        waited: Duration,
    },
    /// Results could not be read back.
    #[error("reading back failed: {0}")]
    ReadBack(String),
    /// A format is invalid, or the device returned data that its format does not allow.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Weights could not be placed on the device.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Weights could not be quantized. The error names the row and column.
    #[error(transparent)]
    QuantizeWeights(#[from] QuantizeWeightsError),
    /// Activations could not be observed on the host.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// Activations could not be observed on the device.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The Gram matrix of X could not be summed.
    #[error(transparent)]
    Gram(#[from] GramError),
    /// The Gram matrix could not be factored.
    #[error(transparent)]
    Factor(#[from] FactorError),
    /// The columns of W could not be rounded or pruned.
    #[error(transparent)]
    Columns(#[from] ColumnsError),
    /// An operation could not be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Buffers could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// An operation could not be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The device refused a request, or was lost.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Returns an error if wgpu was built without any backend: [`wgpu::Instance::new`] would panic.
/// lowbit's own features alone do not tell, because a caller may enable backends of wgpu itself.
pub(super) fn backends_enabled(backends: wgpu::Backends) -> Result<(), HostError> {
    if backends.is_empty() {
        return Err(HostError::NoAdapter(
            "this program was built without a wgpu backend for its platform; enable one of \
             lowbit's features `vulkan`, `metal`, `dx12` or `gles`"
                .into(),
        ));
    }
    Ok(())
}

/// Returns the error if wgpu found no adapter.
pub(super) fn no_adapter(error: wgpu::RequestAdapterError) -> HostError {
    let hint = if cfg!(target_os = "linux") {
        "; install a Vulkan driver: on Debian, `apt-get install mesa-vulkan-drivers libvulkan1` \
         installs a software driver"
    } else {
        ""
    };
    HostError::NoAdapter(format!("{error}{hint}"))
}

impl HostError {
    /// Returns the device's error, if the device caused this one.
    pub fn device(&self) -> Option<&DeviceError> {
        match self {
            Self::Device(error) => Some(error),
            Self::Plan(error) => error.device(),
            Self::Bind(error) => error.device(),
            Self::Weights(error) => error.device(),
            _ => None,
        }
    }

    /// Returns whether the device refused a request, rather than this crate.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn is_the_devices(&self) -> bool {
        let Some(error) = self.device() else { return false };
        !matches!(error, DeviceError::Limit { .. } | DeviceError::Lost(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_backends_says_which_features_exist() {
        let error = backends_enabled(wgpu::Backends::empty()).unwrap_err();
        assert!(matches!(error, HostError::NoAdapter(_)));
        let message = error.to_string();
        for feature in ["`vulkan`", "`metal`", "`dx12`", "`gles`"] {
            assert!(message.contains(feature), "{message}");
        }
        for backend in wgpu::Backends::all() {
            assert_eq!(backends_enabled(backend), Ok(()));
        }
    }
}
