//! Reads a BERT encoder from its folder.

use super::{Dense, Encoder, Layer, Norm};
use crate::checkpoint::{Dtype, Foreign, IoError, ModelFile, Tensor, TensorKind, foreign};
use std::fs;
use std::path::{Path, PathBuf};
use tokenizers::{Tokenizer, TruncationParams};

/// The reason why a folder cannot be opened as a BERT encoder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file cannot be read.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason of the operating system.
        source: std::io::Error,
    },
    /// `config.json` is not JSON.
    #[error("{}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// A field of `config.json` is missing, or is no number that a BERT encoder can have.
    #[error("{}: `{field}` is missing or wrong", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// A field of `config.json` names something that this encoder does not have: another architecture,
    /// another kind of positions, another activation function.
    #[error("{}: `{field}` is `{have}`, and only `{need}` is supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it says.
        have: String,
        /// The value that is supported.
        need: &'static str,
    },
    /// Another tool has quantized the model.
    #[error("the weights are quantized, with {} ({})", .0.format, .0.evidence)]
    Foreign(Foreign),
    /// The model is in shards.
    #[error("the model is in shards (`{}`), and only `model.safetensors` is read", path.display())]
    Shards {
        /// The index.
        path: PathBuf,
    },
    /// The tokenizer has ids for which the model has no embedding.
    #[error(
        "the tokenizer has the id {id} (`{token}`), and the model has embeddings for {rows} ids"
    )]
    Vocabulary {
        /// The largest id.
        id: u32,
        /// Its token.
        token: String,
        /// The rows of the table.
        rows: usize,
    },
    /// The tensors of two encoders are in the file.
    #[error("there are two encoders: `{first}…` and `{second}…`")]
    TwoEncoders {
        /// The prefix of the names of one.
        first: String,
        /// The prefix of the names of another.
        second: String,
    },
    /// `tokenizer.json` is not a tokenizer.
    #[error("{}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: tokenizers::Error,
    },
    /// `model.safetensors` cannot be read.
    #[error("{}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: IoError,
    },
    /// A tensor is missing.
    #[error("{name}: there is no such tensor")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor is not F32, F16 or BF16, or has another shape than the configuration says.
    #[error("{name} is {dtype} {have:?}, not F32, F16 or BF16 {need:?}")]
    WrongTensor {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        have: Vec<usize>,
        /// The shape that is needed.
        need: Vec<usize>,
    },
}

/// The fields of `config.json` that are used.
pub(super) struct Config {
    pub hidden: usize,
    ffn: usize,
    pub heads: usize,
    layers: usize,
    positions: usize,
    vocabulary: usize,
    types: usize,
    pub epsilon: f32,
}

