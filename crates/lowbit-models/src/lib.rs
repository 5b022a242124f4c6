//! Model files with lowbit's compressed weights, and models that multiply with them.
//!
//! - [`checkpoint`]: safetensors files in and out, compressed weights inside of them, and the import
//!   of ONNX files.
//! - [`bert`]: BERT as a sentence encoder.
#![warn(missing_docs)]

#[cfg(feature = "bert")]
pub mod bert;
pub mod checkpoint;

/// The examples of docs/models.md and docs/tuning.md, compiled by `cargo test --doc`.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../docs/models.md")]
    struct Models;

    #[doc = include_str!("../../../docs/tuning.md")]
    struct Tuning;
}
