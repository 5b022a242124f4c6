//! Models out of which rows and heads are cut.

use super::{EXACT, TOKENS, difference, floats, open, plant, results};
use crate::common::host;
use lowbit_models::architecture::{self, reference};
use lowbit_models::checkpoint::source::{ModelSource, Overlay};
use lowbit_models::device::{LoadOptions, Model, SessionOptions};
use lowbit_models::layerwise::{LayerwiseRunError, input_norms};
use lowbit_models::transform::{Cut, InputNorms, Keep, cut};
use pollster::block_on;
use std::sync::Arc;

/// The rows of the feed-forward blocks of two layers that are zero in `planted`.
const ROWS: [[usize; 3]; 2] = [[0, 7, 40], [11, 12, 47]];

fn feed(count: usize) -> Cut {
    Cut { feed: Some(Keep::Count(count)), heads: None }
}

fn heads(count: usize) -> Cut {
    Cut { feed: None, heads: Some(Keep::Count(count)) }
}

/// Returns a model in which some rows of feed-forward blocks are zero, and in the second layer the first group of
/// heads, in the first layer the last.
fn planted(base: &dyn ModelSource) -> Overlay<'_> {
    let blueprint = architecture::read(base).unwrap();
    let mut model = Overlay::new(base);
    for (at, layer) in blueprint.layers.iter().enumerate() {
        for linear in layer_parts(&layer.feed) {
            let columns = floats(base, &linear.tensor).0[1];
            plant(&mut model, &linear.tensor, |element, w| {
                let row = if linear.transposed { element % columns } else { element / columns };
                if ROWS[at].contains(&row) {
                    *w = 0.0;
                }
            });
        }
        let attention = &layer.attention;
        if attention.rotary.is_none() {
            continue;
        }
        let columns = attention.heads * attention.head_dim;
        let group = attention.heads / attention.kv_heads * attention.head_dim;
        let cut = if at == 1 { 0..group } else { columns - group..columns };
        plant(&mut model, &attention.output.matrix.tensor, |element, w| {
            if cut.contains(&(element % columns)) {
                *w = 0.0;
            }
        });
    }
    model
}

/// Returns the matrices before the last of a feed-forward block, of which a row with zeros makes nothing. A bias
/// is not zero, so the column of the last matrix has to be.
fn layer_parts(feed: &architecture::Feed) -> Vec<architecture::Matrix> {
    match feed {
        architecture::Feed::Plain { .. } => Vec::new(),
        architecture::Feed::Gated(gated) => vec![gated.up.matrix.clone()],
        architecture::Feed::Experts { .. } => panic!("no experts"),
    }
}

#[test]
fn zeros_are_cut_without_a_change() {
    for name in ["llama", "llama-gguf", "mistral", "qwen3", "qwen3-gguf"] {
        let base = open(name);
        let model = planted(&base);
        let want = results(&model);
        let norms: Vec<Option<InputNorms>> = vec![None, Some(measured(&model))];
        for norms in norms {
            let request = Cut { feed: Some(Keep::Count(61)), heads: Some(Keep::Count(2)) };
            let changed = cut(&model, &request, norms.as_ref()).unwrap();
            let small = changed.over(&model).unwrap();
            let apart = difference(&results(&small), &want);
            assert!(apart <= EXACT, "{name}: {apart:.1e}");
            let blueprint = architecture::read(&small).unwrap();
            for layer in &blueprint.layers {
                let attention = &layer.attention;
                assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (2, 1, 16));
                for (linear, shape) in [
                    (&attention.query, [32, 32]),
                    (&attention.key, [16, 32]),
                    (&attention.value, [16, 32]),
                    (&attention.output, [32, 32]),
                ] {
                    assert_eq!(floats(&small, &linear.matrix.tensor).0, shape, "{name}");
                }
                let architecture::Feed::Gated(gated) = &layer.feed else { panic!("{name}") };
                for (linear, shape) in
                    [(&gated.gate, [61, 32]), (&gated.up, [61, 32]), (&gated.down, [32, 61])]
                {
                    assert_eq!(floats(&small, &linear.matrix.tensor).0, shape, "{name}");
                }
            }
        }
    }
}

/// Returns the norms of what linear layers take.
fn measured(model: &dyn ModelSource) -> InputNorms {
    let blueprint = architecture::read(model).unwrap();
    let inputs = reference::inputs(model, &blueprint, &TOKENS).unwrap();
    let norms = |(name, x): (String, Vec<f64>)| {
        let k = x.len() / TOKENS.len();
        let norm = |at: usize| x[at..].iter().step_by(k).map(|x| x * x).sum::<f64>().sqrt() as f32;
        (name, (0..k).map(norm).collect())
    };
    inputs.into_iter().map(norms).collect()
}

