//! Rotated models.

use super::{TOKENS, difference, floats, open, plant, results};
use crate::common::{self, host};
use lowbit::compress::{dequantize, quantize};
use lowbit::format::{ActivationFormat, ActivationGranularity};
use lowbit::host::Host;
use lowbit::ops::Activations;
use lowbit_models::architecture::{self, Blueprint, Feed, Gated, reference};
use lowbit_models::checkpoint::source::{self, Data, ModelSource, Overlay};
use lowbit_models::device::{LoadOptions, Model, SessionOptions};
use lowbit_models::transform::{TransformError, rotate};
use pollster::block_on;
use std::sync::Arc;

/// How far the logits of a rotated model may be from those of the model that it was, as a share of the largest.
/// Each new weight is rounded to f32 once, by at most 2⁻²⁴ of it; a row of up to 80 columns with all
/// roundings in one direction is off by √80 · 2⁻²⁴ of what is usual for its result. There are at most 16
/// linear layers between tokens and logits: 16 · √80 · 2⁻²⁴ = 8.5·10⁻⁶. Measured are 0.4 to 5·10⁻⁷, as most of it
/// cancels.
const ROUNDED: f64 = 8.5e-6;

/// The models that can be rotated.
const ROTATABLE: [&str; 23] = [
    "gpt2",
    "gpt2-gguf",
    "gpt2-layers",
    "llama",
    "llama-gguf",
    "llama-linear",
    "llama-linear-gguf",
    "llama-yarn",
    "llama-yarn-gguf",
    "llama-yarn-mscale",
    "llama3",
    "llama3-gguf",
    "mistral",
    "qwen2",
    "qwen2-gguf",
    "qwen2-window",
    "qwen3",
    "qwen3-bias",
    "qwen3-gguf",
    "qwen3-moe",
    "qwen3-moe-dense",
    "qwen3-moe-gguf",
    "qwen3-moe-stacked",
];

fn norms(blueprint: &Blueprint) -> Vec<&architecture::Norm> {
    let layers = blueprint.layers.iter();
    let own = layers.flat_map(|l| [&l.attention_norms.input, &l.feed_norms.input]);
    own.chain([&blueprint.final_norm]).flatten().collect()
}

#[test]
fn rotated_models_compute_the_same() {
    let mut failed = Vec::new();
    for name in ROTATABLE {
        let model = open(name);
        let changed = rotate(&model, 7).unwrap_or_else(|error| panic!("{name}: {error}"));
        let rotated = changed.over(&model).unwrap();
        let apart = difference(&results(&rotated), &results(&model));
        println!("{name}: {apart:.1e}");
        if apart.is_nan() || apart > ROUNDED {
            failed.push(format!("{name}: {apart:.1e}"));
        }
        let (before, after) =
            (architecture::read(&model).unwrap(), architecture::read(&rotated).unwrap());
        // Factors are in the layers that follow, and the embedding is not the head's matrix.
        for norm in norms(&after) {
            let factors = floats(&rotated, &norm.weight.tensor).1;
            assert!(factors.iter().all(|factor| *factor == 1.0), "{name}");
        }
        let head = &after.head.as_ref().unwrap().linear.matrix.tensor;
        assert_ne!(*head, after.embedding.tokens.tensor, "{name}");
        // Everything but the embedding of a tied head has the shape that it had, and is something else.
        for (tensor, (shape, values)) in &changed.tensors {
            if before.tensors().contains(tensor.as_str()) {
                let (old_shape, old) = floats(&model, tensor);
                assert_eq!(*shape, old_shape, "{name}: {tensor}");
                assert_ne!(*values, old, "{name}: {tensor}");
            } else {
                assert_eq!(tensor, head, "{name}");
            }
        }
        // What stays: queries and keys of a head are rotated by position.
        let attention = &before.layers[0].attention;
        let heads = [&attention.query_norm, &attention.key_norm];
        for norm in heads.into_iter().flatten() {
            assert!(!changed.tensors.contains_key(&norm.weight.tensor), "{name}");
        }
    }
    assert!(failed.is_empty(), "beyond {ROUNDED:.1e}: {}", failed.join(", "));
}

