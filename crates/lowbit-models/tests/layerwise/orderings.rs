//! Which methods lose less than which, on layers of MiniLM with inputs that are those of the whole model:
//! statistics of some paragraphs of a novel, errors on others.

use super::{Layer, scheme};
use crate::common::{data, host};
use lowbit::compress::dequantize;
use lowbit::compress::layerwise::{
    Budget, Gram, Options, Order, Pattern, gptq, magnitude, output_error, permute_for_two_four,
    sparse_gpt, wanda,
};
use lowbit::host::{Gptq, Host};
use lowbit_models::architecture;
use lowbit_models::checkpoint::ModelFile;
use lowbit_models::device::{InputRows, Stage, StagedRun};
use lowbit_models::text::Tokenizer;
use pollster::block_on;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What scripts/accuracy/calibration.py writes: of the paragraphs that are longer than 250 characters, those from
/// the 21st on. A model reads the first 128 tokens of each.
const LONGER_THAN: usize = 250;
const SKIPPED: usize = 20;
const CALIBRATION: usize = 96;
const TOKENS: usize = 128;

/// The paragraphs that statistics are of, and those behind them that errors are measured on.
const STATISTICS: usize = 42;
const HELD_OUT: usize = 16;

/// The rows of each matrix.
const ROWS: usize = 64;

/// The folder of the model, and the paragraphs of the novel.
fn given() -> Option<(PathBuf, Vec<String>)> {
    let model = data("minilm/model.safetensors", "model")?;
    let novel = std::fs::read_to_string(data("pride/pride.txt", "language-models")?).unwrap();
    let joined =
        novel.split("\n\n").map(|lines| lines.split_whitespace().collect::<Vec<_>>().join(" "));
    let long = joined.filter(|paragraph| paragraph.len() > LONGER_THAN);
    Some((model.parent().unwrap().to_owned(), long.skip(SKIPPED).collect()))
}

fn tokens(tokenizer: &Tokenizer, paragraphs: &[String]) -> Vec<Vec<u32>> {
    let tokens = |text: &String| tokenizer.encode_within(text, TOKENS).unwrap().0;
    paragraphs.iter().map(tokens).collect()
}

#[test]
fn calibration_text_has_as_many_tokens_as_the_reference_figures_are_of() {
    let Some((folder, paragraphs)) = given() else { return };
    let tokenizer = Tokenizer::open(folder).unwrap();
    let tokens = tokens(&tokenizer, &paragraphs[..CALIBRATION]);
    assert_eq!(tokens.iter().map(Vec::len).sum::<usize>(), 10_042);
}

/// A layer with statistics of one part of its inputs, and the Gram matrix of the others.
struct Held {
    layer: Layer,
    held_out: Gram,
}

impl Held {
    /// Returns the error of the outputs as a share of the outputs, on inputs that statistics are not of.
    fn error(&self, kept: &[f32]) -> f64 {
        let Layer { w, n, .. } = &self.layer;
        let zero = vec![0.0; w.len()];
        let of = |kept: &[f32]| output_error(&self.held_out, w, kept, *n).unwrap();
        of(kept) / of(&zero)
    }
}

/// Returns the first linear layer of each input of some layers.
fn layers(of: &[usize]) -> Option<Vec<Held>> {
    let (folder, paragraphs) = given()?;
    host()?;
    // Models keep their device, so it is a device of their own.
    let host = Arc::new(Host::new().unwrap());
    let file = ModelFile::open(folder.join("model.safetensors")).unwrap();
    let blueprint = architecture::read(&file).unwrap();
    let tokenizer = Tokenizer::open(folder).unwrap();
    let texts = tokens(&tokenizer, &paragraphs[..STATISTICS + HELD_OUT]);
    let rows: usize = texts[..STATISTICS].iter().map(Vec::len).sum();
    assert!(rows > 4000, "{rows}");
    let mut run = StagedRun::new(&host, &blueprint, &texts, 1024).unwrap();
    let mut found = Vec::new();
    let last = Stage::Layer(of.iter().max().copied().unwrap());
    loop {
        let stage = run.next();
        if matches!(stage, Stage::Layer(layer) if of.contains(&layer)) {
            let inputs = run.inputs(stage);
            let mut seen = vec![(0, Vec::new()); inputs.len()];
            let mut each = |InputRows { index, columns, x }: InputRows<'_>| {
                seen[index].0 = columns;
                seen[index].1.extend_from_slice(x);
                Ok(())
            };
            block_on(run.observe(&file, &mut each)).unwrap();
            for (input, (k, x)) in inputs.iter().zip(seen) {
                let name = input.weights()[0];
                let w = file.read_f32(name).unwrap()[..ROWS * k].to_vec();
                let (x, others) = x.split_at(rows * k);
                let mut held_out = Gram::new(k).unwrap();
                held_out.add(others).unwrap();
                found.push(Held { layer: Layer::new(name, w, x.to_vec(), k), held_out });
            }
        }
        if stage == last {
            return Some(found);
        }
        block_on(run.advance(&file)).unwrap();
    }
}