/// Rows are cut where the matrices are stored as `[K, N]`, in encoders, and with their biases: those whose column of
/// the last matrix is zero make no difference.
#[test]
fn rows_are_cut_out_of_every_kind_of_block() {
    for (name, down, key) in [
        ("gpt2", "mlp.c_proj.weight", "n_inner"),
        ("gpt2-gguf", "ffn_down.weight", "gpt2.feed_forward_length"),
        ("bert", "output.dense.weight", "intermediate_size"),
        ("bert-gguf", "ffn_down.weight", "bert.feed_forward_length"),
        ("distilbert", "ffn.lin2.weight", "hidden_dim"),
        ("mpnet", "output.dense.weight", "intermediate_size"),
        ("llama3", "down_proj.weight", "intermediate_size"),
        ("gemma3", "down_proj.weight", "intermediate_size"),
        ("qwen2", "down_proj.weight", "intermediate_size"),
    ] {
        let base = open(name);
        let blueprint = architecture::read(&base).unwrap();
        let mut model = Overlay::new(&base);
        for item in base.items().unwrap() {
            let attention = item.name.contains("attention.") || item.name.contains("attn");
            if item.name.ends_with(down) && !attention {
                let turned = name == "gpt2";
                let columns = item.shape[1];
                plant(&mut model, &item.name, |at, w| {
                    let column = if turned { at / columns } else { at % columns };
                    if ROWS[0].contains(&column) || column == 1 {
                        *w = 0.0;
                    }
                });
            }
        }
        let (config, rows) = (base.config(), base.config()[key].as_u64().unwrap() as usize);
        let rows_left = rows - if rows > 40 { 4 } else { 3 };
        let changed = cut(&model, &feed(rows_left), None).unwrap();
        let small = changed.over(&model).unwrap();
        let apart = difference(&results(&small), &results(&model));
        assert!(apart <= EXACT, "{name}: {apart:.1e}");
        let mut after = changed.config.unwrap();
        assert_eq!(after[key], rows_left, "{name}");
        after[key] = rows.into();
        assert_eq!(after, *config, "{name}");
        let layers = blueprint.layers.len();
        assert!(changed.tensors.len() >= 2 * layers, "{name}");
        // A row more is one that counts.
        let changed = cut(&model, &feed(rows_left - 1), None).unwrap();
        let apart = difference(&results(&changed.over(&model).unwrap()), &results(&model));
        assert!(apart > 1e-6, "{name}: {apart:.1e}");
    }
}

/// Statistics decide otherwise than weights where an input is small.
#[test]
fn inputs_count_if_they_are_given() {
    let model = open("llama");
    let blueprint = architecture::read(&model).unwrap();
    let mut norms = InputNorms::new();
    for (at, layer) in blueprint.layers.iter().enumerate() {
        let architecture::Feed::Gated(gated) = &layer.feed else { panic!() };
        let silent = |column: usize| if ROWS[at].contains(&column) { 0.0 } else { 1.0 };
        norms.insert(gated.down.matrix.tensor.clone(), (0..64).map(silent).collect());
    }
    let changed = cut(&model, &feed(61), Some(&norms)).unwrap();
    for (at, layer) in blueprint.layers.iter().enumerate() {
        let architecture::Feed::Gated(gated) = &layer.feed else { panic!() };
        let (_, before) = floats(&model, &gated.up.matrix.tensor);
        let kept = (0..64).filter(|row| !ROWS[at].contains(row));
        let want: Vec<f32> = kept.flat_map(|row| before[row * 32..][..32].to_vec()).collect();
        assert_eq!(changed.tensors[&gated.up.matrix.tensor].1, want);
    }
    // Without them, the three are not what is cut.
    assert_ne!(cut(&model, &feed(61), None).unwrap(), changed);
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let says = |name: &str, request: &Cut, norms: Option<&InputNorms>| {
        let error = cut(&open(name), request, norms).unwrap_err();
        assert!(!error.next_step().is_empty());
        error.to_string()
    };
    let share = |share| Cut { feed: Some(Keep::Share(share)), heads: None };
    assert_eq!(
        says("llama", &heads(3), None),
        "3 attention heads cannot be kept, only a multiple of 2, which share a head of keys and values"
    );
    assert_eq!(
        says("llama", &heads(0), None),
        "0 attention heads cannot be kept, only from 1 to 4"
    );
    assert_eq!(
        says("llama", &feed(65), None),
        "65 rows of a feed-forward block cannot be kept, only from 1 to 64"
    );
    for wrong in [0.0, -0.5, 1.5, f64::NAN] {
        let text = says("llama", &share(wrong), None);
        assert!(text.ends_with("cannot be kept, only one above 0 and at most 1"), "{text}");
    }
    for name in ["bert", "gpt2", "gpt2-gguf", "mpnet"] {
        let text = says(name, &heads(1), None);
        assert!(text.contains("cannot be cut: its configuration has no size of a head"), "{text}");
    }
    let text = says("qwen3-moe", &feed(16), None);
    assert!(
        text.ends_with("cannot be cut: rows of the experts of a mixture are not cut"),
        "{text}"
    );
    let mut norms = InputNorms::new();
    let down = "model.layers.0.mlp.down_proj.weight";
    let text = says("llama", &feed(16), Some(&norms));
    assert_eq!(text, format!("no norms of inputs were given for `{down}`"));
    norms.insert(down.to_owned(), vec![1.0; 3]);
    let text = says("llama", &feed(16), Some(&norms));
    assert_eq!(text, format!("3 norms of inputs were given for `{down}`, which has 64 columns"));
    assert!(says("qwen2-q8", &feed(16), None).contains("only floats can be changed"));
}

