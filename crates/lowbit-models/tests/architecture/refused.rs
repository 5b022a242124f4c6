//! Models that are refused by name, and settings that older files write differently.

use super::altered::Altered;
use super::{FOLDER, cases, open};
use lowbit::format::PackedWeights;
use lowbit_models::architecture::{self, ArchitectureError, reference};
use lowbit_models::checkpoint::{Content, Dtype, ModelFile, Tensor, source, write_model};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn model(name: &str) -> (source::Model, architecture::Blueprint) {
    open(&Path::new(FOLDER).join(name))
}

/// Checks that a changed setting is refused with this message.
fn refused(case: &str, pointer: &str, value: Value, message: &str) {
    let (model, _) = model(case);
    let altered = Altered::new(&model).set(pointer, (!value.is_null()).then_some(value));
    let error = architecture::read(&altered).unwrap_err();
    assert_eq!(error.to_string(), message);
    assert!(!error.next_step().is_empty());
}

#[test]
fn settings_that_are_not_understood_are_named() {
    refused(
        "llama",
        "/model_type",
        json!("mamba"),
        "`mamba` is an unknown architecture (known ones are bert, camembert, distilbert, electra, gemma3, \
         gemma3_text, gpt2, llama, mistral, mpnet, qwen2, qwen3, qwen3_moe, roberta, xlm-roberta)",
    );
    refused(
        "llama-gguf",
        "/general.architecture",
        json!("mamba"),
        "`mamba` is an unknown architecture (known ones are bert, gemma3, gpt2, llama, qwen2, qwen3, qwen3moe)",
    );
    refused(
        "llama-gguf",
        "/general.architecture",
        Value::Null,
        "the configuration does not name the architecture (`general.architecture`)",
    );
    let only = |key: &str, have: &str, need: &str| {
        format!("`{key}` is {have}, and only {need} is supported")
    };
    let rope_types = "`default`, `linear`, `llama3` or `yarn`";
    let functions = "one of `gelu`, `gelu_python`, `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`, `relu`, \
                     `silu` and `swish`";
    let without = "a model without it";
    for (case, pointer, value, key, need) in [
        ("llama", "/rope_parameters/rope_type", json!("dynamic"), "", rope_types),
        ("llama", "/rope_scaling", json!({"type": "su"}), "rope_scaling.type", rope_types),
        ("llama", "/partial_rotary_factor", json!(0.5), "", "1"),
        ("llama", "/rope_parameters/mrope_section", json!([4, 2, 2]), "", without),
        ("llama-yarn", "/rope_parameters/truncate", json!(false), "", "true"),
        ("llama", "/hidden_act", json!("xielu"), "", functions),
        ("bert", "/hidden_act", json!("quick_gelu"), "", functions),
        ("distilbert", "/activation", json!("mish"), "", functions),
        ("gpt2", "/activation_function", json!("tanh"), "", functions),
        ("bert", "/position_embedding_type", json!("relative_key"), "", "`absolute`"),
        ("bert", "/is_decoder", json!(true), "", "false"),
        ("gpt2", "/add_cross_attention", json!(true), "", "false"),
        ("mpnet", "/relative_attention_num_buckets", json!(64), "", "32"),
        ("gemma3", "/use_bidirectional_attention", json!(true), "", "false"),
        ("gemma3", "/attn_logit_softcapping", json!(50.0), "", without),
        ("qwen3-moe", "/use_sliding_window", json!(true), "", "false"),
        (
            "llama-gguf",
            "/llama.rope.scaling.type",
            json!("longrope"),
            "",
            "`none`, `linear` or `yarn`",
        ),
        ("llama-gguf", "/llama.expert_count", json!(8), "", "a model without experts"),
        ("llama-gguf", "/llama.attention.sliding_window", json!(8), "", without),
        ("llama-gguf", "/llama.logit_scale", json!(8.0), "", without),
        ("llama-gguf", "/llama.attention.causal", json!(false), "", "true"),
        ("bert-gguf", "/bert.attention.causal", json!(true), "", "false"),
        ("llama-yarn-gguf", "/llama.rope.scaling.yarn_attn_factor", json!(2.0), "", "1"),
        (
            "llama-linear-gguf",
            "/llama.rope.scaling.attn_factor",
            json!(2.0),
            "",
            "1 without `yarn`",
        ),
        (
            "llama3-gguf",
            "/llama.rope.scaling.factor",
            json!(2.0),
            "llama.rope.scaling.type",
            "`none` beside a tensor `rope_freqs.weight`",
        ),
        ("gemma3-plain-gguf", "/gemma3.rope.scaling.type", json!("yarn"), "", "`none` or `linear`"),
        ("qwen2-gguf", "/qwen2.attention.value_length", json!(8), "", "16, the columns of keys,"),
    ] {
        let key = if key.is_empty() { pointer[1..].replace('/', ".") } else { key.to_owned() };
        let have = match &value {
            Value::String(text) => format!("`{text}`"),
            Value::Object(_) => "`su`".to_owned(),
            // The factor is there without a type.
            _ if key == "llama.rope.scaling.type" => "missing".to_owned(),
            other => other.to_string(),
        };
        refused(case, pointer, value, &only(&key, &have, need));
    }
}

