//! Seeds of the targets that read what a model is: its settings, its text, its quantized weights.

use crate::targets::{pipelines, text};
use lowbit_models::checkpoint::source::{self, ModelSource};
use lowbit_models::checkpoint::{Content, Dtype, write_model};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Every small model, as its settings and a list of its tensors.
pub fn architectures(root: &Path) -> Vec<Vec<u8>> {
    let folder = root.join("crates/lowbit-models/tests/fixtures/models");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut folders: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    let seed = |folder: &std::path::PathBuf| {
        let files = ["model.safetensors", "model.gguf"].map(|name| folder.join(name));
        let model = files.iter().find_map(|path| source::open(path).ok())?;
        let mut seed = model.config().to_string().into_bytes();
        seed.push(0xff);
        for item in model.items().ok()? {
            let sizes: Vec<String> = item.shape.iter().map(usize::to_string).collect();
            seed.extend(format!("{} {}\n", item.name, sizes.join("x")).bytes());
        }
        Some(seed)
    };
    folders.iter().filter_map(seed).collect()
}

/// Small tokenizers of every kind that is read, and templates.
pub fn texts() -> Vec<Vec<u8>> {
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let model = |model: serde_json::Value, pre: serde_json::Value, decoder: serde_json::Value| {
        let file = json!({
            "version": "1.0", "truncation": {"max_length": 4, "stride": 0, "strategy": "LongestFirst",
            "direction": "Right"}, "padding": null, "normalizer": {"type": "NFC"},
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}], "pre_tokenizer": pre,
            "post_processor": null, "decoder": decoder, "model": model,
        });
        with(text::JSON, file.to_string().as_bytes())
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    let vocabulary = json!({"<s>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4});
    let mut seeds = vec![
        model(
            json!({"type": "BPE", "vocab": vocabulary, "merges": ["a b"], "byte_fallback": false}),
            bytes.clone(),
            bytes,
        ),
        model(
            json!({"type": "WordLevel", "vocab": {"<s>": 0, "a": 1}, "unk_token": "<s>"}),
            json!({"type": "Whitespace"}),
            json!(null),
        ),
        model(
            json!({"type": "WordPiece", "vocab": {"<s>": 0, "a": 1, "##b": 2}, "unk_token": "<s>",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        ),
        model(
            json!({"type": "Unigram", "unk_id": 0, "vocab": [["<s>", 0.0], ["a", -1.0]]}),
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
        ),
    ];
    for (kind, pre) in [("gpt2", "qwen2"), ("gpt2", "llama-bpe"), ("llama", "default")] {
        seeds.push(with(text::GGUF, &vocabulary_file(kind, pre)));
    }
    for template in [
        "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}",
        "{{ bos_token }}{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}",
        "{% macro f(x) %}{{ x.split(' ')[0] }}{% endmacro %}{{ f(messages[0].content) | tojson }}",
    ] {
        seeds.push(with(text::TEMPLATE, template.as_bytes()));
    }
    seeds
}

/// A GGUF file without tensors, with a vocabulary of all bytes.
fn vocabulary_file(kind: &str, pre: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let key = |name: &str, kind: u32| [text(name), kind.to_le_bytes().to_vec()].concat();
    let list = |kind: u32, count: usize| {
        [kind.to_le_bytes().to_vec(), (count as u64).to_le_bytes().to_vec()].concat()
    };
    let mut tokens: Vec<String> = vec!["<unk>".into(), "<s>".into(), "</s>".into()];
    tokens.extend((0..=255u8).map(|byte| {
        match kind {
            "llama" => format!("<0x{byte:02X}>"),
            // The letters that stand for bytes; the others are given some that no byte has.
            _ => char::from_u32(u32::from(byte) + if byte < 0x21 { 256 } else { 0 })
                .map(String::from)
                .unwrap_or_default(),
        }
    }));
    tokens.extend(["ab", "abc"].map(String::from));
    let count = tokens.len();
    let mut values = vec![
        [key("general.architecture", 8), text("llama")].concat(),
        [key("tokenizer.ggml.model", 8), text(kind)].concat(),
        [key("tokenizer.ggml.pre", 8), text(pre)].concat(),
        [
            key("tokenizer.ggml.tokens", 9),
            list(8, count),
            tokens.iter().flat_map(|t| text(t)).collect(),
        ]
        .concat(),
        [
            key("tokenizer.ggml.token_type", 9),
            list(5, count),
            (0..count).flat_map(|at| if at < 3 { 3i32 } else { 1 }.to_le_bytes()).collect(),
        ]
        .concat(),
        [key("tokenizer.ggml.bos_token_id", 4), 1u32.to_le_bytes().to_vec()].concat(),
        [key("tokenizer.ggml.eos_token_id", 4), 2u32.to_le_bytes().to_vec()].concat(),
        [key("tokenizer.chat_template", 8), text("{{ messages[0].content }}")].concat(),
    ];
    values.push(match kind {
        "llama" => [
            key("tokenizer.ggml.scores", 9),
            list(6, count),
            (0..count).flat_map(|at| (-(at as f32)).to_le_bytes()).collect(),
        ]
        .concat(),
        _ => {
            let merges = ["a b", "ab c"];
            let all = merges.iter().flat_map(|merge| text(merge)).collect();
            [key("tokenizer.ggml.merges", 9), list(8, merges.len()), all].concat()
        }
    });
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend([0u64, values.len() as u64].map(u64::to_le_bytes).concat());
    file.extend(values.concat());
    file
}

/// Weights as GPTQ, AWQ, bitsandbytes, compressed-tensors and fp8 store them, and an index of shards.
pub fn quantized() -> Vec<Vec<u8>> {
    let gptq = [("qweight", 8, 64), ("qzeros", 2, 8), ("scales", 2, 64), ("g_idx", 1, 64)];
    let packed = [("weight_packed", 64, 8), ("weight_scale", 64, 2), ("weight_shape", 1, 2)];
    let fp8 = [("weight", 128, 128), ("weight_scale_inv", 1, 1)];
    type Part = (&'static str, usize, usize);
    let all: [(serde_json::Value, &[Part]); 4] = [
        (json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true}), &gptq),
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}),
            &gptq[..3],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4,
            "type": "int", "symmetric": true, "strategy": "group", "group_size": 32}}}}),
            &packed,
        ),
        (json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), &fp8),
    ];
    let path = pipelines::scratch("seed", b"");
    let mut seeds = Vec::new();
    for (config, parts) in all {
        let tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)> = parts
            .iter()
            .map(|&(part, n, k)| {
                let dtype = match part {
                    "scales" | "weight_scale" => Dtype::F16,
                    "weight" => Dtype::F8_E4M3,
                    "weight_scale_inv" => Dtype::F32,
                    "weight_shape" => Dtype::I64,
                    _ => Dtype::I32,
                };
                let shape = if n == 1 && part != "weight_scale_inv" { vec![k] } else { vec![n, k] };
                let bytes =
                    (0..n * k * dtype.bitsize() / 8).map(|at| (at * 7 % 60) as u8).collect();
                (format!("model.layers.0.mlp.up_proj.{part}"), shape, dtype, bytes)
            })
            .collect();
        let contents: Vec<(&str, Content<'_>)> = tensors
            .iter()
            .map(|(name, shape, dtype, bytes)| {
                (name.as_str(), Content::Plain { dtype: *dtype, shape, bytes })
            })
            .collect();
        write_model(&path, &contents, &BTreeMap::new()).expect("a small file");
        let file = std::fs::read(&path).expect("a small file");
        let config = json!({"model_type": "llama", "quantization_config": config}).to_string();
        seeds.push([config.as_bytes(), &[0xff], &file].concat());
        let name = &tensors[0].0;
        let index = json!({"weight_map": {name: "model-00001-of-00001.safetensors"}}).to_string();
        seeds.push([index.as_bytes(), &[0xff], &file].concat());
    }
    seeds
}

