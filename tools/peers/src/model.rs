//! A language model: the same GGUF file, prompt and number of tokens for lowbit and its peers.
//! Every run of a peer has a run of `lowbit bench --model` before it.

use crate::catalog::{Device, MODEL_PEERS, OURS, Peer, model_peer};
use crate::process::{Failure, Folders, Process};
use crate::{progress, write};
use clap::builder::RangedU64ValueParser;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::ProgressBar;
use protocol::{Hello, ModelCase, Rates, Reply, Request};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file that `scripts/fetch-model.sh smollm2` fetches.
const MODEL: &str = "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// What lowbit is to be faster by than the peer on the same adapter: a prompt, and decoding.
const FLOOR: Rates = Rates { prompt_tokens_per_s: 1.5, decode_tokens_per_s: 2.0 };
const GOAL: Rates = Rates { prompt_tokens_per_s: 3.0, decode_tokens_per_s: 4.0 };

/// Formats of lowbit's own that are compared too: the second is to decode at least as fast as the first.
const FORMATS: [&str; 2] = ["f16", "int4-g64"];
const OWN: &str = "lowbit, f16 weights";

/// The load of a machine, in processes that want to run, above which its figures are doubtful.
const BUSY: f64 = 0.5;

/// What `lowbit-peers model` takes.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file [default: SmolLM2, which scripts/fetch-model.sh fetches]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(short, long, default_value_t = 512, value_parser = RangedU64ValueParser::<usize>::new().range(1..=4000))]
    prompt_tokens: usize,
    /// Tokens to decode
    #[arg(short = 'n', long, default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(2..=4000))]
    decode_tokens: usize,
    /// Runs of each peer; the figures are their medians
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: usize,
    /// 64 and 16 tokens, one round: to see that everything runs
    #[arg(long, conflicts_with_all = ["prompt_tokens", "decode_tokens", "rounds"])]
    quick: bool,
    /// Peers, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_parser = named)]
    peers: Vec<Peer>,
    /// lowbit's command [default: release/lowbit in the target folder]
    #[arg(long, value_name = "FILE")]
    lowbit: Option<PathBuf>,
    /// Where the rows go [default: peers-model.json in the target folder]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn named(name: &str) -> Result<Peer, String> {
    let names = || MODEL_PEERS.map(|peer| peer.name).join(", ");
    model_peer(name).ok_or_else(|| format!("peers are {}", names()))
}

