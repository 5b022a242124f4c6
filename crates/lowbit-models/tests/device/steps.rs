//! What steps of a session cost, and how they follow each other.

use super::{F16, F32, FOLDER, INT4, INT8, difference, shared};
use crate::common::data;
use crate::tiny_bert;
use lowbit::compress::Scheme;
use lowbit::format::CacheFormat;
use lowbit::host::Host;
use lowbit::ops::Activations;
use lowbit_models::checkpoint::{ModelFile, source};
use lowbit_models::device::{LoadOptions, Model, RunError, Sampling, SessionOptions};
use pollster::block_on;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn load(host: &Arc<Host>, name: &str) -> Model {
    let path = Path::new(FOLDER).join(name).join("model.safetensors");
    block_on(Model::load(host, path, &LoadOptions::default())).unwrap()
}

fn smollm2() -> Option<PathBuf> {
    data("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model")
}

/// The tokens that the device chooses are the largest logits, and the texts of a chunked prompt, of single
/// steps and of a session that was rewound are one.
#[test]
fn tokens_do_not_depend_on_how_they_are_read() {
    let Some(host) = shared() else { return };
    for name in ["llama", "gemma3", "gpt2", "mistral", "qwen3"] {
        let model = load(&host, name);
        let options = SessionOptions::default().with_slots(40).with_chunk(5);
        let mut session = block_on(model.session(&options)).unwrap();
        let prompt: Vec<u32> = (1..14).collect();
        let mut text = vec![block_on(session.prompt(&prompt, &Sampling::GREEDY)).unwrap()];
        for _ in 0..8 {
            text.push(block_on(session.next(&Sampling::GREEDY)).unwrap());
        }
        assert_eq!(session.tokens(), [&prompt[..], &text[..8]].concat());
        // The largest logits give the same tokens.
        let mut again = block_on(model.session(&options.clone().with_chunk(3))).unwrap();
        let mut logits = block_on(again.extend(&prompt)).unwrap();
        for (at, token) in text.iter().enumerate() {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(logits[*token as usize], largest, "{name}, token {at}");
            logits = block_on(again.extend(&[*token])).unwrap();
        }
        // Rewound into the prompt, and read on in another way.
        session.rewind(4).unwrap();
        assert!(matches!(block_on(session.next(&Sampling::GREEDY)), Err(RunError::Empty)));
        let token = block_on(session.prompt(&prompt[4..], &Sampling::GREEDY)).unwrap();
        assert_eq!(token, text[0], "{name}");
    }
}

#[test]
fn seeds_repeat_and_differ() {
    let Some(host) = shared() else { return };
    let model = load(&host, "llama");
    let mut session = block_on(model.session(&SessionOptions::default().with_slots(64))).unwrap();
    let mut draw = |seed: u64, top_k: u32| {
        let sampling = Sampling::new(1.5, top_k, 0.95, seed).unwrap();
        session.rewind(0).unwrap();
        let mut text = vec![block_on(session.prompt(&[1, 2, 3], &sampling)).unwrap()];
        for _ in 0..20 {
            text.push(block_on(session.next(&sampling)).unwrap());
        }
        text
    };
    let first = draw(7, 0);
    assert_eq!(first, draw(7, 0));
    assert_ne!(first, draw(8, 0));
    // Drawing from one token is taking the largest.
    let greedy = Sampling::GREEDY;
    let one = draw(7, 1);
    session.rewind(0).unwrap();
    let mut text = vec![block_on(session.prompt(&[1, 2, 3], &greedy)).unwrap()];
    text.extend((0..20).map(|_| block_on(session.next(&greedy)).unwrap()));
    assert_eq!(one, text);
    for (temperature, top_p) in [(-1.0, 1.0), (f32::NAN, 1.0), (1.0, 1.5), (1.0, -0.5)] {
        assert!(Sampling::new(temperature, 0, top_p, 0).is_err(), "{temperature} {top_p}");
    }
}

