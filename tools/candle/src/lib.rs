//! lowbit's kernels as a custom op of candle: [`Linear`] takes and gives CPU tensors, its weights
//! stay compressed on the GPU.
//!
//! ```no_run
//! use candle_core::{Device, Module, Tensor};
//! use lowbit_candle::Linear;
//! use std::sync::Arc;
//!
//! let host = Arc::new(lowbit::host::Host::new()?);
//! let w = Tensor::randn(0f32, 0.05, (1536, 384), &Device::Cpu)?;
//! let layer = Linear::quantize(&host, &w, None, &"int4-g64-asym".parse()?)?;
//! let x = Tensor::randn(0f32, 1.0, (2, 7, 384), &Device::Cpu)?;
//! assert_eq!(layer.forward(&x)?.dims(), [2, 7, 1536]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod linear;
mod network;

pub use linear::Linear;
pub use network::{Dense, FeedForward, Function};