/// A peer beside lowbit: medians of runs that alternate.
#[derive(Clone, Debug, Serialize)]
struct Row {
    peer: &'static str,
    peer_version: String,
    device: Device,
    /// The adapter of lowbit, and of the peer where it has one.
    adapter: String,
    model: String,
    /// The format of lowbit's weights, if it is not that of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_weights: Option<&'static str>,
    prompt_tokens: usize,
    decode_tokens: usize,
    rounds: usize,
    /// Processes that wanted to run before anything was started, where the system says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<f64>,
    prompt_tokens_per_s: Option<f64>,
    decode_tokens_per_s: Option<f64>,
    ours_prompt_tokens_per_s: Option<f64>,
    ours_decode_tokens_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What `lowbit bench --model --json` says.
#[derive(Debug, Deserialize)]
struct Ours {
    adapter: String,
    #[serde(flatten)]
    rates: Rates,
}

/// A peer whose model is loaded, and the rates so far.
struct Session {
    peer: Peer,
    hello: Hello,
    process: Result<Process, String>,
    theirs: Vec<Rates>,
    ours: Vec<Rates>,
}

/// Measures, and prints a table. Returns whether every ratio that was measured is at least what is wanted; a quick look
/// says nothing about that.
///
/// # Errors
/// There is no model, or lowbit does not run.
pub fn run(
    args: Args,
    repository: &Path,
    target: &Path,
    folders: &Folders,
) -> Result<bool, String> {
    let model = args.model.unwrap_or_else(|| repository.join(MODEL));
    if !model.is_file() {
        return Err(format!("there is no {}; run scripts/fetch-model.sh smollm2", model.display()));
    }
    let lowbit = args.lowbit.unwrap_or_else(|| target.join("release/lowbit"));
    let json = args.json.unwrap_or_else(|| target.join("peers-model.json"));
    let (prompt_tokens, decode_tokens, rounds) = if args.quick {
        (64, 16, 1)
    } else {
        (args.prompt_tokens, args.decode_tokens, args.rounds)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = model.display().to_string();
    let case = ModelCase { model, prompt_tokens, decode_tokens, threads };
    let load = load();
    if let Some(load) = load.filter(|&load| load > BUSY) {
        eprintln!("{load} processes want to run here already: rates will be too low");
    }

    let own = args.peers.is_empty();
    let peers = if own { MODEL_PEERS.to_vec() } else { args.peers };
    let bar = progress(1 + peers.len() + (2 * peers.len() + usize::from(own)) * rounds);
    step(&bar, "lowbit, once before it is timed".to_owned());
    let adapter = bench(&lowbit, &case, None)?.adapter;
    bar.inc(1);
    let mut sessions = Vec::new();
    for peer in peers {
        step(&bar, format!("{} loads the model and compiles, for minutes perhaps", peer.name));
        sessions.push(Session::open(peer, &case, &adapter, folders));
        bar.inc(1);
    }
    let mut formats = [Vec::new(), Vec::new()];
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for session in &mut sessions {
            if session.process.is_ok() {
                step(
                    &bar,
                    format!("round {round} of {rounds}: lowbit, then {}", session.peer.name),
                );
                session.ours.push(bench(&lowbit, &case, None)?.rates);
                bar.inc(1);
                session.run();
            }
            bar.inc(1);
        }
        if own {
            step(&bar, format!("round {round} of {rounds}: lowbit with f16 and int4 weights"));
            for (rates, format) in formats.iter_mut().zip(FORMATS) {
                rates.push(bench(&lowbit, &case, Some(format))?.rates);
            }
            bar.inc(1);
        }
        rows = sessions.iter().map(|session| session.row(&case, &adapter, load)).collect();
        if own {
            let [theirs, ours] = &formats;
            let row = Row::new(OWN, Device::Gpu, (theirs, ours), &case, &adapter);
            rows.push(Row { ours_weights: Some(FORMATS[1]), load, ..row });
        }
        // The report is written as it grows, so that a later failure loses nothing.
        write(&json, &rows)?;
    }
    bar.finish_and_clear();
    println!("{} on {adapter}, {threads} threads", case.model);
    println!("prompt of {prompt_tokens} tokens, {decode_tokens} decoded; medians of {rounds}");
    let (text, kept) = verdicts(&rows);
    print!("{}{text}", table(&rows));
    println!("{}", json.display());
    Ok(kept || args.quick)
}

/// Says what is being done, on a terminal or not.
fn step(bar: &ProgressBar, what: String) {
    if bar.is_hidden() {
        eprintln!("{what}");
    }
    bar.set_message(what);
}

impl Session {
    fn open(peer: Peer, case: &ModelCase, adapter: &str, folders: &Folders) -> Self {
        let mut hello = Hello { version: String::new(), adapter: None, driver: None };
        let process = Process::start(&peer, folders).and_then(|(mut process, greeting)| {
            hello = greeting;
            match &hello.adapter {
                Some(theirs) if theirs != adapter => {
                    return Err(format!("it runs on {theirs}, lowbit on {adapter}"));
                }
                _ => {}
            }
            match process.ask(&Request::Open(case.clone())) {
                Ok(Reply::Opened) => Ok(process),
                Ok(other) => Err(format!("for being ready it said {other:?}")),
                Err(Failure::Said(error) | Failure::Ended(error)) => Err(error),
            }
        });
        Self { peer, hello, process, theirs: Vec::new(), ours: Vec::new() }
    }