/// A request for nothing changes nothing, and one for all of it only names the sizes.
#[test]
fn all_can_be_kept() {
    let model = open("qwen3");
    let nothing = cut(&model, &Cut::default(), None).unwrap();
    assert!(nothing.tensors.is_empty() && nothing.config.is_none());
    let all = Cut { feed: Some(Keep::Share(1.0)), heads: Some(Keep::Share(1.0)) };
    let all = cut(&model, &all, None).unwrap();
    for (name, (shape, values)) in &all.tensors {
        assert_eq!((shape.clone(), values.clone()), floats(&model, name), "{name}");
    }
    assert_eq!(all.config.as_ref(), Some(model.config()));
    // A share of an odd number is rounded up.
    let third = Cut { feed: Some(Keep::Share(0.33)), heads: Some(Keep::Share(0.33)) };
    let config = cut(&model, &third, None).unwrap().config.unwrap();
    let sizes = ["intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"];
    assert_eq!(sizes.map(|key| config[key].as_u64().unwrap()), [22, 2, 1, 16]);
}

/// The norms that are measured on the device are those of the reference, and an input that is not finite is refused.
#[test]
fn norms_of_inputs_are_measured() {
    let Some(_) = host() else { return };
    let host = Arc::new(lowbit::host::Host::new().unwrap());
    for name in ["llama", "qwen3-gguf", "qwen2"] {
        let model = open(name);
        let blueprint = architecture::read(&model).unwrap();
        let texts = [TOKENS.to_vec()];
        let norms = |model: &dyn ModelSource| {
            block_on(input_norms(&host, model, &blueprint, &texts, 16, &mut |_| ()))
        };
        let (have, want) = (norms(&model).unwrap(), measured(&model));
        assert!(have.len() >= 4 * blueprint.layers.len(), "{name}: {}", have.len());
        for (weight, have) in &have {
            let doubles = |norms: &[f32]| norms.iter().copied().map(f64::from).collect::<Vec<_>>();
            let apart = difference(&doubles(have), &doubles(&want[weight]));
            // The limit of tests/device for f32 activations.
            assert!(apart <= 1.2e-4, "{name} {weight}: {apart:.1e}");
        }
        let mut broken = Overlay::new(&model);
        // Some normalized values are larger than 1, and become infinite.
        let norm = blueprint.layers[0].attention_norms.input.as_ref().unwrap();
        plant(&mut broken, &norm.weight.tensor, |_, w| *w = f32::MAX);
        let said = norms(&broken).unwrap_err();
        let query = &blueprint.layers[0].attention.query.matrix.tensor;
        assert!(
            matches!(&said, LayerwiseRunError::Weight { name, .. } if name == query),
            "{said}: {query}"
        );
    }
}

/// A cut model runs on the device and computes what the reference says.
#[test]
fn cut_models_run() {
    let Some(_) = host() else { return };
    let host = Arc::new(lowbit::host::Host::new().unwrap());
    for name in ["llama", "qwen3-gguf"] {
        let model = open(name);
        let request = Cut { feed: Some(Keep::Share(0.5)), heads: Some(Keep::Count(2)) };
        let small = cut(&model, &request, None).unwrap();
        let small = small.over(&model).unwrap();
        let options = LoadOptions::default();
        let loaded = block_on(Model::from_source(&host, &small, &options, &|_, _| ())).unwrap();
        let mut session = block_on(loaded.session(&SessionOptions::default())).unwrap();
        let mut logits = Vec::new();
        let mut all = |_: usize, row: &[f32]| logits.extend(row.iter().copied().map(f64::from));
        block_on(session.extend_with(&TOKENS, &mut all)).unwrap();
        let apart = difference(&logits, &results(&small));
        println!("{name}: {apart:.1e}");
        // The limit of tests/device for f32 activations.
        assert!(apart <= 1.2e-4, "{name}: {apart:.1e}");
    }
}
