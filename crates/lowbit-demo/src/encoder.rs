//! MiniLM in eleven recipes: size, what is lost, and time.

use crate::recipes::{Recipe, recipes};
use crate::report;
use crate::sentences::{Sentence, alike, cosine, mean, sentences};
use indicatif::ProgressBar;
use lowbit::format::{ActivationFormat, ActivationGranularity, Sizes, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::Activations;
use lowbit_models::bert::{DeviceEncoder, Encoder, Error, Inputs, Samples};
use lowbit_models::checkpoint::source::{self, ModelSource};
use lowbit_models::device::{EncoderOptions, LoadOptions, Model, SentenceEncoder};
use lowbit_models::text::Tokenizer;
use pollster::block_on;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Sentences for calibration; none of them is compared.
const CALIBRATION: &str = include_str!("calibration.txt");
const REPORT: &str = "target/demo.json";

/// The least cosine to the reference that the fixture's sentences must keep in `f32`.
const REFERENCE_FLOOR: f64 = 0.99999;

#[derive(serde::Serialize)]
struct Row {
    recipe: &'static str,
    format: String,
    bytes: usize,
    bits_per_weight: f64,
    mean_cosine_to_f32: f64,
    paraphrase: f64,
    unrelated: f64,
    ms_per_sentence: f64,
}

/// A model as files, and what every recipe needs of it.
struct Material<'a> {
    host: &'a Arc<Host>,
    source: &'a dyn ModelSource,
    tokenizer: &'a Tokenizer,
    /// The model on the host, for scales that are fixed in advance.
    encoder: &'a Encoder,
    samples: &'a Samples,
    sentences: &'a [Sentence],
}

/// Measures all recipes, prints a table and writes the report; whether all floors are kept. The
/// embeddings of the fixture are those of one model only, and `fixed` tells whether it is this one.
pub fn run(host: &Arc<Host>, folder: &Path, fixed: bool) -> Result<bool, Error> {
    let fetch = |error: &dyn std::error::Error| {
        let error = report::chain(error);
        if fixed { format!("{error}\nrun `make demo`, which fetches the model") } else { error }
    };
    let encoder = Encoder::open(folder).map_err(|error| fetch(&error))?;
    let source = source::open(folder).map_err(|error| fetch(&error))?;
    let tokenizer = Tokenizer::open(folder).map_err(|error| fetch(&error))?;
    let sentences = sentences()?;
    let recipes = recipes()?;
    let (matrices, weights) =
        encoder.linears().fold((0, 0), |(count, sum), dense| (count + 1, sum + dense.weight.len()));
    println!("{}: {matrices} matrices, {weights} weights", folder.display());

    let bar = report::progress(recipes.len() * (sentences.len() + 1) + 1)?;
    bar.set_message("calibration");
    let samples = Samples::new(host, &encoder, CALIBRATION.lines())?;
    bar.inc(1);

    let material = Material {
        host,
        source: &source,
        tokenizer: &tokenizer,
        encoder: &encoder,
        samples: &samples,
        sentences: &sentences,
    };
    let mut rows = Vec::new();
    let mut findings = Vec::new();
    let mut baseline = Vec::new();
    for recipe in &recipes {
        bar.set_message(recipe.name);
        let (row, embeddings) = material.measure(recipe, &baseline, &bar)?;
        if baseline.is_empty() {
            baseline = embeddings;
            if fixed {
                let references = sentences.iter().map(|sentence| &sentence.embedding);
                let least = least_cosine(&baseline, references);
                findings.push(("f32 to the reference".to_string(), least, REFERENCE_FLOOR));
            }
        } else if let Some(floor) = recipe.floor {
            let least = least_cosine(&embeddings, &baseline);
            findings.push((format!("{} to f32", recipe.name), least, floor));
        }
        rows.push(row);
    }
    bar.finish_and_clear();

    print_table(&rows);
    println!();
    let mut passed = true;
    for (what, cosine, floor) in findings {
        let kept = cosine >= floor;
        passed &= kept;
        let verdict = if kept { "ok" } else { "FAILED" };
        println!("{verdict}: {what}: least cosine {cosine:.7}, at least {floor} asked");
    }
    report::write(REPORT, &rows)?;
    Ok(passed)
}

