//! Tests of model files: round trips, damaged files and damaged indexes.

mod damaged;
mod index;
mod written;

use super::*;
use half::{bf16, f16};
use lowbit::format::Quantization;
use lowbit::format::{
    CodeType, FormatError, Granularity, Mask24, PackedWeights, ScaleType, Scales, StaticScale,
    WeightFormat,
};
use safetensors::tensor::{SafeTensors, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use tempfile::TempDir;

fn noise(count: usize, mut state: u32) -> Vec<u32> {
    let mut next = || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (state >> 7) ^ state.rotate_left(13)
    };
    (0..count).map(|_| next()).collect()
}

/// Returns a legal weight of a format. What the codes mean does not matter here.
fn weights(name: &str, n: usize, k: usize) -> PackedWeights {
    let format: WeightFormat = name.parse().unwrap();
    let g = format.geometry(n, k).unwrap();
    let mask = Mask24::from_fn(n, k, |row, k| (k + row) % 4 == 2).unwrap();
    let metadata = if format.is_sparse() { mask.into_words() } else { vec![] };
    let scales = noise(g.scales, 3).into_iter().map(|bits| 1.0 + (bits % 100) as f32);
    let scales = match format.scale_type() {
        ScaleType::F32 => Scales::F32(scales.collect()),
        ScaleType::F16 => Scales::F16(scales.map(f16::from_f32).collect()),
    };
    let zeros = noise(g.zeros, 5).into_iter().map(|bits| bits as u8 & 0xf).collect();
    PackedWeights::from_parts(format, n, k, noise(n * g.code_words, 7), metadata, scales, zeros)
        .unwrap()
}

/// Returns every combination of code type, granularity, symmetry, scales and sparsity.
fn formats() -> Vec<WeightFormat> {
    let g = |g| Granularity::group(g).unwrap();
    let mut formats = Vec::new();
    for granularity in [Granularity::Tensor, Granularity::Channel, g(3), g(32)] {
        for element in CodeType::ALL {
            if !element.is_integer() && granularity != Granularity::Tensor {
                continue; // floats have no scales
            }
            let base = match element {
                CodeType::F32 => WeightFormat::f32(),
                CodeType::F16 => WeightFormat::f16(),
                CodeType::Int16 => WeightFormat::int16(granularity),
                CodeType::Int8 => WeightFormat::int8(granularity),
                CodeType::Int4 => WeightFormat::int4(granularity),
                other => panic!("{other:?} has no constructor here"),
            };
            for format in [base, base.asymmetric()] {
                for format in [format, format.with_scales(ScaleType::F16)] {
                    if format.check().is_ok() && (element.is_integer() || format == base) {
                        formats.extend([format, format.two_four()]);
                    }
                }
            }
        }
    }
    formats
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
