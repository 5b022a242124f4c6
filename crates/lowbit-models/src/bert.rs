//! BERT as a sentence encoder, in plain Rust: embeddings, attention, layer norms,
//! GELU, mean pooling. Its linear layers are the caller's to run.

use crate::checkpoint::{Dtype, ModelFile};
use std::{fs, path::Path};
use tokenizers::{Tokenizer, TruncationParams};

/// Why a model cannot be opened or run.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A linear layer: `weight` is `[n, k]` row-major, `bias` has n.
pub struct Dense {
    /// Its place in [`Encoder::linears`].
    pub index: usize,
    /// The name in the file, without `.weight`.
    pub name: String,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// `n * k` values.
    pub weight: Vec<f32>,
    /// `n` values.
    pub bias: Vec<f32>,
}

/// Runs a linear layer: `[m, k]` in, `[m, n]` out, bias added.
pub type Linear<'a> = dyn Fn(&Dense, &[f32], usize) -> Result<Vec<f32>, Error> + 'a;

struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

struct Layer {
    query: Dense,
    key: Dense,
    value: Dense,
    attention_out: Dense,
    attention_norm: Norm,
    ffn_in: Dense,
    ffn_out: Dense,
    ffn_norm: Norm,
}

struct Config {
    hidden: usize,
    ffn: usize,
    heads: usize,
    layers: usize,
    positions: usize,
    vocabulary: usize,
    types: usize,
    epsilon: f32,
}