/// The errors that GPTQ leaves on the device exceed those of the f64 reference by 0.5 % at most, on the inputs that both
/// look at.
fn device_is_as_good(held: &Held) {
    let host = host().unwrap();
    let Layer { w, n, k, gram, .. } = &held.layer;
    let (n, k) = (*n, *k);
    for format in ["int4-g64-asym", "int3-g64-asym"] {
        let how = Gptq { damping: 0.01, ..Gptq::default() };
        let made = host.gptq(w, n, k, gram.sums(), &format.parse().unwrap(), &how).unwrap();
        let reference = gptq(w, n, k, gram, &scheme(format), &Options::default()).unwrap();
        let error = |kept: &[f32]| output_error(gram, w, kept, n).unwrap();
        let more = error(&dequantize(&made)) / error(&reference.kept);
        println!(
            "{} {format}: the device's error is {more:.5} of the reference's",
            held.layer.name
        );
        assert!(more <= 1.005, "{format}: {more}");
    }
}

/// Returns the errors of all methods on a layer.
fn errors(held: &Held) -> BTreeMap<String, f64> {
    let layer = &held.layer;
    let (w, n, k, gram) = (&layer.w, layer.n, layer.k, &layer.gram);
    let mut errors = BTreeMap::new();
    let mut add = |name: String, kept: &[f32]| errors.insert(name, held.error(kept));
    for format in ["int4-g64-asym", "int3-g64-asym"] {
        let scheme = scheme(format);
        add(format!("round {format}"), &layer.rounded(&scheme));
        add(format!("awq {format}"), &layer.awq(&scheme, 20));
        let orders = [
            ("gptq", Order::AsIs),
            ("gptq-actorder", Order::ByDiagonal { static_groups: false }),
            ("gptq-actorder-static", Order::ByDiagonal { static_groups: true }),
        ];
        for (name, order) in orders {
            let options = Options { order, ..Options::default() };
            let made = gptq(w, n, k, gram, &scheme, &options).unwrap();
            add(format!("{name} {format}"), &made.kept);
        }
    }
    let norms = gram.diagonal();
    for pattern in ["2:4", "6:8", "0.5"] {
        let parsed: Pattern = pattern.parse().unwrap();
        let mask = magnitude(w, n, k, &parsed).unwrap();
        add(format!("magnitude {pattern}"), &layer.pruned(&mask));
        let mask = wanda(w, n, k, &norms, &parsed).unwrap();
        add(format!("wanda {pattern}"), &layer.pruned(&mask));
        let made = sparse_gpt(w, n, k, gram, &parsed, &scheme("f32"), &Options::default());
        add(format!("sparsegpt {pattern}"), &made.unwrap().kept);
    }
    for (name, norms) in [("magnitude", vec![1.0; k]), ("wanda", norms)] {
        add(format!("{name} permuted 2:4"), &permuted(layer, &norms));
    }
    errors
}

/// Prunes 2:4 by |w| · norm, in the order of columns that keeps most of that.
fn permuted(layer: &Layer, norms_squared: &[f64]) -> Vec<f32> {
    let (n, k) = (layer.n, layer.k);
    let norms: Vec<f32> = norms_squared.iter().map(|x| x.sqrt() as f32).collect();
    let scores = super::each(&layer.w, &norms, |w, norm| w * norm);
    let budget = Budget { pairs: 50_000, escapes: 1 };
    let order = permute_for_two_four(&scores, n, k, 1, budget).unwrap();
    let places = || order.iter().map(|&column| column as usize);
    let w: Vec<f32> =
        layer.w.chunks_exact(k).flat_map(|row| places().map(|column| row[column])).collect();
    let norms: Vec<f64> = places().map(|column| norms_squared[column]).collect();
    let mask = wanda(&w, n, k, &norms, &Pattern::TWO_FOUR).unwrap();
    let mut kept = vec![0.0; n * k];
    for row in 0..n {
        for (place, column) in places().enumerate() {
            if mask.keeps(row, place) {
                kept[row * k + column] = layer.w[row * k + column];
            }
        }
    }
    kept
}

