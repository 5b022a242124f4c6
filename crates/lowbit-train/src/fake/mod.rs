//! Fake quantization in the forward pass, and its gradients in the backward pass.
//!
//! [`lowbit::ops::fake_quant`](lowbit::ops) defines the values, the gradients (straight-through, LSQ and
//! LSQ+) and what becomes of NaN and infinities. [`FakeFormat`] computes them on the host, in f32 like the
//! kernels; [`fake_quantize`] is the operation on burn's tensors, and [`FakeQuantizer`] a module with
//! learned, fixed or dynamic ranges.

mod fold;
mod format;
mod module;
mod numbers;
mod op;

#[cfg(test)]
mod tests;

pub use fold::{FoldError, fold};
pub use format::{FakeFormat, FakeFormatError};
pub use module::{FakeQuantizer, Ranges};
pub use numbers::{Given, Gradients};
pub use op::{FakeQuantKernels, FakeQuantOps, fake_quantize};