/// The comparison sees a single tensor that was not rotated.
#[test]
fn a_tensor_that_stays_shows() {
    for name in ["qwen2", "gpt2"] {
        let model = open(name);
        let (changed, want) = (rotate(&model, 7).unwrap(), results(&model));
        let all: Vec<String> = changed.tensors.keys().cloned().collect();
        assert!(all.len() > 20, "{name}");
        for tensor in all {
            let mut faulty = changed.clone();
            if architecture::read(&model).unwrap().tensors().contains(tensor.as_str()) {
                faulty.tensors.remove(&tensor);
            } else {
                let (_, values) = faulty.tensors.get_mut(&tensor).unwrap();
                values[..32].iter_mut().for_each(|w| *w = -*w);
            }
            let apart = difference(&results(&faulty.over(&model).unwrap()), &want);
            assert!(apart > 100.0 * ROUNDED, "{name}: {tensor}: {apart:.1e}");
        }
    }
}

#[test]
fn seeds_choose_rotations() {
    let model = open("llama");
    let [a, b, c] = [1, 1, 2].map(|seed| rotate(&model, seed).unwrap());
    assert_eq!(a, b);
    assert_ne!(a, c);
    // Seeds differ in all of their bits.
    assert_ne!(rotate(&model, 1 << 40).unwrap(), rotate(&model, 0).unwrap());
}

/// A head that was tied has a matrix of its own, and only that changes in the configuration.
#[test]
fn tied_heads_are_untied() {
    let model = open("qwen2");
    let changed = rotate(&model, 0).unwrap();
    let mut config = changed.config.clone().unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
    config["tie_word_embeddings"] = true.into();
    assert_eq!(config, *model.config());
    assert!(changed.tensors.contains_key("lm_head.weight"));
    assert_eq!(rotate(&open("llama"), 0).unwrap().config, None);
    let changed = rotate(&open("qwen2-gguf"), 0).unwrap();
    assert!(changed.config.is_none() && changed.tensors.contains_key("output.weight"));
}

fn random(shape: &[usize], seed: u64) -> Vec<f32> {
    common::floats(shape.iter().product(), seed)
}

/// Puts random tensors of other sizes over a model, with the configuration that they need.
fn resized<'a>(
    base: &'a dyn ModelSource,
    settings: &[(&str, usize)],
    shape: impl Fn(&str, Vec<usize>) -> Vec<usize>,
) -> Overlay<'a> {
    let mut overlay = Overlay::new(base);
    let mut config = base.config().clone();
    for (key, size) in settings {
        config[key] = (*size).into();
    }
    overlay.put_config(config);
    for (seed, item) in base.items().unwrap().into_iter().enumerate() {
        let shape = shape(&item.name, item.shape);
        overlay.put_floats(&item.name, shape.clone(), &random(&shape, seed as u64)).unwrap();
    }
    overlay
}

/// Hidden sizes and sizes of heads need not be powers of two.
#[test]
fn other_sizes_are_rotated_too() {
    let base = open("llama");
    for (hidden, head_dim) in [(12, 12), (20, 20), (24, 12), (28, 28), (36, 36), (48, 24), (56, 2)]
    {
        let settings = [("hidden_size", hidden), ("head_dim", head_dim)];
        let model = resized(&base, &settings, |name, mut shape| {
            let heads = name.contains("self_attn");
            for (axis, size) in shape.iter_mut().enumerate() {
                let output = name.contains("o_proj");
                match *size {
                    96 => {}
                    64 if !heads => {}
                    64 => *size = 4 * head_dim,
                    // Keys and values: rows of two heads.
                    32 if heads && !output && axis == 0 => *size = 2 * head_dim,
                    _ => *size = hidden,
                }
            }
            shape
        });
        let rotated = rotate(&model, 3).unwrap();
        let apart = difference(&results(&rotated.over(&model).unwrap()), &results(&model));
        println!("{hidden}, {head_dim}: {apart:.1e}");
        assert!(apart <= ROUNDED, "{hidden}, {head_dim}: {apart:.1e}");
    }
}

