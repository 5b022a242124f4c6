//! Models of which the columns of weights have another order.

use super::{EXACT, difference, floats, open, results, shuffled};
use lowbit_models::architecture::{self, Attention, Blueprint, Feed, Linear, Matrix};
use lowbit_models::checkpoint::source::ModelSource;
use lowbit_models::transform::permute;
use std::collections::BTreeMap;

/// Returns an order of the columns of the output of attention that is the same in all heads that share values.
fn of_heads(attention: &Attention, seed: u64) -> Vec<usize> {
    let Attention { heads, kv_heads, head_dim, .. } = *attention;
    let columns = |head: usize| {
        let own = head / (heads / kv_heads);
        let inside = shuffled(head_dim, seed + own as u64);
        inside.into_iter().map(move |column| head * head_dim + column)
    };
    (0..heads).flat_map(columns).collect()
}

fn columns(model: &dyn ModelSource, matrix: &Matrix) -> usize {
    let (shape, _) = floats(model, &matrix.tensor);
    if matrix.transposed { shape[0] } else { shape[shape.len() - 1] }
}

fn downs(blueprint: &Blueprint) -> Vec<&Linear> {
    fn of(feed: &Feed) -> Vec<&Linear> {
        match feed {
            Feed::Plain { down, .. } => vec![down],
            Feed::Gated(gated) => vec![&gated.down],
            Feed::Experts { experts, .. } => experts.iter().map(|expert| &expert.down).collect(),
        }
    }
    blueprint.layers.iter().flat_map(|layer| of(&layer.feed)).collect()
}

#[test]
fn orders_are_folded_where_that_is_exact() {
    let names = [
        "llama",
        "llama3",
        "llama-gguf",
        "qwen2",
        "qwen3-bias",
        "gemma3",
        "gpt2",
        "gpt2-gguf",
        "bert",
        "mpnet",
        "electra",
        "qwen3-moe",
        "qwen3-moe-stacked",
        "qwen3-moe-gguf",
    ];
    for name in names {
        let model = open(name);
        let blueprint = architecture::read(&model).unwrap();
        let (mut orders, mut left) = (BTreeMap::new(), BTreeMap::new());
        for (seed, down) in downs(&blueprint).into_iter().enumerate() {
            let order = shuffled(columns(&model, &down.matrix), seed as u64);
            orders.insert(down.matrix.tensor.clone(), order);
        }
        for (seed, layer) in blueprint.layers.iter().enumerate() {
            let order = of_heads(&layer.attention, 100 + 10 * seed as u64);
            orders.insert(layer.attention.output.matrix.tensor.clone(), order);
            // The input of queries is the residual stream.
            let query = &layer.attention.query.matrix;
            let order = shuffled(columns(&model, query), 200 + seed as u64);
            orders.insert(query.tensor.clone(), order.clone());
            left.insert(query.tensor.clone(), order);
        }
        let permuted = permute(&model, &orders).unwrap();
        assert_eq!(permuted.left, left, "{name}");
        assert_eq!(permuted.changed.config, None);
        let after = permuted.changed.over(&model).unwrap();
        let apart = difference(&results(&after), &results(&model));
        println!("{name}: {apart:.1e}");
        assert!(apart <= EXACT, "{name}: {apart:.1e}");
        // The columns have the order that was asked for.
        for matrix in
            [downs(&blueprint)[0], &blueprint.layers[0].attention.output].map(|l| &l.matrix)
        {
            let order = &orders[&matrix.tensor];
            let (_, before) = floats(&model, &matrix.tensor);
            let (_, after) = floats(&after, &matrix.tensor);
            let step = if matrix.transposed { after.len() / order.len() } else { 1 };
            let first = |values: &[f32], at: usize| values[at * step];
            for (place, column) in order.iter().enumerate() {
                assert_eq!(first(&after, place), first(&before, *column), "{name}: {place}");
            }
        }
    }
}

#[test]
fn orders_across_heads_are_left() {
    let model = open("llama");
    let blueprint = architecture::read(&model).unwrap();
    let attention = &blueprint.layers[0].attention;
    let name = &attention.output.matrix.tensor;
    // Two columns of different heads; and of one of two heads that share values.
    for (a, b) in [(0, 17), (0, 1)] {
        let mut order: Vec<usize> = (0..64).collect();
        order.swap(a, b);
        let orders: BTreeMap<_, _> = [(name.clone(), order)].into();
        let permuted = permute(&model, &orders).unwrap();
        assert_eq!(permuted.left, orders);
        assert!(permuted.changed.tensors.is_empty());
    }
    // The order is the same in both of them.
    let mut order: Vec<usize> = (0..64).collect();
    order.swap(0, 1);
    order.swap(16, 17);
    let permuted = permute(&model, &[(name.clone(), order)].into()).unwrap();
    assert!(permuted.left.is_empty());
    let tensors: Vec<&String> = permuted.changed.tensors.keys().collect();
    assert_eq!(tensors, [name, &attention.value.matrix.tensor]);
}

#[test]
fn what_is_no_order_is_refused() {
    let model = open("llama");
    let down = "model.layers.1.mlp.down_proj.weight";
    let query = "model.layers.1.self_attn.q_proj.weight";
    let says = |name: &str, order: Vec<usize>| {
        let error = permute(&model, &[(name.to_owned(), order)].into()).unwrap_err();
        assert!(!error.next_step().is_empty());
        error.to_string()
    };
    for (name, columns) in [(down, 64), (query, 32)] {
        let text = says(name, (1..columns).collect());
        let have = columns - 1;
        assert_eq!(
            text,
            format!("{have} places were given for `{name}`, which has {columns} columns")
        );
        for wrong in [0, columns] {
            let order = (1..columns).chain([wrong]).map(|at| if at == 1 { 2 } else { at });
            let text = says(name, order.collect());
            assert_eq!(
                text,
                format!("the order of the columns of `{name}` does not have each of them once")
            );
        }
    }
    let norm = "model.norm.weight";
    assert_eq!(
        says(norm, vec![0]),
        format!("`{norm}` is no weight of a linear layer of the model")
    );
}