/// A BERT encoder and its tokenizer.
pub struct Encoder {
    config: Config,
    tokenizer: Tokenizer,
    word: Vec<f32>,
    position: Vec<f32>,
    token_type: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

impl Config {
    fn read(path: &Path) -> Result<Self, Error> {
        let config: serde_json::Value = serde_json::from_slice(&read(path)?)?;
        let wrong = |field: &str| format!("{}: `{field}` is missing or wrong", path.display());
        let count = |field: &str| {
            let value = config[field].as_u64().filter(|value| (1..1 << 24).contains(value));
            value.map(|value| value as usize).ok_or_else(|| wrong(field))
        };
        if config["hidden_act"] != "gelu" {
            return Err(wrong("hidden_act").into());
        }
        let (hidden, heads) = (count("hidden_size")?, count("num_attention_heads")?);
        if hidden % heads != 0 {
            return Err(wrong("num_attention_heads").into());
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

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The f32 tensors of a file, taken by name and checked by shape.
struct Tensors(ModelFile);

impl Tensors {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let tensor =
            self.0.tensor(name).ok_or_else(|| format!("{name}: there is no such tensor"))?;
        if tensor.dtype != Dtype::F32 || tensor.shape != shape {
            let (dtype, have) = (tensor.dtype, tensor.shape);
            return Err(format!("{name} is {dtype:?} {have:?}, not F32 {shape:?}").into());
        }
        let floats = tensor.bytes.as_chunks().0;
        Ok(floats.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, Error> {
        let scale = self.get(&format!("{name}.weight"), &[width])?;
        Ok(Norm { scale, shift: self.get(&format!("{name}.bias"), &[width])? })
    }

    fn dense(&self, index: usize, name: String, n: usize, k: usize) -> Result<Dense, Error> {
        let weight = self.get(&format!("{name}.weight"), &[n, k])?;
        let bias = self.get(&format!("{name}.bias"), &[n])?;
        Ok(Dense { index, name, n, k, weight, bias })
    }
}

impl Encoder {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` of a folder.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let config = Config::read(&folder.join("config.json"))?;
        let Config { hidden, ffn, .. } = config;

        let path = folder.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_bytes(read(&path)?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        // The file pads every text to 128 tokens; here a text is a batch by itself.
        tokenizer.with_padding(None);
        let longest = tokenizer.get_truncation().map_or(usize::MAX, |old| old.max_length);
        let truncation =
            TruncationParams { max_length: longest.min(config.positions), ..Default::default() };
        tokenizer.with_truncation(Some(truncation))?;

        let path = folder.join("model.safetensors");
        let tensors =
            ModelFile::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let tensors = Tensors(tensors);
        let layer = |at: usize| {
            let dense = |i, part: &str, n, k| {
                tensors.dense(6 * at + i, format!("encoder.layer.{at}.{part}"), n, k)
            };
            let norm = |part| tensors.norm(&format!("encoder.layer.{at}.{part}"), hidden);
            Ok::<_, Error>(Layer {
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

    /// Every linear layer, in the order of [`Dense::index`].
    pub fn linears(&self) -> impl Iterator<Item = &Dense> {
        self.layers.iter().flat_map(|layer| {
            let Layer { query, key, value, attention_out, ffn_in, ffn_out, .. } = layer;
            [query, key, value, attention_out, ffn_in, ffn_out]
        })
    }

    /// The layers that have the same input as this one, itself among them: query, key and value.
    #[allow(dead_code, reason = "not all that include this file smooth")]
    pub fn sharing(&self, dense: &Dense) -> Vec<&Dense> {
        let first = match dense.index % 6 {
            0..3 => dense.index / 6 * 6..dense.index / 6 * 6 + 3,
            _ => dense.index..dense.index + 1,
        };
        self.linears().filter(|other| first.contains(&other.index)).collect()
    }

    /// Value projection and output projection of each attention: what lies between them is linear
    /// in every channel of the value.
    #[allow(dead_code, reason = "a test plants outliers there")]
    pub fn values_and_outputs(&mut self) -> impl Iterator<Item = (&mut Dense, &mut Dense)> {
        self.layers.iter_mut().map(|layer| (&mut layer.value, &mut layer.attention_out))
    }

    /// The embedding of a text, of length 1: the mean over its tokens, `[CLS]` and
    /// `[SEP]` among them.
    pub fn embed(&self, text: &str, linear: &Linear) -> Result<Vec<f32>, Error> {
        let tokens = self.tokenizer.encode(text, true)?;
        let (ids, types) = (tokens.get_ids(), tokens.get_type_ids());
        let m = ids.len();
        let hidden = self.config.hidden;

        let mut x = Vec::with_capacity(m * hidden);
        for (at, (&id, &kind)) in ids.iter().zip(types).enumerate() {
            let row = |table: &'_ [f32], at: usize| {
                let row = table.chunks_exact(hidden).nth(at);
                row.map(<[f32]>::to_vec).ok_or("the tokenizer has more tokens than the model")
            };
            let word = row(&self.word, id as usize)?;
            let position = row(&self.position, at)?;
            let kind = row(&self.token_type, kind as usize)?;
            x.extend((0..hidden).map(|i| word[i] + position[i] + kind[i]));
        }
        self.normalize(&self.norm, &mut x);

        for layer in &self.layers {
            let query = linear(&layer.query, &x, m)?;
            let key = linear(&layer.key, &x, m)?;
            let value = linear(&layer.value, &x, m)?;
            let mixed = self.attention(&query, &key, &value, m);
            add(&mut x, &linear(&layer.attention_out, &mixed, m)?);
            self.normalize(&layer.attention_norm, &mut x);

            let mut inner = linear(&layer.ffn_in, &x, m)?;
            inner.iter_mut().for_each(|v| *v = gelu(*v));
            add(&mut x, &linear(&layer.ffn_out, &inner, m)?);
            self.normalize(&layer.ffn_norm, &mut x);
        }

        let mut mean = vec![0.0; hidden];
        x.chunks_exact(hidden).for_each(|row| add(&mut mean, row));
        let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
        mean.iter_mut().for_each(|v| *v /= length);
        Ok(mean)
    }

    fn normalize(&self, norm: &Norm, x: &mut [f32]) {
        let width = self.config.hidden;
        for row in x.chunks_exact_mut(width) {
            let mean = row.iter().sum::<f32>() / width as f32;
            let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / width as f32;
            let scale = 1.0 / (variance + self.config.epsilon).sqrt();
            for (v, (a, b)) in row.iter_mut().zip(norm.scale.iter().zip(&norm.shift)) {
                *v = (*v - mean) * scale * a + b;
            }
        }
    }

    /// softmax(Q·Kᵀ / √d)·V, head by head; one text, so nothing is masked.
    fn attention(&self, query: &[f32], key: &[f32], value: &[f32], m: usize) -> Vec<f32> {
        let (hidden, heads) = (self.config.hidden, self.config.heads);
        let width = hidden / heads;
        let scale = 1.0 / (width as f32).sqrt();
        let mut out = vec![0.0; m * hidden];
        for head in 0..heads {
            let part = |of: usize| of * hidden + head * width..of * hidden + (head + 1) * width;
            for i in 0..m {
                let q = &query[part(i)];
                let dot = |j| q.iter().zip(&key[part(j)]).map(|(a, b)| a * b).sum::<f32>();
                let mut scores: Vec<f32> = (0..m).map(|j| dot(j) * scale).collect();
                let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().for_each(|s| *s = (*s - top).exp());
                let total: f32 = scores.iter().sum();
                for (j, score) in scores.iter().enumerate() {
                    let weight = score / total;
                    for (o, v) in out[part(i)].iter_mut().zip(&value[part(j)]) {
                        *o += weight * v;
                    }
                }
            }
        }
        out
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
}

/// x·Φ(x), with the error function itself and not the tanh approximation.
pub fn gelu(x: f32) -> f32 {
    (f64::from(x) * 0.5 * erfc(-f64::from(x) * std::f64::consts::FRAC_1_SQRT_2)) as f32
}

/// 1 − erf(x) by the Chebyshev fit of *Numerical Recipes* §6.2, relative error below
/// 1.2e-7 everywhere.
fn erfc(x: f64) -> f64 {
    const FIT: [f64; 10] = [
        0.17087277,
        -0.82215223,
        1.48851587,
        -1.13520398,
        0.27886807,
        -0.18628806,
        0.09678418,
        0.37409196,
        1.00002368,
        -1.26551223,
    ];
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    let upper = t * (FIT.iter().fold(0.0, |sum, c| sum * t + c) - x * x).exp();
    if x < 0.0 { 2.0 - upper } else { upper }
}
