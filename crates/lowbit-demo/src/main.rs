//! The demo, in two parts.
//!
//! MiniLM is a real sentence encoder. Its 36 attention and feed-forward matrices are compressed on the GPU in
//! seven formats and multiplied without being unpacked, also with 8-bit inputs whose scales are taken at run
//! time or were calibrated on other sentences. The demo shows the sizes, the accuracy that is lost, and the
//! time. Then SmolLM2, a language model, continues a text in three formats.
//!
//!     make demo                                      # fetches the models first
//!     cargo run --release -p lowbit-demo -- FOLDER   # a BERT encoder of your own, without the second part
//!
//! Exit codes: 0 if all is well, 1 if a cosine is below its floor, 2 if there is no model or no
//! adapter.

mod encoder;
mod language;
mod models;
mod recipes;
mod report;
mod sentences;

use lowbit::host::Host;
use models::Error;
use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// The folder into which `make model` puts the model whose embeddings the fixture contains.
const MODEL: &str = "data/minilm";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("demo: {}", report::chain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Error> {
    let given = env::args_os().nth(1).map(PathBuf::from);
    let host = Host::new().map_err(|error| {
        let error = report::chain(&error);
        format!("{error}\nrun `make demo`, which installs a software adapter")
    })?;
    let host = Arc::new(host);
    let adapter = host.adapter_info();
    println!("adapter: {} ({:?}), {}", adapter.name, adapter.backend, adapter.driver_info);
    let folder = given.as_deref().unwrap_or(Path::new(MODEL));
    let passed = encoder::run(&host, folder, given.is_none())?;
    if given.is_none() {
        language::run(&host)?;
    }
    Ok(passed)
}