#[test]
fn what_cannot_be_rotated_is_refused_by_name() {
    let refused = |name: &str| {
        let error = rotate(&open(name), 0).unwrap_err();
        assert!(!error.next_step().is_empty());
        error.to_string()
    };
    for name in ["bert", "bert-gguf", "roberta", "distilbert", "mpnet", "electra"] {
        let why = refused(name);
        assert!(
            why.contains("cannot be rotated: it normalizes the residual stream itself"),
            "{why}"
        );
    }
    let why = refused("gemma3");
    assert!(why.starts_with("a gemma3 model cannot be rotated: it normalizes what blocks add"));
    let why = refused("llama-q8");
    assert!(why.ends_with("is stored as Q8_0, and only floats can be changed"), "{why}");

    // A size of which there is no matrix.
    let base = open("llama");
    let model = resized(&base, &[("hidden_size", 30)], |name, mut shape| {
        for (axis, size) in shape.iter_mut().enumerate() {
            let keys = ["k_proj", "v_proj"].iter().any(|part| name.contains(part));
            if *size == 32 && !(keys && axis == 0) {
                *size = 30;
            }
        }
        shape
    });
    let error = rotate(&model, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no Hadamard matrix of 30 rows, the hidden size, is known: 28 and 32 are the closest sizes"
    );

    // A factor of zero cannot be divided by, but only where there is no bias to take the offset.
    let base = open("gpt2");
    let mut model = Overlay::new(&base);
    for at in 0..2 {
        for norm in ["ln_1", "ln_2"] {
            let name = format!("transformer.h.{at}.{norm}.weight");
            plant(&mut model, &name, |at, w| {
                if at == 5 {
                    *w = 0.0
                }
            });
        }
    }
    let rotated = rotate(&model, 0).unwrap();
    assert!(difference(&results(&rotated.over(&model).unwrap()), &results(&model)) <= ROUNDED);
    plant(&mut model, "transformer.ln_f.weight", |at, w| {
        if at == 5 {
            *w = 0.0
        }
    });
    let error = rotate(&model, 0).unwrap_err();
    assert!(matches!(error, TransformError::ZeroFactor { channel: 5, .. }), "{error}");
    plant(&mut model, "transformer.ln_f.bias", |at, b| {
        if at == 5 {
            *b = 0.0
        }
    });
    let rotated = rotate(&model, 0).unwrap();
    assert!(difference(&results(&rotated.over(&model).unwrap()), &results(&model)) <= ROUNDED);

    let mut model = Overlay::new(&base);
    plant(&mut model, "transformer.wte.weight", |at, w| {
        if at == 40 {
            *w = f32::INFINITY
        }
    });
    let error = rotate(&model, 0).unwrap_err();
    assert!(matches!(error, TransformError::NotFinite { .. }), "{error}");
}

/// Returns the fourth moment over the square of the second, 3 for normal numbers, and the largest over the root
/// mean square.
fn outliers(x: &[f64]) -> (f64, f64) {
    let mean = |power: i32| x.iter().map(|x| x.powi(power)).sum::<f64>() / x.len() as f64;
    let largest = x.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    (mean(4) / mean(2).powi(2), largest / mean(2).sqrt())
}

/// Two channels of the residual stream that are 30 times as large as the others are spread over all. Of 32 channels
/// with one outlier the kurtosis is up to 32, and the largest is up to √32 times the root mean square. Numbers that
/// are rotated at random are like normal ones: their kurtosis is 3, with a standard error of √(24/32) for 32 of them
/// (the rows here share outliers), so that 5.6 is three of these above; and of 384 the largest is 3.5 times the root
/// mean square, and above 4.5 times in one of 400 cases.
#[test]
fn outlier_channels_are_spread() {
    for (name, tokens) in
        [("llama", "model.embed_tokens.weight"), ("gpt2", "transformer.wte.weight")]
    {
        let base = open(name);
        let mut model = Overlay::new(&base);
        plant(&mut model, tokens, |at, w| {
            if [3, 20].contains(&(at % 32)) {
                *w *= 30.0
            }
        });
        let rotated = rotate(&model, 5).unwrap();
        let rotated = rotated.over(&model).unwrap();
        let blueprint = architecture::read(&model).unwrap();
        for layer in &blueprint.layers {
            let inputs = |model: &dyn ModelSource| {
                let blueprint = architecture::read(model).unwrap();
                let mut inputs = reference::inputs(model, &blueprint, &TOKENS).unwrap();
                inputs.remove(&layer.attention.query.matrix.tensor).unwrap()
            };
            let (before, after) = (outliers(&inputs(&model)), outliers(&inputs(&rotated)));
            println!("{name}: {before:.1?} → {after:.1?}");
            assert!(before.0 > 10.0 && before.1 > 4.0, "{name}: {before:?}");
            assert!(after.0 < 5.6 && after.1 < 4.5, "{name}: {after:?}");
        }
    }
}

/// Returns the logits of a model on the device.
fn on_device(host: &Arc<Host>, model: &dyn ModelSource, options: &LoadOptions) -> Vec<f64> {
    let loaded = block_on(Model::from_source(host, model, options, &|_, _| ())).unwrap();
    let mut session = block_on(loaded.session(&SessionOptions::default())).unwrap();
    let mut logits = Vec::new();
    let mut all = |_: usize, row: &[f32]| logits.extend(row.iter().copied().map(f64::from));
    block_on(session.extend_with(&TOKENS, &mut all)).unwrap();
    logits
}

