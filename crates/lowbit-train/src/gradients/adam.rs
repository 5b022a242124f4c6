//! Adam with moments of 8 bits.

use super::{BLOCK, Codes, GradientError, Quantized, check_finite};

/// Tensors with fewer numbers keep f32 moments, as in the paper: they take little memory, and biases and
/// norms are what 8 bits hurt.
const SMALLEST: usize = 2 * BLOCK;

/// Adam (Kingma and Ba 2014) whose moments are stored in 8-bit dynamic codes between steps, and computed
/// with in f32 (Dettmers et al. 2022, arXiv 2110.02861).
#[derive(Clone, Debug)]
pub struct Adam8 {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    signed: Codes,
    unsigned: Codes,
}

/// The moments of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adam8State {
    /// Steps so far.
    pub step: i32,
    /// The mean of gradients.
    pub first: Moments,
    /// The mean of their squares.
    pub second: Moments,
}

/// A moment, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Moments {
    /// In f32.
    Full(Vec<f32>),
    /// In 8-bit codes.
    Blocks(Quantized),
}

impl Default for Moments {
    fn default() -> Self {
        Self::Full(Vec::new())
    }
}

impl Moments {
    /// Returns the number of bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Full(values) => 4 * values.len(),
            Self::Blocks(quantized) => quantized.codes.len() + 4 * quantized.scales.len(),
        }
    }

    /// Returns the numbers, or zeros before the first step.
    fn values(&self, codes: &Codes, len: usize) -> Vec<f32> {
        let mut values = match self {
            Self::Full(values) => values.clone(),
            Self::Blocks(quantized) => codes.dequantize(quantized),
        };
        values.resize(len, 0.0);
        values
    }
}

impl Adam8 {
    /// Creates the optimizer. Usual values are 0.9, 0.999 and 10⁻⁸.
    pub fn new(beta_1: f32, beta_2: f32, epsilon: f32) -> Self {
        let (signed, unsigned) = (Codes::signed(), Codes::unsigned());
        Self { beta_1, beta_2, epsilon, signed, unsigned }
    }

    /// Changes weights by one step.
    ///
    /// # Errors
    /// Returns [`GradientError::NonFinite`], and [`GradientError::WrongLength`] (in bytes of f32) if the
    /// gradient has another length than the weights. Neither changes anything.
    pub fn step(
        &self,
        rate: f32,
        weights: &mut [f32],
        gradient: &[f32],
        state: &mut Adam8State,
    ) -> Result<(), GradientError> {
        let len = weights.len();
        if gradient.len() != len {
            return Err(GradientError::WrongLength { need: 4 * len, have: 4 * gradient.len() });
        }
        check_finite(gradient)?;
        let mut first = state.first.values(&self.signed, len);
        let mut second = state.second.values(&self.unsigned, len);
        update(&mut first, gradient, self.beta_1, |g| g);
        update(&mut second, gradient, self.beta_2, |g| g * g);
        let (kept_first, kept_second) = if len < SMALLEST {
            (Moments::Full(first.clone()), Moments::Full(second.clone()))
        } else {
            let first = self.signed.quantize(&first, false)?;
            (Moments::Blocks(first), Moments::Blocks(self.unsigned.quantize(&second, true)?))
        };
        let step = state.step + 1;
        *state = Adam8State { step, first: kept_first, second: kept_second };
        let unbiased_1 = 1.0 - self.beta_1.powi(step);
        let unbiased_2 = 1.0 - self.beta_2.powi(step);
        for ((weight, m), v) in weights.iter_mut().zip(first).zip(second) {
            *weight -= rate * (m / unbiased_1) / ((v / unbiased_2).sqrt() + self.epsilon);
        }
        Ok(())
    }
}

fn update(moment: &mut [f32], gradient: &[f32], beta: f32, of: impl Fn(f32) -> f32) {
    for (moment, &gradient) in moment.iter_mut().zip(gradient) {
        *moment = beta * *moment + (1.0 - beta) * of(gradient);
    }
}
