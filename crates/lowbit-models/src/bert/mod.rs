//! BERT as a sentence encoder, in plain Rust: embeddings, attention, layer norms, GELU and mean
//! pooling. The caller runs its linear layers. It is what the tests compare the
//! [device layer](crate::device) with.

mod load;

pub use load::OpenError;

use load::Config;
use tokenizers::Tokenizer;

/// The error of a linear layer that the caller runs, or of the tokenizer.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A linear layer.
pub struct Dense {
    /// Its index in [`Encoder::linears`].
    pub index: usize,
    /// The name in the file, without `.weight` and without the prefix of the encoder's names, such as
    /// `bert.`.
    pub name: String,
    /// The number of output features.
    pub n: usize,
    /// The number of input features.
    pub k: usize,
    /// The weights, `[n, k]` row-major.
    pub weight: Vec<f32>,
    /// The bias, `[n]`.
    pub bias: Vec<f32>,
}

impl Dense {
    /// Returns the name of its weight without the prefix, under which ranges of its input are stored.
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.name)
    }
}

/// Runs a linear layer: takes the layer, its input `[m, k]` and m, and returns the output `[m, n]`
/// with the bias added.
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

impl Encoder {
    /// Returns every linear layer, in the order of [`Dense::index`].
    pub fn linears(&self) -> impl Iterator<Item = &Dense> {
        self.layers.iter().flat_map(|layer| {
            let Layer { query, key, value, attention_out, ffn_in, ffn_out, .. } = layer;
            [query, key, value, attention_out, ffn_in, ffn_out]
        })
    }

    /// Returns the embedding of a text, scaled to length 1: the mean over its tokens, including
    /// `[CLS]` and `[SEP]`. `linear` runs the linear layers.
    ///
    /// # Errors
    /// Returns the errors of `linear` and of the tokenizer, and an error if the tokenizer has more
    /// tokens than the model.
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

    /// Returns softmax(Q·Kᵀ / √d)·V for each head. There is one text, so nothing is masked.
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

/// Returns x·Φ(x), with the error function itself and not the tanh approximation.
pub fn gelu(x: f32) -> f32 {
    (f64::from(x) * 0.5 * erfc(-f64::from(x) * std::f64::consts::FRAC_1_SQRT_2)) as f32
}

/// Returns 1 − erf(x) by the Chebyshev fit of *Numerical Recipes* §6.2, whose relative error is below
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