#[test]
fn settings_that_cannot_be_are_named() {
    let count = "a number from 1 to 268435456";
    for (case, pointer, value, need) in [
        ("llama", "/num_hidden_layers", json!(-1), count.to_owned()),
        (
            "llama",
            "/num_hidden_layers",
            json!(268_435_456),
            "at most 21, the number of tensors".into(),
        ),
        ("llama", "/vocab_size", json!("many"), count.into()),
        ("llama", "/num_key_value_heads", json!(0), count.into()),
        ("llama", "/rms_norm_eps", json!(-1.0), "a positive number in the range of f32".into()),
        ("llama", "/tie_word_embeddings", json!(1), "true or false".into()),
        ("llama", "/rope_parameters", json!([]), "an object".into()),
        ("qwen2-window", "/layer_types", json!(["full_attention"]), "a list of 2 types".into()),
        ("qwen3-moe", "/num_experts_per_tok", json!(6), "at most the 5 that there are".into()),
        ("qwen3-moe-dense", "/mlp_only_layers", json!([0.5]), "a list of layers".into()),
        ("llama-gguf", "/llama.rope.dimension_count", json!(18), "even and at most 16".into()),
        (
            "llama-gguf",
            "/llama.vocab_size",
            json!(95),
            "96, the rows of the token embedding".into(),
        ),
    ] {
        let key = pointer[1..].replace('/', ".");
        let have = match &value {
            Value::String(text) => format!("`{text}`"),
            other => other.to_string(),
        };
        refused(case, pointer, value, &format!("`{key}` is {have}, and not {need}"));
    }
    refused(
        "llama",
        "/num_key_value_heads",
        json!(3),
        "`num_attention_heads` is 4, and not a multiple of `num_key_value_heads`, which is 3",
    );
    refused("llama", "/vocab_size", Value::Null, "the configuration has no `vocab_size`");
    refused(
        "llama3",
        "/rope_parameters/high_freq_factor",
        json!(0.5),
        "`rope_parameters.high_freq_factor` is 0.5, and not more than `low_freq_factor`",
    );
    refused(
        "llama-gguf",
        "/llama.block_count",
        Value::Null,
        "the configuration has no `llama.block_count`",
    );
}

/// Tensors that the settings do not ask for are errors, and so are those that are missing.
#[test]
fn tensors_that_do_not_fit_the_settings_are_named() {
    for (case, pointer, value, message) in [
        (
            "llama",
            "/attention_bias",
            json!(true),
            "there is no tensor `model.layers.0.self_attn.q_proj.bias`",
        ),
        (
            "llama3",
            "/attention_bias",
            json!(false),
            "`model.layers.0.self_attn.k_proj.bias` is not part of llama, as the configuration describes it",
        ),
        (
            "llama",
            "/num_hidden_layers",
            json!(1),
            "`model.layers.1.input_layernorm.weight` is not part of llama, as the configuration describes it",
        ),
        (
            "llama",
            "/num_hidden_layers",
            json!(3),
            "there is no tensor `model.layers.2.self_attn.q_proj.weight`",
        ),
        (
            "llama",
            "/head_dim",
            json!(8),
            "`model.layers.0.self_attn.q_proj.weight` is F16 [64, 32], and not F32, F16, BF16 or a weight \
             format [32, 32]",
        ),
        (
            "llama-q8",
            "/llama.feed_forward_length",
            json!(96),
            "`blk.0.ffn_gate.weight` is Q8_0 [64, 32], and not F32, F16, BF16 or a weight format [96, 32]",
        ),
        (
            "qwen3-moe-stacked",
            "/num_local_experts",
            json!(4),
            "`model.layers.0.mlp.gate.weight` is F16 [5, 32], and not F32, F16, BF16 or a weight format [4, 32]",
        ),
        (
            "roberta",
            "/max_position_embeddings",
            json!(21),
            "`roberta.embeddings.position_embeddings.weight` is F16 [20, 32], and not F32, F16, BF16 or a weight \
             format [21, 32]",
        ),
    ] {
        refused(case, pointer, value, message);
    }
}

