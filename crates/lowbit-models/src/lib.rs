//! Model files with lowbit's compressed weights, and models that run on lowbit's kernels.
//!
//! - [`checkpoint`] reads and writes safetensors files, with compressed weights inside of them, and
//!   GGUF files, and reads ONNX files. [`checkpoint::source`] opens a model of any of these.
//! - [`architecture`] reads what a transformer is, from its configuration and the names of its tensors.
//! - [`compress`] compresses the weights of a file on a GPU; [`decompress()`] turns them back.
//! - `explore` (feature `text`) finds the best level of compression for each weight of a model.
//! - [`transform`] changes a whole model: rotates it, or cuts heads and rows out of it.
//! - `bert` (feature `bert`) runs BERT as a sentence encoder and observes its layers' inputs for
//!   calibration.
//! - `text` (feature `text`) turns text into tokens and back, and messages into the text that a chat model
//!   was trained on.
//!
//! # Reading a compressed file
//!
//! This example quantizes a matrix, writes it to a file, and reads it back. An engine does the
//! reading half: it opens the file, goes through its weights and uploads each of them.
//!
//! ```
//! use lowbit::format::{Granularity, PackedWeights, WeightFormat};
//! use lowbit_models::checkpoint::{Content, Dtype, ModelFile, read_compressed, write_model};
//! use std::collections::BTreeMap;
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("model.safetensors");
//! // Write a weight of two rows and four columns in int8, and a bias as it is.
//! let w = [0.5, -1.0, 0.25, 0.75, -0.5, 1.0, 2.0, -0.125];
//! let packed = PackedWeights::quantize(&w, 2, 4, &WeightFormat::int8(Granularity::Channel))?;
//! let tensors = [
//!     ("layer.weight", Content::Compressed { shape: &[2, 4], weights: &packed }),
//!     ("layer.bias", Content::Plain { dtype: Dtype::F32, shape: &[2], bytes: &[0; 8] }),
//! ];
//! write_model(&path, &tensors, &BTreeMap::new())?;
//!
//! // Read the file.
//! let file = ModelFile::open(&path)?;
//! for (name, info) in file.compressed() {
//!     println!("{name}: {:?} in {}", info.shape, info.format);
//!     let weights = read_compressed(&file, name)?;
//!     assert_eq!(weights, packed);
//!     // On a device: let weights = host.upload(&weights)?;
//! }
//! assert_eq!(file.read_f32("layer.bias")?, [0.0, 0.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]

pub mod architecture;
#[cfg(feature = "bert")]
pub mod bert;
pub mod checkpoint;
#[cfg(not(target_arch = "wasm32"))]
mod checksum;
// Both wait for the device and write files, which a page in a browser does not do.
#[cfg(not(target_arch = "wasm32"))]
pub mod compress;
#[cfg(not(target_arch = "wasm32"))]
mod decompress;
pub mod device;
#[cfg(feature = "text")]
pub mod evaluate;
#[cfg(all(feature = "text", not(target_arch = "wasm32")))]
pub mod explore;
mod inputs;
#[cfg(not(target_arch = "wasm32"))]
pub mod layerwise;
mod progress;
mod schemes;
#[cfg(feature = "text")]
pub mod text;
pub mod transform;

#[cfg(not(target_arch = "wasm32"))]
pub use decompress::decompress;
pub use inputs::shared_input;
pub use progress::Step;

/// The examples of docs/models.md and docs/tuning.md, compiled by `cargo test --doc`.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../docs/models.md")]
    struct Models;

    #[doc = include_str!("../../../docs/tuning.md")]
    struct Tuning;
}

#[cfg(test)]
mod tests {
    /// docs/models.md shows the example as it is.
    #[test]
    fn the_example_is_on_its_page() {
        let page = include_str!("../../../docs/models.md");
        assert!(page.contains(include_str!("../examples/generate.rs")));
    }
}
