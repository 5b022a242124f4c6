//! The demo's encoder on the real model: `make model` fetches it. Without it the tests
//! are skipped, unless `LOWBIT_REQUIRE_MODEL=1`.

#[path = "../src/bin/lowbit/bert.rs"]
mod bert;
#[path = "../examples/minilm/recipes.rs"]
mod recipes;
#[path = "../examples/minilm/sentences.rs"]
mod sentences;

use bert::{Dense, Encoder, Error, gelu};
use lowbit::compress::dequantize;
use lowbit::format::PackedWeights;
use lowbit::host::Host;
use recipes::{Compressed, recipes};
use sentences::{Sentence, alike, cosine, sentences};
use std::{env, path::Path};

fn encoder() -> Option<Encoder> {
    let folder = Path::new("data/minilm");
    if folder.join("model.safetensors").exists() {
        return Some(Encoder::open(folder).unwrap_or_else(|error| panic!("{error}")));
    }
    assert!(
        env::var_os("LOWBIT_REQUIRE_MODEL").is_none_or(|value| value != "1"),
        "{} holds no model, and LOWBIT_REQUIRE_MODEL is set: run `make model`",
        folder.display()
    );
    eprintln!("SKIPPED: {} holds no model: run `make model`", folder.display());
    None
}

/// `x·Wᵀ + b` in eight partial sums, which the compiler turns into vectors.
fn plain(dense: &Dense, weight: &[f32], x: &[f32], m: usize) -> Result<Vec<f32>, Error> {
    assert_eq!(x.len(), m * dense.k);
    let mut y = Vec::with_capacity(m * dense.n);
    for x in x.chunks_exact(dense.k) {
        for (w, bias) in weight.chunks_exact(dense.k).zip(&dense.bias) {
            let mut sums = [0.0; 8];
            for (x, w) in x.chunks(8).zip(w.chunks(8)) {
                for (sum, (x, w)) in sums.iter_mut().zip(x.iter().zip(w)) {
                    *sum += x * w;
                }
            }
            y.push(bias + sums.iter().sum::<f32>());
        }
    }
    Ok(y)
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

/// Every linear layer through the kernels: what the demo promises of its recipes.
#[test]
fn kernels_keep_the_embeddings() -> Result<(), Error> {
    let Some(encoder) = encoder() else { return Ok(()) };
    let host = Host::new()?;
    let sentences = sentences()?;
    let mut baseline = Vec::new();
    for recipe in recipes()? {
        let floor = if recipe.name == "f32" { Some(0.99999) } else { recipe.floor };
        let Some(floor) = floor else { continue };
        let compressed = Compressed::new(&host, &encoder, &recipe.format)?;
        let mut embeddings = Vec::new();
        for (i, sentence) in sentences.iter().enumerate() {
            let embedding = compressed.embed(&encoder, &sentence.text)?;
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

/// Every recipe on the GPU against the host: the matrices code for code, the embedding
/// against plain arithmetic on what the codes stand for.
#[test]
fn recipes_match_the_host() -> Result<(), Error> {
    let Some(encoder) = encoder() else { return Ok(()) };
    let host = Host::new()?;
    let Sentence { text, .. } = &sentences()?[0];
    for recipe in recipes()? {
        let compressed = Compressed::new(&host, &encoder, &recipe.format)?;
        let sizes = compressed.sizes;
        assert!(sizes.total() > 0 && sizes.weights == 10_616_832, "{}: {sizes:?}", recipe.name);
        let mut weights = Vec::new();
        for dense in encoder.linears() {
            let packed = PackedWeights::quantize(&dense.weight, dense.n, dense.k, &recipe.format)?;
            // Not assert_eq, which would print millions of codes.
            let same = host.download(&compressed.weights[dense.index])? == packed;
            assert!(same, "{} of {} differs from the host's", recipe.name, dense.name);
            weights.push(dequantize(&packed));
        }
        let want = encoder.embed(text, &|dense, x, m| plain(dense, &weights[dense.index], x, m))?;
        let cosine = cosine(&compressed.embed(&encoder, text)?, &want);
        assert!(cosine >= 0.999999, "{}: cosine {cosine}", recipe.name);
    }
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
