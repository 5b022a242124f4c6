//! Reads a BERT encoder from its folder.

use super::{Dense, Encoder, Layer, Norm};
use crate::checkpoint::{Dtype, IoError, ModelFile};
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
    /// A field of `config.json` is missing, or has a value that this encoder does not support.
    #[error("{}: `{field}` is missing or wrong", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
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
    /// A tensor is not F32, or has another shape than the configuration says.
    #[error("{name} is {dtype:?} {have:?}, not F32 {need:?}")]
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
        if config["hidden_act"] != "gelu" {
            return Err(wrong("hidden_act"));
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

/// The f32 tensors of a file, looked up by name and checked against a shape.
struct Tensors(ModelFile);

impl Tensors {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, OpenError> {
        let missing = || OpenError::MissingTensor { name: name.to_owned() };
        let tensor = self.0.tensor(name).ok_or_else(missing)?;
        if tensor.dtype != Dtype::F32 || tensor.shape != shape {
            let (dtype, have) = (tensor.dtype, tensor.shape.to_vec());
            let (name, need) = (name.to_owned(), shape.to_vec());
            return Err(OpenError::WrongTensor { name, dtype, have, need });
        }
        let floats = tensor.bytes.as_chunks().0;
        Ok(floats.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, OpenError> {
        let scale = self.get(&format!("{name}.weight"), &[width])?;
        Ok(Norm { scale, shift: self.get(&format!("{name}.bias"), &[width])? })
    }

    fn dense(&self, index: usize, name: String, n: usize, k: usize) -> Result<Dense, OpenError> {
        let weight = self.get(&format!("{name}.weight"), &[n, k])?;
        let bias = self.get(&format!("{name}.bias"), &[n])?;
        Ok(Dense { index, name, n, k, weight, bias })
    }
}

impl Encoder {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` of a folder.
    ///
    /// # Errors
    /// Returns [`OpenError`] if a file is missing or damaged, if the model is not a BERT encoder with
    /// GELU, or if a tensor is not F32.
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
        let truncation =
            TruncationParams { max_length: longest.min(config.positions), ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(failed)?;

        let path = folder.join("model.safetensors");
        let model = |source| OpenError::Model { path: path.clone(), source };
        let tensors = Tensors(ModelFile::open(&path).map_err(model)?);
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
            word: tensors.get("embeddings.word_embeddings.weight", &[config.vocabulary, hidden])?,
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
