//! What a step costs: bytes, dispatches, and the time of each kind of op.

use super::graph::Op;
use super::runner::Draw;
use super::{RunError, Session};
use lowbit::ops::DeviceWeights;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the ops of one kind cost in a step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KindCost {
    /// The kind of op.
    pub name: &'static str,
    /// Dispatches of a step.
    pub dispatches: usize,
    /// The time of a submission of all of them alone, the least of several.
    pub time: Duration,
}

/// Submissions of which the fastest counts.
const TRIES: usize = 5;

impl Session<'_> {
    /// Returns the bytes that a decoded token reads after `tokens` others: all weights that it is multiplied
    /// with, and of each cache the slots that it attends to: those of all tokens and its own, or of the window of the
    /// layer. Of a mixture, only the experts that a token takes are counted.
    pub fn bytes_per_token(&self, tokens: usize) -> u64 {
        let matrices = &self.model.weights.store.matrices;
        let bytes = |weights: usize| matrices.get(weights).map_or(0, DeviceWeights::device_bytes);
        let of = |op: &Op| match *op {
            Op::Matmul { weights, .. } => bytes(weights.0),
            Op::ExpertMatmul { weights, experts, .. } => {
                bytes(weights.0) * u64::from(experts.used) / u64::from(experts.count.max(1))
            }
            _ => 0,
        };
        let weights: u64 = self.runner.built.body.ops.iter().map(of).sum();
        let seen = tokens.saturating_add(1).min(self.slots());
        let layers = self.model.blueprint.layers.iter();
        let caches = layers.zip(&self.runner.built.caches).map(|(layer, cache)| {
            let seen = layer.attention.window.map_or(seen, |window| seen.min(window));
            let shapes =
                [cache.keys, cache.values].map(|half| &self.runner.built.body.shapes[half.0]);
            let bytes: u64 = shapes.iter().map(|shape| shape.row_bytes()).sum();
            bytes * seen as u64 / u64::from(cache.slots.max(1))
        });
        weights + caches.sum::<u64>()
    }

    /// Times the ops of each kind in steps of one row, each kind in submissions of its own. What the caches
    /// hold afterwards is of no use, so the session is rewound to its start.
    ///
    /// # Errors
    /// Returns [`RunError`] if the device fails.
    pub async fn profile(&mut self) -> Result<Vec<KindCost>, RunError> {
        let host = self.model.host.clone();
        let mut kinds: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
        let steps: Vec<_> = {
            let sampler = self.runner.sampler(Draw::Largest);
            self.runner.body.iter().chain(&self.runner.head).chain(sampler).collect()
        };
        for (index, step) in steps.iter().enumerate() {
            kinds.entry(step.name).or_default().push(index);
        }
        let mut costs = Vec::with_capacity(kinds.len());
        for (name, of_kind) in kinds {
            let mut time = Duration::MAX;
            for _ in 0..TRIES {
                let start = Instant::now();
                let mut recorded = Ok(());
                host.submit_async(|pass| {
                    recorded = of_kind.iter().try_for_each(|&index| steps[index].record(pass, 1));
                })
                .await?;
                recorded?;
                time = time.min(start.elapsed());
            }
            let dispatches = of_kind.iter().map(|&index| steps[index].dispatches(1)).sum();
            costs.push(KindCost { name, dispatches, time });
        }
        self.rewind(0)?;
        Ok(costs)
    }
}
