//! What `compress` takes for a weight, and what it leaves alone.

use crate::cli::{Scratch, fine, gpu, le_f32, lowbit, refused, stderr, values};
use half::f16;
use lowbit::compress::{Scheme, quantize, quantize_scheme};
use lowbit::format::CodeType;
use lowbit_models::checkpoint::{Content, Dtype, ModelFile, read_compressed, write_model};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Writes a file of f32 tensors.
fn write(path: PathBuf, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(.., values)| le_f32(values)).collect();
    let contents: Vec<_> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| {
            (*name, Content::Plain { dtype: Dtype::F32, shape, bytes })
        })
        .collect();
    write_model(path, &contents, &BTreeMap::new()).unwrap();
}

/// Writes a file of matrices with the given names.
fn matrices(path: PathBuf, names: &[&str]) {
    let tensors: Vec<_> = names.iter().map(|&name| (name, &[4, 8][..], values(32))).collect();
    write(path, &tensors);
}

/// The names of the compressed weights of a file, with their formats.
fn compressed(path: PathBuf) -> Vec<(String, String)> {
    let model = ModelFile::open(path).unwrap();
    let weights = model.compressed().iter();
    weights.map(|(name, info)| (name.clone(), info.format.to_string())).collect()
}

fn pair(name: &str, format: &str) -> (String, String) {
    (name.to_owned(), format.to_owned())
}

/// By their names: linear layers, and neither scales, tables, masks, embeddings nor norms. An additive
/// mask of `finfo.min`, and one of infinities, do not matter.
#[test]
fn linear_layers_are_compressed() {
    let scratch = Scratch::new();
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    let mut tensors: Vec<(&str, &[usize], Vec<f32>)> = [
        "fc.weight",
        "h.0.mlp.kernel",
        "embeddings.word_embeddings.weight",
        "relative_position_bias_table",
        "norm.weight",
        "l.weight_scale",
        "wpe.weight",
    ]
    .into_iter()
    .map(|name| (name, &[4, 8][..], values(32)))
    .collect();
    tensors.push(("attn.causal_mask", &[2, 2], vec![0.0, f32::MIN, f32::NEG_INFINITY, 0.0]));
    tensors.push(("conv.weight", &[2, 2, 3, 3], values(36)));
    write(scratch.path("in"), &tensors);
    let base = ["compress", &input, "-o", &output, "--scheme", "int8", "--host"];
    fine(&base);
    let int8 = "int8-channel";
    assert_eq!(
        compressed(scratch.path("out")),
        [pair("fc.weight", int8), pair("h.0.mlp.kernel", int8)]
    );
    let model = ModelFile::open(scratch.path("out")).unwrap();
    assert_eq!(model.read_f32("attn.causal_mask").unwrap(), tensors[7].2);
    // The command compresses everything that is asked for, such as an embedding or a convolution.
    fine(&[&base[..], &["--tensors", "wpe.*", "--tensors", "conv.weight"]].concat());
    assert_eq!(
        compressed(scratch.path("out")),
        [pair("conv.weight", int8), pair("wpe.weight", int8)]
    );
    let more = ["--tensors", "*.weight", "--exclude", "*emb*", "--exclude", "conv*"];
    fine(&[&base[..], &more].concat());
    assert_eq!(
        compressed(scratch.path("out")),
        [pair("fc.weight", int8), pair("norm.weight", int8), pair("wpe.weight", int8)]
    );
}

