//! Reads and writes model files: safetensors, with compressed weights inside.
//!
//! [`source`] opens models of other formats as well. A model in several files has an index, and each file
//! has all parts of its weights ([`Output`]).
//!
//! A weight `NAME` in a format `F` is stored as some of these tensors, in the canonical layout
//! ([`Geometry`](lowbit::format::Geometry)). A part without elements is absent:
//!
//! | tensor | type | shape |
//! |---|---|---|
//! | `NAME.codes` | U32 | `[n, code_words]` |
//! | `NAME.metadata` | U32 | `[n, meta_words]` |
//! | `NAME.scales` | F32, F16, I8 or U8 | `[n, groups]`, or `[1]` per tensor |
//! | `NAME.upper_scales` | F16 or F32 | `[n, supers]`, or `[1]`: the upper of two levels |
//! | `NAME.zeros` | U8 | the same as the scales; of 4 bits, two in a byte |
//! | `NAME.minima`, `NAME.upper_minima` | as the scales | as the scales |
//! | `NAME.codebook` | F32 | `[16]` |
//! | `NAME.order` | U32 | `[k]`, if columns are permuted |
//! | `NAME.factors` | F32 | `[k]`, if X is smoothed |
//!
//! The file's metadata lists the compressed weights: `"lowbit.version"` is `"1"`, and
//! `"lowbit.tensors"` is JSON, `{"NAME": {"format": "int4-g64-asym", "shape": [n, k]}}`. The shape is
//! the original one, of two or more dimensions; the matrix is `[shape[0], product of the rest]`.
//! Every other tensor of the file is an ordinary tensor.
//!
//! If the file says how X of a weight becomes 8-bit codes ([`LayerActivations`]), the version is
//! `"2"` and the weight has `"activations": {"format": "int8-token"}`. A static scale is stored inside
//! of it as `"static": {"scale": 0.02, "zero_point": 0}`. With `"smoothed": true`, column j of X must
//! be divided by factor j. A reader that ignored this would compute wrong products, which is why the
//! version differs.
//!
//! Files are not trusted: whatever a file contains, reading it returns a value or an error, and
//! allocates no more than a small multiple of the file's size.

mod activations;
mod atomic;
mod beside;
mod bytes;
mod config;
mod error;
mod foreign;
pub mod gguf;
mod header;
pub mod hf;
mod model;
mod npy;
#[cfg(feature = "onnx")]
pub mod onnx;
mod output;
mod parts;
mod ranges;
#[cfg(feature = "onnx")]
mod scales;
mod shards;
pub mod source;
mod tuning;
mod writer;

pub use activations::LayerActivations;
pub use atomic::{AtomicFile, discard_unfinished, write_atomic};
pub use config::config_beside;
pub use error::IoError;
pub use foreign::{Foreign, ForeignFormat, TensorKind, foreign};
pub use model::{ModelFile, Tensor, read_compressed};
pub use npy::{npy_header, write_npy_rows};
pub use output::{ModelWriter, Output};
pub use parts::{CompressedInfo, matrix_shape};
pub use ranges::{BadRanges, LayerRanges, RangeTarget, Ranges, RangesError};
pub use safetensors::Dtype;
pub use tuning::{TuningIgnored, load_tuning, save_tuning};
pub use writer::{Content, Entry, write_model};

pub(crate) use atomic::read_limited;
pub(crate) use beside::folder as folder_of;

#[cfg(test)]
mod tests;
