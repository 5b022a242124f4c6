//! Inputs as people have them: what other tools write, what they damage, and what is no model at all.

mod calibrate;
mod compress;
mod onnx;
mod reasons;
mod refusals;
#[cfg(unix)]
pub mod signals;
