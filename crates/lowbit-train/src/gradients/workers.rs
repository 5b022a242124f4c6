//! Ranks that exchange compressed gradients.

use super::bits::floats;
use super::{GradientError, Method, PowerFactors, check_finite, orthonormalize, power};
use crate::random::{Purpose, Random};

/// A tensor among the parameters of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorId {
    /// Its number.
    pub number: u32,
    /// Rows; 1 for vectors.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// One rank: what it keeps between steps for every tensor.
///
/// A step exchanges one message for each tensor, or two with PowerSGD. Every rank calls
/// [`open`](Self::open), hands the message of all ranks to [`answer`](Self::answer), and if that returns
/// another message, those of all ranks to [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct Worker {
    method: Method,
    feedback: bool,
    seed: u64,
    rank: u32,
    tensors: Vec<TensorState>,
}

/// What a rank keeps of one tensor.
#[derive(Clone, Debug, Default)]
struct TensorState {
    /// What messages have dropped so far; empty before the first step.
    residual: Vec<f32>,
    factors: Option<PowerFactors>,
    /// The gradient with the residual, between `open` and the end of the exchange.
    pending: Vec<f32>,
    /// P of all ranks, between the two messages of PowerSGD.
    projected: Vec<f32>,
}

/// What became of the first messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The mean gradient.
    Mean(Vec<f32>),
    /// A second message, which all ranks need.
    Message(Vec<u8>),
}

impl Worker {
    /// Creates a rank. With `feedback`, it adds what messages have dropped to the next gradient.
    ///
    /// # Errors
    /// Returns [`GradientError::BadParameter`].
    pub fn new(
        method: Method,
        feedback: bool,
        seed: u64,
        rank: u32,
    ) -> Result<Self, GradientError> {
        method.check()?;
        Ok(Self { method, feedback, seed, rank, tensors: Vec::new() })
    }

    fn state(&mut self, tensor: TensorId) -> &mut TensorState {
        let at = tensor.number as usize;
        if self.tensors.len() <= at {
            self.tensors.resize_with(at + 1, TensorState::default);
        }
        &mut self.tensors[at]
    }

    /// Returns the columns of PowerSGD's factors, if this tensor is sent so.
    fn power_rank(&self, tensor: TensorId) -> Option<usize> {
        match self.method {
            Method::PowerSgd { rank } if power::is_worth_it(rank, tensor.rows, tensor.columns) => {
                Some(rank)
            }
            _ => None,
        }
    }

    /// Compresses a gradient, with what was dropped before, into the first message.
    ///
    /// # Errors
    /// Returns [`GradientError::NonFinite`].
    pub fn open(
        &mut self,
        tensor: TensorId,
        gradient: &[f32],
        step: u32,
    ) -> Result<Vec<u8>, GradientError> {
        check_finite(gradient)?;
        let (method, feedback, seed) = (self.method, self.feedback, self.seed);
        let power = self.power_rank(tensor);
        let rounding =
            Random::new(seed, Purpose::Rounding { rank: self.rank, tensor: tensor.number });
        let state = self.state(tensor);
        state.residual.resize(gradient.len(), 0.0);
        state.pending =
            gradient.iter().zip(&state.residual).map(|(gradient, kept)| gradient + kept).collect();
        if let Some(rank) = power {
            let factors = state.factors.get_or_insert_with(|| {
                let random = Random::new(seed, Purpose::Factor(tensor.number));
                PowerFactors::new(rank, tensor.rows, tensor.columns, &random)
            });
            return Ok(bytes(&factors.project(&state.pending)));
        }
        let message = method.encode(&state.pending, step, &rounding)?;
        if feedback {
            let sent = method.decode(&message, gradient.len())?;
            state.keep_rest(&sent);
        }
        Ok(message)
    }

