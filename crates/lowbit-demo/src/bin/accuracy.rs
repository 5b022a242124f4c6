//! What methods of compression cost: MiniLM and language models in recipes, measured on text that no method saw.
//!
//! ```text
//! make accuracy                                        # fetches the models first
//! cargo run --release -p lowbit-demo --bin accuracy    # [MODEL…]: minilm, smollm2, qwen2.5-coder
//! ```
//!
//! Each row is kept in `target/accuracy` with a checksum of the model and of the texts, so that an interrupted run goes
//! on; after a change of the code, remove that folder. `target/accuracy.json` has all rows. Loops over columns run on
//! the host in f64, so that the figures are those of the method on every adapter.
//!
//! Exit codes: 0 if all rows are there and no one is below the value that it has to reach, 1 if not, 2 if there is no
//! adapter or a model fails.

use indicatif::{ProgressBar, ProgressStyle};
use lowbit::host::Host;
use lowbit_models::architecture::{self, Blueprint};
use lowbit_models::checkpoint::source::{self, ModelSource, model_checksum};
use lowbit_models::compress::{Pattern, Recipe, Rule, SelectRequest};
use lowbit_models::evaluate::{Evaluation, Metric};
use lowbit_models::layerwise::{
    self, ColumnOrder, Doing, Job, Loops, Method, Treatment, plans, run,
};
use lowbit_models::text::Tokenizer;
use lowbit_models::text::windows::windows;
use pollster::block_on;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

const ROWS: &str = "target/accuracy";
const REPORT: &str = "target/accuracy.json";
const TEXT: &str = "data/pride/pride.txt";
/// The windows of a language model that are measured, and those that are left out before methods look at any.
const MEASURED: usize = 4;
const APART: usize = 64;
/// Sentences of the novel for calibration, which have some 24,000 tokens.
const SENTENCES: usize = 1000;

/// A row of the report.
#[derive(Serialize, Deserialize)]
struct Row {
    model: String,
    recipe: String,
    method: String,
    format: String,
    sparsity: String,
    metric: Metric,
    value: f64,
    bits_per_weight: f64,
    /// The root of the mean of the squares of all layers' relative output errors, on the calibration text.
    output_error: f64,
    seconds: f64,
}

/// A row in its file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Checksums of the model, and of the tokens that are measured and that methods look at.
    of: [u64; 3],
    row: Row,
}

/// How a model is compressed.
struct Plan {
    /// The name, if it is not that of the method.
    name: Option<&'static str>,
    method: Method,
    format: &'static str,
    sparsity: &'static str,
    order: ColumnOrder,
    permute: bool,
    /// The calibration text of an encoder.
    text: Samples,
    /// Passages, sentences or windows of the calibration text.
    samples: usize,
    /// The value that a row has to reach.
    floor: Option<f64>,
}

/// What an encoder reads for calibration.
#[derive(Clone, Copy)]
enum Samples {
    Passages,
    Sentences,
}

/// A model, where it is, and how it is compressed.
struct Subject {
    name: &'static str,
    path: &'static str,
    plans: Vec<Plan>,
}

fn plan(method: Method, format: &'static str, sparsity: &'static str, samples: usize) -> Plan {
    let (order, permute) = (ColumnOrder::Columns, false);
    let text = Samples::Passages;
    Plan { name: None, method, format, sparsity, order, permute, text, samples, floor: None }
}

/// Does the same with a value that the row has to reach.
fn at_least(floor: f64, plan: Plan) -> Plan {
    Plan { floor: Some(floor), ..plan }
}

