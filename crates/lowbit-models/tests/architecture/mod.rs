//! Tiny models of every architecture beside what `transformers` computes with them in f64.
//! scripts/models/make.py makes them.

mod altered;
mod faults;
mod hostile;
mod real;
mod refused;

use lowbit_models::architecture::{self, Blueprint, reference};
use lowbit_models::checkpoint::ModelFile;
use lowbit_models::checkpoint::source::{self, Model, Role};
use lowbit_models::compress::{SelectError, SelectRequest, select};
use std::path::{Path, PathBuf};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");

/// How far a result may be from that of `transformers`, as a share of the largest. Both are computed in
/// f64, in other orders: some thousand roundings of 2⁻⁵³ that grow little on the way. A constant that a
/// blueprint or a file holds as f32 would show as 10⁻⁸, any mistake as more.
const LIMIT: f64 = 1e-13;

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<_> =
        std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn open(case: &Path) -> (Model, Blueprint) {
    let gguf = case.join("model.gguf");
    let path = if gguf.exists() { gguf } else { case.join("model.safetensors") };
    let model = source::open(&path).unwrap();
    let blueprint =
        architecture::read(&model).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    (model, blueprint)
}

fn numbers<const SIZE: usize, T>(file: &ModelFile, name: &str, of: fn([u8; SIZE]) -> T) -> Vec<T> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    tensor.bytes.as_chunks().0.iter().map(|bytes| of(*bytes)).collect()
}

/// Compares rows, and returns the largest difference as a share of the largest value.
fn difference(have: &[f64], want: &[f64]) -> f64 {
    assert_eq!(have.len(), want.len());
    let largest = want.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let apart = have.iter().zip(want).map(|(have, want)| (have - want).abs());
    // A NaN is no small difference, whatever follows it.
    apart.fold(0.0, |max: f64, x| if max.is_nan() || x <= max { max } else { x }) / largest
}

/// What blueprints say about tensors is what their names say, so that commands that go by names alone agree.
#[test]
fn blueprints_and_names_give_the_same_roles() {
    let mut count = 0;
    for case in cases() {
        let (model, blueprint) = open(&case);
        let roles = architecture::roles(&model);
        for (name, role) in blueprint.roles() {
            assert_eq!(Role::of(name), Some(role), "{}: {name}", case.display());
            assert_eq!(roles.get(name), Some(&role));
            count += 1;
        }
    }
    assert!(count > 500, "{count}");
}

/// `compress` takes exactly the linear layers of a blueprint, and not its routers.
#[test]
fn linear_layers_of_blueprints_are_compressed() {
    let mut count = 0;
    for case in cases() {
        let (Model::Safetensors(model), blueprint) = open(&case) else { continue };
        if !model.compressed().is_empty() {
            continue;
        }
        let matrices: Vec<&str> = model
            .plain()
            .filter(|tensor| tensor.shape.len() == 2)
            .map(|tensor| tensor.name)
            .collect();
        let roles = blueprint.roles();
        let linear = |name: &&str| roles.get(name).is_some_and(|role| role.is_linear());
        let want: Vec<&str> = matrices.into_iter().filter(linear).collect();
        let request = SelectRequest::one("int8-channel".parse().unwrap(), Vec::new());
        match select(&model, Some(model.config()), &request) {
            Ok(selection) => {
                let chosen = selection.weights.iter().map(|chosen| chosen.tensor.name);
                // A pooler is no part of a blueprint, and neither is a head of which the embedding is used.
                let spare = |name: &&str| name.contains("pooler.") || name.contains("lm_head");
                let have: Vec<&str> =
                    chosen.filter(|name| roles.contains_key(name) || !spare(name)).collect();
                assert_eq!(have, want, "{}", case.display());
                count += 1;
            }
            // GPT-2's are [K, N].
            Err(error) => assert!(matches!(error, SelectError::Turned { .. }), "{error}"),
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn logits_are_those_of_transformers() {
    let mut failed = Vec::new();
    let mut decoders = 0;
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let expected = ModelFile::open(case.join("expected.safetensors")).unwrap();
        if expected.tensor("logits").is_none() {
            continue;
        }
        decoders += 1;
        let (model, blueprint) = open(&case);
        let tokens = numbers(&expected, "tokens", u32::from_le_bytes);
        let want = numbers(&expected, "logits", f64::from_le_bytes);
        let have = reference::logits(&model, &blueprint, &tokens).unwrap();
        let difference = difference(&have, &want);
        println!("{name}: {difference:.1e}");
        if difference.is_nan() || difference > LIMIT {
            failed.push(format!("{name}: {difference:.1e}"));
        }
    }
    assert_eq!(decoders, 28, "decoders");
    assert!(failed.is_empty(), "beyond {LIMIT:.1e}: {}", failed.join(", "));
}

#[test]
fn hidden_states_are_those_of_transformers() {
    let mut failed = Vec::new();
    let mut encoders = 0;
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let expected = ModelFile::open(case.join("expected.safetensors")).unwrap();
        if expected.tensor("hidden").is_none() {
            continue;
        }
        encoders += 1;
        let (model, blueprint) = open(&case);
        let tokens = numbers(&expected, "tokens", u32::from_le_bytes);
        let mask = numbers(&expected, "mask", u32::from_le_bytes);
        let want = numbers(&expected, "hidden", f64::from_le_bytes);
        let length = expected.tensor("tokens").unwrap().shape[1];
        let hidden = length * blueprint.hidden;
        let sentences = tokens.chunks(length).zip(mask.chunks(length)).zip(want.chunks(hidden));
        for ((tokens, mask), want) in sentences {
            let seen: Vec<bool> = mask.iter().map(|&seen| seen == 1).collect();
            let own = seen.iter().filter(|seen| **seen).count();
            let padded = reference::hidden(&model, &blueprint, tokens, &seen).unwrap();
            let alone =
                reference::hidden(&model, &blueprint, &tokens[..own], &seen[..own]).unwrap();
            // Results of padding do not matter.
            let end = own * blueprint.hidden;
            for have in [&padded[..end], &alone] {
                let difference = difference(have, &want[..end]);
                println!("{name}: {difference:.1e}");
                if difference.is_nan() || difference > LIMIT {
                    failed.push(format!("{name}: {difference:.1e}"));
                }
            }
        }
    }
    assert_eq!(encoders, 7, "encoders");
    assert!(failed.is_empty(), "beyond {LIMIT:.1e}: {}", failed.join(", "));
}

/// Buckets are those of `transformers` at every distance, also where its f32 arithmetic rounds down.
#[test]
fn buckets_are_those_of_transformers() {
    let case = Path::new(FOLDER).join("mpnet");
    let (_, blueprint) = open(&case);
    let bias = blueprint.layers[0].attention.relative_bias.clone().unwrap();
    let expected = ModelFile::open(case.join("expected.safetensors")).unwrap();
    let buckets = numbers(&expected, "buckets", u32::from_le_bytes);
    assert_eq!(buckets.len(), 601);
    // The other token is this much farther right.
    for (distance, bucket) in (-300..=300).zip(buckets) {
        let other = usize::try_from(300 + distance).unwrap();
        assert_eq!(bias.bucket(300, other), bucket as usize, "{distance}");
    }
}