    /// Runs the peer once. One that fails is not run again.
    fn run(&mut self) {
        let Ok(process) = &mut self.process else { return };
        let error = match process.ask(&Request::Generate) {
            Ok(Reply::Rates(rates)) => return self.theirs.push(rates),
            Ok(other) => format!("for rates it said {other:?}"),
            Err(Failure::Said(error) | Failure::Ended(error)) => error,
        };
        self.process = Err(error);
    }

    fn row(&self, case: &ModelCase, adapter: &str, load: Option<f64>) -> Row {
        let error = self.process.as_ref().err().cloned();
        // Rates of some of the rounds are no result.
        let (theirs, ours): (&[Rates], &[Rates]) = match &error {
            Some(_) => (&[], &[]),
            None => (&self.theirs, &self.ours),
        };
        let row = Row::new(self.peer.name, self.peer.device, (theirs, ours), case, adapter);
        Row { peer_version: self.hello.version.clone(), load, error, ..row }
    }
}

impl Row {
    fn new(
        peer: &'static str,
        device: Device,
        (theirs, ours): (&[Rates], &[Rates]),
        case: &ModelCase,
        adapter: &str,
    ) -> Self {
        let prompt = |rates: &[Rates]| median(rates.iter().map(|r| r.prompt_tokens_per_s));
        let decode = |rates: &[Rates]| median(rates.iter().map(|r| r.decode_tokens_per_s));
        let name = Path::new(&case.model).file_name();
        Self {
            peer,
            peer_version: String::new(),
            device,
            adapter: adapter.to_owned(),
            model: name.map_or_else(|| case.model.clone(), |n| n.to_string_lossy().into_owned()),
            ours_weights: None,
            prompt_tokens: case.prompt_tokens,
            decode_tokens: case.decode_tokens,
            rounds: theirs.len(),
            load: None,
            prompt_tokens_per_s: prompt(theirs),
            decode_tokens_per_s: decode(theirs),
            ours_prompt_tokens_per_s: prompt(ours),
            ours_decode_tokens_per_s: decode(ours),
            error: None,
        }
    }
}

fn median(samples: impl Iterator<Item = f64>) -> Option<f64> {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

/// Runs lowbit once, with the weights of the file or in another format.
fn bench(lowbit: &Path, case: &ModelCase, format: Option<&str>) -> Result<Ours, String> {
    let name = lowbit.display();
    let mut command = Command::new(lowbit);
    command.args(["bench", "--json", "-", "--model", &case.model]);
    command.args(["-p", &case.prompt_tokens.to_string(), "-n", &case.decode_tokens.to_string()]);
    command.args(format.iter().flat_map(|format| ["--format", format]));
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name} does not start: {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} ended ({}): {}", output.status, words.trim()));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{name} prints no rates: {error}"))
}

/// How many processes have wanted to run within the last minute, where the system says so.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn table(rows: &[Row]) -> String {
    let header = ["peer", "prompt", OURS.name, "ratio", "decode", OURS.name, "ratio"];
    let mut table = Table::new();
    let underline = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(underline)).set_header(header);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let rate = |rate: Option<f64>| right(rate.map_or("–".into(), |rate| format!("{rate:.1}")));
    let times = |a, b| right(ratio(a, b).map_or("–".into(), |ratio| format!("{ratio:.2}")));
    for row in rows {
        let (prompt, decode) = (row.prompt_tokens_per_s, row.decode_tokens_per_s);
        let (ours_prompt, ours_decode) =
            (row.ours_prompt_tokens_per_s, row.ours_decode_tokens_per_s);
        table.add_row([
            Cell::new(row.peer),
            rate(prompt),
            rate(ours_prompt),
            times(ours_prompt, prompt),
            rate(decode),
            rate(ours_decode),
            times(ours_decode, decode),
        ]);
    }
    let mut text = format!("{}\nTokens/s; ratios are lowbit ÷ peer.\n", table.trim_fmt());
    for row in rows {
        if let Some(error) = &row.error {
            text.push_str(&format!("{} did not run: {error}\n", row.peer));
        }
    }
    text
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    ours.zip(theirs).map(|(ours, theirs)| ours / theirs)
}

