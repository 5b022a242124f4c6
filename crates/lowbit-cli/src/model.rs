//! What the commands that run a model share: its options, loading it, and what is printed meanwhile.

use crate::adapter::{AdapterArg, DeviceArg};
use crate::error::{CliError, warn};
use crate::files;
use crate::report::{progress, waiting};
use lowbit::compress::Scheme;
use lowbit::format::{CacheFormat, Granularity};
use lowbit::ops::{Activations, FloatType};
use lowbit_models::checkpoint::source::ModelSource;
use lowbit_models::device::{LoadOptions, Model, RunError, SessionOptions};
use lowbit_models::text::{TextError, Tokenizer};
use pollster::block_on;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a step of a model may take. A long chunk of a large model takes minutes on a processor that has
/// other things to do; a second Ctrl-C does not wait for it.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(3600);

/// The options of commands that run a model.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The model: a folder, a GGUF file, or a safetensors file with its config.json beside it
    pub model: PathBuf,
    /// Compress the weights of linear layers to this format while they are loaded, as in int4-g64 or
    /// q4_k. Without it they stay as they are in the file
    #[arg(long, value_name = "FORMAT")]
    format: Option<Scheme>,
    /// The type of activations: f32, f16, or the format of the inputs of linear layers: int8 (which is
    /// int8-g32), int8-token, int8-g64-asym and so on
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    activations: Activations,
    /// Take the tokenizer of this model, or this tokenizer.json: for files that were made of a GGUF file, which have
    /// no tokenizer. The default is that of MODEL
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    adapter: AdapterArg,
    #[command(flatten)]
    device: DeviceArg,
}

/// How keys and values are stored.
#[derive(clap::Args)]
pub struct CacheArg {
    /// How keys and values are stored: f32, f16, int8 or int4. The default is the type of activations
    #[arg(long, value_name = "TYPE", value_parser = parse_cache, requires = "model")]
    kv: Option<CacheFormat>,
}

fn parse_cache(text: &str) -> Result<CacheFormat, String> {
    let known = CacheFormat::ALL.into_iter().find(|format| format.name() == text);
    known.ok_or_else(|| "it is none of f32, f16, int8 and int4".to_owned())
}

/// A model that is loaded, how long that took, and what its linear layers take.
pub struct Loaded {
    pub model: Model,
    pub load_time: Duration,
    pub linear_layers: LinearLayers,
}

/// How many linear layers take int8 inputs, and how many take floats.
#[derive(Clone, Copy, Serialize)]
pub struct LinearLayers {
    int8_inputs: usize,
    float_inputs: usize,
}

impl ModelArgs {
    /// Returns how keys and values are stored if the command line says so, or what suits the activations.
    pub fn cache(&self, arg: &CacheArg) -> CacheFormat {
        arg.kv.unwrap_or(match self.activations {
            Activations::Float(float) if float.name() == "f16" => CacheFormat::F16,
            Activations::Float(_) => CacheFormat::F32,
            Activations::Int8(_) => CacheFormat::Int8,
        })
    }

    /// Opens the adapter and loads the model, with a progress bar. Warns of tensors that are left out, and of inputs of
    /// linear layers that stay floats though they are to be int8.
    pub fn load(&self) -> Result<Loaded, CliError> {
        let source = files::open(&self.model)?;
        for left_out in source.omissions() {
            warn(format!("`{}` is left out: {}", left_out.name, left_out.why));
        }
        if let Some(scheme) = self.format
            && let Granularity::Group(group) = scheme.format().granularity()
            && !group.get().is_multiple_of(16)
        {
            warn(format!(
                "kernels for groups of {group} columns may be slow to compile and to run, because they look up \
                 the scale of each column; kernels for groups of multiples of 32 are fast"
            ));
        }
        let options = LoadOptions::default().with_activations(self.activations);
        let options = match self.format {
            Some(scheme) => options.with_scheme(scheme),
            None => options,
        };
        let on = (&self.adapter, &self.device);
        let (model, load_time) = load(&self.model, &source, on, &options)?;
        let inputs = model.linear_inputs().map_err(|error| failed(&self.model, "run", error))?;
        if !inputs.reasons.is_empty() {
            let float = match self.activations {
                Activations::Float(float) => float.name(),
                Activations::Int8(_) => FloatType::F32.name(),
            };
            let (floats, all) = (inputs.floats, inputs.floats + inputs.int8);
            let reasons = inputs.reasons.join("; ");
            warn(format!("the inputs of {floats} of {all} linear layers stay {float}: {reasons}"));
        }
        let linear_layers = LinearLayers { int8_inputs: inputs.int8, float_inputs: inputs.floats };
        Ok(Loaded { model, load_time, linear_layers })
    }