#[test]
fn a_session_takes_no_more_than_it_has_room_for() {
    let Some(host) = shared() else { return };
    let model = load(&host, "llama");
    let mut session = block_on(model.session(&SessionOptions::default().with_slots(6))).unwrap();
    assert!(matches!(block_on(session.extend(&[])), Err(RunError::Empty)));
    assert!(matches!(block_on(session.next(&Sampling::GREEDY)), Err(RunError::Empty)));
    let long = block_on(session.extend(&[1; 7])).unwrap_err();
    assert!(matches!(long, RunError::Full { need: 7, slots: 6 }), "{long}");
    let unknown = block_on(session.extend(&[1, 1 << 30])).unwrap_err();
    assert!(matches!(unknown, RunError::Token { token: 0x4000_0000, .. }), "{unknown}");
    assert!(session.is_empty());
    block_on(session.prompt(&[1; 6], &Sampling::GREEDY)).unwrap();
    let full = block_on(session.next(&Sampling::GREEDY)).unwrap_err();
    assert!(matches!(full, RunError::Full { need: 7, slots: 6 }), "{full}");
    assert!(session.rewind(7).is_err());
    session.rewind(5).unwrap();
    block_on(session.extend(&[2])).unwrap();
}

/// GPT-2 has a table of positions, and rows past its end would be of nothing.
#[test]
fn a_session_has_no_room_past_a_table_of_positions() {
    let Some(host) = shared() else { return };
    let model = load(&host, "gpt2");
    let context = model.blueprint().context;
    let mut session = block_on(model.session(&SessionOptions::default())).unwrap();
    assert_eq!(session.slots(), context);
    block_on(session.warm_up()).unwrap();
    let long = block_on(session.extend(&vec![1; context + 1])).unwrap_err();
    assert!(matches!(long, RunError::Positions { need, have } if need == have + 1), "{long}");
    block_on(session.prompt(&vec![1; context], &Sampling::GREEDY)).unwrap();
    let full = block_on(session.next(&Sampling::GREEDY)).unwrap_err();
    assert!(matches!(full, RunError::Positions { .. }), "{full}");
}