    /// Takes the first messages of all ranks, in their order.
    ///
    /// # Errors
    /// Returns [`GradientError::WrongLength`] or [`GradientError::BadIndex`] if a message is damaged.
    pub fn answer(
        &mut self,
        tensor: TensorId,
        messages: &[Vec<u8>],
    ) -> Result<Answer, GradientError> {
        let (method, len) = (self.method, tensor.rows * tensor.columns);
        let state = self.state(tensor);
        let Some(factors) = &state.factors else {
            let decoded = messages.iter().map(|message| method.decode(message, len));
            return Ok(Answer::Mean(mean(decoded, len)?));
        };
        let numbers = tensor.rows * factors.rank();
        state.projected = mean(messages.iter().map(|message| exactly(message, numbers)), numbers)?;
        orthonormalize(&mut state.projected, factors.rank());
        let q = factors.project_back(&state.pending, &state.projected);
        Ok(Answer::Message(bytes(&q)))
    }

    /// Takes the second messages of all ranks, in their order, and returns the mean gradient.
    ///
    /// # Errors
    /// Returns [`GradientError::WrongLength`] if a message is damaged.
    pub fn close(
        &mut self,
        tensor: TensorId,
        messages: &[Vec<u8>],
    ) -> Result<Vec<f32>, GradientError> {
        let feedback = self.feedback;
        let state = self.state(tensor);
        let Some(factors) = &mut state.factors else {
            return Ok(Vec::new());
        };
        let numbers = tensor.columns * factors.rank();
        let q = mean(messages.iter().map(|message| exactly(message, numbers)), numbers)?;
        let restored = factors.restore(&state.projected, &q);
        if feedback {
            state.keep_rest(&restored);
        }
        Ok(restored)
    }

    /// Returns what a checkpoint must hold: residuals and factors, with names that are unique within
    /// this rank.
    pub fn export(&self) -> Vec<(String, Vec<f32>)> {
        let mut parts = Vec::new();
        for (number, state) in self.tensors.iter().enumerate() {
            if !state.residual.is_empty() {
                parts.push((format!("{number}.residual"), state.residual.clone()));
            }
            if let Some(factors) = &state.factors {
                parts.push((format!("{number}.factor"), factors.q().to_vec()));
            }
        }
        parts
    }

    /// Restores what [`export`](Self::export) returned, for the same tensors.
    ///
    /// # Errors
    /// Returns [`GradientError::WrongLength`] if a part has another length than its tensor.
    pub fn import<'a>(
        &mut self,
        tensors: &[TensorId],
        part: impl Fn(&str) -> Option<&'a [f32]>,
    ) -> Result<(), GradientError> {
        for &tensor in tensors {
            let (number, len) = (tensor.number, tensor.rows * tensor.columns);
            let (power, seed) = (self.power_rank(tensor), self.seed);
            let state = self.state(tensor);
            if let Some(residual) = part(&format!("{number}.residual")) {
                check_length(residual, len)?;
                state.residual = residual.to_vec();
            }
            if let (Some(rank), Some(q)) = (power, part(&format!("{number}.factor"))) {
                let random = Random::new(seed, Purpose::Factor(number));
                let mut factors = PowerFactors::new(rank, tensor.rows, tensor.columns, &random);
                check_length(q, factors.q().len())?;
                factors.q_mut().copy_from_slice(q);
                state.factors = Some(factors);
            }
        }
        Ok(())
    }

    /// Returns what messages have dropped of a tensor so far.
    pub fn residual(&self, tensor: TensorId) -> &[f32] {
        self.tensors.get(tensor.number as usize).map_or(&[], |state| &state.residual)
    }
}

