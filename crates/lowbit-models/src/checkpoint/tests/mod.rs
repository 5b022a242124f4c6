//! Tests of model files: round trips, damaged files and damaged indexes.

mod damaged;
mod index;
mod written;

use super::*;
use half::{bf16, f16};
use lowbit::format::Quantization;
use lowbit::format::{
    FormatError, PackedWeights, StaticScale, WeightFormat, random_weights, sample_formats,
};
use safetensors::tensor::{SafeTensors, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tempfile::TempDir;

/// Returns a legal weight of a format. What the codes mean does not matter here.
fn weights(name: &str, n: usize, k: usize) -> PackedWeights {
    random_weights(name.parse().unwrap(), n, k, 7, true).unwrap()
}

/// Returns formats that between them have every part.
fn formats() -> Vec<WeightFormat> {
    sample_formats()
}

struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    /// Returns the names of the files in the folder.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

fn user_metadata() -> BTreeMap<String, String> {
    [("format", "pt"), ("note", "ünïcode \"quoted\"\n")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Returns a file with this header and data, whether or not they are valid.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}
