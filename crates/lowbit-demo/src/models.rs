//! MiniLM in a recipe, on the device: what `lowbit calibrate`, `lowbit compress` and `lowbit embed` do, through
//! the libraries.

use crate::recipes::{Inputs, Recipe};
use lowbit::compress::Scheme;
use lowbit::compress::calibrate::Method;
use lowbit::format::{ActivationFormat, ActivationGranularity, Sizes, WeightFormat};
use lowbit::host::Host;
use lowbit::ops::Activations;
use lowbit_models::architecture;
use lowbit_models::checkpoint::source::{self, ModelSource};
use lowbit_models::checkpoint::{ModelFile, RangeTarget, Ranges, matrix_shape};
use lowbit_models::compress::{
    ActivationPlan, ActivationRequest, Chosen, Compression, Maker, SmoothRequest,
};
use lowbit_models::device::{EncoderOptions, LoadOptions, Model, ModelStatistics, SentenceEncoder};
use lowbit_models::layerwise::{self, Job, Loops, Plan, Treatment};
use lowbit_models::text::Tokenizer;
use pollster::block_on;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The error of any part.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The novel from which passages are taken, and their number.
pub const NOVEL: &str = "data/pride/pride.txt";
const PASSAGES: usize = 32;

/// What stands for codes of inputs in the recipes: a scale and a zero point, because the inputs after GELU lie
/// almost all on one side of 0.
fn codes(granularity: ActivationGranularity) -> ActivationFormat {
    ActivationFormat::int8(granularity).asymmetric()
}

/// An encoder of sentences as files, its tokenizer, and what calibration text shows of the inputs of its linear
/// layers.
pub struct Models {
    host: Arc<Host>,
    folder: PathBuf,
    file: ModelFile,
    tokenizer: Tokenizer,
    ranges: Ranges,
}

