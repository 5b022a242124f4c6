//! Kernels for compressed neural-network weights (int8, int4 and 2:4 sparse) on any GPU that wgpu
//! supports. The kernels are WGSL, and each has a CPU reference and a proven error bound.
//!
//! - [`mod@format`] defines compressed weights, [`compress`] creates them on the host, and
//!   [`mod@reference`] contains the f64 oracle and the bounds. These modules do not use a GPU.
//! - [`gpu`] and [`ops`] record kernels for the caller's device into the caller's encoder.
//! - [`host`] offers the same operations over slices, on a device that it opens itself.
//!
//! The features `vulkan`, `metal`, `dx12` and `gles` enable wgpu's backends; all are on by default.
//!
//! ```no_run
//! use lowbit::format::{Granularity, WeightFormat};
//! use lowbit::host::Host;
//!
//! let (n, k, m) = (1536, 384, 8);
//! let (w, x) = (vec![0.5; n * k], vec![1.0; m * k]);
//! let host = Host::new()?;
//! let format = WeightFormat::int4(Granularity::group(64)?).asymmetric();
//! let weights = host.compress(&w, n, k, &format)?;
//! let y = host.matmul(&x, m, &weights, None)?;
//! assert_eq!(y.len(), m * n);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]

pub mod compress;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod format;
pub mod gpu;
pub mod host;
pub mod ops;
pub mod reference;
#[cfg(feature = "translate")]
pub mod translate;

pub use wgpu;

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The examples of README.md and docs/engines.md, compiled by `cargo test --doc`.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/engines.md")]
    struct Engines;
}
