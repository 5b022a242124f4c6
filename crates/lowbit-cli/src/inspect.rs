//! `lowbit inspect`: lists what a model contains.

use crate::error::CliError;
use crate::listing::{self, Listing};
use crate::report::{JsonArg, Report};
use crate::{Outcome, files, import};
use lowbit_models::checkpoint::source::Model;
use std::path::PathBuf;

/// List what a model contains: its format, its architecture, and its tensors, compressed or not. Of an
/// ONNX file it lists what `lowbit import` would make from it.
#[derive(clap::Args)]
pub struct Args {
    /// The model: a safetensors, GGUF or ONNX file, the index of several files, or a folder
    file: PathBuf,
    #[command(flatten)]
    json: JsonArg,
}

/// Lists a model.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    let json_path = args.json.json.as_deref();
    files::refuse_same(&files::named(&[("FILE", Some(&args.file)), ("--json", json_path)]))?;
    let model = files::open(&args.file)?;
    let report = Report::open(&args.json)?;
    if let Model::Onnx(model) = &model {
        let listing = import::OnnxListing::new(&args.file, None, model).map_err(|error| {
            CliError::new(format!("cannot list `{}`", args.file.display())).because(error)
        })?;
        report.finish(&listing.text(), &listing)?;
    } else {
        let listing = Listing::new(&args.file, None, &model)
            .map_err(|error| listing::damaged(&args.file, error))?;
        report.finish(&listing.text(), &listing)?;
    }
    Ok(Outcome::Fine)
}
