//! Measures how well a model does after its weights have changed, beside the model as it was.

use crate::architecture::Blueprint;
use crate::checkpoint::source::ModelSource;
use crate::device::{EncoderOptions, LoadOptions, Model, RunError, Sampling, SessionOptions};
use lowbit::host::Host;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// Sentences that an encoder reads in one step.
const ENCODER_ROWS: usize = 512;

/// A measure of how well a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The mean cosine of the vectors of sentences to those of the model as it was; 1 is best.
    Cosine,
    /// The perplexity of a language model; the less the better.
    Perplexity,
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cosine => "cosine",
            Self::Perplexity => "perplexity",
        })
    }
}

/// What a model was measured at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The metric.
    pub value: f64,
    /// The loss beside the model as it was, in per cent: of 1 for a cosine, of its perplexity for a language
    /// model.
    pub loss: f64,
}

/// Texts to measure models with, and what the model as it was makes of them.
#[derive(Clone, Debug)]
pub struct Evaluation {
    texts: Vec<Vec<u32>>,
    metric: Metric,
    /// The vectors of the texts, if the model is an encoder.
    vectors: Vec<Vec<f32>>,
    /// The perplexity, or 1.
    value: f64,
}

impl Evaluation {
    /// Runs the model as it is, so that others can be compared with it. Its texts are sentences for an encoder, and
    /// windows for a language model.
    ///
    /// # Errors
    /// Returns [`RunError`] if there are no texts, or the model does not load or run.
    pub async fn new(
        host: &Arc<Host>,
        source: &dyn ModelSource,
        blueprint: &Blueprint,
        texts: Vec<Vec<u32>>,
    ) -> Result<Self, RunError> {
        if texts.iter().all(Vec::is_empty) {
            return Err(RunError::Empty);
        }
        let metric = if blueprint.head.is_some() { Metric::Perplexity } else { Metric::Cosine };
        let mut evaluation = Self { texts, metric, vectors: Vec::new(), value: 1.0 };
        let model = load(host, source).await?;
        match metric {
            Metric::Cosine => evaluation.vectors = evaluation.embed(&model).await?,
            Metric::Perplexity => evaluation.value = evaluation.perplexity(&model).await?,
        }
        Ok(evaluation)
    }

    /// Returns what is measured.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Returns the metric of the model as it was.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Measures a model.
    ///
    /// # Errors
    /// Returns [`RunError`] if the model does not load or run.
    pub async fn measure(
        &self,
        host: &Arc<Host>,
        source: &dyn ModelSource,
    ) -> Result<Measured, RunError> {
        let model = load(host, source).await?;
        match self.metric {
            Metric::Cosine => {
                let vectors = self.embed(&model).await?;
                let cosines = vectors.iter().zip(&self.vectors).map(|(a, b)| cosine(a, b));
                let value = cosines.sum::<f64>() / vectors.len().max(1) as f64;
                Ok(Measured { value, loss: 100.0 * (1.0 - value) })
            }
            Metric::Perplexity => {
                let value = self.perplexity(&model).await?;
                Ok(Measured { value, loss: 100.0 * (value / self.value - 1.0) })
            }
        }
    }

    /// Measures how long a token takes, in milliseconds: the median of some that follow each other for a language
    /// model, and of steps of one sentence for an encoder.
    ///
    /// # Errors
    /// Returns [`RunError`] if the model does not load or run.
    pub async fn latency(
        &self,
        host: &Arc<Host>,
        source: &dyn ModelSource,
    ) -> Result<f64, RunError> {
        const TIMES: usize = 9;
        let model = load(host, source).await?;
        let mut times = Vec::with_capacity(TIMES);
        match self.metric {
            Metric::Cosine => {
                let texts = self.texts.iter().filter(|text| !text.is_empty());
                let Some(text) = texts.min_by_key(|text| text.len()) else {
                    return Err(RunError::Empty);
                };
                let options = EncoderOptions::default().with_rows(text.len());
                let encoder = model.encoder(&options).await?;
                encoder.warm_up().await?;
                for _ in 0..TIMES {
                    let start = Instant::now();
                    encoder.embed(std::slice::from_ref(text)).await?;
                    times.push(start.elapsed().as_secs_f64() * 1e3 / text.len() as f64);
                }
            }
            Metric::Perplexity => {
                let first: Vec<u32> = self.texts.iter().flatten().copied().take(8).collect();
                let options = SessionOptions::default().with_slots(first.len() + TIMES + 1);
                let mut session = model.session(&options).await?;
                session.warm_up().await?;
                let mut token = session.prompt(&first, &Sampling::GREEDY).await?;
                for _ in 0..TIMES {
                    let start = Instant::now();
                    token = session.prompt(&[token], &Sampling::GREEDY).await?;
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        times.sort_by(f64::total_cmp);
        times.get(TIMES / 2).copied().ok_or(RunError::Empty)
    }

    async fn embed(&self, model: &Model) -> Result<Vec<Vec<f32>>, RunError> {
        let longest = self.texts.iter().map(Vec::len).max().unwrap_or(1);
        let options = EncoderOptions::default().with_rows(longest.max(ENCODER_ROWS));
        model.encoder(&options).await?.embed(&self.texts).await
    }

    async fn perplexity(&self, model: &Model) -> Result<f64, RunError> {
        let longest = self.texts.iter().map(Vec::len).max().unwrap_or(1);
        let options = SessionOptions::default().with_slots(longest).with_logit_rows(32);
        Ok(model.perplexity(&self.texts, &options, |_| (), |_| ()).await?.perplexity)
    }
}

async fn load(host: &Arc<Host>, source: &dyn ModelSource) -> Result<Model, RunError> {
    Model::from_source(host, source, &LoadOptions::default(), &|_, _| ()).await
}

/// Returns the cosine of two vectors; 0 if one of them is all zeros.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}
