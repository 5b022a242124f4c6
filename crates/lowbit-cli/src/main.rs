//! The `lowbit` command.

mod activations;
mod adapter;
mod adapters;
mod bench;
mod bench_beside;
mod bench_model;
mod calibrate;
mod compare;
mod compress;
mod decompress;
mod embed;
mod error;
mod explore;
mod explore_page;
mod export;
mod files;
mod generate;
mod import;
mod inspect;
mod isa;
mod layerwise;
mod layerwise_report;
mod listing;
mod method_args;
mod model;
mod observe;
mod perplexity;
mod plot;
mod report;
mod samples;
mod shader;
mod signals;
mod smooth;
mod train;
mod tune;
mod verify;

use clap::{Parser, Subcommand};
use error::CliError;
use std::process::ExitCode;

/// Compress neural-network weights, and verify and measure the kernels that multiply with them.
///
/// Exit codes: 0 if the command is done, 1 if a check failed, 2 if an option, an input or the
/// environment is wrong.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Adapters(adapters::Args),
    Calibrate(calibrate::Args),
    Compress(compress::Args),
    Embed(embed::Args),
    Explore(explore::Args),
    Export(export::Args),
    Generate(generate::Args),
    Import(import::Args),
    Inspect(inspect::Args),
    Observe(observe::Args),
    Decompress(decompress::Args),
    Perplexity(perplexity::Args),
    Verify(verify::Args),
    Bench(bench::Args),
    Train(train::Args),
    Tune(tune::Args),
    Isa(isa::Args),
    Shader(shader::Args),
}

/// The result of a command that ran to its end.
enum Outcome {
    /// Everything is right: exit code 0.
    Fine,
    /// A check failed: exit code 1.
    FoundWrong,
}

fn run(command: &Command) -> Result<Outcome, CliError> {
    match command {
        Command::Adapters(args) => adapters::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Compress(args) => compress::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Explore(args) => explore::run(args),
        Command::Export(args) => export::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Import(args) => import::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Observe(args) => observe::run(args),
        Command::Decompress(args) => decompress::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Train(args) => train::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Isa(args) => isa::run(args),
        Command::Shader(args) => shader::run(args),
    }
}

/// Names a runtime folder if there is none, because Mesa's drivers print an error without it.
#[cfg(target_os = "linux")]
fn set_runtime_folder() {
    const NAME: &str = "XDG_RUNTIME_DIR";
    if std::env::var_os(NAME).is_none() {
        // SAFETY: `main` calls this before anything else, so that no other thread reads the environment.
        unsafe { std::env::set_var(NAME, std::env::temp_dir()) };
    }
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    set_runtime_folder();
    // clap prints its own usage errors, with exit code 2.
    let cli = Cli::parse();
    signals::watch();
    match run(&cli.command) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::FoundWrong) => ExitCode::from(1),
        Err(error) => {
            error.print();
            ExitCode::from(2)
        }
    }
}
