//! The fixture that scripts/layerwise/make.py writes: slices of two layers, and what llm-compressor makes of
//! them.

use super::{Layer, scheme};
use lowbit::compress::layerwise::{
    Mask, Options, Order, Pattern, gptq, magnitude, output_error, sparse_gpt, wanda,
};
use lowbit_models::checkpoint::ModelFile;

const FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/layerwise/layers.safetensors");
const LAYERS: [&str; 2] = ["query", "down"];
const FORMATS: [&str; 2] = ["int4-g64-asym", "int3-g64-asym"];
const PATTERNS: [&str; 3] = ["2:4", "6:8", "0.5"];

/// How far an objective may be from llm-compressor's, in either direction, as a share of it. Both take the
/// same decisions, there in f32 and here in f64, except near ties: they differ by up to 0.12 %.
const CLOSE: f64 = 0.01;

struct Fixture(ModelFile);

impl Fixture {
    fn open() -> Self {
        Self(ModelFile::open(FILE).unwrap())
    }

    fn layer(&self, name: &str) -> Layer {
        let x = self.0.read_f32(&format!("{name}.x")).unwrap();
        let w = format!("{name}.w");
        let k = self.0.tensor(&w).unwrap().shape[1];
        Layer::new(name, self.0.read_f32(&w).unwrap(), x, k)
    }

    fn error(&self, layer: &Layer, method: &str, of: &str) -> f64 {
        let name = format!("{}.error.{method}.{of}", layer.name);
        let tensor = self.0.tensor(&name).unwrap_or_else(|| panic!("there is no {name}"));
        f64::from_le_bytes(tensor.bytes.try_into().unwrap())
    }

    fn mask(&self, layer: &Layer, method: &str, pattern: &str) -> Mask {
        let name = format!("{}.mask.{method}.{pattern}", layer.name);
        let tensor = self.0.tensor(&name).unwrap_or_else(|| panic!("there is no {name}"));
        let row_bytes = layer.k.div_ceil(8);
        assert_eq!(tensor.shape, [layer.n, row_bytes]);
        let bit = |row: usize, column: usize| {
            tensor.bytes[row * row_bytes + column / 8] >> (column % 8) & 1 == 1
        };
        Mask::from_fn(layer.n, layer.k, bit).unwrap()
    }
}

/// What differs by more than it may.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    /// Compares an objective with llm-compressor's.
    fn judge(&mut self, what: String, have: f64, want: f64) {
        let ratio = have / want;
        println!("{what}: {have:.6} / {want:.6} = {ratio:.5}");
        if ratio.is_nan() || (ratio - 1.0).abs() > CLOSE {
            self.0.push(format!("{what}: {have}, there {want}, which is {ratio} of it"));
        }
    }
}

impl Drop for Findings {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{}", self.0.join("\n"));
        }
    }
}

#[test]
fn rounding_and_gptq_leave_the_errors_that_they_leave_there() {
    let fixture = Fixture::open();
    let mut findings = Findings::default();
    for name in LAYERS {
        let layer = fixture.layer(name);
        for format in FORMATS {
            let scheme = scheme(format);
            let mut judge = |method: &str, have| {
                let want = fixture.error(&layer, method, format);
                findings.judge(format!("{name} {method} {format}"), have, want);
            };
            let error = |kept: &[f32]| output_error(&layer.gram, &layer.w, kept, layer.n).unwrap();
            judge("round", error(&layer.rounded(&scheme)));
            let made = |layer: &Layer, order| {
                let options = Options { order, ..Options::default() };
                let made = gptq(&layer.w, layer.n, layer.k, &layer.gram, &scheme, &options);
                let made = made.unwrap();
                assert!(made.warnings.is_empty(), "{:?}", made.warnings);
                made.error
            };
            let fixed = Order::ByDiagonal { static_groups: true };
            judge("gptq-actorder", made(&layer, fixed));
            judge("gptq-sorted", made(&sorted(&layer), fixed));
            judge("gptq", made(&layer, Order::AsIsStatic));
            // With scales that are found when a group is reached, the result is another one.
            let (as_is, round) =
                (made(&layer, Order::AsIs), fixture.error(&layer, "round", format));
            assert!(as_is < round, "{name} {format}: {as_is}, and {round} by rounding");
        }
    }
}

/// Returns the layer with columns by falling diagonal of the Gram matrix, where act-order changes nothing.
fn sorted(layer: &Layer) -> Layer {
    let diagonal = layer.gram.diagonal();
    let mut order: Vec<usize> = (0..layer.k).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
    let of = |matrix: &[f32]| {
        let rows = matrix.chunks_exact(layer.k);
        rows.flat_map(|row| order.iter().map(|&column| row[column])).collect()
    };
    Layer::new(&layer.name, of(&layer.w), of(&layer.x), layer.k)
}

#[test]
fn awq_leaves_the_errors_that_it_leaves_there() {
    let fixture = Fixture::open();
    let mut findings = Findings::default();
    for name in LAYERS {
        let layer = fixture.layer(name);
        for format in FORMATS {
            // There, a power of 1 comes after those of here.
            let kept = layer.awq(&scheme(format), 20);
            let have = output_error(&layer.gram, &layer.w, &kept, layer.n).unwrap();
            let want = fixture.error(&layer, "awq", format);
            findings.judge(format!("{name} awq {format}"), have, want);
        }
    }
}

#[test]
fn pruning_leaves_the_errors_and_masks_that_it_leaves_there() {
    let fixture = Fixture::open();
    let mut findings = Findings::default();
    for name in LAYERS {
        let layer = fixture.layer(name);
        let (w, n, k, gram) = (&layer.w, layer.n, layer.k, &layer.gram);
        let norms = gram.diagonal();
        for pattern in PATTERNS {
            let parsed: Pattern = pattern.parse().unwrap();
            let masks = [
                ("magnitude", magnitude(w, n, k, &parsed).unwrap()),
                ("wanda", wanda(w, n, k, &norms, &parsed).unwrap()),
            ];
            for (method, mask) in masks {
                // No scores are so close on these layers that f32 would swap them.
                let theirs = fixture.mask(&layer, method, pattern);
                assert!(mask == theirs, "{name} {method} {pattern}");
                let have = output_error(gram, w, &layer.pruned(&mask), n).unwrap();
                let want = fixture.error(&layer, method, pattern);
                findings.judge(format!("{name} {method} {pattern}"), have, want);
            }
            let options = Options::default();
            let parsed = match parsed {
                // There, one weight more is pruned of each block.
                Pattern::Fraction(fraction) => {
                    let count = (n * options.block) as f64;
                    Pattern::Fraction(((count * fraction).floor() + 1.0) / count)
                }
                _ => parsed,
            };
            let made = sparse_gpt(w, n, k, gram, &parsed, &scheme("f32"), &options).unwrap();
            assert!(made.warnings.is_empty(), "{:?}", made.warnings);
            let want = fixture.error(&layer, "sparsegpt", pattern);
            findings.judge(format!("{name} sparsegpt {pattern}"), made.error, want);
        }
    }
}
