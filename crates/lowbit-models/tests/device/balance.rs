//! Keys with large biases, as Qwen2 has them.

use super::{F32, FOLDER, difference, logits, shared, words};
use lowbit::format::CacheFormat;
use lowbit_models::architecture::reference;
use lowbit_models::checkpoint::source;
use lowbit_models::checkpoint::{Content, Dtype, ModelFile, write_model};
use lowbit_models::device::{LoadOptions, Model};
use pollster::block_on;
use std::collections::BTreeMap;
use std::path::Path;

/// What of the error of int8 caches may be left, as a share of that without balance. Without it, all 16 columns of a
/// head have steps of 120/127. With it, the step is that only in the large column and its partner, so that the
/// error is about √(2/16) = 0.35 of what it was.
const LEFT: f64 = 0.6;

/// Powers of two move from keys to queries: logits with caches of floats stay as they are, and caches of codes keep
/// the digits of the small columns.
#[test]
fn keys_with_large_biases_keep_their_digits() {
    let Some(host) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["qwen2", "gpt2"] {
        let case = Path::new(FOLDER).join(name);
        let model = ModelFile::open(case.join("model.safetensors")).unwrap();
        let large = |tensor: &str| {
            let key = tensor.ends_with("k_proj.bias") || tensor.ends_with("c_attn.bias");
            // Keys are the second third of what GPT-2 computes.
            key.then_some(if tensor.ends_with("c_attn.bias") { 1 } else { 0 })
        };
        let mut changed: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for tensor in model.plain() {
            let mut bytes = tensor.bytes.to_vec();
            if let Some(third) = large(tensor.name) {
                assert_eq!(tensor.dtype, Dtype::F16);
                let start = third * tensor.shape[0] / 3;
                let value = half::f16::from_f32(120.0).to_le_bytes();
                bytes[2 * (start + 3)..][..2].copy_from_slice(&value);
            }
            changed.insert(tensor.name.to_owned(), bytes);
        }
        let contents: Vec<(&str, Content<'_>)> = model
            .plain()
            .map(|tensor| {
                let bytes = &changed[tensor.name][..];
                (tensor.name, Content::Plain { dtype: tensor.dtype, shape: tensor.shape, bytes })
            })
            .collect();
        let path = folder.path().join("model.safetensors");
        write_model(&*path, &contents, &BTreeMap::new()).unwrap();
        std::fs::copy(case.join("config.json"), folder.path().join("config.json")).unwrap();
        let tokens = words(&ModelFile::open(case.join("expected.safetensors")).unwrap(), "tokens");
        let vocab = |model: &Model| model.blueprint().vocab;

        let model = block_on(Model::load(&host, &path, &LoadOptions::default())).unwrap();
        let opened = source::open(&path).unwrap();
        let want = reference::logits(&opened, model.blueprint(), &tokens).unwrap();
        let have = logits(&model, &tokens, CacheFormat::F32);
        for (row, (have, want)) in
            have.chunks(vocab(&model)).zip(want.chunks(vocab(&model))).enumerate()
        {
            let found = difference(have, want);
            assert!(found < F32, "{name}, row {row}: {found:.1e}");
        }
        // Rows of `int8-tensor` share a scale, so that they cannot be balanced.
        let schemes = [Some("int8-tensor"), None, Some("q8_0"), Some("int8-channel"), Some("f32")];
        let mut without = 0.0;
        for scheme in schemes {
            let options = LoadOptions::default();
            let options = match scheme {
                Some(scheme) => options.with_scheme(scheme.parse().unwrap()),
                None => options,
            };
            let model = block_on(Model::load(&host, &path, &options)).unwrap();
            let floats = logits(&model, &tokens, CacheFormat::F32);
            let codes = logits(&model, &tokens, CacheFormat::Int8);
            let squares = codes.iter().zip(&floats).map(|(c, f)| f64::from(c - f).powi(2));
            let error = (squares.sum::<f64>() / codes.len() as f64).sqrt();
            println!("{name}, {scheme:?}: {error:.1e}");
            if scheme == schemes[0] {
                without = error;
            } else {
                assert!(error < LEFT * without, "{name}, {scheme:?}: {error:.1e} of {without:.1e}");
            }
        }
    }
}
