//! Files that fix the scales of inputs, with and without smoothing, beside the forward pass in f64 over the same
//! codes.

use super::{F32, FOLDER, difference, logits, shared, words};
use lowbit::format::CacheFormat;
use lowbit_models::architecture::reference;
use lowbit_models::checkpoint::source::{self, ModelSource};
use lowbit_models::checkpoint::{ModelFile, RangeTarget, Ranges};
use lowbit_models::compress::{
    ActivationPlan, ActivationRequest, Chosen, Compression, Maker, SmoothRequest,
};
use lowbit_models::device::{
    EncoderOptions, LoadOptions, Model, ModelStatistics, Pooling, RunError,
};
use pollster::block_on;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A step of codes, as a share of the largest input. An input that is as close to the middle of two codes as its
/// rounding errors would be off by a step; none of the some thousand inputs of a tiny model is.
const STEP: f64 = 1.0 / 127.0;

/// The names of the weights of linear layers that may be compressed: all but the head.
fn names(blueprint: &lowbit_models::architecture::Blueprint) -> BTreeSet<String> {
    let mut inputs = blueprint.inputs();
    if blueprint.head.is_some() {
        inputs.pop();
    }
    inputs.iter().flatten().map(|linear| linear.matrix.tensor.clone()).collect()
}

/// Writes a model whose weights are int8, with the scales that follow from ranges.
fn compressed(
    folder: &Path,
    input: &Path,
    names: &BTreeSet<String>,
    ranges: &Ranges,
    smooth: SmoothRequest,
) -> PathBuf {
    let model = ModelFile::open(input).unwrap();
    let scheme = "int8-channel".parse().unwrap();
    let chosen: Vec<Chosen<'_>> =
        names.iter().map(|name| Chosen::new(model.tensor(name).unwrap(), scheme)).collect();
    let ranges = Some(ranges);
    let request = ActivationRequest { format: None, fixed: true, ranges, smooth };
    let plan = ActivationPlan::new(&request, &model, &chosen).unwrap();
    std::fs::copy(input.with_file_name("config.json"), folder.join("config.json")).unwrap();
    let output = folder.join("model.safetensors");
    let compression = Compression::create(&*output, &model, &chosen, &plan).unwrap();
    compression.run(Maker::Cpu, &mut |_| ()).unwrap();
    output
}

/// Returns the logits of a text, or the last residual of its first token.
fn run(model: &Model, tokens: &[u32]) -> Vec<f32> {
    if model.blueprint().head.is_none() {
        let options = EncoderOptions::default().with_pooling(Pooling::Cls).without_normalization();
        let encoder = block_on(model.encoder(&options.with_rows(tokens.len()))).unwrap();
        return block_on(encoder.embed(&[tokens.to_vec()])).unwrap().concat();
    }
    logits(model, tokens, CacheFormat::F32)
}

#[test]
fn scales_of_a_file_are_those_of_its_codes() {
    let Some(host) = shared() else { return };
    let mut failed = Vec::new();
    let models = [
        "bert",
        "distilbert",
        "electra",
        "mpnet",
        "roberta",
        "llama",
        "qwen3",
        "gemma3",
        "mistral",
    ];
    for name in models {
        let path = Path::new(FOLDER).join(name).join("model.safetensors");
        let source = source::open(&path).unwrap();
        let load = |source: &dyn ModelSource| {
            block_on(Model::from_source(&host, source, &LoadOptions::default(), &|_, _| ()))
        };
        let plain = load(&source).unwrap();
        let expected = path.with_file_name("expected.safetensors");
        let tokens = words(&ModelFile::open(expected).unwrap(), "tokens");
        let tokens = &tokens[..tokens.len().min(9)];
        let mut statistics = ModelStatistics::new(&source, plain.blueprint(), true).unwrap();
        let mut observer = block_on(plain.observer(tokens.len(), true)).unwrap();
        block_on(observer.observe(&mut statistics, tokens)).unwrap();
        for (method, format, smooth) in [
            // Ranges that cut much off, so that nothing else comes near.
            ("percentile-70", "int8-tensor", SmoothRequest::None),
            ("tails-80", "int8-tensor-asym", SmoothRequest::None),
            ("minmax", "int8-tensor-asym", SmoothRequest::Alpha(0.5)),
        ] {
            let target =
                RangeTarget { method: method.parse().unwrap(), format: format.parse().unwrap() };
            let ranges = statistics.ranges(target);
            let folder = tempfile::tempdir().unwrap();
            let names = names(plain.blueprint());
            let file = compressed(folder.path(), &path, &names, &ranges, smooth);
            let source = source::open(&file).unwrap();
            let smoothed = names.iter().any(|name| {
                source.activations(name).unwrap().is_some_and(|found| found.factors.is_some())
            });
            assert_eq!(smoothed, smooth != SmoothRequest::None, "{name}");
            let model = load(&source).unwrap_or_else(|error| panic!("{name}: {error}"));
            let have = run(&model, tokens);
            let want = reference::rounded(&source, model.blueprint(), tokens).unwrap();
            let floats = if model.blueprint().head.is_some() {
                reference::logits(&source, model.blueprint(), tokens).unwrap()
            } else {
                reference::hidden(&source, model.blueprint(), tokens, &vec![true; tokens.len()])
                    .unwrap()
            };
            let found = difference(&have, &want[..have.len()]);
            let unlike = difference(&have, &floats[..have.len()]);
            println!("{name}, {format} by {method}: {found:.1e}, and {unlike:.1e} from floats");
            if found.is_nan() || found > F32 {
                failed.push(format!("{name}, {format} by {method}: {found:.1e}"));
            }
            // The codes matter, and what cuts values off is far from the floats.
            let least = if smooth == SmoothRequest::None { 5.0 * STEP } else { 5.0 * F32 };
            if unlike < least {
                failed.push(format!("{name} by {method} is {unlike:.1e} from floats"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Layers that share their input share its factors, or are refused.
#[test]
fn factors_that_differ_are_refused() {
    let Some(host) = shared() else { return };
    let path = Path::new(FOLDER).join("llama").join("model.safetensors");
    let source = source::open(&path).unwrap();
    let load = |source: &dyn ModelSource| {
        block_on(Model::from_source(&host, source, &LoadOptions::default(), &|_, _| ()))
    };
    let plain = load(&source).unwrap();
    let mut statistics = ModelStatistics::new(&source, plain.blueprint(), true).unwrap();
    let mut observer = block_on(plain.observer(3, true)).unwrap();
    block_on(observer.observe(&mut statistics, &[1, 2, 3])).unwrap();
    let ranges = statistics.ranges(RangeTarget::default());
    let folder = tempfile::tempdir().unwrap();
    let one: BTreeSet<String> = names(plain.blueprint())
        .into_iter()
        .filter(|name| name.ends_with("layers.0.self_attn.q_proj.weight"))
        .collect();
    assert_eq!(one.len(), 1);
    let file = compressed(folder.path(), &path, &one, &ranges, SmoothRequest::Alpha(0.5));
    let refused = load(&source::open(&file).unwrap()).unwrap_err();
    assert!(matches!(refused, RunError::Unsupported { .. }));
    let message = refused.to_string();
    assert!(message.contains("divide by different factors"), "{message}");
    assert!(message.contains("q_proj"), "{message}");
}