/// Compares the ratios to peers on the same adapter with what is wanted, and returns whether all that were measured are
/// at least that. A ratio below the goal is told, and no failure.
fn verdicts(rows: &[Row]) -> (String, bool) {
    let (mut text, mut kept) = (String::new(), true);
    for row in rows.iter().filter(|row| row.device == Device::Gpu) {
        let prompt = ratio(row.ours_prompt_tokens_per_s, row.prompt_tokens_per_s);
        let decode = ratio(row.ours_decode_tokens_per_s, row.decode_tokens_per_s);
        if row.peer == OWN {
            let verdict = match decode {
                None => "not measured".to_owned(),
                Some(ratio) if ratio < 1.0 => format!("missed: {ratio:.2}×"),
                Some(ratio) => format!("met: {ratio:.2}×"),
            };
            kept &= decode.is_none_or(|ratio| ratio >= 1.0);
            let [than, format] = FORMATS;
            text.push_str(&format!("decode with {format} beside {than}, at least 1×: {verdict}\n"));
            continue;
        }
        for (what, found, floor, goal) in [
            ("prompt", prompt, FLOOR.prompt_tokens_per_s, GOAL.prompt_tokens_per_s),
            ("decode", decode, FLOOR.decode_tokens_per_s, GOAL.decode_tokens_per_s),
        ] {
            kept &= found.is_none_or(|ratio| ratio >= floor);
            let verdict = match found {
                None => "not measured".to_owned(),
                Some(ratio) if ratio < floor => format!("missed: {ratio:.2}×"),
                Some(ratio) if ratio < goal => format!("met, without the goal: {ratio:.2}×"),
                Some(ratio) => format!("met, with the goal: {ratio:.2}×"),
            };
            text.push_str(&format!(
                "{what} beside {}, at least {floor}×, goal {goal}×: {verdict}\n",
                row.peer
            ));
        }
    }
    (text, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prompt: f64, decode: f64) -> Row {
        Row {
            peer: "llama.cpp-vulkan",
            peer_version: String::new(),
            device: Device::Gpu,
            adapter: String::new(),
            model: String::new(),
            ours_weights: None,
            prompt_tokens: 512,
            decode_tokens: 128,
            rounds: 3,
            load: None,
            prompt_tokens_per_s: Some(10.0),
            decode_tokens_per_s: Some(10.0),
            ours_prompt_tokens_per_s: Some(prompt),
            ours_decode_tokens_per_s: Some(decode),
            error: None,
        }
    }

    #[test]
    fn verdicts_say_what_was_missed() {
        let (text, kept) = verdicts(&[row(14.9, 20.0)]);
        assert!(!kept);
        assert!(text.contains("prompt beside llama.cpp-vulkan, at least 1.5×, goal 3×: missed"));
        assert!(
            text.contains("decode beside llama.cpp-vulkan, at least 2×, goal 4×: met, without")
        );
        let (text, kept) = verdicts(&[row(30.0, 40.0)]);
        assert!(kept && text.matches("met, with the goal").count() == 2, "{text}");
        for (decode, met, says) in [(10.0, true, "met: 1.00×"), (9.9, false, "missed: 0.99×")] {
            let (text, kept) = verdicts(&[Row { peer: OWN, ..row(1.0, decode) }]);
            assert!(kept == met && text.contains(says), "{text}");
        }
        let failed =
            Row { prompt_tokens_per_s: None, error: Some("no driver".into()), ..row(1.0, 1.0) };
        assert!(verdicts(std::slice::from_ref(&failed)).0.contains("not measured"));
        assert!(table(&[failed]).contains("llama.cpp-vulkan did not run: no driver"));
    }

    #[test]
    fn the_median_is_of_what_was_measured() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([].into_iter()), None);
    }
}