impl TensorState {
    fn keep_rest(&mut self, sent: &[f32]) {
        for ((kept, pending), sent) in self.residual.iter_mut().zip(&self.pending).zip(sent) {
            *kept = pending - sent;
        }
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn check_length(values: &[f32], len: usize) -> Result<(), GradientError> {
    if values.len() == len {
        Ok(())
    } else {
        Err(GradientError::WrongLength { need: 4 * len, have: 4 * values.len() })
    }
}

/// Returns the floats of a message that must hold `count`.
fn exactly(message: &[u8], count: usize) -> Result<Vec<f32>, GradientError> {
    if message.len() == 4 * count {
        Ok(floats(message).collect())
    } else {
        Err(GradientError::WrongLength { need: 4 * count, have: message.len() })
    }
}

/// Returns the mean of vectors, which are added in their order, so that all ranks get the same bits.
fn mean(
    vectors: impl ExactSizeIterator<Item = Result<Vec<f32>, GradientError>>,
    len: usize,
) -> Result<Vec<f32>, GradientError> {
    let count = vectors.len().max(1) as f32;
    let mut sum = vec![0.0f32; len];
    for vector in vectors {
        sum.iter_mut().zip(vector?).for_each(|(sum, x)| *sum += x);
    }
    sum.iter_mut().for_each(|sum| *sum /= count);
    Ok(sum)
}

/// All ranks in one process: what several machines would compute, without a network.
#[derive(Clone, Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    bytes_sent: u64,
}

impl Workers {
    /// Creates `ranks` ranks.
    ///
    /// # Errors
    /// Returns [`GradientError::BadParameter`].
    pub fn new(
        method: Method,
        feedback: bool,
        seed: u64,
        ranks: u32,
    ) -> Result<Self, GradientError> {
        let workers = (0..ranks).map(|rank| Worker::new(method, feedback, seed, rank));
        Ok(Self { workers: workers.collect::<Result<_, _>>()?, bytes_sent: 0 })
    }

    /// Returns the ranks.
    pub fn ranks(&self) -> &[Worker] {
        &self.workers
    }

    /// Returns the ranks, to restore them.
    pub fn ranks_mut(&mut self) -> &mut [Worker] {
        &mut self.workers
    }

    /// Returns the bytes that one rank has sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Sets the bytes that one rank has sent so far, after a checkpoint.
    pub fn set_bytes_sent(&mut self, bytes: u64) {
        self.bytes_sent = bytes;
    }

    /// Returns the mean of the ranks' gradients of one tensor, as they all see it.
    ///
    /// # Errors
    /// Returns [`GradientError`].
    pub fn reduce(
        &mut self,
        tensor: TensorId,
        gradients: &[Vec<f32>],
        step: u32,
    ) -> Result<Vec<f32>, GradientError> {
        let need = tensor.rows * tensor.columns;
        if let Some(rank) = gradients.iter().position(|gradient| gradient.len() != need) {
            return Err(GradientError::Ranks { rank, need, have: gradients[rank].len() });
        }
        let workers = self.workers.iter_mut().zip(gradients);
        let first = workers
            .map(|(worker, gradient)| worker.open(tensor, gradient, step))
            .collect::<Result<Vec<_>, _>>()?;
        self.count(&first);
        let answers = self.each(|worker| worker.answer(tensor, &first))?;
        let second: Vec<Vec<u8>> = answers
            .iter()
            .filter_map(|answer| match answer {
                Answer::Message(message) => Some(message.clone()),
                Answer::Mean(_) => None,
            })
            .collect();
        if second.is_empty() {
            let mean = answers.into_iter().find_map(|answer| match answer {
                Answer::Mean(mean) => Some(mean),
                Answer::Message(_) => None,
            });
            return Ok(mean.unwrap_or_default());
        }
        self.count(&second);
        let means = self.each(|worker| worker.close(tensor, &second))?;
        Ok(means.into_iter().next().unwrap_or_default())
    }

    fn each<T>(
        &mut self,
        act: impl Fn(&mut Worker) -> Result<T, GradientError>,
    ) -> Result<Vec<T>, GradientError> {
        self.workers.iter_mut().map(act).collect()
    }

    /// Messages of one tensor have the same length on all ranks.
    fn count(&mut self, messages: &[Vec<u8>]) {
        self.bytes_sent += messages.first().map_or(0, |message| message.len() as u64);
    }
}
