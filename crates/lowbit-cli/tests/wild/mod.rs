//! Inputs as people have them: what other tools write, what they damage, and what is no model at all.

mod compress;
mod onnx;
#[cfg(unix)]
mod signals;