/// The weights of values, gate and up that read two channels of the residual stream are 16 times as large as the others
/// (those of queries and keys are not, as they would make attention choose single tokens). 4 bits for a group of 16 columns
/// then have steps of 2 · 16/15 = 2.1 times the largest of the other weights, which are lost: they are
/// √30/√(30 + 2 · 16²) = 24 % of what a row gives. After a rotation all weights of a row have one size, and 4 bits
/// lose about 10 % of them, as they do in all other layers before and after. So an error of some √(24² + 10²) = 26 %
/// becomes one of √(10² + 10²) = 14 %, and half way between is asked for.
#[test]
fn rotation_helps_four_bit_weights_with_outliers() {
    let Some(_) = host() else { return };
    let host = Arc::new(Host::new().unwrap());
    for name in ["llama", "qwen2"] {
        let base = open(name);
        let blueprint = architecture::read(&base).unwrap();
        let hidden = blueprint.hidden;
        let is_outlier = |at: usize| [3, 20].contains(&(at % hidden));
        let mut model = Overlay::new(&base);
        for layer in &blueprint.layers {
            let Feed::Gated(Gated { gate, up, .. }) = &layer.feed else { panic!("{name}") };
            for linear in [&layer.attention.value, gate, up] {
                plant(&mut model, &linear.matrix.tensor, |at, w| {
                    if is_outlier(at) {
                        *w *= 16.0
                    }
                });
            }
        }
        let changed = rotate(&model, 5).unwrap();
        let rotated = changed.over(&model).unwrap();
        let right = on_device(&host, &model, &LoadOptions::default());
        let options =
            LoadOptions::default().with_scheme("int4-g16-asym".parse().unwrap()).with_activations(
                Activations::Int8(ActivationFormat::int8(ActivationGranularity::Token)),
            );
        let error = |model: &dyn ModelSource| {
            let logits = on_device(&host, model, &options);
            let squares = |x: f64, (a, b): (&f64, &f64)| x + (a - b).powi(2);
            logits.iter().zip(&right).fold(0.0, squares).sqrt()
        };
        let (plain, rotated) = (error(&model), error(&rotated));
        println!("{name}: {plain:.3e} → {rotated:.3e}, {:.2}", rotated / plain);
        assert!(rotated < 0.77 * plain, "{name}: {plain} → {rotated}");
    }
}

/// A rotated model runs on the device, without a file.
#[test]
fn rotated_models_run() {
    let Some(_) = host() else { return };
    let host = Arc::new(Host::new().unwrap());
    for name in ["qwen2", "gpt2-gguf"] {
        let model = open(name);
        let rotated = rotate(&model, 1).unwrap();
        let mut rotated = rotated.over(&model).unwrap();
        // One of its matrices is compressed.
        let blueprint = architecture::read(&model).unwrap();
        let output = &blueprint.layers[1].attention.output.matrix.tensor;
        let (shape, values) = floats(&rotated, output);
        let format = "int8-channel".parse().unwrap();
        let packed = quantize(&values, shape[0], shape[1], &format).unwrap();
        rotated.put_packed(output, shape, packed, None).unwrap();
        let logits = on_device(&host, &rotated, &LoadOptions::default());
        let (apart, whole) =
            (difference(&logits, &results(&rotated)), difference(&logits, &results(&model)));
        println!("{name}: {apart:.1e}, {whole:.1e} from what it was before it was compressed");
        assert!(whole > ROUNDED);
        // The limit of tests/device for f32 activations.
        assert!(apart <= 1.2e-4, "{name}: {apart:.1e}");
    }
}

/// SmolLM2 has 576 columns, 9 heads on 3 of values, names of GGUF, and a tied head: its dequantized weights compute
/// the same after a rotation.
#[test]
fn smollm2_can_be_rotated() {
    let Some(file) = common::data("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model") else {
        return;
    };
    let base = source::open(file).unwrap();
    let mut model = Overlay::new(&base);
    for item in base.items().unwrap() {
        if let Data::Compressed(weights) = base.read(&item.name).unwrap() {
            model.put_floats(&item.name, item.shape, &dequantize(&weights)).unwrap();
        }
    }
    let start = std::time::Instant::now();
    let rotated = rotate(&model, 0).unwrap();
    println!("{:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(rotated.tensors["output.weight"].0, [49152, 576]);
    let rotated = rotated.over(&model).unwrap();
    let apart = difference(&results(&rotated), &results(&model));
    println!("{apart:.1e}");
    assert!(apart <= ROUNDED, "{apart:.1e}");
}
