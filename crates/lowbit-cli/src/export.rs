//! `lowbit export`: writes a model for other programs.

use crate::error::{CliError, warn};
use crate::listing::{self, Listing};
use crate::report::{self, JsonArg, Report};
use crate::{Outcome, files};
use clap::ValueEnum;
use lowbit_models::Step;
use lowbit_models::checkpoint::Output;
use lowbit_models::checkpoint::gguf::{self, GgufMetadata};
use lowbit_models::checkpoint::hf::{self, HfFormat};
use lowbit_models::checkpoint::source::{Model, ModelSource, Readable, SourceError};
use std::path::PathBuf;

/// Write a model in the format of another program: weights as they are, with their codes and scales.
///
/// GGUF holds weights of the formats that it has types for: f32, f16, and q4_0, q4_1, q5_0, q5_1, q8_0,
/// q2_k to q6_k, iq4_nl, iq4_xs and mxfp4. The formats of compressed-tensors are safetensors files with a
/// config.json beside them: pack-quantized holds integers of 2 to 6 and 8 bits, int-quantized 8-bit
/// integers, sparse-24-bitmask 2:4 sparse f32, f16 and int8, sparse-bitmask f32 and f16 of which zeros are not
/// stored, as pruning in other patterns makes them. Any other weight is refused by name.
#[derive(clap::Args)]
pub struct Args {
    /// The model to read
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write. It appears whole or not at all
    #[arg(short, long, value_name = "OUT", value_parser = files::to_file())]
    output: PathBuf,
    /// The format to write
    #[arg(long, value_name = "FORMAT")]
    to: Format,
    /// Copy the metadata of this GGUF file: the architecture, its sizes, and the vocabulary. It must be of the
    /// same model: IN may have other types, but no other names and shapes of tensors. The default is IN if it
    /// is a GGUF file itself
    #[arg(long, value_name = "GGUF")]
    metadata_of: Option<PathBuf>,
    #[command(flatten)]
    shards: files::ShardArg,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Gguf,
    PackQuantized,
    IntQuantized,
    #[value(name = "sparse-24-bitmask")]
    Sparse24Bitmask,
    SparseBitmask,
}

/// What to write.
enum To {
    Gguf(GgufMetadata),
    Hf(HfFormat),
}

/// Returns the metadata to write.
fn metadata(args: &Args, model: &Model, output: &Output) -> Result<GgufMetadata, CliError> {
    let hint = "--metadata-of names a GGUF file of the same model, whose metadata are copied";
    match (&args.metadata_of, model) {
        (None, Model::Gguf(model)) => Ok(GgufMetadata::of(model)),
        (None, _) => {
            let message = format!("`{}` has no metadata for GGUF", args.input.display());
            Err(CliError::new(message).hint(hint))
        }
        (Some(path), _) => {
            let model = files::open(path)?;
            let Model::Gguf(found) = &model else {
                let message = format!("`{}` is a model in {}", path.display(), model.family());
                return Err(CliError::new(message).hint(hint));
            };
            // Other parts of a model in several files are read as well.
            files::refuse_overwriting("--metadata-of", path, &model, output)?;
            Ok(GgufMetadata::of(found))
        }
    }
}

/// Exports a model.
pub fn run(args: &Args) -> Result<Outcome, CliError> {
    files::refuse_same(&files::named(&[
        ("IN", Some(&args.input)),
        ("--metadata-of", args.metadata_of.as_deref()),
        ("OUT", Some(&args.output)),
        ("--json", args.json.json.as_deref()),
    ]))?;
    let model = files::open(&args.input)?;
    let output = args.shards.output(&args.output);
    files::refuse_overwriting("IN", &args.input, &model, &output)?;
    let to = match args.to {
        Format::Gguf => To::Gguf(metadata(args, &model, &output)?),
        Format::PackQuantized => To::Hf(HfFormat::PackQuantized),
        Format::IntQuantized => To::Hf(HfFormat::IntQuantized),
        Format::Sparse24Bitmask => To::Hf(HfFormat::Sparse24Bitmask),
        Format::SparseBitmask => To::Hf(HfFormat::SparseBitmask),
    };
    if args.metadata_of.is_some() && matches!(to, To::Hf(_)) {
        let message = "--metadata-of is for GGUF";
        return Err(CliError::new(message).hint("leave it out"));
    }
    let failed = |error: SourceError| {
        let hint = match error {
            SourceError::Unsupported { .. } => {
                "`lowbit export --help` lists what each format holds"
            }
            _ => error.next_step(),
        };
        CliError::new(format!("cannot export `{}`", args.input.display())).because(error).hint(hint)
    };
    let report = Report::open(&args.json)?;
    let model = Readable::new(&model).map_err(|error| listing::damaged(&args.input, error))?;
    let listing = Listing::new(&args.input, Some(&args.output), &model)
        .map_err(|error| listing::damaged(&args.input, error))?;
    let progress = report::progress(model.items().map_err(failed)?.len());
    let advance = &mut |step: Step<'_>| report::advance(&progress, step);
    let warnings = match to {
        To::Gguf(metadata) => gguf::write(&model, &metadata, output, advance),
        To::Hf(format) => hf::write(&model, format, output, advance),
    };
    let warnings = warnings.map_err(failed)?;
    progress.finish_and_clear();
    warnings.iter().for_each(warn);
    report.finish(&listing.text(), &listing)?;
    Ok(Outcome::Fine)
}
