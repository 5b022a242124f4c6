//! MiniLM in thirteen recipes: size, what is lost, and time.

use crate::models::{Error, Models, NOVEL};
use crate::recipes::{Recipe, recipes};
use crate::report;
use crate::sentences::{Sentence, alike, cosine, mean, sentences};
use indicatif::ProgressBar;
use lowbit::format::WeightFormat;
use lowbit::host::Host;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Sentences for calibration; none of them is compared.
const CALIBRATION: &str = include_str!("calibration.txt");
const REPORT: &str = "target/demo.json";
/// Where the models go whose inputs have scales that are fixed in advance.
const COMPRESSED: &str = "target/demo";

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

/// Measures all recipes, prints a table and writes the report; whether all floors are kept. The
/// embeddings of the fixture are those of one model only, and `fixed` tells whether it is this one.
pub fn run(host: &Arc<Host>, folder: &Path, fixed: bool) -> Result<bool, Error> {
    let sentences = sentences()?;
    let recipes = recipes()?;
    let bar = report::progress(recipes.len() * (sentences.len() + 1) + 1)?;
    bar.set_message("calibration");
    let models = Models::open(host, folder, CALIBRATION.lines()).map_err(|error| {
        let error = report::chain(error.as_ref());
        if fixed { format!("{error}\nrun `make demo`, which fetches the model") } else { error }
    })?;
    bar.inc(1);
    let (matrices, sizes) = models.sizes(WeightFormat::f32())?;
    let folder = folder.display();
    bar.suspend(|| println!("{folder}: {matrices} matrices, {} weights", sizes.weights));

    let mut rows = Vec::new();
    let mut findings = Vec::new();
    let mut baseline = Vec::new();
    for recipe in &recipes {
        if recipe.treatment.is_some() && !Path::new(NOVEL).exists() {
            bar.suspend(|| eprintln!("SKIPPED: {}: {NOVEL} is not there", recipe.name));
            continue;
        }
        bar.set_message(recipe.name);
        let (row, embeddings) = measure(&models, recipe, &sentences, &baseline, &bar)?;
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

/// Compresses the encoder, then embeds every sentence and measures the time.
fn measure(
    models: &Models,
    recipe: &Recipe,
    sentences: &[Sentence],
    baseline: &[Vec<f32>],
    bar: &ProgressBar,
) -> Result<(Row, Vec<Vec<f32>>), Error> {
    let model = models.load(recipe, &Path::new(COMPRESSED).join(recipe.name))?;
    let encoder =
        models.encoder(&model, sentences.iter().map(|sentence| sentence.text.as_str()))?;
    bar.inc(1);
    let (mut embeddings, mut times) = (Vec::new(), Vec::new());
    for sentence in sentences {
        let start = Instant::now();
        embeddings.push(models.embed(&model, &encoder, &sentence.text)?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
        bar.inc(1);
    }
    let to_f32: Vec<f64> = if baseline.is_empty() {
        vec![1.0; embeddings.len()]
    } else {
        embeddings.iter().zip(baseline).map(|(a, b)| cosine(a, b)).collect()
    };
    let (_, sizes) = models.sizes(recipe.format)?;
    let (paraphrase, unrelated) = alike(sentences, &embeddings);
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
