//! Models on the device beside what `transformers` computes in f64: the tiny models of
//! scripts/models/make.py, every architecture.

mod balance;
mod fixed;
mod observe;
mod staged;
mod steps;

use crate::common::host;
use lowbit::format::CacheFormat;
use lowbit::host::Host;
use lowbit::ops::{Activations, FloatType};
use lowbit_models::checkpoint::ModelFile;
use lowbit_models::device::{
    EncoderOptions, LoadOptions, Model, Pooling, RunError, SessionOptions,
};
use pollster::block_on;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");

/// How far a result in f32 may be from that in f64, as a share of the largest of its row. A tiny model makes
/// about 2,000 roundings of 2⁻²⁴ on the way to a logit, which mostly cancel; all in one direction would be
/// 1.2·10⁻⁴. Every planted mistake of the blueprints (tests/architecture/faults.rs) is above 10⁻³.
const F32: f64 = 1.2e-4;

/// The limit of f16 activations and caches: their roundings are 2¹³ times as large, but there are only about 60
/// of them in a row of ops, two for each op.
const F16: f64 = 60.0 / 2048.0;

/// The limit of 8-bit weights, 8-bit inputs of linear layers and an 8-bit cache: half a step is 1/254 of the largest of a
/// row, once for each of about 14 linear layers and twice for caches, and layers multiply errors by some
/// factor. It only shows that nothing is grossly wrong; perplexity says how good it is.
const INT8: f64 = 0.25;

/// The limit of 4-bit caches. The step of a code is 1/7 of the largest of a rotated row, which is about 2.2 times
/// their root mean square where there are 32 columns, so that a key or a value is off by 0.09 of its length. Two
/// layers with both of them would be off by twice that, and layers multiply errors by some factor. Like
/// INT8 it only shows that nothing is grossly wrong.
const INT4: f64 = 0.5;

fn shared() -> Option<Arc<Host>> {
    // Models keep their device, so it is a device of their own.
    let _ = host()?;
    Some(Arc::new(Host::new().unwrap()))
}

fn cases(kind: &str) -> Vec<(String, PathBuf, ModelFile)> {
    let mut cases: Vec<_> =
        std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let open = |case: PathBuf| {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let expected = ModelFile::open(case.join("expected.safetensors")).unwrap();
        expected.tensor(kind)?;
        let gguf = case.join("model.gguf");
        let path = if gguf.exists() { gguf } else { case.join("model.safetensors") };
        Some((name, path, expected))
    };
    cases.into_iter().filter_map(open).collect()
}

fn words(file: &ModelFile, name: &str) -> Vec<u32> {
    file.tensor(name).unwrap().bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn doubles(file: &ModelFile, name: &str) -> Vec<f64> {
    file.tensor(name).unwrap().bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
}

/// Returns the largest difference of two rows as a share of the largest value of the second. It is NaN if
/// anything is.
fn difference(have: &[f32], want: &[f64]) -> f64 {
    assert_eq!(have.len(), want.len());
    let largest = want.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let apart = have.iter().zip(want).map(|(have, want)| (f64::from(*have) - want).abs());
    apart.fold(0.0, |max: f64, x| if max.is_nan() || x <= max { max } else { x }) / largest
}

/// Returns the logits of all tokens of a text, which is read in chunks.
fn logits(model: &Model, tokens: &[u32], cache: CacheFormat) -> Vec<f32> {
    let options = SessionOptions::default().with_slots(tokens.len()).with_cache(cache);
    let mut session = block_on(model.session(&options.with_chunk(5))).unwrap();
    let mut all = Vec::new();
    block_on(session.extend_with(tokens, |_, logits| all.extend_from_slice(logits))).unwrap();
    all
}

/// Returns the largest difference of the logits of a model, read as a prompt and token by token.
fn decoder(model: &Model, options: &SessionOptions, file: &ModelFile) -> Result<f64, RunError> {
    let (tokens, want) = (words(file, "tokens"), doubles(file, "logits"));
    let vocab = want.len() / tokens.len();
    let mut session = block_on(model.session(options))?;
    let mut worst = 0.0f64;
    let mut judge = |first: usize, logits: &[f32]| {
        for (row, logits) in logits.chunks_exact(vocab).enumerate() {
            let found = difference(logits, &want[(first + row) * vocab..][..vocab]);
            worst = if found.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(found) };
        }
    };
    block_on(session.extend_with(&tokens, &mut judge))?;
    session.rewind(tokens.len() / 3)?;
    for (at, token) in tokens.iter().enumerate().skip(tokens.len() / 3) {
        judge(at, &block_on(session.extend(&[*token]))?);
    }
    Ok(worst)
}

