//! Compares what is observed of the inputs of linear layers with the same inputs of the forward pass in f64.

use super::{F32, cases, shared, words};
use lowbit::compress::calibrate::{Axis, Statistics};
use lowbit_models::architecture::{self, reference};
use lowbit_models::checkpoint::source::{self, ModelSource};
use lowbit_models::checkpoint::{LayerRanges, RangeTarget};
use lowbit_models::device::{LoadOptions, Model, ModelStatistics, ObserveError, RunError};
use pollster::block_on;
use std::collections::BTreeMap;
use std::path::Path;

/// The least and greatest value of rows, or of one of their columns.
fn ends(rows: &[f64], column: usize, columns: usize) -> (f64, f64) {
    let values = rows[column..].iter().step_by(columns);
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)))
}

/// Returns how far the ranges of statistics are from those of rows, as a share of the largest value.
fn apart(seen: &Statistics, rows: &[f64]) -> f64 {
    let largest = rows.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let columns = match seen.observer().axis() {
        Axis::Channel => seen.observer().columns(),
        _ => 1,
    };
    let ranges = seen.channels().iter().enumerate().map(|(column, channel)| {
        let (low, high) = ends(rows, column, columns);
        (f64::from(channel.min()) - low).abs().max((f64::from(channel.max()) - high).abs())
    });
    ranges.fold(0.0, f64::max) / largest
}

/// The inputs that the forward pass in f64 takes, by the first name of each group: those of the experts of a
/// mixture together.
pub fn wanted(
    model: &dyn ModelSource,
    blueprint: &architecture::Blueprint,
    texts: &[Vec<u32>],
) -> BTreeMap<String, Vec<f64>> {
    let mut wanted: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for text in texts {
        let inputs = reference::inputs(model, blueprint, text).unwrap();
        let hidden = reference::hidden(model, blueprint, text, &vec![true; text.len()]).unwrap();
        for (at, linears) in blueprint.inputs().iter().enumerate() {
            let first = &linears[0].matrix.tensor;
            let rows = wanted.entry(first.clone()).or_default();
            if blueprint.head.is_some() && at + 1 == blueprint.inputs().len() {
                rows.extend(&hidden);
                continue;
            }
            // Rows of a router contain those of its experts; each expert has its own rows of its last layer,
            // unless the experts are one tensor.
            let is_last = linears.len() > 1 && linears[0].matrix.tensor.contains("down");
            let names: Vec<&str> = if is_last {
                let mut names: Vec<&str> = Vec::new();
                for linear in linears {
                    if !names.contains(&&*linear.matrix.tensor) {
                        names.push(&linear.matrix.tensor);
                    }
                }
                names
            } else {
                vec![first]
            };
            names.iter().filter_map(|name| inputs.get(*name)).for_each(|x| rows.extend(x));
        }
    }
    wanted
}

