//! What steps of a session cost, and how they follow each other.

use super::{F32, FOLDER, difference, shared};
use crate::common::skipped;
use lowbit::host::Host;
use lowbit_models::device::{LoadOptions, Model, RunError, Sampling, SessionOptions};
use lowbit_models::text::Tokenizer;
use lowbit_models::text::windows::windows;
use pollster::block_on;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn load(host: &Arc<Host>, name: &str) -> Model {
    let path = Path::new(FOLDER).join(name).join("model.safetensors");
    block_on(Model::load(host, path, &LoadOptions::default())).unwrap()
}

fn smollm2() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        skipped(format_args!("there is no smollm2: run `scripts/fetch-model.sh smollm2`"));
        return None;
    }
    Some(path)
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

/// A decoded token of SmolLM2: one submission, no pipeline, no memory, and nine dispatches a layer. All memory
/// is that of weights and caches and a tenth.
#[test]
fn a_token_costs_one_submission_and_nothing_else() {
    let (Some(host), Some(path)) = (shared(), smollm2()) else { return };
    let allocated =
        || host.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
    host.submit(|_| ()).unwrap();
    let before = allocated();
    let model = block_on(Model::load(&host, path, &LoadOptions::default())).unwrap();
    let options = SessionOptions::default().with_slots(512);
    let mut session = block_on(model.session(&options)).unwrap();
    block_on(session.warm_up()).unwrap();
    block_on(session.prompt(&[504, 253, 260], &Sampling::GREEDY)).unwrap();
    block_on(session.next(&Sampling::GREEDY)).unwrap();
    let (pipelines, submissions, memory) =
        (host.kernels().cached_pipelines(), session.submissions(), allocated());
    for _ in 0..4 {
        block_on(session.next(&Sampling::GREEDY)).unwrap();
    }
    assert_eq!(host.kernels().cached_pipelines(), pipelines);
    assert_eq!(session.submissions(), submissions + 4);
    assert_eq!(allocated(), memory);
    let layers = model.blueprint().layers.len();
    // Besides the layers: positions, the embedding, the last norm, the head and the choice of a token.
    let dispatches = session.dispatches(1);
    assert!(dispatches <= 9 * layers + 5, "{dispatches} for {layers} layers");
    let needed = model.weight_bytes() + session.cache_bytes();
    assert!(session.device_bytes() * 10 <= needed * 11, "{} {needed}", session.device_bytes());
    if let (Some(before), Some(memory)) = (before, memory) {
        // What weights take with the padding that a driver gives textures.
        let all = host.device().generate_allocator_report().unwrap().allocations;
        let weights = all.iter().filter(|all| all.name.starts_with("lowbit weight"));
        let weights: u64 = weights.map(|all| all.size).sum();
        assert!(weights >= model.weight_bytes() / 2, "{weights}");
        let (used, needed) = (memory - before, weights + session.cache_bytes());
        assert!(used * 10 <= needed * 11, "{used} bytes for {needed}");
    }
}

/// A prompt that is read at once and token by token has the same logits, up to the order of sums.
#[test]
fn prompts_and_steps_of_smollm2_agree() {
    let (Some(host), Some(path)) = (shared(), smollm2()) else { return };
    let model = block_on(Model::load(&host, path, &LoadOptions::default())).unwrap();
    let options = SessionOptions::default().with_slots(64).with_logit_rows(16);
    let tokens: Vec<u32> = (0..10).map(|at| 1000 + 317 * at).collect();
    let mut session = block_on(model.session(&options)).unwrap();
    let mut rows = Vec::new();
    block_on(session.extend_with(&tokens, |_, logits| rows.extend_from_slice(logits))).unwrap();
    session.rewind(0).unwrap();
    let vocab = model.blueprint().vocab;
    for (token, want) in tokens.iter().zip(rows.chunks_exact(vocab)) {
        let have = block_on(session.extend(&[*token])).unwrap();
        let want: Vec<f64> = want.iter().map(|v| f64::from(*v)).collect();
        let found = difference(&have, &want);
        assert!(found < F32, "{found:.1e}");
    }
}

/// Four windows of the novel have the perplexity that an independent engine computes in f32: 20.832. It takes
/// two minutes, so only `make test-all` measures it.
#[test]
fn the_novel_is_as_likely_as_elsewhere() {
    if std::env::var("LOWBIT_SOAK").as_deref() != Ok("long") {
        skipped(format_args!("only make test-all measures perplexity"));
        return;
    }
    let (Some(host), Some(path)) = (shared(), smollm2()) else { return };
    let novel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/pride/pride.txt");
    let Ok(novel) = std::fs::read_to_string(novel) else {
        skipped(format_args!("there is no pride: run `scripts/fetch-model.sh pride`"));
        return;
    };
    let tokenizer = Tokenizer::open(&path).unwrap();
    let tokens = tokenizer.encode(&novel, false).unwrap();
    let windows = windows(&tokens, 512, Some(4), None).unwrap();
    let model = block_on(Model::load(&host, path, &LoadOptions::default())).unwrap();
    let options = SessionOptions::default().with_slots(512).with_logit_rows(32);
    let found = block_on(model.perplexity(&windows, &options, |_| (), |_| ())).unwrap();
    assert_eq!((found.windows, found.tokens), (4, 4 * 511));
    assert!((found.perplexity / 20.832 - 1.0).abs() < 0.0025, "{found:?}");
}