/// Every tensor that a blueprint names is looked for, and its shape is checked, before any is read.
#[test]
fn each_tensor_must_be_there_and_have_its_shape() {
    // GGUF files do not say whether there are these.
    let optional = |name: &str| {
        name.ends_with(".bias") && name.contains("blk.")
            || ["output.weight", "rope_freqs.weight", "token_types.weight"].contains(&name)
    };
    let mut missing = 0;
    for case in cases() {
        let (model, blueprint) = open(&case);
        for name in blueprint.tensors() {
            let mut altered = Altered::new(&model);
            altered.items.retain(|item| item.name != name);
            match architecture::read(&altered) {
                Err(ArchitectureError::MissingTensor { name: have }) if have == name => {
                    missing += 1
                }
                // A prefix that is told by the embedding is not found without it.
                Err(ArchitectureError::MissingTensor { .. }) if name.contains("embeddings") => {}
                // Experts in tensors of their own are looked for instead.
                Err(ArchitectureError::MissingTensor { name: have })
                    if name.ends_with("gate_up_proj") && have.contains(".experts.0.") => {}
                Ok(_) | Err(ArchitectureError::Unused { .. }) if optional(name) => {}
                other => panic!("{} without {name}: {other:?}", case.display()),
            }
            let mut altered = Altered::new(&model);
            *altered.item(name).shape.last_mut().unwrap() += 1;
            match architecture::read(&altered) {
                Err(ArchitectureError::WrongTensor { name: have, .. }) if have == name => {}
                other => panic!("{} with {name}: {other:?}", case.display()),
            }
        }
    }
    assert!(missing > 700, "{missing}");
}

/// Older files say the same in other words.
#[test]
fn older_settings_give_the_same_blueprint() {
    let same = |case: &str, changes: &[(&str, Option<Value>)]| {
        let (model, blueprint) = model(case);
        let altered = changes
            .iter()
            .fold(Altered::new(&model), |altered, (key, value)| altered.set(key, value.clone()));
        assert_eq!(architecture::read(&altered).unwrap(), blueprint, "{case}");
    };
    let no_parameters = ("/rope_parameters", None);
    let base = |base: f64| ("/rope_theta", Some(json!(base)));
    let scaling = json!({
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    same("llama3", &[no_parameters.clone(), base(500.0), ("/rope_scaling", Some(scaling))]);
    same("llama", &[no_parameters.clone(), ("/rope_scaling", Some(Value::Null))]);
    same("llama", &[("/model_type", None)]);
    same("gpt2", &[("/model_type", None)]);
    same("bert", &[("/model_type", None)]);
    same("bert", &[("/position_embedding_type", Some(json!("absolute")))]);
    same("qwen2-window", &[("/layer_types", None)]);
    same("qwen3-moe", &[("/num_local_experts", None), ("/num_experts", Some(json!(5)))]);
    same(
        "gemma3",
        &[
            no_parameters,
            ("/layer_types", None),
            base(100_000.0),
            ("/rope_local_base_freq", Some(json!(1000.0))),
            ("/rope_scaling", Some(json!({"rope_type": "linear", "factor": 8.0}))),
            ("/sliding_window_pattern", Some(json!(6))),
            ("/hidden_activation", None),
            ("/hidden_act", Some(json!("gelu_pytorch_tanh"))),
        ],
    );
    // Without a window, it is as long as `transformers` has it; null stands for none.
    let (mistral, _) = model("mistral");
    for (value, window) in [(None, Some(4096)), (Some(Value::Null), None)] {
        let altered = Altered::new(&mistral).set("/sliding_window", value);
        let blueprint = architecture::read(&altered).unwrap();
        assert!(blueprint.layers.iter().all(|layer| layer.attention.window == window));
    }
    // A text model inside of one that takes images.
    let (gemma, blueprint) = model("gemma3");
    let mut outer = Altered::new(&gemma);
    outer.config = json!({ "model_type": "gemma3", "text_config": outer.config });
    assert_eq!(architecture::read(&outer).unwrap(), blueprint);
}

/// A GGUF file that was imported into one of lowbit's own is still the same model.
#[test]
fn an_imported_model_has_the_same_blueprint() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.safetensors");
    for case in ["llama-q8", "qwen3-moe-q8", "bert-gguf"] {
        let (model, blueprint) = model(case);
        source::import(&model, own.as_path(), &mut |_| ()).unwrap();
        let imported = source::open(&own).unwrap();
        assert_eq!(architecture::read(&imported).unwrap(), blueprint, "{case}");
    }
}

/// Writes a model anew, the matrices for which `compress` returns something as compressed in f32: transposed if it
/// returns true. `more` are vectors to add.
fn write(
    path: &Path,
    file: &ModelFile,
    compress: &dyn Fn(&str) -> Option<bool>,
    more: &[(&str, &[f32])],
) {
    let compressed: BTreeMap<_, _> = file
        .tensors()
        .filter_map(|tensor| {
            let transpose = compress(tensor.name).filter(|_| tensor.shape.len() == 2)?;
            let (values, [k, n]) = (tensor.to_f32().unwrap(), [tensor.shape[0], tensor.shape[1]]);
            let (shape, values) = if transpose {
                let column = |n_at| values.iter().skip(n_at).step_by(n).copied();
                ([n, k], (0..n).flat_map(column).collect())
            } else {
                ([k, n], values)
            };
            let format = "f32".parse().unwrap();
            let weights = PackedWeights::quantize(&values, shape[0], shape[1], &format).unwrap();
            Some((tensor.name, (shape, weights)))
        })
        .collect();
    let mut tensors: Vec<_> = file
        .tensors()
        .map(|Tensor { name, dtype, shape, bytes }| match compressed.get(name) {
            Some((shape, weights)) => (name, Content::Compressed { shape, weights }),
            None => (name, Content::Plain { dtype, shape, bytes }),
        })
        .collect();
    let more: Vec<_> = more
        .iter()
        .map(|(name, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (*name, [values.len()], bytes)
        })
        .collect();
    tensors.extend(
        more.iter().map(|(name, shape, bytes)| {
            (*name, Content::Plain { dtype: Dtype::F32, shape, bytes })
        }),
    );
    write_model(path, &tensors, &BTreeMap::new()).unwrap();
}

/// Some tools write biases of zeros beside what they quantize, also where a model has none.
#[test]
fn biases_of_zeros_beside_compressed_weights_are_none() {
    let (model, blueprint) = model("llama");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::copy(Path::new(FOLDER).join("llama/config.json"), folder.path().join("config.json"))
        .unwrap();
    let source::Model::Safetensors(file) = &model else { panic!() };
    const BIAS: &str = "model.layers.1.self_attn.k_proj.bias";
    let read = |compress: &dyn Fn(&str) -> Option<bool>, last: f32| {
        let mut bias = [0.0; 32];
        bias[31] = last;
        write(&path, file, compress, &[(BIAS, &bias)]);
        architecture::read(&source::open(&path).unwrap())
    };
    let all = |_: &str| Some(false);
    assert_eq!(read(&all, 0.0).unwrap(), blueprint);
    for result in [read(&all, 1e-30), read(&|_| None, 0.0)] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, ArchitectureError::Unused { name, .. } if name == BIAS),
            "{error}"
        );
    }
}