fn subjects() -> Vec<Subject> {
    use Method::{Awq, Gptq, Magnitude, Rtn, SparseGpt, Wanda};
    let (int4, int3) = ("int4-g64-asym", "int3-g64-asym");
    let by_activations = |plan: Plan| Plan { order: ColumnOrder::Activations, ..plan };
    let mut minilm = vec![
        plan(Rtn, int4, "dense", 96),
        at_least(0.976, plan(Gptq, int4, "dense", 96)),
        at_least(0.979, by_activations(plan(Gptq, int4, "dense", 96))),
        plan(Awq, int4, "dense", 96),
        plan(Rtn, int3, "dense", 96),
        plan(Gptq, int3, "dense", 96),
    ];
    minilm.push(plan(Magnitude, "f16", "2:4", 96));
    minilm.push(at_least(0.735, plan(Wanda, "f16", "2:4", 96)));
    minilm.push(at_least(0.760, plan(SparseGpt, "f16", "2:4", 96)));
    for sparsity in ["6:8", "0.5"] {
        let methods = [Magnitude, Wanda, SparseGpt];
        minilm.extend(methods.map(|method| plan(method, "f16", sparsity, 96)));
    }
    let more = by_activations(plan(Gptq, int4, "dense", 512));
    minilm.push(Plan { name: Some("gptq-actorder-512"), ..more });
    // Texts as long as those that are measured, which are sentences.
    let sentences = |name, plan| Plan { name: Some(name), text: Samples::Sentences, ..plan };
    let gptq = by_activations(plan(Gptq, int4, "dense", SENTENCES));
    minilm.push(at_least(0.983, sentences("gptq-actorder-sentences", gptq)));
    let sparse = plan(SparseGpt, "f16", "2:4", SENTENCES);
    minilm.push(at_least(0.80, sentences("sparsegpt-sentences", sparse)));
    let sparse = Plan { permute: true, ..plan(SparseGpt, "f16", "2:4", SENTENCES) };
    minilm.push(at_least(0.80, sentences("sparsegpt-permuted-sentences", sparse)));
    let more = plan(SparseGpt, "f16", "2:4", 512);
    minilm.push(Plan { name: Some("sparsegpt-permuted-512"), permute: true, ..more });
    let language = |samples| [Rtn, Gptq].map(|method| plan(method, int4, "dense", samples)).into();
    vec![
        Subject { name: "minilm", path: "data/minilm", plans: minilm },
        Subject { name: "smollm2", path: "data/smollm2", plans: language(32) },
        Subject { name: "qwen2.5-coder", path: "data/qwen2.5-coder", plans: language(8) },
    ]
}

/// Returns paragraphs of the novel that are longer than 250 characters, from the 21st of these on.
fn passages(text: &str, count: usize) -> Vec<String> {
    let paragraphs = text.split("\n\n");
    let joined = paragraphs.map(|lines| lines.split_whitespace().collect::<Vec<_>>().join(" "));
    joined.filter(|passage| passage.len() > 250).skip(20).take(count).collect()
}

/// Returns sentences of all passages but the first 20: every fifth of them, so that they come from the whole novel.
fn sentences(text: &str, count: usize) -> Vec<String> {
    let ends = |c: char| matches!(c, '.' | '!' | '?' | ';');
    let passages = passages(text, usize::MAX);
    let pieces = passages.iter().flat_map(|passage| passage.split_inclusive(ends));
    let whole = pieces.map(str::trim).filter(|piece| piece.len() > 15).map(str::to_owned);
    whole.step_by(5).take(count).collect()
}

/// What a model is measured with, and compressed with.
struct Bench<'a> {
    host: &'a Arc<Host>,
    source: &'a dyn ModelSource,
    blueprint: Blueprint,
    tokenizer: Tokenizer,
    text: &'a str,
}