/// Statistics of an input of three columns that two weights take, whole and with another checksum.
pub fn statistics() -> Vec<Vec<u8>> {
    let part = json!({"text": "a.txt", "text_checksum": 1, "sample_tokens": 4, "first": 0, "samples": 1,
        "tokens": 4, "checksum": 2});
    let about = json!({"version": 1, "model": 3, "parts": [part],
        "inputs": {"q.weight": {"columns": 3, "weights": ["q.weight", "k.weight"]}}});
    let sums = |count: i128| (1..=count).flat_map(|sum| (sum << 72).to_le_bytes()).collect();
    let (gram, abs): (Vec<u8>, Vec<u8>) = (sums(6), sums(3));
    // FNV-1a of the rows and the sums.
    let bytes = 4u64.to_le_bytes().into_iter().chain(gram.iter().chain(&abs).copied());
    let sum = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let path = pipelines::scratch("seed", b"");
    let metadata = [("lowbit.statistics".to_owned(), about.to_string())].into();
    let mut seeds = Vec::new();
    for checksum in [sum, 0] {
        let checksum = checksum.to_le_bytes();
        let tensors = [
            ("q.weight.gram", &[6, 2][..], &gram[..]),
            ("q.weight.abs", &[3, 2], &abs),
            ("q.weight.checksum", &[1], &checksum),
        ];
        let tensors = tensors
            .map(|(name, shape, bytes)| (name, Content::Plain { dtype: Dtype::U64, shape, bytes }));
        write_model(&path, &tensors, &metadata).expect("a small file");
        seeds.push(std::fs::read(&path).expect("a small file"));
    }
    let whole = lowbit_models::layerwise::StatisticsFile::from_bytes(seeds[0].clone());
    whole.and_then(|file| file.check_sums()).expect("the first seed is a good file");
    seeds
}
