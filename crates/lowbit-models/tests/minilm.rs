//! The demo's encoder on the real model: `make model` fetches it. Without it the tests
//! are skipped, unless `LOWBIT_REQUIRE_MODEL=1`.

use crate::recipes::{Recipe, recipes};
use crate::sentences::{Sentence, alike, cosine, sentences};
use lowbit::compress::{dequantize, smooth};
use lowbit::format::Quantization;
use lowbit::format::{Granularity, PackedWeights, StaticScale, WeightFormat};
use lowbit::host::Host;
use lowbit_models::bert::{
    Dense, DeviceEncoder, Encoder, Error, Inputs, LayerInput, Samples, gelu,
};
use std::{env, path::Path};

fn encoder() -> Option<Encoder> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/minilm"));
    if folder.join("model.safetensors").exists() {
        return Some(Encoder::open(folder).unwrap_or_else(|error| panic!("{error}")));
    }
    assert!(
        env::var_os("LOWBIT_REQUIRE_MODEL").is_none_or(|value| value != "1"),
        "{} holds no model, and LOWBIT_REQUIRE_MODEL is set: run `make model`",
        folder.display()
    );
    let folder = folder.display();
    crate::common::skipped(format_args!("{folder} holds no model: run `make model`"));
    None
}

fn compress<'a>(
    host: &'a Host,
    encoder: &'a Encoder,
    recipe: &Recipe,
    samples: &Samples,
) -> Result<DeviceEncoder<'a>, Error> {
    DeviceEncoder::new(host, encoder, recipe.format, recipe.inputs, Some(samples))
}

fn plain(dense: &Dense, weight: &[f32], x: &[f32], m: usize) -> Result<Vec<f32>, Error> {
    assert_eq!(x.len(), m * dense.k);
    Ok(crate::common::linear(x, weight, &dense.bias, dense.k))
}

/// The rest of BERT, apart from any kernel.
#[test]
fn encoder_gives_the_reference() -> Result<(), Error> {
    let Some(encoder) = encoder() else { return Ok(()) };
    assert_eq!(encoder.linears().count(), 36);
    let sentences = sentences()?;
    let mut embeddings = Vec::new();
    for sentence in &sentences {
        let embedding =
            encoder.embed(&sentence.text, &|dense, x, m| plain(dense, &dense.weight, x, m))?;
        let cosine = cosine(&embedding, &sentence.embedding);
        assert!(cosine >= 0.99999, "{}: cosine {cosine}", sentence.text);
        embeddings.push(embedding);
    }
    let (paraphrase, unrelated) = alike(&sentences, &embeddings);
    assert!((paraphrase - 0.633).abs() < 1e-3, "paraphrases: {paraphrase}");
    assert!((unrelated + 0.017).abs() < 1e-3, "unrelated: {unrelated}");
    Ok(())
}

const CALIBRATION: &str = include_str!("../../lowbit-demo/src/calibration.txt");

/// Every linear layer through the kernels: what the demo promises of its recipes.
#[test]
fn kernels_keep_the_embeddings() -> Result<(), Error> {
    let Some(encoder) = encoder() else { return Ok(()) };
    let host = Host::new()?;
    let sentences = sentences()?;
    let samples = Samples::new(&host, &encoder, CALIBRATION.lines())?;
    let mut baseline = Vec::new();
    for recipe in recipes()? {
        let floor = if recipe.name == "f32" { Some(0.99999) } else { recipe.floor };
        let Some(floor) = floor else { continue };
        let compressed = compress(&host, &encoder, &recipe, &samples)?;
        let mut embeddings = Vec::new();
        for (i, sentence) in sentences.iter().enumerate() {
            let embedding = compressed.embed(&sentence.text)?;
            let want = baseline.get(i).unwrap_or(&sentence.embedding);
            let cosine = cosine(&embedding, want);
            assert!(cosine >= floor, "{}: {}: cosine {cosine}", recipe.name, sentence.text);
            embeddings.push(embedding);
        }
        if baseline.is_empty() {
            baseline = embeddings;
        }
    }
    assert!(!baseline.is_empty());
    Ok(())
}

/// What codes of inputs stand for, by the definition: a scale a token, or one for all.
fn rounded(x: &[f32], k: usize, how: Quantization) -> Vec<f32> {
    let row = |row: &[f32]| {
        let (scale, zero, least) = match how {
            Quantization::Dynamic(_) => {
                let high = row.iter().fold(0.0f32, |a, x| a.max(*x));
                let low = row.iter().fold(0.0f32, |a, x| a.min(*x));
                let scale = (high - low) / 255.0;
                (scale, (-low / scale).round_ties_even() - 128.0, -128.0)
            }
            Quantization::Static(StaticScale { scale, zero_point }) => {
                (scale, zero_point as f32, if zero_point == 0 { -127.0 } else { -128.0 })
            }
        };
        let code = move |x: &f32| ((x / scale).round_ties_even() + zero).clamp(least, 127.0);
        row.iter().map(|x| (code(x) - zero) * scale).collect::<Vec<_>>()
    };
    x.chunks_exact(k).flat_map(row).collect()
}

