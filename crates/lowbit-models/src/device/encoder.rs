//! Encoders: a vector for each sentence.

use super::layers::{Size, build};
use super::runner::Runner;
use super::texts::{describe, fitting};
use super::{Model, Pooling, RunError};
use lowbit::format::CacheFormat;
use lowbit::host::ReadBack;

/// How an encoder runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EncoderOptions {
    /// The largest number of tokens of a step: sentences that fit together share one.
    pub rows: usize,
    /// How rows become one vector.
    pub pooling: Pooling,
    /// Whether vectors are divided by their length.
    pub normalize: bool,
    /// How keys and values are stored within a step.
    pub cache: CacheFormat,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        let cache = CacheFormat::F32;
        Self { rows: 512, pooling: Pooling::Mean, normalize: true, cache }
    }
}

impl EncoderOptions {
    /// Sets the largest number of tokens of a step.
    #[must_use]
    pub fn with_rows(mut self, rows: usize) -> Self {
        self.rows = rows;
        self
    }

    /// Sets how rows become one vector.
    #[must_use]
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// Leaves the length of vectors as it is.
    #[must_use]
    pub fn without_normalization(mut self) -> Self {
        self.normalize = false;
        self
    }

    /// Sets how keys and values are stored.
    #[must_use]
    pub fn with_cache(mut self, cache: CacheFormat) -> Self {
        self.cache = cache;
        self
    }
}

/// An encoder with all buffers and bound ops of a step.
///
/// The sentences of a step lie one after the other, without padding: each of their tokens sees the slots of
/// its own sentence.
#[derive(Debug)]
pub struct SentenceEncoder<'m> {
    model: &'m Model,
    options: EncoderOptions,
    runner: Runner,
    read_back: ReadBack,
}

impl Model {
    /// Makes an encoder of sentences: allocates its buffers, compiles every kernel and binds all ops.
    ///
    /// # Errors
    /// Returns [`RunError`] if the model is a language model, an option is out of range, or the device
    /// fails.
    pub async fn encoder(&self, options: &EncoderOptions) -> Result<SentenceEncoder<'_>, RunError> {
        if self.blueprint.head.is_some() {
            let family = self.blueprint.family;
            return Err(RunError::Options(format!("{family} is no encoder of sentences")));
        }
        let rows = match u32::try_from(options.rows) {
            Ok(rows) if (1..1 << 20).contains(&rows) => rows,
            _ => {
                let message = format!("rows = {} is outside of 1…1048575", options.rows);
                return Err(RunError::Options(message));
            }
        };
        let cache = options.cache;
        let size = Size { rows, slots: rows, cache, logit_rows: 1, counted: false };
        let built = build(&self.blueprint, &self.weights, &self.options, size)?;
        let runner = Runner::new(self, built, size).await?;
        let bytes = u64::from(rows) * runner.row_bytes();
        let read_back = self.host.read_back_async((bytes / 4) as usize).await?;
        Ok(SentenceEncoder { model: self, options: options.clone(), runner, read_back })
    }
}

impl SentenceEncoder<'_> {
    /// Returns the columns of a vector.
    pub fn columns(&self) -> usize {
        self.model.blueprint.hidden
    }

    /// Returns the largest number of tokens of a sentence: those of a step, or the positions that the model
    /// has.
    pub fn longest(&self) -> usize {
        self.options.rows.min(self.model.blueprint.context)
    }

    /// Runs every kernel once, for as many rows as fit a step, so that drivers that compile late have compiled
    /// them before the first sentence.
    ///
    /// # Errors
    /// Returns [`RunError`] if the device fails.
    pub async fn warm_up(&self) -> Result<(), RunError> {
        let longest = self.longest().max(1);
        let whole = vec![vec![0; longest]; self.options.rows / longest];
        self.step(&whole).await.map(|_| ())
    }

    /// Returns the vector of each sentence: see [`embed_with`](Self::embed_with).
    ///
    /// # Errors
    /// Returns [`RunError`].
    pub async fn embed(&self, sentences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, RunError> {
        self.embed_with(sentences, |_| ()).await
    }

    /// Returns the vector of each sentence, given as its tokens with those that the tokenizer adds. A
    /// sentence without tokens gives zeros. `progress` is called after each step, with the number of
    /// sentences that have their vector.
    ///
    /// # Errors
    /// Returns [`RunError`] if a token is not in the vocabulary, a sentence is longer than a step or than
    /// the model has positions, or the device fails.
    pub async fn embed_with(
        &self,
        sentences: &[Vec<u32>],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Vec<f32>>, RunError> {
        let vocab = self.model.blueprint.vocab;
        let limit = self.longest();
        for sentence in sentences {
            if let Some(&token) = sentence.iter().find(|&&token| token as usize >= vocab) {
                return Err(RunError::Token { token, vocab });
            }
            if sentence.len() > limit {
                return Err(RunError::Full { need: sentence.len(), slots: limit });
            }
        }
        let mut vectors = Vec::with_capacity(sentences.len());
        let mut rest = sentences;
        while !rest.is_empty() {
            // One sentence fits, as is checked above.
            let count = fitting(rest, self.options.rows);
            let (now, later) = rest.split_at(count);
            vectors.extend(self.step(now).await?);
            progress(vectors.len());
            rest = later;
        }
        Ok(vectors)
    }

    async fn step(&self, sentences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, RunError> {
        let (model, built) = (self.model, &self.runner.built);
        let columns = self.columns();
        let ids: Vec<u32> = sentences.concat();
        if ids.is_empty() {
            return Ok(vec![vec![0.0; columns]; sentences.len()]);
        }
        self.runner.write(model, built.ids, &ids)?;
        for &(window, tensor) in &built.rows {
            let lengths = sentences.iter().map(Vec::len);
            let words = describe(&model.blueprint, lengths, window, self.options.rows);
            self.runner.write(model, tensor, &words)?;
        }
        let (rows, mut recorded) = (ids.len() as u32, Ok(()));
        let record = |encoder: &mut lowbit::wgpu::CommandEncoder| {
            recorded = self.runner.record(encoder, rows);
        };
        let words = (u64::from(rows) * self.runner.row_bytes() / 4) as usize;
        let last = self.runner.buffer(built.last)?;
        let host = &model.host;
        let words = host.submit_and_read_async(record, last, words, &self.read_back).await?;
        recorded?;
        let values = self.runner.floats(&words);
        let mut at = 0;
        Ok(sentences
            .iter()
            .map(|sentence| {
                let rows = &values[at * columns..][..sentence.len() * columns];
                at += sentence.len();
                self.pooled(rows)
            })
            .collect())
    }

    fn pooled(&self, rows: &[f32]) -> Vec<f32> {
        let columns = self.columns();
        let count = rows.len() / columns.max(1);
        let column = |at: usize| rows[at..].iter().step_by(columns).map(|&value| f64::from(value));
        let pooled = |at: usize| match self.options.pooling {
            _ if count == 0 => 0.0,
            Pooling::Mean => column(at).sum::<f64>() / count as f64,
            Pooling::Cls => f64::from(rows[at]),
            Pooling::Max => column(at).fold(f64::NEG_INFINITY, f64::max),
        };
        let mut vector: Vec<f64> = (0..columns).map(pooled).collect();
        if self.options.normalize {
            let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
            if length > 0.0 {
                vector.iter_mut().for_each(|v| *v /= length);
            }
        }
        vector.into_iter().map(|v| v as f32).collect()
    }
}
