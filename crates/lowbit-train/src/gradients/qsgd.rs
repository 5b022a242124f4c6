use super::bits::{floats, pack, unpack};
use super::{GradientError, flushed};
use crate::random::Random;

/// QSGD: each number of a bucket v is sent as its sign and one of s + 1 levels of ‖v‖₂, s = 2^(b−1) − 1.
///
/// ```text
/// x = |vᵢ| / ‖v‖₂ · s        level = ⌊x⌋ + [u < x − ⌊x⌋], u uniform        v̂ᵢ = sign(vᵢ) · ‖v‖₂ · (level / s)
/// ```
///
/// The expected value of v̂ is v, and E‖v̂ − v‖² ≤ min(d/s², √d/s) · ‖v‖² for buckets of d numbers
/// (Alistarh et al. 2017, Lemma 3.1). Buckets are what bounds the variance, so a tensor is cut into
/// those of 512 numbers by default, as in section 5 of the paper.
///
/// The division and the product round to the nearest f32, so that a device with exact division finds the
/// same codes for the same norm. The norm may be any number of at least max |vᵢ|: it is the sum of squares
/// in f64, rooted and rounded to f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qsgd {
    /// Bits of a number: 2, 4 or 8, of which one is the sign.
    pub bits: u32,
    /// Numbers that share a norm.
    pub bucket: usize,
}

impl Qsgd {
    /// Creates QSGD with buckets of 512 numbers.
    pub const fn new(bits: u32) -> Self {
        Self { bits, bucket: 512 }
    }

    pub(super) fn check(&self) -> Result<(), GradientError> {
        let bad = |what, value: String, allowed| {
            Err(GradientError::BadParameter { what, value, allowed })
        };
        if ![2, 4, 8].contains(&self.bits) {
            return bad("the number of bits of QSGD", self.bits.to_string(), "2, 4 or 8");
        }
        if self.bucket == 0 {
            return bad("the bucket of QSGD", self.bucket.to_string(), "at least 1");
        }
        Ok(())
    }

    /// Returns s, the greatest level.
    pub fn levels(&self) -> u32 {
        (1 << (self.bits - 1)) - 1
    }

    pub(super) fn bytes(&self, len: usize) -> usize {
        4 * len.div_ceil(self.bucket) + (len * self.bits as usize).div_ceil(8)
    }

    pub(super) fn encode(&self, gradient: &[f32], step: u32, random: &Random) -> Vec<u8> {
        let norms: Vec<f32> = gradient.chunks(self.bucket).map(norm).collect();
        let mut message: Vec<u8> = norms.iter().flat_map(|norm| norm.to_le_bytes()).collect();
        let codes = gradient.iter().enumerate().map(|(at, &x)| {
            let draw = || random.uniform(u64::from(step) << 32 | at as u64);
            self.code(flushed(x), norms[at / self.bucket], draw)
        });
        message.extend(pack(codes, self.bits, gradient.len()));
        message
    }

    /// Returns the level of a number, and above it its sign.
    fn code(&self, x: f32, norm: f32, draw: impl FnOnce() -> f32) -> u8 {
        if x == 0.0 {
            return 0;
        }
        let place = x.abs() / norm * self.levels() as f32;
        let below = place.floor();
        let level = below as u32 + u32::from(draw() < place - below);
        (level | u32::from(x < 0.0) << (self.bits - 1)) as u8
    }

    pub(super) fn decode(&self, message: &[u8], len: usize) -> Vec<f32> {
        let (norms, codes) = message.split_at(4 * len.div_ceil(self.bucket));
        let norms: Vec<f32> = floats(norms).collect();
        let value = |at: usize| {
            let code = u32::from(unpack(codes, self.bits, at));
            let level = code & self.levels();
            let magnitude = norms[at / self.bucket] * (level as f32 / self.levels() as f32);
            if code > self.levels() { -magnitude } else { magnitude }
        };
        (0..len).map(value).collect()
    }
}

/// Returns ‖v‖₂, at least max |vᵢ| because rounding is monotonic. A norm beyond f32 is the greatest f32,
/// which is no less than any number either.
fn norm(bucket: &[f32]) -> f32 {
    let squares = bucket.iter().map(|&x| f64::from(flushed(x)) * f64::from(flushed(x)));
    (squares.sum::<f64>().sqrt() as f32).min(f32::MAX)
}