impl Models {
    /// Opens the model of a folder, and runs the texts through it.
    ///
    /// # Errors
    /// Returns an error if the folder has no model that the device layer runs, or if the device fails.
    pub fn open<'a>(
        host: &Arc<Host>,
        folder: &Path,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let file = match source::open(folder)? {
            source::Model::Safetensors(file) => file,
            _ => return Err(format!("{} has no safetensors file", folder.display()).into()),
        };
        let tokenizer = Tokenizer::open(folder)?;
        let model = load(host, &file, &LoadOptions::default())?;
        tokenizer.check(model.blueprint())?;
        let context = model.blueprint().context;
        let mut tokens = Vec::new();
        for text in texts {
            tokens.push(tokenizer.encode_within(text, context)?.0);
        }
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let mut statistics = ModelStatistics::new(&file, model.blueprint(), true)?;
        let mut observer = block_on(model.observer(longest, true))?;
        for tokens in &tokens {
            block_on(observer.observe(&mut statistics, tokens))?;
        }
        let format = codes(ActivationGranularity::Tensor);
        let ranges = statistics.ranges(RangeTarget { method: Method::MinMax, format });
        let (host, folder) = (host.clone(), folder.to_owned());
        Ok(Self { host, folder, file, tokenizer, ranges })
    }

    /// Returns the tokens of a text, cut to what the model takes.
    ///
    /// # Errors
    /// Returns the error of the tokenizer.
    pub fn tokens(&self, model: &Model, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tokenizer.encode_within(text, model.blueprint().context)?.0)
    }

    /// Returns the weights of the linear layers, each to be stored in a format.
    fn weights(&self, format: WeightFormat) -> Result<Vec<Chosen<'_>>, Error> {
        let weight = |name: &String| {
            let tensor = self.file.tensor(name).ok_or_else(|| format!("{name} is not there"))?;
            Ok(Chosen::new(tensor, format.into()))
        };
        self.ranges.layers.keys().map(weight).collect()
    }

    /// Returns the number of matrices of the linear layers, and their sizes in a format.
    ///
    /// # Errors
    /// Returns an error if a weight cannot have the format.
    pub fn sizes(&self, format: WeightFormat) -> Result<(usize, Sizes), Error> {
        let weights = self.weights(format)?;
        let mut sizes = Sizes::default();
        for Chosen { tensor, .. } in &weights {
            let (n, k) = matrix_shape(tensor.shape)
                .ok_or_else(|| format!("{} is not a matrix", tensor.name))?;
            sizes = sizes + format.geometry(n, k)?.sizes();
        }
        Ok((weights.len(), sizes))
    }

    /// Puts the model into device memory. Scales that are fixed in advance are a matter of files: with them the
    /// compressed model is written into the folder `to` first.
    ///
    /// # Errors
    /// Returns an error if the model cannot be compressed, written or loaded.
    pub fn load(&self, recipe: &Recipe, to: &Path) -> Result<Model, Error> {
        let mut options = LoadOptions::default();
        if let Some(treatment) = &recipe.treatment {
            return self.compressed(recipe.format.into(), treatment);
        }
        let smooth = match recipe.inputs {
            Inputs::Static => SmoothRequest::None,
            Inputs::Smooth => SmoothRequest::Search,
            Inputs::Float | Inputs::Dynamic => {
                if recipe.format != WeightFormat::f32() {
                    options = options.with_scheme(recipe.format.into());
                }
                if recipe.inputs == Inputs::Dynamic {
                    let token = codes(ActivationGranularity::Token);
                    options = options.with_activations(Activations::Int8(token));
                }
                return load(&self.host, &self.file, &options);
            }
        };
        let weights = self.weights(recipe.format)?;
        let request = ActivationRequest {
            format: Some(codes(ActivationGranularity::Tensor)),
            fixed: true,
            ranges: Some(&self.ranges),
            smooth,
        };
        let plan = ActivationPlan::new(&request, &self.file, &weights)?;
        std::fs::create_dir_all(to)?;
        for name in ["config.json", "tokenizer.json"] {
            std::fs::copy(self.folder.join(name), to.join(name))?;
        }
        let output = to.join("model.safetensors");
        let compression = Compression::create(&*output, &self.file, &weights, &plan)?;
        compression.run(Maker::Device(&self.host), &mut |_| ())?;
        load(&self.host, &source::open(to)?, &options)
    }

    /// Compresses the model layer by layer with passages of the novel, and puts it into device memory.
    fn compressed(&self, scheme: Scheme, treatment: &Treatment) -> Result<Model, Error> {
        let blueprint = architecture::read(&self.file)?;
        let text = std::fs::read_to_string(NOVEL)?;
        let joined = text.split("\n\n").map(|lines| lines.split_whitespace().collect::<Vec<_>>());
        let passages = joined.map(|words| words.join(" ")).filter(|passage| passage.len() > 250);
        let encode = |passage: String| Ok(self.tokenizer.encode_within(&passage, 128)?.0);
        let texts: Result<Vec<_>, Error> = passages.skip(20).take(PASSAGES).map(encode).collect();
        let plan = Plan { scheme, treatment: treatment.clone() };
        let names = self.ranges.layers.keys();
        let job = Job {
            source: &self.file,
            blueprint: &blueprint,
            plans: names.map(|name| (name.clone(), plan.clone())).collect(),
            texts: &texts?,
            statistics: None,
            rows: 512,
            loops: Loops::Auto,
            folder: None,
        };
        let (made, _) = block_on(layerwise::run(Some(&self.host), &job, &mut |_| ()))?;
        load(&self.host, &made, &LoadOptions::default())
    }

    /// Makes an encoder with room for each of the texts, and runs its kernels once.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn encoder<'m, 'a>(
        &self,
        model: &'m Model,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<SentenceEncoder<'m>, Error> {
        let mut longest = 1;
        for text in texts {
            longest = longest.max(self.tokens(model, text)?.len());
        }
        let encoder = block_on(model.encoder(&EncoderOptions::default().with_rows(longest)))?;
        block_on(encoder.warm_up())?;
        Ok(encoder)
    }

    /// Returns the vector of a text.
    ///
    /// # Errors
    /// Returns an error if the device fails.
    pub fn embed(
        &self,
        model: &Model,
        encoder: &SentenceEncoder<'_>,
        text: &str,
    ) -> Result<Vec<f32>, Error> {
        let vectors = block_on(encoder.embed(&[self.tokens(model, text)?]))?;
        vectors.into_iter().next().ok_or_else(|| Error::from("there is no vector"))
    }
}

fn load(host: &Arc<Host>, source: &dyn ModelSource, options: &LoadOptions) -> Result<Model, Error> {
    Ok(block_on(Model::from_source(host, source, options, &|_, _| ()))?)
}