impl Config {
    fn read(path: &Path) -> Result<Self, OpenError> {
        let json = |source| OpenError::Json { path: path.to_owned(), source };
        let config: serde_json::Value = serde_json::from_slice(&read(path)?).map_err(json)?;
        let wrong = |field| OpenError::Config { path: path.to_owned(), field };
        let count = |field: &'static str| {
            let value = config[field].as_u64().filter(|value| (1..1 << 24).contains(value));
            value.map(|value| value as usize).ok_or_else(|| wrong(field))
        };
        let supported =
            |field: &'static str, need: &'static str, required: bool| match &config[field] {
                serde_json::Value::Null if !required => Ok(()),
                serde_json::Value::Null => Err(wrong(field)),
                serde_json::Value::String(have) if have == need => Ok(()),
                other => {
                    let have = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                    Err(OpenError::Unsupported { path: path.to_owned(), field, have, need })
                }
            };
        // Models with other positions or another order of layers have tensors of the same names. The
        // first files of BERT name no architecture.
        supported("model_type", "bert", false)?;
        // Without a type, the architecture says it: that of RoBERTa has tensors of the same names.
        if let Some(have) = config["architectures"][0].as_str().filter(|a| !a.starts_with("Bert")) {
            let (field, have) = ("architectures", have.to_owned());
            return Err(OpenError::Unsupported {
                path: path.to_owned(),
                field,
                have,
                need: "Bert…",
            });
        }
        supported("position_embedding_type", "absolute", false)?;
        supported("hidden_act", "gelu", true)?;
        if config["is_decoder"] == true {
            let (field, have) = ("is_decoder", "true".to_owned());
            return Err(OpenError::Unsupported {
                path: path.to_owned(),
                field,
                have,
                need: "false",
            });
        }
        if let Some(foreign) = foreign(Some(&config), []) {
            return Err(OpenError::Foreign(foreign));
        }
        let (hidden, heads) = (count("hidden_size")?, count("num_attention_heads")?);
        if hidden % heads != 0 {
            return Err(wrong("num_attention_heads"));
        }
        Ok(Self {
            hidden,
            heads,
            ffn: count("intermediate_size")?,
            layers: count("num_hidden_layers")?,
            positions: count("max_position_embeddings")?,
            vocabulary: count("vocab_size")?,
            types: count("type_vocab_size")?,
            epsilon: config["layer_norm_eps"].as_f64().ok_or_else(|| wrong("layer_norm_eps"))?
                as f32,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    fs::read(path).map_err(|source| OpenError::Read { path: path.to_owned(), source })
}

/// The table of words, by which the encoder is found in a file.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// The float tensors of an encoder in a file, looked up by name and checked against a shape.
struct Tensors {
    file: ModelFile,
    /// What stands before the names of the encoder's tensors, such as `bert.`.
    prefix: String,
}

impl Tensors {
    /// Finds the encoder in a file.
    fn new(file: ModelFile) -> Result<Self, OpenError> {
        let prefix = |name: &str| {
            let prefix = name.strip_suffix(WORDS)?;
            (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
        };
        let mut found = file.tensors().filter_map(|tensor| prefix(tensor.name));
        let first = found.next();
        if let (Some(first), Some(second)) = (&first, found.next()) {
            return Err(OpenError::TwoEncoders { first: first.clone(), second });
        }
        drop(found);
        let kinds = file.tensors().map(|tensor| {
            let Tensor { name, dtype, shape, .. } = tensor;
            TensorKind { name, dtype, shape }
        });
        if let Some(foreign) = foreign(None, kinds) {
            return Err(OpenError::Foreign(foreign));
        }
        // If there is none, the first tensor that is looked up is missing.
        Ok(Self { prefix: first.unwrap_or_default(), file })
    }

    /// Returns the name of a tensor or module in the file.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, OpenError> {
        self.get_full(self.full(name), shape)
    }

    /// Reads a tensor by its name in the file.
    fn get_full(&self, name: String, shape: &[usize]) -> Result<Vec<f32>, OpenError> {
        let Some(tensor) = self.file.tensor(&name) else {
            return Err(OpenError::MissingTensor { name });
        };
        if tensor.shape == shape
            && let Ok(values) = tensor.to_f32()
        {
            return Ok(values);
        }
        let (dtype, have, need) = (tensor.dtype, tensor.shape.to_vec(), shape.to_vec());
        Err(OpenError::WrongTensor { name, dtype, have, need })
    }

    /// Reads a norm. Files that were converted from TensorFlow call its tensors `gamma` and `beta`.
    fn norm(&self, name: &str, width: usize) -> Result<Norm, OpenError> {
        let either = |new: &str, old: &str| {
            let [new, old] = [new, old].map(|part| self.full(&format!("{name}.{part}")));
            let name = if self.file.tensor(&old).is_some() { old } else { new };
            self.get_full(name, &[width])
        };
        Ok(Norm { scale: either("weight", "gamma")?, shift: either("bias", "beta")? })
    }

    fn dense(&self, index: usize, name: String, n: usize, k: usize) -> Result<Dense, OpenError> {
        let weight = self.get(&format!("{name}.weight"), &[n, k])?;
        let bias = self.get(&format!("{name}.bias"), &[n])?;
        Ok(Dense { index, name, n, k, weight, bias })
    }
}

impl Encoder {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` of a folder. The tensors are F32, F16
    /// or BF16, and any prefix may stand before their names.
    ///
    /// # Errors
    /// Returns [`OpenError`] if a file is missing or damaged, if the model is not a BERT encoder with
    /// absolute positions and GELU, or if the tokenizer has ids that the model has no embedding for.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let config = Config::read(&folder.join("config.json"))?;
        let Config { hidden, ffn, .. } = config;

        let path = folder.join("tokenizer.json");
        let bytes = read(&path)?;
        let failed = |source| OpenError::Tokenizer { path: path.clone(), source };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(failed)?;
        // The file pads every text to 128 tokens; here every text is a batch of its own.
        tokenizer.with_padding(None);
        let longest = tokenizer.get_truncation().map_or(usize::MAX, |old| old.max_length);
        let last = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = last.filter(|(_, id)| *id as usize >= config.vocabulary) {
            return Err(OpenError::Vocabulary { id, token, rows: config.vocabulary });
        }
        let truncation =
            TruncationParams { max_length: longest.min(config.positions), ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(failed)?;

        let path = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if !path.exists() && index.exists() {
            return Err(OpenError::Shards { path: index });
        }
        let model = |source| OpenError::Model { path: path.clone(), source };
        let tensors = Tensors::new(ModelFile::open(&path).map_err(model)?)?;
        let layer = |at: usize| {
            let dense = |i, part: &str, n, k| {
                tensors.dense(6 * at + i, format!("encoder.layer.{at}.{part}"), n, k)
            };
            let norm = |part| tensors.norm(&format!("encoder.layer.{at}.{part}"), hidden);
            Ok::<_, OpenError>(Layer {
                query: dense(0, "attention.self.query", hidden, hidden)?,
                key: dense(1, "attention.self.key", hidden, hidden)?,
                value: dense(2, "attention.self.value", hidden, hidden)?,
                attention_out: dense(3, "attention.output.dense", hidden, hidden)?,
                attention_norm: norm("attention.output.LayerNorm")?,
                ffn_in: dense(4, "intermediate.dense", ffn, hidden)?,
                ffn_out: dense(5, "output.dense", hidden, ffn)?,
                ffn_norm: norm("output.LayerNorm")?,
            })
        };
        Ok(Self {
            word: tensors.get(WORDS, &[config.vocabulary, hidden])?,
            position: tensors
                .get("embeddings.position_embeddings.weight", &[config.positions, hidden])?,
            token_type: tensors
                .get("embeddings.token_type_embeddings.weight", &[config.types, hidden])?,
            norm: tensors.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
            config,
            tokenizer,
        })
    }
}
