//! Changed models beside the models that they were, by the reference in f64.

mod cut;
mod permute;
mod rotate;

use crate::common::Random;
use lowbit_models::architecture::{self, reference};
use lowbit_models::checkpoint::Tensor;
use lowbit_models::checkpoint::source::{self, Model, ModelSource, Overlay};
use lowbit_models::checkpoint::source::{Data, ItemKind};
use std::path::{Path, PathBuf};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");

/// How far results may be apart, as a share of the largest, if the network computes the same but for the order of
/// additions in f64. It is the limit of tests/architecture.
const EXACT: f64 = 1e-13;

fn path(name: &str) -> PathBuf {
    let folder = Path::new(FOLDER).join(name);
    let gguf = folder.join("model.gguf");
    if gguf.exists() { gguf } else { folder.join("model.safetensors") }
}

fn open(name: &str) -> Model {
    source::open(path(name)).unwrap()
}

const TOKENS: [u32; 12] = [5, 17, 3, 80, 41, 41, 9, 66, 2, 90, 28, 13];

/// Returns the logits of some tokens, or the hidden states of an encoder.
fn results(model: &dyn ModelSource) -> Vec<f64> {
    let blueprint = architecture::read(model).unwrap();
    if blueprint.head.is_some() {
        return reference::logits(model, &blueprint, &TOKENS).unwrap();
    }
    reference::hidden(model, &blueprint, &TOKENS, &[true; TOKENS.len()]).unwrap()
}

/// Returns the largest difference as a share of the largest of `want`.
fn difference(have: &[f64], want: &[f64]) -> f64 {
    assert_eq!(have.len(), want.len());
    let largest = want.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let apart = have.iter().zip(want).map(|(have, want)| (have - want).abs());
    apart.fold(0.0, |max: f64, x| if max.is_nan() || x <= max { max } else { x }) / largest
}

/// Returns the shape and elements of a float tensor.
fn floats(model: &dyn ModelSource, name: &str) -> (Vec<usize>, Vec<f32>) {
    let item = model.items().unwrap().into_iter().find(|item| item.name == name).unwrap();
    match (model.read(name).unwrap(), item.kind) {
        (Data::Plain(bytes), ItemKind::Plain(dtype)) => {
            let tensor = Tensor { name, dtype, shape: &item.shape, bytes: &bytes };
            let values = tensor.to_f32().unwrap();
            (item.shape, values)
        }
        _ => panic!("{name} is compressed"),
    }
}

/// Puts a tensor over a model after some of its elements were set.
fn plant(overlay: &mut Overlay<'_>, name: &str, set: impl Fn(usize, &mut f32)) {
    let (shape, mut values) = floats(overlay, name);
    values.iter_mut().enumerate().for_each(|(at, value)| set(at, value));
    overlay.put_floats(name, shape, &values).unwrap();
}

/// Returns the sizes from 0 in some order.
fn shuffled(size: usize, seed: u64) -> Vec<usize> {
    let mut random = Random(seed);
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by_cached_key(|_| random.next());
    order
}
