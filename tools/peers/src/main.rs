//! lowbit beside what a user would pick instead, in one run on one adapter: `make peers`.

mod catalog;
mod measure;
mod model;
mod process;
mod report;

use catalog::{Format, PEERS, Peer, QUICK, SHAPES, Shape};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use measure::{Plan, measure};
use process::Folders;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Time lowbit and its peers, interleaved, each result checked first
///
/// A peer that cannot run is a row that says why. Times are medians over the rounds, each
/// one matmul submitted and waited for (several where it takes less than 2 ms).
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// MxNxK, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = SHAPES)]
    shapes: Vec<Shape>,
    /// Formats of W, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    formats: Vec<Format>,
    /// Peers, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_parser = peer)]
    peers: Vec<Peer>,
    /// Samples of each median
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Two shapes, three rounds: to see that everything runs
    #[arg(long, conflicts_with_all = ["shapes", "rounds"])]
    quick: bool,
    /// Print ratios to the fastest peer as a Markdown table too
    #[arg(long)]
    markdown: bool,
    /// Where the rows go [default: peers.json in the target folder]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Run a language model with lowbit and with its peers, interleaved
    Model(model::Args),
}

fn peer(name: &str) -> Result<Peer, String> {
    let names = || PEERS.map(|peer| peer.name).join(", ");
    catalog::peer(name).ok_or_else(|| format!("peers are {}", names()))
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether all that is wanted of speed was found.
fn run(args: Args) -> Result<bool, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = sources.ancestors().nth(2).unwrap_or(sources);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository.join("target"), PathBuf::from);
    let folders = Folders { installed: target.join("peers"), sources: sources.into() };
    if let Some(Subcommand::Model(args)) = args.command {
        return model::run(args, repository, &target, &folders);
    }
    let json = args.json.unwrap_or_else(|| target.join("peers.json"));
    let (shapes, rounds) = match args.quick {
        true => (QUICK.to_vec(), 3),
        false => (args.shapes, args.rounds),
    };
    let or_all = |given: Vec<_>, all: &[_]| if given.is_empty() { all.to_vec() } else { given };
    let plan = Plan {
        peers: if args.peers.is_empty() { PEERS.to_vec() } else { args.peers },
        formats: or_all(args.formats, Format::value_variants()),
        rounds: rounds.into(),
        folders,
    };

    let steps = shapes.len() * (plan.peers.len() + 1 + plan.rounds);
    let bar = progress(steps);
    let mut rows = Vec::new();
    for &shape in &shapes {
        if bar.is_hidden() {
            eprintln!("{shape}");
        }
        rows.extend(measure(&plan, shape, &bar).map_err(|error| format!("lowbit: {error}"))?);
        // The report is written as it grows, so that a later failure loses nothing.
        write(&json, &rows)?;
    }
    bar.finish_and_clear();
    let where_to = rows.first().map(|row| format!("{}, {}", row.adapter, row.driver));
    println!("{} – medians of {rounds}", where_to.unwrap_or_default());
    print!("{}\n{}", report::table(&rows), report::summary(&rows));
    if args.markdown {
        println!("{}", report::markdown(&rows));
    }
    println!("{}", json.display());
    Ok(true)
}

fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn write(json: &Path, rows: &[impl serde::Serialize]) -> Result<(), String> {
    let failed = |error: String| format!("{} cannot be written: {error}", json.display());
    let mut text = serde_json::to_vec_pretty(rows).map_err(|error| failed(error.to_string()))?;
    text.push(b'\n');
    std::fs::write(json, text).map_err(|error| failed(error.to_string()))
}