#[test]
fn logits_are_those_of_transformers() {
    let Some(host) = shared() else { return };
    let of = |name: &str| name.parse::<Activations>().unwrap();
    let float = |float| Activations::Float(float);
    let ways = [
        (float(FloatType::F32), CacheFormat::F32, F32),
        (float(FloatType::F16), CacheFormat::F16, F16),
        (of("int8-token"), CacheFormat::Int8, INT8),
        (of("int8"), CacheFormat::Int8, INT8),
        (float(FloatType::F32), CacheFormat::Int4, INT4),
    ];
    let (mut ran, mut failed) = (0, Vec::new());
    for (name, path, expected) in cases("logits") {
        for (activations, cache, limit) in ways {
            let options = LoadOptions::default().with_activations(activations);
            // Weights that take 8-bit inputs.
            let options = if matches!(activations, Activations::Int8(_)) {
                options.with_scheme("int8-channel".parse().unwrap())
            } else {
                options
            };
            let model = block_on(Model::load(&host, &path, &options));
            let model = match model {
                Err(RunError::Unsupported { what, .. }) => {
                    println!("{name}: {what} is refused");
                    failed.push(format!("{name}: {what}"));
                    break;
                }
                model => model.unwrap_or_else(|error| panic!("{name}: {error}")),
            };
            // A chunk that is shorter than the text, so that steps of several rows follow each other.
            let options = SessionOptions::default()
                .with_slots(words(&expected, "tokens").len() + 3)
                .with_cache(cache)
                .with_chunk(7)
                .with_logit_rows(3);
            match decoder(&model, &options, &expected) {
                Ok(found) => {
                    println!("{name}, {activations}, {cache} cache: {found:.1e}");
                    ran += 1;
                    if found.is_nan() || found > limit {
                        failed.push(format!("{name}, {activations}: {found:.1e} > {limit:.1e}"));
                    }
                }
                Err(error) => failed.push(format!("{name}, {activations}: {error}")),
            }
        }
    }
    assert!(failed.is_empty(), "{} of {ran}:\n{}", failed.len(), failed.join("\n"));
    assert_eq!(ran, ways.len() * 28);
}

#[test]
fn hidden_states_are_those_of_transformers() {
    let Some(host) = shared() else { return };
    let (mut ran, mut failed) = (0, Vec::new());
    for (name, path, expected) in cases("hidden") {
        for (float, limit) in [(FloatType::F32, F32), (FloatType::F16, F16)] {
            let options = LoadOptions::default().with_activations(float);
            let model = block_on(Model::load(&host, &path, &options));
            let model = model.unwrap_or_else(|error| panic!("{name}: {error}"));
            let (tokens, mask) = (words(&expected, "tokens"), words(&expected, "mask"));
            let (length, columns) =
                (expected.tensor("tokens").unwrap().shape[1], model.blueprint().hidden);
            let want = doubles(&expected, "hidden");
            let sentences: Vec<Vec<u32>> = tokens
                .chunks(length)
                .zip(mask.chunks(length))
                .map(|(tokens, mask)| {
                    tokens
                        .iter()
                        .zip(mask)
                        .filter(|(_, seen)| **seen == 1)
                        .map(|(t, _)| *t)
                        .collect()
                })
                .collect();
            for pooling in Pooling::ALL {
                let options = EncoderOptions::default()
                    .with_rows(2 * length)
                    .with_pooling(pooling)
                    .without_normalization();
                let encoder = block_on(model.encoder(&options)).unwrap();
                let have = block_on(encoder.embed(&sentences)).unwrap();
                for ((have, sentence), want) in
                    have.iter().zip(&sentences).zip(want.chunks(length * columns))
                {
                    let rows = &want[..sentence.len() * columns];
                    let column = |at: usize| rows[at..].iter().step_by(columns);
                    let want: Vec<f64> = (0..columns)
                        .map(|at| match pooling {
                            Pooling::Cls => rows[at],
                            Pooling::Max => column(at).copied().fold(f64::NEG_INFINITY, f64::max),
                            _ => column(at).sum::<f64>() / sentence.len() as f64,
                        })
                        .collect();
                    let found = difference(have, &want);
                    println!("{name}, {}, {}: {found:.1e}", float.name(), pooling.name());
                    ran += 1;
                    if found.is_nan() || found > limit {
                        let pooling = pooling.name();
                        failed.push(format!("{name}, {}, {pooling}: {found:.1e}", float.name()));
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} of {ran}:\n{}", failed.len(), failed.join("\n"));
    assert_eq!(ran, 7 * 2 * 3 * 2);
}

#[test]
fn what_a_model_cannot_do_is_refused() {
    let Some(host) = shared() else { return };
    let load = |name: &str| {
        let path = Path::new(FOLDER).join(name).join("model.safetensors");
        block_on(Model::load(&host, path, &LoadOptions::default())).unwrap()
    };
    let (bert, llama) = (load("bert"), load("llama"));
    let refused = block_on(bert.session(&SessionOptions::default())).unwrap_err();
    assert_eq!(refused.to_string(), "bert is an encoder and makes no tokens");
    let refused = block_on(llama.encoder(&EncoderOptions::default())).unwrap_err();
    assert_eq!(refused.to_string(), "llama is no encoder of sentences");
    for options in [
        SessionOptions::default().with_slots(0),
        SessionOptions::default().with_chunk(0),
        SessionOptions::default().with_logit_rows(1 << 20),
        SessionOptions::default().with_slots(usize::MAX),
    ] {
        let refused = block_on(llama.session(&options)).unwrap_err();
        assert!(matches!(refused, RunError::Options(_)), "{refused}");
    }
    let encoder = block_on(bert.encoder(&EncoderOptions::default().with_rows(4))).unwrap();
    let long = block_on(encoder.embed(&[vec![1; 5]])).unwrap_err();
    assert!(matches!(long, RunError::Full { need: 5, slots: 4 }));
    let unknown = block_on(encoder.embed(&[vec![1], vec![1 << 20]])).unwrap_err();
    assert!(matches!(unknown, RunError::Token { token: 0x10_0000, .. }));
    let empty = block_on(encoder.embed(&[vec![], vec![1, 2]])).unwrap();
    assert!(empty[0].iter().all(|v| *v == 0.0) && empty[1].iter().any(|v| *v != 0.0));
}
