//! Compressed neural-network weights on any GPU that wgpu reaches.
#![warn(missing_docs)]

pub mod compress;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod format;
pub mod gpu;
pub mod host;
#[cfg(feature = "io")]
pub mod io;
pub mod ops;
pub mod reference;

pub use wgpu;