impl Bench<'_> {
    /// Returns the tokens of the sentences or windows that are measured.
    fn measured(&self) -> Result<Vec<Vec<u32>>, Failure> {
        #[derive(Deserialize)]
        struct Sentence {
            text: String,
        }
        #[derive(Deserialize)]
        struct Fixture {
            sentences: Vec<Sentence>,
        }
        if self.blueprint.head.is_some() {
            return Ok(self.windows()?.into_iter().take(MEASURED).collect());
        }
        let fixture = include_str!("../../../lowbit-models/tests/fixtures/minilm_reference.json");
        let fixture: Fixture = serde_json::from_str(fixture)?;
        let context = self.blueprint.context;
        let encode =
            |sentence: &Sentence| Ok(self.tokenizer.encode_within(&sentence.text, context)?.0);
        fixture.sentences.iter().map(encode).collect()
    }

    /// Returns the tokens that methods look at.
    fn samples(&self, plan: &Plan) -> Result<Vec<Vec<u32>>, Failure> {
        let count = plan.samples;
        if self.blueprint.head.is_some() {
            return Ok(self.windows()?.into_iter().skip(APART).take(count).collect());
        }
        let texts = match plan.text {
            Samples::Passages => passages(self.text, count),
            Samples::Sentences => sentences(self.text, count),
        };
        texts.iter().map(|text| Ok(self.tokenizer.encode_within(text, 128)?.0)).collect()
    }

    /// Returns what a rule makes of each weight. BERT's pooler is left out, as no text runs through it.
    fn plans(&self, rule: Rule) -> Result<BTreeMap<String, layerwise::Plan>, Failure> {
        let exclude: Vec<Pattern> = vec!["*pooler*".parse()?];
        let request = SelectRequest { recipe: Recipe { rules: vec![rule] }, exclude };
        Ok(plans(self.source, &request)?.plans)
    }

    /// Returns the bits of each weight that a compressed model would have compressed, as they are.
    fn bits(&self) -> Result<f64, Failure> {
        let rule = Rule::new(None, Some("f32".parse()?), Treatment::default())?;
        let plans = self.plans(rule)?;
        let items = self.source.items()?;
        let items = items.iter().filter(|item| plans.contains_key(&item.name));
        let (bytes, weights) = items
            .fold((0, 0), |(bytes, weights), item| (bytes + item.bytes, weights + item.elements()));
        Ok(8.0 * bytes as f64 / weights.max(1) as f64)
    }

    fn windows(&self) -> Result<Vec<Vec<u32>>, Failure> {
        let tokens = self.tokenizer.encode(self.text, false)?;
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        Ok(windows(&tokens, 512, None, bos)?)
    }

    /// Compresses and measures.
    fn row(
        &self,
        model: &str,
        plan: &Plan,
        evaluation: &Evaluation,
        bar: &ProgressBar,
    ) -> Result<Row, Failure> {
        let start = Instant::now();
        let treatment = Treatment {
            sparsity: plan.sparsity.parse()?,
            order: plan.order,
            permute: plan.permute,
            ..Treatment::of(plan.method)
        };
        let recipe = treatment.name();
        let rule = Rule::new(None, Some(plan.format.parse()?), treatment)?;
        let plans = self.plans(rule)?;
        let texts = self.samples(plan)?;
        let job = Job {
            source: self.source,
            blueprint: &self.blueprint,
            plans,
            texts: &texts,
            statistics: None,
            rows: 512,
            loops: Loops::Host,
            folder: None,
        };
        let (made, reports) = block_on(run(Some(self.host), &job, &mut |doing| {
            if let Doing::Compressing(name) = doing {
                bar.set_message(format!("{model} {recipe} {}: {name}", plan.format));
            }
        }))?;
        let measured = block_on(evaluation.measure(self.host, &made))?;
        let weights: usize = reports.iter().map(|report| report.shape[0] * report.shape[1]).sum();
        let bytes: usize = reports.iter().map(|report| report.bytes).sum();
        let squares = reports.iter().filter_map(|report| report.output_error).map(|e| e * e);
        Ok(Row {
            model: model.to_owned(),
            recipe: plan.name.map_or_else(|| recipe.clone(), str::to_owned),
            method: plan.method.name().to_owned(),
            format: reports.first().map(|report| report.format.clone()).unwrap_or_default(),
            sparsity: plan.sparsity.to_owned(),
            metric: evaluation.metric(),
            value: measured.value,
            bits_per_weight: 8.0 * bytes as f64 / weights.max(1) as f64,
            output_error: (squares.sum::<f64>() / reports.len().max(1) as f64).sqrt(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Returns the file of a row.
fn place(model: &str, plan: &Plan) -> PathBuf {
    let method = plan.method.name();
    let sparsity = plan.sparsity.replace(':', "of");
    let (order, name) = (plan.order.name(), plan.name.unwrap_or("plain"));
    let file = format!("{model}-{method}-{}-{sparsity}-{order}-{name}.json", plan.format);
    Path::new(ROWS).join(file)
}

/// Returns the file of the row of a model as it is.
fn as_it_is(model: &str) -> PathBuf {
    Path::new(ROWS).join(format!("{model}-none.json"))
}

/// Returns a row that was kept, if it is of these texts and this model.
fn read(path: &Path, of: Option<[u64; 3]>) -> Option<Row> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    of.is_none_or(|of| of == kept.of).then_some(kept.row)
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let mut file = lowbit_models::checkpoint::AtomicFile::create(path)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    Ok(file.commit()?)
}

/// Returns a checksum of tokens.
fn checksum(texts: &[Vec<u32>]) -> u64 {
    let mut samples = layerwise::Samples::default();
    samples.texts = texts.to_vec();
    samples.identity().2
}

/// The state of a run.
struct Report {
    rows: Vec<Row>,
    /// Sentences on what is missing or too low.
    faults: Vec<String>,
    bar: ProgressBar,
}

impl Report {
    fn add(&mut self, row: Row, floor: Option<f64>) {
        let Row { model, recipe, format, sparsity, metric, value, .. } = &row;
        let (bits, seconds) = (row.bits_per_weight, row.seconds);
        self.bar.suspend(|| {
            println!(
                "{model:<14} {recipe:<28} {format:<14} {sparsity:<6} {bits:>5.2} bits \
                 {metric} {value:.5} {seconds:>5.0} s"
            );
        });
        if let Some(floor) = floor.filter(|floor| *value < *floor) {
            self.faults.push(format!("{model} {recipe} {format}: {value:.5} is below {floor}"));
        }
        self.bar.inc(1);
        self.rows.push(row);
    }
}

/// Measures the rows of a model that are not kept, and the model as it is.
fn measure(
    host: &Arc<Host>,
    subject: &Subject,
    text: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let Subject { name, path, plans } = subject;
    let source = source::open(path)?;
    let blueprint = architecture::read(&source)?;
    let tokenizer = Tokenizer::open(path)?;
    let bench = Bench { host, source: &source, blueprint, tokenizer, text };
    let (model, measured) = (model_checksum(&source)?, bench.measured()?);
    let of_measured = checksum(&measured);
    report.bar.set_message(format!("{name} as it is"));
    let evaluation = block_on(Evaluation::new(host, &source, &bench.blueprint, measured))?;
    let row = Row {
        model: (*name).to_owned(),
        recipe: "none".to_owned(),
        method: "none".to_owned(),
        format: "as it is".to_owned(),
        sparsity: "dense".to_owned(),
        metric: evaluation.metric(),
        value: evaluation.value(),
        bits_per_weight: bench.bits()?,
        output_error: 0.0,
        seconds: 0.0,
    };
    let kept = Kept { of: [model, of_measured, 0], row };
    write(&as_it_is(name), &kept)?;
    report.add(kept.row, None);
    for plan in plans {
        let place = place(name, plan);
        let of = [model, of_measured, checksum(&bench.samples(plan)?)];
        let row = match read(&place, Some(of)) {
            Some(row) => row,
            None => {
                let row = bench.row(name, plan, &evaluation, &report.bar)?;
                let kept = Kept { of, row };
                write(&place, &kept)?;
                kept.row
            }
        };
        report.add(row, plan.floor);
    }
    Ok(())
}

/// Measures the models that are wanted, and takes what was kept of the others. Returns what is missing or too low.
fn measure_all(host: &Arc<Host>, wanted: &[String]) -> Result<Vec<String>, Failure> {
    std::fs::create_dir_all(ROWS)?;
    let text = std::fs::read_to_string(TEXT)
        .map_err(|error| format!("{TEXT}: {error}; `make accuracy` fetches it"))?;
    let subjects = subjects();
    let count: usize = subjects.iter().map(|subject| subject.plans.len() + 1).sum();
    let bar = ProgressBar::new(count as u64);
    let style = "{bar:20} {pos}/{len} {elapsed}, {eta} left {wide_msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.enable_steady_tick(Duration::from_secs(1));
    let mut report = Report { rows: Vec::new(), faults: Vec::new(), bar };
    for subject in &subjects {
        let Subject { name, path, plans } = subject;
        if !wanted.is_empty() && !wanted.iter().any(|one| one == name) {
            let kept = plans.iter().map(|plan| (place(name, plan), plan.floor));
            for (place, floor) in std::iter::once((as_it_is(name), None)).chain(kept) {
                if let Some(row) = read(&place, None) {
                    report.add(row, floor);
                }
            }
        } else if Path::new(path).exists() {
            measure(host, subject, &text, &mut report)?;
        } else {
            report.faults.push(format!("{name} is not measured: {path} is not there"));
        }
    }
    report.bar.finish_and_clear();
    write(Path::new(REPORT), &report.rows)?;
    println!("{} rows → {REPORT}", report.rows.len());
    Ok(report.faults)
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let host = Host::new().map_err(|error| -> Failure {
        format!("{error}; `make accuracy` installs a software adapter").into()
    });
    let host = host.map(|host| Arc::new(host.with_timeout(Duration::from_secs(3600))));
    match host.and_then(|host| measure_all(&host, &wanted)) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| eprintln!("accuracy: {fault}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("accuracy: {error}");
            ExitCode::from(2)
        }
    }
}
