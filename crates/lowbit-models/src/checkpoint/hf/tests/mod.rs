//! Checkpoints that are built by hand from the documented layouts, without the code that reads them.

mod hostile;
mod inputs;
mod integers;
mod others;
mod refused;
mod written;

use super::{HfLeftOut, HfModel};
use crate::checkpoint::{Content, Dtype, ModelFile, write_model};
use lowbit::compress::dequantize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A checkpoint to write. Its weights are those of the module `l`.
#[derive(Clone)]
pub(super) struct Checkpoint {
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    pub config: Value,
}

/// An open checkpoint and the folder that it is in.
pub(super) struct Opened {
    pub model: HfModel,
    _folder: tempfile::TempDir,
}

impl Checkpoint {
    /// Starts one with this `quantization_config`, or without one if it is null.
    pub fn new(config: Value) -> Self {
        Self { tensors: BTreeMap::new(), config }
    }

    pub fn bytes(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Self {
        self.tensors.insert(name.to_owned(), (dtype, shape.to_vec(), bytes.to_vec()));
        self
    }

    pub fn words(self, name: &str, shape: &[usize], words: &[u32]) -> Self {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.bytes(name, Dtype::I32, shape, &bytes)
    }

    pub fn f32s(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(name, Dtype::F32, shape, &bytes)
    }

    pub fn f16s(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let halves = values.iter().map(|&value| half::f16::from_f32(value));
        let bytes: Vec<u8> = halves.flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(name, Dtype::F16, shape, &bytes)
    }

    pub fn i64s(self, name: &str, shape: &[usize], values: &[i64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(name, Dtype::I64, shape, &bytes)
    }

    pub fn without(mut self, name: &str) -> Self {
        assert!(self.tensors.remove(name).is_some(), "{name}");
        self
    }

    /// Writes the checkpoint and opens its file.
    pub fn file(&self) -> (ModelFile, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                (name.as_str(), Content::Plain { dtype: *dtype, shape, bytes })
            })
            .collect();
        write_model(path.as_path(), &tensors, &BTreeMap::new()).unwrap();
        if !self.config.is_null() {
            let config = json!({ "quantization_config": self.config });
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        }
        (ModelFile::open(&path).unwrap(), folder)
    }

    /// Writes the checkpoint and opens it.
    pub fn open(&self) -> Opened {
        let (file, folder) = self.file();
        let model = HfModel::find(file).unwrap().unwrap_or_else(|_| panic!("it is not quantized"));
        Opened { model, _folder: folder }
    }

    /// Checks the format of `l.weight` and that its values are exactly these. Returns the warnings.
    pub fn check(&self, format: &str, values: impl Fn(usize, usize) -> f32) -> Vec<String> {
        let opened = self.open();
        let model = &opened.model;
        assert_eq!(model.left_out(), []);
        let weights = model.read_weight("l.weight").unwrap();
        assert_eq!(weights.format().to_string(), format);
        assert_eq!(model.weights()["l.weight"].format, weights.format());
        let (n, k) = (weights.n(), weights.k());
        for (at, value) in dequantize(&weights).into_iter().enumerate() {
            assert_eq!(
                value,
                values(at / k, at % k),
                "row {}, column {}, {format}",
                at / k,
                at % k
            );
        }
        assert_eq!(model.weights()["l.weight"].shape, [n, k]);
        assert_eq!(model.plain().count(), 0, "tensors are left over");
        model.warnings().to_vec()
    }

    /// Returns the only weight that is left out.
    pub fn refused(&self) -> HfLeftOut {
        let opened = self.open();
        let [left_out] = opened.model.left_out() else {
            panic!("{:?}, {:?}", opened.model.left_out(), opened.model.refused())
        };
        left_out.clone()
    }
}

/// Numbers that look random, the same in every run.
pub(super) fn random(seed: usize, at: usize) -> u32 {
    let mut x = (seed as u32).wrapping_mul(0x9e37_79b9) ^ (at as u32).wrapping_mul(0x85eb_ca6b);
    for _ in 0..3 {
        x = (x ^ (x >> 15)).wrapping_mul(0x2c1b_3c6d);
    }
    x ^ (x >> 16)
}

/// A scale that f16 and bf16 hold exactly.
pub(super) fn scale(row: usize, group: usize) -> f32 {
    (1 + random(7, row * 31 + group) % 127) as f32 / 4096.0
}

/// Makes words of a string of codes of `bits` bits, the lowest bits first; codes cross words.
pub(super) fn string(codes: impl IntoIterator<Item = u32>, bits: u32) -> Vec<u32> {
    let all: Vec<bool> =
        codes.into_iter().flat_map(|code| (0..bits).map(move |bit| code >> bit & 1 == 1)).collect();
    let word =
        |bits: &[bool]| bits.iter().rev().fold(0u32, |word, &bit| word << 1 | u32::from(bit));
    all.chunks(32).map(word).collect()
}

/// Transposes a matrix of `rows` rows.
pub(super) fn transpose<T: Copy>(values: &[T], rows: usize) -> Vec<T> {
    let columns = values.len() / rows;
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}
