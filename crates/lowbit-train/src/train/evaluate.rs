use super::{Part, Source};
use crate::model::{Network, numbers};
use burn::nn::loss::CrossEntropyLossConfig;
use serde::{Deserialize, Serialize};

/// How many examples are evaluated at a time.
const CHUNK: usize = 1000;

/// The mean loss over examples, and the fraction of them that is classified correctly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The mean cross entropy.
    pub loss: f64,
    /// The fraction that is right, or 0 without examples.
    pub accuracy: f64,
}

/// Measures a network on a part of the examples.
pub fn evaluate<N, S>(model: &N, source: &S, part: Part) -> Score
where
    N: Network,
    S: Source<Input = N::Input>,
{
    let model = model.clone().valid();
    let Some(device) = model.layers().first().map(|layer| layer.weight.lazy_device()) else {
        return Score { loss: 0.0, accuracy: 0.0 };
    };
    let device = device.inner();
    let criterion = CrossEntropyLossConfig::new().init(&device);
    let all: Vec<usize> = (0..source.len(part)).collect();
    let (mut loss, mut right) = (0.0, 0usize);
    for indices in all.chunks(CHUNK) {
        let (input, labels) = source.batch(part, indices, &device);
        let logits = model.logits(input);
        let mean = numbers(criterion.forward(logits.clone(), labels.clone()));
        loss += f64::from(mean[0]) * indices.len() as f64;
        let equal = logits.argmax(1).flatten::<1>(0, 1).equal(labels);
        right += equal.into_data().iter::<bool>().filter(|&right| right).count();
    }
    let count = all.len().max(1) as f64;
    Score { loss: loss / count, accuracy: right as f64 / count }
}
