//! `lowbit train`: starts the command of the training crate, which is built apart.

use crate::Outcome;
use crate::error::CliError;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

/// The name of the program.
const PROGRAM: &str = "lowbit-train";

/// Train networks for few bits: quantization-aware training, pruning, lottery tickets, compressed gradients.
///
/// This starts `lowbit-train`, found beside this program or on PATH, with the same arguments; `lowbit train
/// --help` prints its help. docs/training.md describes it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Arguments of lowbit-train
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let program = beside().unwrap_or_else(|| PathBuf::from(PROGRAM));
    let mut command = Command::new(&program);
    command.args(&args.arguments);
    start(command).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            missing()
        } else {
            CliError::new(format!("{} cannot be started", program.display())).because(error)
        }
    })
}

/// Becomes the program, so that signals and its exit code are its own.
#[cfg(unix)]
fn start(mut command: Command) -> std::io::Result<Outcome> {
    Err(std::os::unix::process::CommandExt::exec(&mut command))
}

/// Runs the program to its end, which has printed the reason of an exit code that is not 0.
#[cfg(not(unix))]
fn start(mut command: Command) -> std::io::Result<Outcome> {
    let code = command.status()?.code().unwrap_or(2);
    if code == 0 { Ok(Outcome::Fine) } else { std::process::exit(code) }
}

/// Returns the program in the folder of this one, if it is there.
fn beside() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let program = own.with_file_name(format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX));
    program.is_file().then_some(program)
}

fn missing() -> CliError {
    CliError::new(format!("{PROGRAM} is neither beside this program nor on PATH")).hint(
        "build it with `cargo install --path crates/lowbit-train`, which needs Rust 1.95: it is not a part of \
         this program because burn, which it trains with, takes minutes to build",
    )
}
