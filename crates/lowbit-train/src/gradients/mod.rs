//! Gradients in few bits, without a training library.
//!
//! A rank compresses its gradient `g` of a tensor into a message of bytes ([`Method::encode`]), every
//! rank decodes all messages and takes their mean. With *error feedback* (Seide et al. 2014; Karimireddy
//! et al. 2019, arXiv 1901.09847) a rank keeps what a message has dropped and adds it to its next
//! gradient:
//!
//! ```text
//! p = g + e        send C(p)        e ← p − C(p)
//! ```
//!
//! so that the sum of all that was sent, and the residual, is the sum of all gradients.
//!
//! | method | message of d numbers | bytes |
//! |---|---|---|
//! | f32 | the numbers | 4d |
//! | QSGD with b bits, buckets of B | for each bucket ‖v‖₂, then b bits for each number | 4⌈d/B⌉ + ⌈bd/8⌉ |
//! | sign | ‖p‖₁/d, then one bit for each number | 4 + ⌈d/8⌉ |
//! | top-k | k positions and k numbers | 8k |
//! | PowerSGD of rank r, `[n, m]` | P `[n, r]` and Q `[m, r]` | 4r(n + m), or 4nm if that is less |
//!
//! No length is sent: both sides know the shape of every tensor. Subnormal numbers count as 0, because
//! GPUs may flush them. A number that is not finite is an error, as it would spread to all ranks.
//!
//! Everything that is random comes from [`Random`], so that a host, a device
//! and a rerun agree bit for bit.

mod adam;
mod bits;
mod dynamic;
mod power;
mod qsgd;
mod sign;
mod top;
mod workers;

#[cfg(test)]
mod tests;

pub use adam::{Adam8, Adam8State, Moments};
pub use dynamic::{BLOCK, Codes, Quantized};
pub use power::{PowerFactors, orthonormalize};
pub use qsgd::Qsgd;
pub use workers::{Answer, TensorId, Worker, Workers};

use crate::flushed;
use crate::random::Random;

/// The reason why gradients cannot be compressed or decoded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GradientError {
    /// A gradient is NaN or infinite.
    #[error(
        "number {index} of a gradient is {value}: training has diverged; lower the learning rate, or \
         compress less"
    )]
    NonFinite {
        /// The position in the tensor.
        index: usize,
        /// The number.
        value: f32,
    },
    /// A message has the wrong length.
    #[error("a message has {have} bytes, but {need} were expected: do all ranks use one recipe?")]
    WrongLength {
        /// Bytes that the tensor needs.
        need: usize,
        /// Bytes of the message.
        have: usize,
    },
    /// A message names a position that the tensor does not have.
    #[error("a message sets number {index} of a tensor of {len} numbers: it is damaged")]
    BadIndex {
        /// The position.
        index: usize,
        /// The length of the tensor.
        len: usize,
    },
    /// A parameter of a method is out of range.
    #[error("{what} is {value}; it must be {allowed}")]
    BadParameter {
        /// The parameter.
        what: &'static str,
        /// Its value.
        value: String,
        /// The values that are possible.
        allowed: &'static str,
    },
    /// Ranks have tensors of different lengths.
    #[error("rank {rank} has a tensor of {have} numbers, but rank 0 one of {need}")]
    Ranks {
        /// The first rank that differs.
        rank: usize,
        /// Length of the tensor of rank 0.
        need: usize,
        /// Length of its tensor.
        have: usize,
    },
}

/// How the gradient of one tensor is compressed into a message.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// Not at all: f32.
    Plain,
    /// Stochastic rounding to few levels (Alistarh et al. 2017, arXiv 1610.02132).
    Qsgd(Qsgd),
    /// The sign of each number, and the mean of their magnitudes.
    Sign,
    /// The fraction of numbers of greatest magnitude, as they are.
    TopK {
        /// The fraction that is sent, of which at least one number.
        fraction: f64,
    },
    /// Two thin factors of a matrix (Vogels et al. 2019, arXiv 1905.13727).
    PowerSgd {
        /// The number of columns of each factor.
        rank: usize,
    },
}

impl Method {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Returns [`GradientError::BadParameter`].
    pub fn check(&self) -> Result<(), GradientError> {
        let bad = |what, value: String, allowed| {
            Err(GradientError::BadParameter { what, value, allowed })
        };
        match *self {
            Self::Plain | Self::Sign => Ok(()),
            Self::Qsgd(qsgd) => qsgd.check(),
            Self::TopK { fraction } if fraction > 0.0 && fraction <= 1.0 => Ok(()),
            Self::TopK { fraction } => {
                bad("the fraction of top-k", fraction.to_string(), "more than 0 and at most 1")
            }
            Self::PowerSgd { rank } if (1..=64).contains(&rank) => Ok(()),
            Self::PowerSgd { rank } => bad("the rank of PowerSGD", rank.to_string(), "1 to 64"),
        }
    }

    /// Returns the number of bytes that a rank sends for a tensor of `rows · columns` numbers. Vectors
    /// have one row.
    pub fn bytes(&self, rows: usize, columns: usize) -> usize {
        let len = rows * columns;
        match *self {
            Self::Plain => 4 * len,
            Self::Qsgd(qsgd) => qsgd.bytes(len),
            Self::Sign => sign::bytes(len),
            Self::TopK { fraction } => 8 * top::count(fraction, len),
            Self::PowerSgd { rank } => 4 * power::numbers(rank, rows, columns),
        }
    }

    /// Compresses a gradient. `step` and `random` select the random numbers of stochastic rounding:
    /// number i of a tensor is rounded by element `step · 2³² + i`.
    ///
    /// PowerSGD has no message of its own, since ranks exchange two factors in turn
    /// ([`Workers::reduce`]); here it sends what [`Method::Plain`] does.
    ///
    /// # Errors
    /// Returns [`GradientError::NonFinite`].
    pub fn encode(
        &self,
        gradient: &[f32],
        step: u32,
        random: &Random,
    ) -> Result<Vec<u8>, GradientError> {
        check_finite(gradient)?;
        Ok(match *self {
            Self::Plain | Self::PowerSgd { .. } => {
                gradient.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            Self::Qsgd(qsgd) => qsgd.encode(gradient, step, random),
            Self::Sign => sign::encode(gradient),
            Self::TopK { fraction } => top::encode(gradient, fraction),
        })
    }

    /// Restores a gradient of `len` numbers from a message.
    ///
    /// # Errors
    /// Returns [`GradientError::WrongLength`] or [`GradientError::BadIndex`] if the message is damaged.
    pub fn decode(&self, message: &[u8], len: usize) -> Result<Vec<f32>, GradientError> {
        let need = match *self {
            Self::PowerSgd { .. } => 4 * len,
            _ => self.bytes(1, len),
        };
        if message.len() != need {
            return Err(GradientError::WrongLength { need, have: message.len() });
        }
        match *self {
            Self::Plain | Self::PowerSgd { .. } => Ok(bits::floats(message).collect()),
            Self::Qsgd(qsgd) => Ok(qsgd.decode(message, len)),
            Self::Sign => Ok(sign::decode(message, len)),
            Self::TopK { .. } => top::decode(message, len),
        }
    }
}

fn check_finite(gradient: &[f32]) -> Result<(), GradientError> {
    match gradient.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => Err(GradientError::NonFinite { index, value: gradient[index] }),
    }
}