/// `config.json` beside the file names the architecture.
#[test]
fn the_architecture_tells() {
    let scratch = Scratch::new();
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    matrices(
        scratch.path("in"),
        &["h.0.attn.c_attn.weight", "encoder.layer.0.output.dense.weight", "extra.weight"],
    );
    let args = ["compress", &input, "-o", &output, "--scheme", "int8", "--host"];
    let config = |text: &str| fs::write(scratch.path("config.json"), text).unwrap();
    config(r#"{"model_type": "bert"}"#);
    fine(&args);
    let only = pair("encoder.layer.0.output.dense.weight", "int8-channel");
    assert_eq!(compressed(scratch.path("out")), [only]);
    // GPT-2's matrices are [K, N]: groups along their rows would be groups of output channels.
    config(r#"{"model_type": "gpt2"}"#);
    let message = refused(&args);
    assert!(
        message.contains("`h.0.attn.c_attn.weight`") && message.contains("[K, N]"),
        "{message}"
    );
    config(r#"{"model_type": "llama"}"#);
    let message = refused(&args);
    assert!(message.contains("no tensor of the file is known as the weight"), "{message}");
    assert!(message.contains("extra.weight"), "{message}");
    // A damaged file might name an architecture, so it is refused.
    config("{");
    let message = refused(&args);
    assert!(message.contains("config.json"), "{message}");
}

/// A pattern that matches nothing is named, and the others are followed.
#[test]
fn patterns_that_match_nothing_are_named() {
    let scratch = Scratch::new();
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    matrices(scratch.path("in"), &["a.weight", "b.weight"]);
    let args = ["compress", &input, "-o", &output, "--scheme", "int8", "--host"];
    let run = lowbit(
        &[&args[..], &["--tensors", "a.*", "--tensors", "c.*", "--exclude", "d.*"]].concat(),
    );
    let message = stderr(&run);
    assert_eq!(run.status.code(), Some(0), "{message}");
    assert!(message.contains("warning: the pattern `c.*` matches no float matrix"), "{message}");
    assert_eq!(message.matches("warning").count(), 2, "{message}");
    assert_eq!(compressed(scratch.path("out")), [pair("a.weight", "int8-channel")]);
    let message = refused(&[&args[..], &["--tensors", "c.*"]].concat());
    assert!(message.contains("no weight matches") && message.contains("a.weight"), "{message}");
}

/// Returns the TOML of the documentation.
fn documented_recipe() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/models.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once("```toml\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// The recipe of docs/models.md: the first rule that matches decides.
#[test]
fn recipes_mix_formats() {
    let scratch = Scratch::new();
    let [input, output, recipe, json] =
        ["in", "out", "recipe.toml", "json"].map(|n| scratch.text(n));
    matrices(
        scratch.path("in"),
        &[
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.self_attn.v_proj.weight",
            "model.norm.weight",
        ],
    );
    fs::write(scratch.path("recipe.toml"), documented_recipe()).unwrap();
    let args = ["compress", &input, "-o", &output, "--recipe", &recipe, "--host"];
    let text = fine(&[&args[..], &["--json", &json]].concat());
    assert!(text.contains("int4-g64-asym") && text.contains("formats of their own"), "{text}");
    assert_eq!(
        compressed(scratch.path("out")),
        [
            pair("model.embed_tokens.weight", "int8-channel"),
            pair("model.layers.0.mlp.down_proj.weight", "int8-channel"),
            pair("model.layers.0.mlp.up_proj.weight", "int4-g64-asym"),
            pair("model.layers.0.self_attn.v_proj.weight", "int8-channel"),
        ]
    );
    let json = scratch.json("json");
    assert_eq!((&json["format"], &json["adapter"]), (&"mixed".into(), &serde_json::Value::Null));
    assert_eq!(json["tensors"][2]["format"], "int4-g64-asym");
    // Every weight is what its format makes of it.
    let model = ModelFile::open(scratch.path("out")).unwrap();
    for (name, info) in model.compressed() {
        let want = quantize(&values(32), 4, 8, &info.format).unwrap();
        assert_eq!(read_compressed(&model, name).unwrap(), want, "{name}");
    }
    let both = refused(&[&args[..], &["--scheme", "int8"]].concat());
    assert!(both.contains("cannot be used with"), "{both}");
    fs::write(scratch.path("recipe.toml"), "[[rule]]\nformat = \"int3\"").unwrap();
    let message = refused(&args);
    assert!(message.contains("rule 1: `int3` is no format"), "{message}");
    let missing = refused(&["compress", &input, "-o", &output, "--recipe", "none.toml"]);
    assert!(missing.contains("cannot read `none.toml`"), "{missing}");
}

/// Weights that are compressed already stay bit for bit, and the rest is compressed.
#[test]
fn the_rest_of_a_compressed_file() {
    let scratch = Scratch::new();
    let [input, half, whole] = ["in", "half", "whole"].map(|name| scratch.text(name));
    matrices(scratch.path("in"), &["a.weight", "b.weight", "norm.weight"]);
    let first = ["--scheme", "int4", "--group", "8", "--asymmetric", "--tensors", "a.*"];
    let activations = ["--activations", "int8:dynamic", "--scheme", "int8", "--tensors", "a.*"];
    for (options, format) in [(&first[..], "int4-g8-asym"), (&activations, "int8-channel")] {
        fine(&[&["compress", &input, "-o", &half, "--host"][..], options].concat());
        let text = fine(&["compress", &half, "-o", &whole, "--scheme", "int8", "--host"]);
        assert!(text.contains("1 weight to int8-channel on the CPU"), "{text}");
        assert!(text.contains("2 other tensors copied"), "{text}");
        assert_eq!(
            compressed(scratch.path("whole")),
            [pair("a.weight", format), pair("b.weight", "int8-channel")]
        );
        let [before, after] =
            ["half", "whole"].map(|name| ModelFile::open(scratch.path(name)).unwrap());
        let read = |model| read_compressed(model, "a.weight").unwrap();
        assert_eq!(read(&before), read(&after));
        assert_eq!(before.activations("a.weight").unwrap(), after.activations("a.weight").unwrap());
        assert_eq!(
            before.tensor("norm.weight").unwrap().bytes,
            after.tensor("norm.weight").unwrap().bytes
        );
        for again in [&[][..], &["--tensors", "a.*"]] {
            let args = ["compress", &whole, "-o", &half, "--scheme", "int8", "--host"];
            let message = refused(&[&args[..], again].concat());
            assert!(
                message.contains("already compressed") || message.contains("no tensor"),
                "{message}"
            );
        }
    }
}

/// What another tool has quantized is refused by the name of its method, with the command that imports it; its
/// scales are not taken for weights.
#[test]
fn what_others_quantized_is_refused() {
    let scratch = Scratch::new();
    let (input, output) = (scratch.text("in"), scratch.text("out"));
    let args = ["compress", &input, "-o", &output, "--scheme", "int4", "--host"];
    let ones = |count: usize| f16::ONE.to_le_bytes().repeat(count);
    let zeros = |count: usize| vec![0u8; count];
    let columns: Vec<u8> = (0..32u32).flat_map(|column| (column / 16).to_le_bytes()).collect();
    let shape: Vec<u8> = [8u64, 32].iter().flat_map(|size| size.to_le_bytes()).collect();
    let state = br#"{"quant_type": "nf4", "blocksize": 64, "shape": [4, 64], "dtype": "float16"}"#;
    type Parts<'a> = Vec<(&'a str, Dtype, Vec<usize>, Vec<u8>)>;
    // Complete checkpoints of one weight, and a norm.
    let cases: [(&str, Parts<'_>); 6] = [
        (
            "GPTQ v1, 4 bits",
            vec![
                ("qweight", Dtype::I32, vec![4, 16], zeros(256)),
                ("qzeros", Dtype::I32, vec![2, 2], [0x77; 16].to_vec()),
                ("scales", Dtype::F16, vec![2, 16], ones(32)),
                ("g_idx", Dtype::I32, vec![32], columns),
            ],
        ),
        (
            "AWQ GEMM, 4 bits",
            vec![
                ("qweight", Dtype::I32, vec![32, 2], zeros(256)),
                ("qzeros", Dtype::I32, vec![2, 2], zeros(16)),
                ("scales", Dtype::F16, vec![2, 16], ones(32)),
            ],
        ),
        (
            "pack-quantized, 4 bits",
            vec![
                ("weight_packed", Dtype::I32, vec![8, 4], zeros(128)),
                ("weight_scale", Dtype::F16, vec![8, 2], ones(16)),
                ("weight_shape", Dtype::I64, vec![2], shape),
            ],
        ),
        (
            "fp8, e4m3",
            vec![
                ("weight", Dtype::F8_E4M3, vec![256, 128], zeros(256 * 128)),
                ("weight_scale_inv", Dtype::F32, vec![2, 1], 1f32.to_le_bytes().repeat(2)),
            ],
        ),
        (
            "bitsandbytes nf4, blocks of 64",
            vec![
                ("weight", Dtype::U8, vec![128, 1], zeros(128)),
                ("weight.absmax", Dtype::F32, vec![4], le_f32(&[1.0; 4])),
                (
                    "weight.quant_map",
                    Dtype::F32,
                    vec![16],
                    le_f32(&CodeType::Nf4.table().unwrap()[..]),
                ),
                (
                    "weight.quant_state.bitsandbytes__nf4",
                    Dtype::U8,
                    vec![state.len()],
                    state.to_vec(),
                ),
            ],
        ),
        (
            "bitsandbytes int8",
            vec![
                ("weight", Dtype::I8, vec![4, 8], zeros(32)),
                ("SCB", Dtype::F32, vec![4], le_f32(&[1.0; 4])),
            ],
        ),
    ];
    for (method, parts) in cases {
        let names: Vec<String> = parts.iter().map(|(own, ..)| format!("l.{own}")).collect();
        let mut contents: Vec<_> = names
            .iter()
            .zip(&parts)
            .map(|(name, (_, dtype, shape, bytes))| {
                (name.as_str(), Content::Plain { dtype: *dtype, shape, bytes })
            })
            .collect();
        let norm = zeros(8);
        contents
            .push(("norm.weight", Content::Plain { dtype: Dtype::F16, shape: &[4], bytes: &norm }));
        // Words alone do not say how many bits a code has.
        let config = serde_json::json!({ "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": { "group_0": { "weights": { "num_bits": 4, "group_size": 16 } } },
        } });
        if method.starts_with("pack") {
            fs::write(scratch.path("config.json"), config.to_string()).unwrap();
        } else {
            let _ = fs::remove_file(scratch.path("config.json"));
        }
        write_model(scratch.path("in"), &contents, &BTreeMap::new()).unwrap();
        let message = refused(&args);
        for says in [
            &format!("1 of its weights are quantized already ({method}), first `l.weight`"),
            &format!("`lowbit import {input} -o OUT.safetensors` takes them as they are"),
        ] {
            assert!(message.contains(says), "{method}: {message}");
        }
        // Patterns that match the scales do not help.
        assert_eq!(refused(&[&args[..], &["--tensors", "*"]].concat()), message);
        fine(&["import", &input, "-o", &output]);
        let have: Vec<String> =
            compressed(scratch.path("out")).into_iter().map(|(name, _)| name).collect();
        assert_eq!(have, ["l.weight"], "{method}");
        fs::remove_file(&output).unwrap();
        // Without its scales, the reason is named.
        contents.retain(|(name, _)| {
            !["scales", "weight_scale", "absmax"].iter().any(|s| name.ends_with(s))
        });
        if contents.len() == parts.len() {
            write_model(scratch.path("in"), &contents, &BTreeMap::new()).unwrap();
            let message = refused(&args);
            assert!(message.contains("quantized weights can be read"), "{method}: {message}");
            assert!(
                message.contains("`l.weight`") && message.contains("lowbit inspect"),
                "{message}"
            );
        }
    }
    // The configuration says it where the names do not.
    matrices(scratch.path("in"), &["fc.weight"]);
    fs::write(scratch.path("config.json"), r#"{"quantization_config": {"quant_method": "awq"}}"#)
        .unwrap();
    let message = refused(&args);
    assert!(message.contains("with AWQ (quant_method `awq` in config.json)"), "{message}");
    assert_eq!(scratch.names(), ["config.json", "in"]);
}

/// Formats by their names, and ggml's by ggml's rules. What no kernel makes needs no adapter.
#[test]
fn formats_by_name() {
    let scratch = Scratch::new();
    let [input, output] = ["in", "out"].map(|name| scratch.text(name));
    matrices(scratch.path("in"), &["a.weight"]);
    for name in ["q4_0", "q6_k", "nf4", "mxfp4", "nvfp4", "e5m2-tensor", "int5-g8-min-f16s"] {
        let args = ["compress", &input, "-o", &output, "--format", name, "--tensors", "*"];
        let mut command = crate::cli::command(&args);
        // No backend of wgpu is left.
        let command = command.env("WGPU_BACKEND", "noop").env("VK_DRIVER_FILES", "/dev/null");
        let run = command.output().unwrap();
        assert_eq!(run.status.code(), Some(0), "{name}: {}", stderr(&run));
        let scheme: Scheme = name.parse().unwrap();
        let model = ModelFile::open(scratch.path("out")).unwrap();
        let packed = read_compressed(&model, "a.weight").unwrap();
        assert_eq!(packed, quantize_scheme(&values(32), 4, 8, &scheme).unwrap(), "{name}");
    }
    let bad = refused(&["compress", &input, "-o", &output, "--format", "q3_k", "--tensors", "*"]);
    assert!(bad.contains("but not made"), "{bad}");
}

/// The CPU makes what the GPU makes, and needs none.
#[test]
fn the_cpu_does_without_an_adapter() {
    let scratch = Scratch::new();
    let [input, on_cpu, on_gpu] = ["in", "cpu", "gpu"].map(|name| scratch.text(name));
    matrices(scratch.path("in"), &["a.weight", "b.weight"]);
    let mut command =
        crate::cli::command(&["compress", &input, "-o", &on_cpu, "--scheme", "int4", "--host"]);
    // No backend of wgpu is left.
    let run =
        command.env("WGPU_BACKEND", "noop").env("VK_DRIVER_FILES", "/dev/null").output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
    for other in ["--check", "--adapter=0"] {
        refused(&["compress", &input, "-o", &on_gpu, "--scheme", "int4", "--host", other]);
    }
    if gpu() {
        fine(&["compress", &input, "-o", &on_gpu, "--scheme", "int4"]);
        assert_eq!(fs::read(&on_cpu).unwrap(), fs::read(&on_gpu).unwrap());
    }
}