/// Pairs of methods: the one that loses more, the one that loses less, and the factor between them: the lowest of all
/// layers, and the geometric mean. They were measured on the four inputs of all six layers of the model with more
/// text and rows than this test takes: 60 paragraphs, errors on 24 others, and 128 rows of each matrix; this test prints
/// its own. The lowest factors of AWQ and of Wanda at 6:8 are those of this test with `LOWBIT_ORDERINGS=all`: on single
/// layers they gain next to nothing.
///
/// A fraction is pruned of the whole matrix by magnitude and of each row by Wanda, so that Wanda loses more
/// (up to 1.18 times as much) on 3 of the 24 layers, whose rows differ most.
const CLAIMS: [(&str, &str, Option<f64>, f64); 19] = [
    ("round int4-g64-asym", "gptq int4-g64-asym", Some(1.763), 2.737),
    ("round int3-g64-asym", "gptq int3-g64-asym", Some(1.598), 2.644),
    ("round int4-g64-asym", "gptq-actorder int4-g64-asym", Some(1.775), 3.366),
    ("round int3-g64-asym", "gptq-actorder int3-g64-asym", Some(1.610), 3.272),
    ("round int4-g64-asym", "gptq-actorder-static int4-g64-asym", Some(1.804), 3.202),
    ("round int3-g64-asym", "gptq-actorder-static int3-g64-asym", Some(1.705), 3.187),
    ("round int4-g64-asym", "awq int4-g64-asym", Some(1.000), 1.270),
    ("round int3-g64-asym", "awq int3-g64-asym", Some(1.004), 1.260),
    ("magnitude 2:4", "wanda 2:4", Some(1.057), 1.550),
    ("magnitude 6:8", "wanda 6:8", Some(1.004), 1.663),
    ("magnitude 0.5", "wanda 0.5", None, 1.546),
    ("wanda 2:4", "sparsegpt 2:4", Some(1.590), 2.089),
    ("wanda 6:8", "sparsegpt 6:8", Some(1.701), 2.180),
    ("wanda 0.5", "sparsegpt 0.5", Some(1.650), 2.222),
    ("magnitude 2:4", "magnitude 6:8", Some(5.695), 7.030),
    ("wanda 2:4", "wanda 6:8", Some(6.474), 7.543),
    ("sparsegpt 2:4", "sparsegpt 6:8", Some(7.174), 7.872),
    ("magnitude 2:4", "magnitude permuted 2:4", Some(1.000), 1.236),
    ("wanda 2:4", "wanda permuted 2:4", Some(1.289), 1.407),
];

/// What a factor must at least be: half as far above 1 as it was measured, which is a margin for fewer rows and
/// paragraphs and no bound. The claims are the orders themselves, that is factors above 1.
fn least(measured: f64) -> f64 {
    1.0 + (measured - 1.0) / 2.0
}

#[test]
fn methods_lose_less_than_those_that_know_less() {
    // All layers take minutes: scripts/test.sh asks for them in `make test-all`.
    let all = std::env::var("LOWBIT_ORDERINGS").is_ok_and(|which| which == "all");
    let which: &[usize] = if all { &[0, 1, 2, 3, 4, 5] } else { &[1] };
    let Some(layers) = layers(which) else { return };
    layers.iter().for_each(device_is_as_good);
    let found: Vec<_> = layers.iter().map(errors).collect();
    assert_eq!(found.len(), 4 * which.len());
    let mut failed = Vec::new();
    for (worse, better, lowest, mean) in CLAIMS {
        let ratios: Vec<f64> = found.iter().map(|errors| errors[worse] / errors[better]).collect();
        println!("{worse} / {better}: {ratios:.3?}");
        let now = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        if lowest.is_some_and(|measured| now < least(measured)) {
            failed.push(format!("{worse} / {better}: {now} on one layer, measured {lowest:?}"));
        }
        let now = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / found.len() as f64).exp();
        if now.is_nan() || now < least(mean) {
            failed.push(format!("{worse} / {better}: {now} in the mean, measured {mean}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