#[test]
fn inputs_are_those_of_the_forward_pass_in_f64() {
    let Some(host) = shared() else { return };
    let (mut ran, mut failed) = (0, Vec::new());
    for kind in ["logits", "hidden"] {
        for (name, path, expected) in cases(kind) {
            let source = source::open(&path).unwrap();
            let options = LoadOptions::default();
            let model = block_on(Model::from_source(&host, &source, &options, &|_, _| ()));
            let model = model.unwrap_or_else(|error| panic!("{name}: {error}"));
            let tokens = words(&expected, "tokens");
            // Texts of several lengths, the longest of which fills a step.
            let longest = tokens.len().min(11);
            let texts = [tokens[..longest].to_vec(), tokens[1..4].to_vec(), tokens[2..8].to_vec()];
            let mut observer = block_on(model.observer(longest, true)).unwrap();
            let mut statistics = ModelStatistics::new(&source, model.blueprint(), true).unwrap();
            for text in &texts {
                block_on(observer.observe(&mut statistics, text)).unwrap();
            }
            block_on(observer.observe(&mut statistics, &[])).unwrap();
            assert_eq!(statistics.texts(), 3, "{name}");
            let ranges = statistics.ranges(RangeTarget::default());
            let wanted = wanted(&source, model.blueprint(), &texts);
            for linears in model.blueprint().inputs() {
                let rows = &wanted[&linears[0].matrix.tensor];
                for linear in linears {
                    let layer = &linear.matrix.tensor;
                    let LayerRanges::Statistics(seen) = &ranges.layers[layer] else {
                        panic!("{name}: {layer}")
                    };
                    let channels = &ranges.channels[layer];
                    // Queries, keys and values of one tensor took turns in the forward pass.
                    let times =
                        rows.len() as u64 / (seen.rows() * seen.observer().columns() as u64);
                    assert!((1..=3).contains(&times), "{name}: {layer} {times}");
                    assert_eq!(rows.len() as u64, times * seen.values(), "{name}: {layer}");
                    assert_eq!(channels.rows(), seen.rows());
                    for found in [apart(seen, rows), apart(channels, rows)] {
                        ran += 1;
                        if found.is_nan() || found > F32 {
                            failed.push(format!("{name}: {layer}: {found:.1e}"));
                        }
                    }
                    let sum = rows.iter().map(|x| x.abs()).sum::<f64>() / times as f64;
                    let off = (seen.channels()[0].abs_sum() / sum - 1.0).abs();
                    if off.is_nan() || off > F32 {
                        failed.push(format!("{name}: the sum of {layer}: {off:.1e}"));
                    }
                }
            }
        }
    }
    println!("{ran} ranges");
    assert!(failed.is_empty(), "{} of {ran}:\n{}", failed.len(), failed.join("\n"));
    assert!(ran > 2 * 35 * 8, "{ran}");
}

#[test]
fn what_cannot_be_observed_is_refused() {
    let Some(host) = shared() else { return };
    let folder = |name: &str| Path::new(super::FOLDER).join(name).join("model.safetensors");
    let load = |name: &str, options: &LoadOptions| {
        let source = source::open(folder(name)).unwrap();
        let model = block_on(Model::from_source(&host, &source, options, &|_, _| ())).unwrap();
        (source, model)
    };
    let options = LoadOptions::default();
    let (source, llama) = load("llama", &options);
    let mut statistics = ModelStatistics::new(&source, llama.blueprint(), false).unwrap();
    let mut observer = block_on(llama.observer(4, false)).unwrap();
    let mut observe = |statistics: &mut ModelStatistics, tokens: &[u32]| {
        block_on(observer.observe(statistics, tokens)).unwrap_err()
    };
    let long = observe(&mut statistics, &[1; 5]);
    assert!(matches!(long, ObserveError::Run(RunError::Full { need: 5, slots: 4 })), "{long}");
    let unknown = observe(&mut statistics, &[1 << 20]);
    assert!(matches!(unknown, ObserveError::Run(RunError::Token { .. })), "{unknown}");
    assert_eq!(statistics.texts(), 0);
    let (source, bert) = load("bert", &options);
    let mut others = ModelStatistics::new(&source, bert.blueprint(), false).unwrap();
    let message = observe(&mut others, &[1, 2]).to_string();
    assert_eq!(message, "the statistics are of another model");
    for rows in [0, 1 << 20] {
        let refused = block_on(llama.observer(rows, false)).unwrap_err();
        assert!(matches!(refused, RunError::Options(_)), "{refused}");
    }
    let int8 = LoadOptions::default()
        .with_activations("int8-token".parse::<lowbit::ops::Activations>().unwrap())
        .with_scheme("int8-channel".parse().unwrap());
    let (_, codes) = load("llama", &int8);
    let refused = block_on(codes.observer(4, false)).unwrap_err().to_string();
    assert_eq!(refused, "layers are observed with float activations, as f32");
}