impl Material<'_> {
    /// Compresses the encoder, then embeds every sentence and measures the time.
    fn measure(
        &self,
        recipe: &Recipe,
        baseline: &[Vec<f32>],
        bar: &ProgressBar,
    ) -> Result<(Row, Vec<Vec<f32>>), Error> {
        let (embeddings, times) = match recipe.inputs {
            Inputs::Float => self.on_device(recipe.format, None, bar)?,
            Inputs::Dynamic => {
                let token = ActivationFormat::int8(ActivationGranularity::Token).asymmetric();
                self.on_device(recipe.format, Some(token), bar)?
            }
            _ => self.on_host(recipe, bar)?,
        };
        let to_f32: Vec<f64> = if baseline.is_empty() {
            vec![1.0; embeddings.len()]
        } else {
            embeddings.iter().zip(baseline).map(|(a, b)| cosine(a, b)).collect()
        };
        let mut sizes = Sizes::default();
        for dense in self.encoder.linears() {
            sizes = sizes + recipe.format.geometry(dense.n, dense.k)?.sizes();
        }
        let (paraphrase, unrelated) = alike(self.sentences, &embeddings);
        let row = Row {
            recipe: recipe.name,
            format: recipe.format.to_string(),
            bytes: sizes.total(),
            bits_per_weight: sizes.bits_per_weight(),
            mean_cosine_to_f32: mean(&to_f32),
            paraphrase,
            unrelated,
            ms_per_sentence: mean(&times),
        };
        Ok((row, embeddings))
    }

    /// Runs the whole model on the device.
    fn on_device(
        &self,
        format: WeightFormat,
        inputs: Option<ActivationFormat>,
        bar: &ProgressBar,
    ) -> Result<(Vec<Vec<f32>>, Vec<f64>), Error> {
        let mut options = LoadOptions::default();
        if format != WeightFormat::f32() {
            options = options.with_scheme(format.into());
        }
        if let Some(inputs) = inputs {
            options = options.with_activations(Activations::Int8(inputs));
        }
        let model = block_on(Model::from_source(self.host, self.source, &options, &|_, _| ()))?;
        self.tokenizer.check(model.blueprint())?;
        let context = model.blueprint().context;
        let tokens = |sentence: &Sentence| self.tokenizer.encode_within(&sentence.text, context);
        let mut longest = 1;
        for sentence in self.sentences {
            longest = longest.max(tokens(sentence)?.0.len());
        }
        let encoder = block_on(model.encoder(&EncoderOptions::default().with_rows(longest)))?;
        block_on(encoder.warm_up())?;
        bar.inc(1);
        let embed = |encoder: &SentenceEncoder<'_>, sentence: &Sentence| {
            let vectors = block_on(encoder.embed(&[tokens(sentence)?.0]))?;
            vectors.into_iter().next().ok_or_else(|| Error::from("there is no vector"))
        };
        self.timed(bar, |sentence| embed(&encoder, sentence))
    }

    /// Runs the linear layers on the device and the rest on the host, which knows inputs with scales
    /// that are fixed in advance.
    fn on_host(
        &self,
        recipe: &Recipe,
        bar: &ProgressBar,
    ) -> Result<(Vec<Vec<f32>>, Vec<f64>), Error> {
        let Recipe { format, inputs, .. } = *recipe;
        let samples = Some(self.samples);
        let compressed = DeviceEncoder::new(self.host, self.encoder, format, inputs, samples)?;
        // Pipelines are compiled at their first use.
        if let Some(first) = self.sentences.first() {
            compressed.embed(&first.text)?;
        }
        bar.inc(1);
        self.timed(bar, |sentence| compressed.embed(&sentence.text))
    }

    /// Returns the vectors of all sentences, and the milliseconds that each took.
    fn timed(
        &self,
        bar: &ProgressBar,
        embed: impl Fn(&Sentence) -> Result<Vec<f32>, Error>,
    ) -> Result<(Vec<Vec<f32>>, Vec<f64>), Error> {
        let (mut embeddings, mut times) = (Vec::new(), Vec::new());
        for sentence in self.sentences {
            let start = Instant::now();
            embeddings.push(embed(sentence)?);
            times.push(start.elapsed().as_secs_f64() * 1e3);
            bar.inc(1);
        }
        Ok((embeddings, times))
    }
}

fn least_cosine<'a>(a: &[Vec<f32>], b: impl IntoIterator<Item = &'a Vec<f32>>) -> f64 {
    a.iter().zip(b).map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, f64::min)
}

fn print_table(rows: &[Row]) {
    println!();
    println!(
        "{:<18} {:<17} {:>5} {:>6} {:>7} {:>6} {:>6} {:>8}",
        "recipe", "format", "MB", "bits/", "cosine", "para-", "unre-", "ms/"
    );
    println!(
        "{:<18} {:<17} {:>5} {:>6} {:>7} {:>6} {:>6} {:>8}",
        "", "", "", "weight", "to f32", "phrase", "lated", "sentence"
    );
    for row in rows {
        println!(
            "{:<18} {:<17} {:>5.2} {:>6.2} {:>7.5} {:>6.3} {:>6.3} {:>8.1}",
            row.recipe,
            row.format,
            row.bytes as f64 / 1e6,
            row.bits_per_weight,
            row.mean_cosine_to_f32,
            row.paraphrase,
            row.unrelated,
            row.ms_per_sentence
        );
    }
}
