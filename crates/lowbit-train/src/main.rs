//! The `lowbit-train` command.

use clap::{Args, Parser, Subcommand};
use lowbit_train::recipe::Recipe;
use lowbit_train::report::{Row, summary};
use lowbit_train::task::{Context, Curve, Task, run};
use lowbit_train::train::{TrainError, write_whole};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Train networks for few bits: with quantization in the forward pass, pruning, and compressed gradients.
///
/// A recipe is a TOML file; docs/training.md has its fields. Exit codes: 0 if all runs are done, 2 if the
/// recipe, an input or the environment is wrong.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Quantization-aware training, beside rounding after training
    Qat(RunArgs),
    /// Pruning while training
    Prune(RunArgs),
    /// Lottery tickets and their controls
    Tickets(RunArgs),
    /// Ranks that exchange compressed gradients
    Gradients(RunArgs),
    /// All of these that the recipe has a section for
    Run(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    /// The recipe
    recipe: PathBuf,
    /// The folder of the data, instead of that of the recipe
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The seeds, instead of those of the recipe
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Keep checkpoints in this folder, and go on from those that are there
    #[arg(long, value_name = "FOLDER")]
    work: Option<PathBuf>,
    /// Write a row for each run to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the evaluations of all runs to this file
    #[arg(long, value_name = "FILE")]
    curves: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    // clap prints its own usage errors, with exit code 2.
    let (tasks, args) = match Cli::parse().command {
        Command::Qat(args) => (vec![Task::Qat], args),
        Command::Prune(args) => (vec![Task::Prune], args),
        Command::Tickets(args) => (vec![Task::Tickets], args),
        Command::Gradients(args) => (vec![Task::Gradients], args),
        Command::Run(args) => (Task::ALL.to_vec(), args),
    };
    match execute(&tasks, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lowbit-train: {error}");
            ExitCode::from(2)
        }
    }
}

fn execute(tasks: &[Task], args: RunArgs) -> Result<(), TrainError> {
    let mut recipe = Recipe::read(&args.recipe)?;
    if let Some(folder) = args.data {
        recipe.data.folder = Some(folder);
    }
    if !args.seeds.is_empty() {
        recipe.seeds = args.seeds;
    }
    let all = tasks.len() > 1;
    let tasks: Vec<Task> =
        tasks.iter().copied().filter(|task| !all || task.is_in(&recipe)).collect();
    let context = Context::new(recipe, args.work, !args.quiet)?;
    let mut rows: Vec<Row> = Vec::new();
    for task in tasks {
        run(task, &context, &mut |row| {
            if !args.quiet {
                eprintln!("{}", summary(std::slice::from_ref(&row)).concat());
            }
            rows.push(row);
        })?;
    }
    summary(&rows).iter().for_each(|line| println!("{line}"));
    if let Some(path) = &args.json {
        write(path, &rows)?;
    }
    if let Some(path) = &args.curves {
        let curves: Vec<Curve> = context.into_curves();
        write(path, &curves)?;
    }
    Ok(())
}

fn write<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), TrainError> {
    let fault = |error| TrainError::File { path: path.to_owned(), action: "written", error };
    let json = serde_json::to_string_pretty(value).map_err(|error| fault(error.into()))?;
    write_whole(path, (json + "\n").as_bytes())
}