    /// Opens the tokenizer of the model, and checks that it belongs to it.
    pub fn tokenizer(&self, model: &Model) -> Result<Tokenizer, CliError> {
        let path = self.tokenizer.as_deref().unwrap_or(&self.model);
        let refuse =
            |error| text_failed(format!("cannot use the tokenizer of `{}`", path.display()), error);
        let tokenizer = Tokenizer::open(path).map_err(refuse)?;
        tokenizer.check(model.blueprint()).map_err(refuse)?;
        Ok(tokenizer)
    }

    /// Makes the options from those of a command with options of its own.
    pub fn new(
        model: PathBuf,
        format: Option<Scheme>,
        activations: Activations,
        adapter: AdapterArg,
        device: DeviceArg,
    ) -> Self {
        Self { model, format, activations, tokenizer: None, adapter, device }
    }

    /// Returns how the weights are stored: the format that they were compressed to, or `as stored`.
    pub fn weights_name(&self) -> String {
        self.format.map_or("as stored".to_owned(), |scheme| scheme.to_string())
    }

    /// Returns the name of the type of activations.
    pub fn activations_name(&self) -> String {
        self.activations.to_string()
    }
}

/// Opens the adapter and loads a model, with a progress bar. Returns it and how long that took.
pub fn load(
    path: &Path,
    source: &dyn ModelSource,
    (adapter, device): (&AdapterArg, &DeviceArg),
    options: &LoadOptions,
) -> Result<(Model, Duration), CliError> {
    let host = device.host(&adapter.choose()?);
    let host = host.map_err(|error| CliError::new("cannot open the adapter").because(error))?;
    let host = Arc::new(host.with_timeout(STEP_TIMEOUT));
    let start = Instant::now();
    let bar = progress(0);
    let step = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let model = block_on(Model::from_source(&host, source, options, &step));
    bar.finish_and_clear();
    let model = model.map_err(|error| failed(path, "load", error))?;
    Ok((model, start.elapsed()))
}

/// Describes an error of running a model.
pub fn failed(path: &Path, what: &str, error: RunError) -> CliError {
    let message = format!("cannot {what} `{}`", path.display());
    let hint = match &error {
        RunError::Source(error) => Some(error.next_step()),
        RunError::Full { .. } => Some("a larger --context has room for more tokens"),
        _ => None,
    };
    let error = CliError::new(message).because(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Describes an error of a tokenizer or chat template, with what can be done about it.
pub fn text_failed(message: impl Into<String>, error: TextError) -> CliError {
    let hint = error.next_step();
    CliError::new(message).because(error).hint(hint)
}

/// Runs every kernel of a session or encoder for the first time, which compiles them.
pub fn warming<T>(model: &Model, warm_up: impl FnOnce() -> T) -> T {
    waiting(&format!("compiling kernels for {}", adapter_name(model)), warm_up)
}

/// Returns the name of the adapter that a model is on.
pub fn adapter_name(model: &Model) -> String {
    model.host().adapter_info().name.clone()
}

/// Returns how large a session is: `--context`, or what the model was made for, but at most `most`.
pub fn session_options(
    model: &Model,
    context: Option<usize>,
    most: usize,
    cache: CacheFormat,
) -> SessionOptions {
    let slots = context.unwrap_or_else(|| model.blueprint().context.min(most)).max(1);
    SessionOptions::default().with_slots(slots).with_cache(cache)
}