/// Numbers that are too large for their type make logits of NaN, of which no token is chosen.
#[test]
fn no_token_is_chosen_from_nan() {
    let Some(host) = shared() else { return };
    let from = Path::new(FOLDER).join("llama");
    let file = ModelFile::open(from.join("model.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let large = |name: &str| name.ends_with("layers.0.mlp.down_proj.weight");
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = file
        .tensors()
        .map(|tensor| {
            let mut values = tensor.to_f32().unwrap();
            if large(tensor.name) {
                values.fill(f32::MAX);
            }
            (tensor.name.to_owned(), tensor.shape.to_vec(), values)
        })
        .collect();
    assert_eq!(tensors.iter().filter(|(name, ..)| large(name)).count(), 1);
    tiny_bert::write(folder.path(), &tensors);
    std::fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let path = folder.path().join("model.safetensors");
    let model = block_on(Model::load(&host, path, &LoadOptions::default())).unwrap();
    let mut session = block_on(model.session(&SessionOptions::default().with_slots(16))).unwrap();
    for sampling in [Sampling::GREEDY, Sampling::new(1.0, 0, 1.0, 1).unwrap()] {
        session.rewind(0).unwrap();
        let refused = block_on(session.prompt(&[1, 2, 3], &sampling)).unwrap_err();
        assert!(matches!(refused, RunError::NotFinite { tokens: 3 }), "{refused}");
        // There is no token that could follow.
        assert!(matches!(block_on(session.next(&sampling)), Err(RunError::Empty)));
    }
}

/// Returns the number of the next submission to the queue, which is one of nothing. A buffer that is mapped takes a
/// number too.
fn submitted(host: &Host) -> u64 {
    let index = format!("{:?}", host.queue().submit([]));
    let digits: String = index.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{index} has no number"))
}

/// A decoded token of SmolLM2: one submission, no pipeline, no memory, and nine dispatches a layer. All memory
/// is that of weights and caches and a tenth, also while the model is loaded and its weights are compressed.
#[test]
fn a_token_costs_one_submission_and_nothing_else() {
    let (Some(host), Some(path)) = (shared(), smollm2()) else { return };
    let allocated =
        || host.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
    host.submit(|_| ()).unwrap();
    let source = source::open(path).unwrap();
    let int4 = LoadOptions::default().with_scheme("int4-g64".parse().unwrap());
    for options in [int4, LoadOptions::default()] {
        // What the model before left is given back.
        host.submit(|_| ()).unwrap();
        let (before, peak) = (allocated(), AtomicU64::new(0));
        let sample = |_, _| {
            peak.fetch_max(allocated().unwrap_or(0), Ordering::Relaxed);
        };
        let model = block_on(Model::from_source(&host, &source, &options, &sample)).unwrap();
        costs_of_a_token(&host, &model, (before, peak.into_inner()));
    }
}

/// Decodes with a model, where memory was `before` and at most `peak` while it was loaded.
fn costs_of_a_token(host: &Host, model: &Model, (before, peak): (Option<u64>, u64)) {
    let allocated =
        || host.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
    let options = SessionOptions::default().with_slots(512);
    let mut session = block_on(model.session(&options)).unwrap();
    block_on(session.warm_up()).unwrap();
    block_on(session.prompt(&[504, 253, 260], &Sampling::GREEDY)).unwrap();
    block_on(session.next(&Sampling::GREEDY)).unwrap();
    let (pipelines, submissions, memory) =
        (host.kernels().cached_pipelines(), session.submissions(), allocated());
    let of_queue = submitted(host);
    for _ in 0..4 {
        block_on(session.next(&Sampling::GREEDY)).unwrap();
        assert_eq!(allocated(), memory);
    }
    // Each token takes a number for its submission and one for the buffer that is read back.
    assert_eq!(submitted(host), of_queue + 2 * 4 + 1);
    assert_eq!(host.kernels().cached_pipelines(), pipelines);
    assert_eq!(session.submissions(), submissions + 4);
    let layers = model.blueprint().layers.len();
    // Besides the layers: positions, the embedding, the last norm, the head and the choice of a token.
    let dispatches = session.dispatches(1);
    assert_eq!(dispatches, 9 * layers + 5, "of {layers} layers");
    let needed = model.weight_bytes() + session.cache_bytes();
    assert!(session.device_bytes() * 10 <= needed * 11, "{} {needed}", session.device_bytes());
    if let (Some(before), Some(memory)) = (before, memory) {
        // What weights take with the padding that a driver gives textures.
        let all = host.device().generate_allocator_report().unwrap().allocations;
        let weights = all.iter().filter(|all| all.name.starts_with("lowbit weight"));
        let weights: u64 = weights.map(|all| all.size).sum();
        assert!(weights >= model.weight_bytes() / 2, "{weights}");
        let needed = weights + session.cache_bytes();
        for used in [memory - before, peak - before] {
            assert!(used * 10 <= needed * 11, "{used} bytes for {needed}");
        }
    }
}

/// A token reads of each cache the slots that its layer attends to: all of them so far, or those of its window.
#[test]
fn windows_bound_what_a_token_reads() {
    let Some(host) = shared() else { return };
    for name in ["llama", "mistral", "gemma3", "qwen2-window"] {
        let model = load(&host, name);
        let session =
            block_on(model.session(&SessionOptions::default().with_slots(64).with_chunk(4)));
        let session = session.unwrap();
        let caches = |tokens: usize| {
            let layers = model.blueprint().layers.iter().map(|layer| &layer.attention);
            // Keys and values in f32.
            let row =
                |seen: usize, kv_heads: usize, head_dim: usize| 2 * 4 * seen * kv_heads * head_dim;
            let seen = |window: Option<usize>| (tokens + 1).min(64).min(window.unwrap_or(64));
            layers.map(|a| row(seen(a.window), a.kv_heads, a.head_dim)).sum::<usize>() as u64
        };
        let weights = session.bytes_per_token(0) - caches(0);
        assert!(weights > 0 && weights <= model.weight_bytes(), "{name}: {weights}");
        for tokens in [1, 3, 4, 5, 30, 63, 64, 1000] {
            let have = session.bytes_per_token(tokens) - weights;
            assert_eq!(have, caches(tokens), "{name}, {tokens} tokens");
        }
    }
}

/// Linear layers are counted each by itself, whatever is joined on the device, with what their inputs become.
#[test]
fn inputs_of_linear_layers_are_counted() {
    let Some(host) = shared() else { return };
    let options = LoadOptions::default;
    let count = |name: &str, options: &LoadOptions| {
        let path = Path::new(FOLDER).join(name).join("model.safetensors");
        let model = block_on(Model::load(&host, path, options)).unwrap();
        let layers = model.blueprint().layers.len();
        let found = model.linear_inputs().unwrap();
        (layers, found.int8, found.floats, found.reasons)
    };
    let int8: Scheme = "int8-channel".parse().unwrap();
    let token: Activations = "int8-token".parse().unwrap();
    let groups: Activations = "int8-g32".parse().unwrap();
    for (name, each) in [("llama", 7), ("gemma3", 7), ("gpt2", 6), ("qwen3", 7)] {
        let (layers, coded, floats, reasons) = count(name, &options());
        assert_eq!((coded, floats, reasons), (0, each * layers + 1, vec![]), "{name}");
        let wide = options().with_scheme(int8).with_activations(token);
        let (layers, coded, floats, reasons) = count(name, &wide);
        // The head keeps its format, and takes no codes.
        assert_eq!((coded, floats, reasons.len()), (each * layers, 1, 1), "{name}: {reasons:?}");
        assert!(reasons[0].ends_with("weights take no int8-token inputs"), "{reasons:?}");
    }
    let (layers, coded, floats, reasons) = count("llama", &options().with_activations(groups));
    assert_eq!((coded, floats), (0, 7 * layers + 1));
    assert_eq!(reasons, ["f16 weights take no int8-g32 inputs"]);
}

/// A prompt that is read at once has the logits of one whose last tokens are read one by one, up to the order of
/// sums: with every type of cache, and where the caches are so long that attention splits them.
///
/// The limit is no bound. A bound of 30 layers says nothing, because each of its roundings may point in one direction.
/// Roundings that do not add up like √(30 · 4 · 1500) of f32's, where layers have four products in a row of up to
/// 1,536 terms; that is 2.5·10⁻⁵ of a value, and F32 is five times that. Two codes of a rounded cache may differ
/// where a value lies between them: those of a row differ by a step then, as if it was rounded twice.
#[test]
fn prompts_and_steps_of_smollm2_agree() {
    let (Some(host), Some(path)) = (shared(), smollm2()) else { return };
    let model = block_on(Model::load(&host, path, &LoadOptions::default())).unwrap();
    let (length, one_by_one) = (300, 6);
    let tokens: Vec<u32> = (0..length).map(|at| 1000 + 317 * at % 40_000).collect();
    let vocab = model.blueprint().vocab;
    for (cache, limit) in [
        (CacheFormat::F32, F32),
        (CacheFormat::F16, F16),
        (CacheFormat::Int8, INT8),
        (CacheFormat::Int4, INT4),
    ] {
        let options = SessionOptions::default().with_slots(length as usize).with_cache(cache);
        let mut session = block_on(model.session(&options.with_logit_rows(one_by_one))).unwrap();
        let (before, last) = tokens.split_at(tokens.len() - one_by_one);
        block_on(session.extend(before)).unwrap();
        let mut rows = Vec::new();
        block_on(session.extend_with(last, |_, logits| rows.extend_from_slice(logits))).unwrap();
        session.rewind(before.len()).unwrap();
        let mut worst = 0.0f64;
        for (token, want) in last.iter().zip(rows.chunks_exact(vocab)) {
            let have = block_on(session.extend(&[*token])).unwrap();
            let want: Vec<f64> = want.iter().map(|v| f64::from(*v)).collect();
            worst = worst.max(difference(&have, &want));
        }
        println!("{cache} caches: {worst:.1e}");
        assert!(worst < limit, "{cache}: {worst:.1e}");
    }
}
