use super::{Mask, Pattern, PruneError, Schedule, Scope, Scores, select};
use crate::model::{CompressedLinear, Masking, Network, numbers};
use burn::optim::GradientsParams;
use serde::Deserialize;

/// What weights are worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criterion {
    /// Their magnitude.
    #[default]
    Magnitude,
    /// How far training moves them away from 0: the sum of −w · ∂L/∂w over steps (Sanh, Wolf and Rush
    /// 2020, arXiv 2005.07683).
    Movement,
}

/// How a network is pruned while it trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PruneSettings {
    /// How kept weights lie.
    pub pattern: Pattern,
    /// Which weights compete.
    pub scope: Scope,
    /// What they are worth.
    pub criterion: Criterion,
    /// The fraction of weights that is pruned in the end. N:M does not use it.
    pub sparsity: f64,
    /// When masks are made.
    pub schedule: Schedule,
    /// Whether pruned weights go on learning and may come back. Otherwise they stay pruned.
    pub dynamic: bool,
    /// SR-STE's λ, by which pruned weights decay while they go on learning (Zhou et al. 2021, arXiv
    /// 2102.04010): `g ← g + λ · (¬mask · w)`. The paper's value is 2·10⁻⁴.
    pub decay: f64,
}

impl PruneSettings {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Returns [`PruneError::BadParameter`].
    pub fn check(&self) -> Result<(), PruneError> {
        let bad = |what, value: f64, allowed| {
            Err(PruneError::BadParameter { what, value: value.to_string(), allowed })
        };
        if !(0.0..1.0).contains(&self.sparsity) {
            return bad("the sparsity", self.sparsity, "at least 0 and less than 1");
        }
        if !(self.decay >= 0.0 && self.decay.is_finite()) {
            return bad("the decay of pruned weights", self.decay, "at least 0");
        }
        self.schedule.check()
    }
}

/// Prunes a network while it trains.
#[derive(Clone, Debug)]
pub struct Pruner {
    settings: PruneSettings,
    /// For each layer, −Σ w · ∂L/∂w; empty before the first step, or if magnitudes count.
    movement: Vec<Vec<f32>>,
}

impl Pruner {
    /// Creates a pruner.
    ///
    /// # Errors
    /// Returns [`PruneError::BadParameter`].
    pub fn new(settings: PruneSettings) -> Result<Self, PruneError> {
        settings.check()?;
        Ok(Self { settings, movement: Vec::new() })
    }

    /// Sees the gradients of a step, and adds the decay of pruned weights to them.
    pub fn see_gradients<N: Network>(&mut self, model: &N, gradients: &mut GradientsParams) {
        if self.settings.criterion == Criterion::Movement {
            self.see_movement(model, gradients);
        }
        if self.settings.decay == 0.0 {
            return;
        }
        for layer in model.layers().into_iter().filter(|layer| layer.masking() == Masking::Through)
        {
            if let Some(gradient) = gradients.remove::<2>(layer.weight.id) {
                let pruned = layer.pruned_weights();
                gradients.register(layer.weight.id, gradient + pruned * self.settings.decay);
            }
        }
    }

    fn see_movement<N: Network>(&mut self, model: &N, gradients: &GradientsParams) {
        let layers = model.layers();
        self.movement.resize(layers.len(), Vec::new());
        for (layer, movement) in layers.into_iter().zip(&mut self.movement) {
            let Some(gradient) = gradients.get::<2>(layer.weight.id) else { continue };
            let moved = numbers(layer.weight.val().inner() * gradient);
            movement.resize(moved.len(), 0.0);
            movement.iter_mut().zip(moved).for_each(|(sum, moved)| *sum -= moved);
        }
    }

    /// Makes the masks that are due after a step, and returns whether there were any.
    ///
    /// # Errors
    /// Returns [`PruneError`].
    pub fn after_step<N: Network>(&self, model: &mut N, step: u32) -> Result<bool, PruneError> {
        let Some(fraction) = self.settings.schedule.fraction(step) else { return Ok(false) };
        let sparsity = self.settings.sparsity * fraction;
        let is_whole = matches!(self.settings.pattern, Pattern::NofM { .. });
        if sparsity == 0.0 && !is_whole {
            return Ok(false);
        }
        let layers = model.layers();
        let scores: Vec<Scores> = layers
            .into_iter()
            .enumerate()
            .map(|(at, layer)| self.scores(at, layer, sparsity))
            .collect();
        let masks = select(&scores, self.settings.pattern, self.settings.scope)?;
        let masking = if self.settings.dynamic { Masking::Through } else { Masking::Fixed };
        for (layer, mask) in model.layers_mut().into_iter().zip(&masks) {
            layer.set_mask(mask, masking);
        }
        Ok(true)
    }

    fn scores(&self, at: usize, layer: &CompressedLinear, sparsity: f64) -> Scores {
        let [rows, columns] = layer.shape();
        let magnitudes = || layer.raw_weights().into_iter().map(f32::abs).collect();
        let mut values: Vec<f32> = match self.settings.criterion {
            Criterion::Magnitude => magnitudes(),
            Criterion::Movement => self.movement.get(at).cloned().unwrap_or_else(magnitudes),
        };
        if !self.settings.dynamic {
            let mask = layer.mask();
            let pruned = values.iter_mut().enumerate().filter(|(at, _)| !mask.keeps(*at));
            pruned.for_each(|(_, value)| *value = f32::NEG_INFINITY);
        }
        Scores { rows, columns, values, sparsity }
    }

    /// Returns what a checkpoint must hold.
    pub fn export(&self) -> Vec<(String, Vec<f32>)> {
        let layers = self.movement.iter().enumerate();
        layers.map(|(layer, values)| (layer.to_string(), values.clone())).collect()
    }

    /// Restores what [`export`](Self::export) returned.
    pub fn import<'a>(&mut self, layers: usize, part: impl Fn(&str) -> Option<&'a [f32]>) {
        let movement = (0..layers).map_while(|layer| part(&layer.to_string()).map(<[f32]>::to_vec));
        self.movement = movement.collect();
    }
}

/// Returns the masks of a network.
pub fn masks<N: Network>(model: &N) -> Vec<Mask> {
    model.layers().into_iter().map(CompressedLinear::mask).collect()
}
