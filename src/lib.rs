//! Compressed neural-network weights on any GPU that wgpu reaches: int8, int4 and 2:4 sparse,
//! as WGSL kernels with a CPU reference and a proven error bound for each.
//!
//! - [`mod@format`]: what a compressed weight is. [`compress`]: making one on the host.
//!   [`mod@reference`]: the f64 oracle and the bounds. None of them knows of a GPU.
//! - [`gpu`] and [`ops`]: kernels for a caller's device, recorded into a caller's encoder.
//! - [`host`]: the same over slices, with a device of its own.
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

/// The version of this crate, as in its manifest.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The examples of README.md and docs/engines.md, compiled by `cargo test --doc`.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/engines.md")]
    struct Engines;
}
