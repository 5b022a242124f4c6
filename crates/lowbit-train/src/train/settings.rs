use super::{BlockwiseAdam, TrainError};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, ModuleOptimizer, SgdConfig};
use serde::Deserialize;

/// An optimizer of burn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam, with ε = 10⁻⁸.
    #[default]
    Adam,
    /// AdamW, with ε = 10⁻⁸ and a weight decay of 0.01.
    AdamW,
    /// Plain gradient descent.
    Sgd,
    /// Gradient descent with a momentum of 0.9.
    Momentum,
    /// Adam with moments of 8 bits, of tensors of at least 4096 numbers.
    Adam8,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It does not.
    #[default]
    Constant,
    /// Evenly, to 0 after the last step.
    Linear,
    /// As half a wave of a cosine, to 0 after the last step.
    Cosine,
}

/// How long and how fast to train.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// The learning rate.
    pub rate: f64,
    /// How it falls.
    pub decay: Decay,
    /// Examples of a step.
    pub batch: usize,
    /// How often to train on every example.
    pub epochs: u32,
    /// Steps between two evaluations; 0 for one after each epoch.
    pub evaluate_every: u32,
    /// After how many evaluations without a better validation loss training stops; 0 for never.
    pub patience: u32,
    /// Steps between two checkpoints; 0 for one after each epoch.
    pub checkpoint_every: u32,
}

impl Default for TrainSettings {
    /// The settings of Frankle and Carbin for LeNet-300-100, with one epoch.
    fn default() -> Self {
        Self {
            optimizer: OptimizerKind::Adam,
            rate: 1.2e-3,
            decay: Decay::Constant,
            batch: 60,
            epochs: 1,
            evaluate_every: 0,
            patience: 0,
            checkpoint_every: 0,
        }
    }
}

impl TrainSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// Returns [`TrainError::Recipe`].
    pub fn check(&self) -> Result<(), TrainError> {
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            return Err(TrainError::Recipe(format!(
                "the learning rate is {}; it must be more than 0",
                self.rate
            )));
        }
        if self.batch == 0 {
            return Err(TrainError::Recipe("a batch needs at least 1 example, but has 0".into()));
        }
        Ok(())
    }

    /// Returns the number of steps of an epoch of so many examples.
    pub fn steps_per_epoch(&self, examples: usize) -> u32 {
        examples.div_ceil(self.batch.max(1)).try_into().unwrap_or(u32::MAX)
    }

    /// Returns the number of steps in all, for so many examples.
    pub fn steps(&self, examples: usize) -> u32 {
        self.steps_per_epoch(examples).saturating_mul(self.epochs)
    }

    /// Returns the learning rate of a step, of `steps` in all.
    pub fn rate_at(&self, step: u32, steps: u32) -> f64 {
        let done = f64::from(step) / f64::from(steps.max(1));
        self.rate
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - done,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            }
    }

    /// Creates the optimizer.
    pub(super) fn optimizer(&self) -> ModuleOptimizer {
        match self.optimizer {
            OptimizerKind::Adam => AdamConfig::new().with_epsilon(1e-8).init(),
            OptimizerKind::AdamW => {
                AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init()
            }
            OptimizerKind::Sgd => SgdConfig::new().init(),
            OptimizerKind::Adam8 => BlockwiseAdam::default().into(),
            OptimizerKind::Momentum => {
                let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
                SgdConfig::new().with_momentum(Some(momentum)).init()
            }
        }
    }
}