/// GPT-2's matrices are `[K, N]`, and compressed ones `[N, K]`. Of a square one that is compressed alone nothing
/// tells which it is.
#[test]
fn compressed_matrices_of_gpt2_are_told_apart() {
    let (model, blueprint) = model("gpt2");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::copy(Path::new(FOLDER).join("gpt2/config.json"), folder.path().join("config.json"))
        .unwrap();
    let source::Model::Safetensors(file) = &model else { panic!() };
    let written = |compress: &dyn Fn(&str) -> Option<bool>| {
        write(&path, file, compress, &[]);
        source::open(&path).unwrap()
    };
    let matrix = |name: &str| name.ends_with("_attn.weight") || name.ends_with("_proj.weight");
    let right = written(&|name| matrix(name).then_some(true));
    let read = architecture::read(&right).unwrap();
    assert!(!read.layers[0].attention.output.matrix.transposed);
    let tokens = [5, 80, 3, 41, 7];
    let want = reference::logits(&model, &blueprint, &tokens).unwrap();
    assert_eq!(reference::logits(&right, &read, &tokens).unwrap(), want);

    let wrong = written(&|name| matrix(name).then_some(false));
    assert_eq!(
        architecture::read(&wrong).unwrap_err().to_string(),
        "`transformer.h.0.attn.c_attn.weight` is f32 [32, 96], and not F32, F16, BF16 or a weight format [96, 32]"
    );
    let alone = written(&|name| name.ends_with("attn.c_proj.weight").then_some(true));
    let error = architecture::read(&alone).unwrap_err();
    assert!(matches!(error, ArchitectureError::WrongTensor { .. }), "{error}");
    assert!(error.to_string().contains("axes in an order that nothing tells"), "{error}");
}

#[test]
fn a_model_without_a_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::copy(Path::new(FOLDER).join("llama/model.safetensors"), &path).unwrap();
    let error = architecture::read(&source::open(&path).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the model has no configuration");
}
