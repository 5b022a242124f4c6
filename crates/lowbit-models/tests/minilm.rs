//! The demo's encoder on the real model: `make model` fetches it. Without it the tests
//! are skipped, unless `LOWBIT_REQUIRE_MODEL=1`.

use crate::models::Models;
use crate::recipes::{Inputs, Recipe, recipes};
use crate::sentences::{Sentence, alike, cosine, mean, sentences};
use crate::tiny_bert::{self, Named};
use lowbit::compress::dequantize;
use lowbit::format::{Granularity, PackedWeights, WeightFormat};
use lowbit::host::Host;
use lowbit_models::bert::{Dense, Encoder, Error, gelu};
use lowbit_models::checkpoint::ModelFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of the model, if it is there.
fn folder() -> Option<PathBuf> {
    let file = crate::common::data("minilm/model.safetensors", "model")?;
    file.parent().map(Path::to_owned)
}

fn encoder() -> Option<Encoder> {
    folder().map(|folder| Encoder::open(&folder).unwrap_or_else(|error| panic!("{error}")))
}

/// A device of its own, because models keep theirs.
fn shared() -> Option<Arc<Host>> {
    let _ = crate::common::host()?;
    Some(Arc::new(Host::new().unwrap()))
}

/// Returns the vectors that a recipe gives on the device.
fn vectors(
    models: &Models,
    recipe: &Recipe,
    scratch: &Path,
    sentences: &[Sentence],
) -> Result<Vec<Vec<f32>>, Error> {
    let model = models.load(recipe, &scratch.join(recipe.name))?;
    let texts = || sentences.iter().map(|sentence| sentence.text.as_str());
    let encoder = models.encoder(&model, texts())?;
    texts().map(|text| models.embed(&model, &encoder, text)).collect()
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

/// The whole model on the device: what the demo promises of its recipes.
#[test]
fn recipes_keep_the_embeddings() -> Result<(), Error> {
    let (Some(folder), Some(host)) = (folder(), shared()) else { return Ok(()) };
    let (sentences, scratch) = (sentences()?, tempfile::tempdir()?);
    let models = Models::open(&host, &folder, CALIBRATION.lines())?;
    let mut baseline = Vec::new();
    for recipe in recipes()? {
        let floor = if recipe.name == "f32" { Some(0.99999) } else { recipe.floor };
        let Some(floor) = floor else { continue };
        let embeddings = vectors(&models, &recipe, scratch.path(), &sentences)?;
        for (i, (sentence, embedding)) in sentences.iter().zip(&embeddings).enumerate() {
            let want = baseline.get(i).unwrap_or(&sentence.embedding);
            let cosine = cosine(embedding, want);
            assert!(cosine >= floor, "{}: {}: cosine {cosine}", recipe.name, sentence.text);
        }
        if baseline.is_empty() {
            baseline = embeddings;
        }
    }
    assert!(!baseline.is_empty());
    Ok(())
}

/// The mean cosines to f32 that rounding and pruning by magnitude leave, which llm-compressor's code gave too: what
/// better methods are compared with. The figures have five digits, and f32 moves an embedding by about 10⁻⁵ of
/// its length.
#[test]
fn plain_methods_leave_the_cosines_that_better_ones_are_compared_with() -> Result<(), Error> {
    let (Some(folder), Some(host)) = (folder(), shared()) else { return Ok(()) };
    let (sentences, scratch) = (sentences()?, tempfile::tempdir()?);
    let models = Models::open(&host, &folder, [])?;
    let of = |name: &str| -> Result<Vec<Vec<f32>>, Error> {
        let recipe = recipes()?.into_iter().find(|recipe| recipe.name == name);
        vectors(&models, &recipe.ok_or(name)?, scratch.path(), &sentences)
    };
    let baseline = of("f32")?;
    for (name, want) in [("int4-g64-asym", 0.96992), ("2:4", 0.64703)] {
        let cosines = of(name)?;
        let cosines: Vec<f64> = cosines.iter().zip(&baseline).map(|(a, b)| cosine(a, b)).collect();
        let mean = mean(&cosines);
        println!("{name}: {mean:.7}");
        assert!((mean - want).abs() <= 0.5e-5 + 1e-5, "{name}: {mean} instead of {want}");
    }
    Ok(())
}

/// Recipes with float inputs on the device, beside plain arithmetic on what the codes of the weights stand for.
/// Codes of inputs that differ in one layer make others in the next, so that recipes with them have no vector of
/// their own to that precision: `device/fixed.rs` compares these on small models.
#[test]
fn recipes_match_the_host() -> Result<(), Error> {
    let (Some(folder), Some(host)) = (folder(), shared()) else { return Ok(()) };
    let encoder = Encoder::open(&folder)?;
    let sentences = &sentences()?[..1];
    let scratch = tempfile::tempdir()?;
    let models = Models::open(&host, &folder, [])?;
    let rounded = |recipe: &Recipe| recipe.inputs == Inputs::Float && recipe.treatment.is_none();
    for recipe in recipes()?.into_iter().filter(rounded) {
        let (matrices, sizes) = models.sizes(recipe.format)?;
        assert_eq!((matrices, sizes.weights), (36, 10_616_832), "{}", recipe.name);
        let mut weights = Vec::new();
        for dense in encoder.linears() {
            let packed = PackedWeights::quantize(&dense.weight, dense.n, dense.k, &recipe.format)?;
            weights.push(dequantize(&packed));
        }
        let of_host = encoder
            .embed(&sentences[0].text, &|dense, x, m| plain(dense, &weights[dense.index], x, m))?;
        let of_device = vectors(&models, &recipe, scratch.path(), sentences)?;
        let cosine = cosine(&of_device[0], &of_host);
        assert!(cosine >= 0.999999, "{}: cosine {cosine}", recipe.name);
    }
    Ok(())
}

/// Channels of attention's values that are 64 times as large, taken back by the next matrix: f32 is
/// as before, one scale for all of X loses the small channels, scales and zero points a token lose
/// less, and SmoothQuant moves the outliers back.
#[test]
fn smoothing_repairs_planted_outliers() -> Result<(), Error> {
    let (Some(folder), Some(host)) = (folder(), shared()) else { return Ok(()) };
    let (sentences, scratch) = (sentences()?, tempfile::tempdir()?);
    let sentences = &sentences[..4];
    let planted = scratch.path().join("planted");
    let file = ModelFile::open(folder.join("model.safetensors"))?;
    let mut tensors: Vec<Named> = Vec::new();
    // No integers, such as the list of positions.
    for tensor in file.tensors().filter(|tensor| tensor.is_float()) {
        let (name, mut values) = (tensor.name.to_owned(), tensor.to_f32()?);
        let columns = tensor.shape.last().copied().unwrap_or(1);
        for channel in (5..384).step_by(96) {
            // A power of two: nothing is rounded.
            if name.ends_with("attention.self.value.weight") {
                values[channel * columns..][..columns].iter_mut().for_each(|w| *w *= 64.0);
            } else if name.ends_with("attention.self.value.bias") {
                values[channel] *= 64.0;
            } else if name.ends_with("attention.output.dense.weight") {
                values.iter_mut().skip(channel).step_by(columns).for_each(|w| *w /= 64.0);
            }
        }
        tensors.push((name, tensor.shape.to_vec(), values));
    }
    tiny_bert::write(&planted, &tensors);
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(folder.join(name), planted.join(name))?;
    }
    let int8 = WeightFormat::int8(Granularity::Channel);
    let f32 = Recipe {
        name: "f32",
        format: WeightFormat::f32(),
        inputs: Inputs::Float,
        treatment: None,
        floor: None,
    };
    let before = vectors(&Models::open(&host, &folder, [])?, &f32, scratch.path(), sentences)?;
    let models = Models::open(&host, &planted, CALIBRATION.lines())?;
    let mean = |recipe: &Recipe| -> Result<f64, Error> {
        let vectors = vectors(&models, recipe, scratch.path(), sentences)?;
        let cosines = vectors.iter().zip(&before).map(|(vector, before)| cosine(vector, before));
        Ok(cosines.sum::<f64>() / before.len() as f64)
    };
    let unchanged = mean(&f32)?;
    assert!(unchanged > 0.9999999, "f32 has changed: cosine {unchanged}");
    let mut means = Vec::new();
    for inputs in [Inputs::Static, Inputs::Dynamic, Inputs::Smooth] {
        means.push(mean(&Recipe {
            name: "planted-w8a8",
            format: int8,
            inputs,
            treatment: None,
            floor: None,
        })?);
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