/// Every recipe on the GPU against the host: the matrices code for code, the embedding
/// against plain arithmetic on what the codes stand for.
#[test]
fn recipes_match_the_host() -> Result<(), Error> {
    let Some(encoder) = encoder() else { return Ok(()) };
    let host = Host::new()?;
    let Sentence { text, .. } = &sentences()?[0];
    let samples = Samples::new(&host, &encoder, CALIBRATION.lines().take(4))?;
    for recipe in recipes()? {
        let compressed = compress(&host, &encoder, &recipe, &samples)?;
        let sizes = compressed.sizes();
        assert!(sizes.total() > 0 && sizes.weights == 10_616_832, "{}: {sizes:?}", recipe.name);
        let mut weights = Vec::new();
        for dense in encoder.linears() {
            let weight = match &compressed.input(dense).unwrap().factors {
                Some(factors) => smooth::scale_columns(&dense.weight, factors)?,
                None => dense.weight.clone(),
            };
            let packed = PackedWeights::quantize(&weight, dense.n, dense.k, &recipe.format)?;
            // Not assert_eq, which would print millions of codes.
            let same = host.download(compressed.weights(dense).unwrap())? == packed;
            assert!(same, "{} of {} differs from the host's", recipe.name, dense.name);
            weights.push(dequantize(&packed));
        }
        let want = encoder.embed(text, &|dense, x, m| {
            let LayerInput { quantization, factors } = compressed.input(dense).unwrap();
            let smooth = match factors {
                Some(factors) => x.iter().zip(factors.iter().cycle()).map(|(x, s)| x / s).collect(),
                None => x.to_vec(),
            };
            let Some(how) = *quantization else {
                return plain(dense, &weights[dense.index], &smooth, m);
            };
            let y = plain(dense, &weights[dense.index], &rounded(&smooth, dense.k, how), m)?;
            // Layer by layer on the same inputs. Rounding costs 1e-7; a code next to a tie may be
            // either neighbour, and one of a few thousand moves Y by a few thousandths of a row.
            let got = compressed.linear(dense, x, m)?;
            let norm = |v: &mut dyn Iterator<Item = f32>| {
                v.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
            };
            let off =
                norm(&mut got.iter().zip(&y).map(|(a, b)| a - b)) / norm(&mut y.iter().copied());
            assert!(off < 2e-3, "{}: {} is off by {off:.1e}", recipe.name, dense.name);
            Ok(y)
        })?;
        // Codes that differ in one layer make others in the next: a small network of 8-bit inputs
        // has no embedding of its own to that precision.
        if recipe.inputs == Inputs::Float {
            let cosine = cosine(&compressed.embed(text)?, &want);
            assert!(cosine >= 0.999999, "{}: cosine {cosine}", recipe.name);
        }
    }
    Ok(())
}

/// Channels of attention's values that are 64 times as large, taken back by the next matrix: f32 is
/// as before, one scale for all of X loses the small channels, scales and zero points a token lose
/// less, and SmoothQuant moves the outliers back.
#[test]
fn smoothing_repairs_planted_outliers() -> Result<(), Error> {
    let Some(mut encoder) = encoder() else { return Ok(()) };
    let host = Host::new()?;
    let sentences = sentences()?;
    let sentences = &sentences[..4];
    let plain_f32 = |encoder: &Encoder, text: &str| {
        encoder.embed(text, &|dense, x, m| plain(dense, &dense.weight, x, m))
    };
    let before: Result<Vec<_>, _> =
        sentences.iter().map(|s| plain_f32(&encoder, &s.text)).collect();
    let before = before?;
    for (value, output) in encoder.values_and_outputs() {
        for channel in (5..value.n).step_by(96) {
            // A power of two: nothing is rounded.
            value.weight[channel * value.k..][..value.k].iter_mut().for_each(|w| *w *= 64.0);
            value.bias[channel] *= 64.0;
            output.weight.iter_mut().skip(channel).step_by(value.n).for_each(|w| *w /= 64.0);
        }
    }
    for (sentence, before) in sentences.iter().zip(&before) {
        let cosine = cosine(&plain_f32(&encoder, &sentence.text)?, before);
        assert!(cosine > 0.9999999, "f32 has changed: cosine {cosine}");
    }
    let samples = Samples::new(&host, &encoder, CALIBRATION.lines())?;
    let int8 = WeightFormat::int8(Granularity::Channel);
    let mut means = Vec::new();
    for inputs in [Inputs::Static, Inputs::Dynamic, Inputs::Smooth] {
        let recipe = Recipe { name: "planted", format: int8, inputs, floor: None };
        let compressed = compress(&host, &encoder, &recipe, &samples)?;
        let mut sum = 0.0;
        for (sentence, before) in sentences.iter().zip(&before) {
            sum += cosine(&compressed.embed(&sentence.text)?, before);
        }
        means.push(sum / sentences.len() as f64);
    }
    eprintln!(
        "planted outliers: static {:.6}, dynamic {:.6}, smooth {:.6}",
        means[0], means[1], means[2]
    );
    assert!(means[0] < means[1] && means[0] < means[2], "{means:?}");
    Ok(())
}

/// A text longer than the model takes is cut, not refused.
#[test]
fn long_and_empty_texts() -> Result<(), Error> {
    let Some(encoder) = encoder() else { return Ok(()) };
    let zero = |dense: &Dense, _: &[f32], m| Ok(vec![0.0; m * dense.n]);
    for text in ["word ".repeat(2000), String::new()] {
        let embedding = encoder.embed(&text, &zero)?;
        assert!(embedding.iter().all(|v| v.is_finite()));
    }
    Ok(())
}

/// Against erf by its series, 2/√π·e^(−z²)·Σ 2ⁿz²ⁿ⁺¹/(2n+1)!!.
#[test]
fn gelu_is_exact() {
    for step in -600..=600 {
        let x = f64::from(step) / 100.0;
        let z = x * std::f64::consts::FRAC_1_SQRT_2;
        let mut term = z;
        let mut sum = 0.0;
        for n in 0..200 {
            sum += term;
            term *= 2.0 * z * z / f64::from(2 * n + 3);
        }
        let erf = std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum;
        let want = x * 0.5 * (1.0 + erf);
        let error = (f64::from(gelu(x as f32)) - want).abs();
        assert!(error <= 4e-7 * x.abs().max(1e-3), "gelu({x}): off by {error}");
    }
}
