//! Fake quantization for training: quantize and dequantize in one pass, and its gradients.
//!
//! ```text
//! y = (clamp(rne(x/s) + z, qmin, qmax) − z) · s          X and Y [m, k], f32 or f16
//! ```
//!
//! | format | codes qmin…qmax | scale of a range | zero point of a range |
//! |---|---|---|---|
//! | int16 | −32767…32767 | absmax/32767 | 0 |
//! | int8 | −127…127 | absmax/127 | 0 |
//! | int4 | −8…7 | absmax/7 | 0 |
//! | int8, asymmetric | −128…127 | (max−min)/255 | clamp(rne(−min/s), 0, 255) − 128 |
//! | int4, asymmetric | 0…15 | (max−min)/15 | clamp(rne(−min/s), 0, 15) |
//!
//! Ranges are widened to hold 0. What shares a scale is the format's
//! [`Granularity`]: all of X, a row (a channel of weights, a token of
//! activations), or so many consecutive columns of a row, of which the last group may have fewer.
//! Scales and zero points are f32, `[m, G]` with `G = ⌈k/g⌉`, or one of each.
//!
//! - *Dynamic*: from X itself, and written out, as the backward pass wants them.
//! - *Given*: learned, or a calibration's. A zero point is a float so that an optimizer can move it
//!   by less than one; what counts is the nearest integer (ties to even) within qmin…qmax, so that
//!   weights and activations can be deployed as they were trained. LSQ+ writes β = −z·s.
//!
//! With f16 scales the nearest f16 counts, or 2⁻¹⁴, f16's least normal number, if that is more
//! (where [`compress`](mod@crate::compress) refuses).
//!
//! # Gradients
//!
//! Straight-through (Bengio, Léonard and Courville 2013, arXiv 1308.3432): rounding counts as the
//! identity. With v = rne(x/s), x is *inside* where qmin ≤ v + z ≤ qmax, both ends included: where
//! no code was clamped. (LSQ compares x/s before it is rounded, and differs within half a step of
//! an end.) Scales as in LSQ (Esser et al., arXiv 1902.08153), zero points as in LSQ+ (Bhalgat et
//! al., arXiv 2004.09576), each summed over what shares them:
//!
//! | | inside | below | above |
//! |---|---|---|---|
//! | dx | dy | 0 | 0 |
//! | ds/g = Σ dy · | v − x/s | qmin − z | qmax − z |
//! | dz/g = Σ dy · | 0 | −s | −s |
//!
//! g is 1, or LSQ's 1/√(N·Q) with N the elements that share the scale and Q the largest code:
//! qmax, or 255 and 15 where there are zero points (LSQ counts unsigned codes from 0). Rounding of
//! zero points, and of scales to f16, counts as the identity too. The order of sums is fixed by
//! shape, plan and buffers' split, so that a rerun gives the same bits; there are no float atomics.
//!
//! # What is not ordinary
//!
//! - x is NaN: y and dx are NaN, and so are ds and dz of what shares its scale.
//! - x is infinite: dynamic, the scale is NaN; given, y saturates, and x is outside.
//! - dy is NaN or infinite: ds and dz of what shares the scale are NaN; dx is dy inside, 0 outside.
//! - A scale that is no number from 2⁻¹²⁶ to 2¹²⁶ (negative, zero and subnormal among others), and a
//!   zero point that is not finite, make NaN of all that depends on them.
//! - A range of zeros, or one whose scale would be subnormal, gets s = 1: y is 0.
//! - Subnormal x count as 0. A y of 0 has either sign. A y beyond f32 overflows.
//!
//! The arithmetic is floating point, so that next to a tie either code is right:
//! [`reference::check_fake_quantize`](crate::reference::check_fake_quantize) has the contract.

mod bind;
mod kernel;
mod plan;

pub use bind::{FakeQuantArgs, FakeQuantBackwardArgs};
pub(crate) use kernel::kernels;
pub use plan::{BoundFakeQuant, BoundFakeQuantBackward, FakeQuantPlan};

use super::{FloatType, PlanError, Role};
use crate::format::{Granularity, WeightFormat};
use crate::gpu::{Caps, KernelDesc, MAX_COUNT};
use kernel::{BACKWARD, DYNAMIC, FORWARD, GROUPS, RANGES, SCALE, SUMS};

/// Longest rows whose gradients one workgroup sums.
const WHOLE_ROW: u32 = 8192;

/// What is to be quantized and dequantized.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FakeQuantSpec {
    /// Rows of X at most.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// Codes, what shares a scale, zero points, type of scales. Dense integers.
    pub format: WeightFormat,
    /// The type of X, and of its gradient.
    pub input: FloatType,
    /// The type of Y, and of its gradient.
    pub output: FloatType,
    /// Elements from one row of X, and of its gradient, to the next.
    pub x_stride: u32,
    /// Elements from one row of Y, and of its gradient, to the next.
    pub y_stride: u32,
    /// Whether scales and zero points are given, and not taken from X. Only then have they
    /// gradients.
    pub given: bool,
    /// Whether gradients of scales and zero points are multiplied by LSQ's 1/√(N·Q).
    pub gradient_scale: bool,
}

/// Why fake quantization has no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FakeQuantError {
    /// A format that is not of dense integers.
    #[error("{format} is not fake-quantized; int16, int8 and int4 without 2:4 are")]
    Format {
        /// The format.
        format: WeightFormat,
    },
    /// A bad format or shape, or a device that refuses.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl FakeQuantSpec {
    /// Packed f32 rows, with ranges taken from X.
    pub fn new(max_m: u32, k: u32, format: WeightFormat) -> Self {
        let (input, output) = (FloatType::F32, FloatType::F32);
        let (x_stride, y_stride, given, gradient_scale) = (k, k, false, false);
        Self { max_m, k, format, input, output, x_stride, y_stride, given, gradient_scale }
    }

    /// The same with other types of X and Y; sets packed strides, even ones for f16.
    #[must_use]
    pub fn with_types(mut self, input: FloatType, output: FloatType) -> Self {
        let packed = |float| match float {
            FloatType::F32 => self.k,
            FloatType::F16 => self.k.saturating_add(self.k % 2),
        };
        (self.x_stride, self.y_stride) = (packed(input), packed(output));
        (self.input, self.output) = (input, output);
        self
    }

    /// The same with other strides, in elements.
    #[must_use]
    pub fn with_strides(mut self, x_stride: u32, y_stride: u32) -> Self {
        (self.x_stride, self.y_stride) = (x_stride, y_stride);
        self
    }

    /// The same by scales and zero points that are given.
    #[must_use]
    pub fn with_given_scales(mut self) -> Self {
        self.given = true;
        self
    }

    /// The same with LSQ's gradient scale.
    #[must_use]
    pub fn with_gradient_scale(mut self) -> Self {
        self.gradient_scale = true;
        self
    }

    /// qmin and qmax, of which 0 is the code of zero where the format is symmetric.
    pub fn codes(&self) -> (i32, i32) {
        let (low, high) = self.format.code_range().unwrap_or_default();
        match self.format.is_symmetric() {
            true => (low - self.format.symmetric_zero(), high - self.format.symmetric_zero()),
            false => (low, high),
        }
    }

    /// Scales of a row: 0 where all of X shares one.
    fn row_scales(&self) -> u32 {
        match self.format.granularity() {
            Granularity::Tensor => 0,
            _ => self.k.div_ceil(self.group_size()),
        }
    }

    /// Columns of a row that share a scale.
    fn group_size(&self) -> u32 {
        match self.format.granularity() {
            Granularity::Group(g) => g.get().min(self.k.max(1)),
            _ => self.k.max(1),
        }
    }

    /// Scales, and zero points, of `m` rows.
    pub fn scales(&self, m: u32) -> u64 {
        match self.format.granularity() {
            Granularity::Tensor => 1,
            _ => u64::from(m) * u64::from(self.row_scales()),
        }
    }

    /// Bytes of X, or of its gradient, from its start that a run with `m` rows touches.
    pub fn x_bytes(&self, m: u32) -> u64 {
        extent(m, self.k, self.x_stride, self.input)
    }

    /// Bytes of Y, or of its gradient, from its start that a run with `m` rows touches.
    pub fn y_bytes(&self, m: u32) -> u64 {
        extent(m, self.k, self.y_stride, self.output)
    }

    /// Refuses what no plan can serve.
    ///
    /// # Errors
    /// [`FakeQuantError`]: a format of floats, 2:4 or one that does not exist, a dimension too
    /// large, a stride too short or, for f16, odd.
    pub fn check(&self) -> Result<(), FakeQuantError> {
        self.format.check().map_err(PlanError::from)?;
        if !self.format.code_type().is_integer() || self.format.is_sparse() {
            return Err(FakeQuantError::Format { format: self.format });
        }
        for (name, value, limit) in
            [("max_m", self.max_m, MAX_COUNT), ("k", self.k, i32::MAX as u32)]
        {
            if value > limit {
                return Err(PlanError::TooLarge { name, value, limit }.into());
            }
        }
        for (role, stride, float) in [
            (Role::Activations, self.x_stride, self.input),
            (Role::Output, self.y_stride, self.output),
        ] {
            if self.max_m > 1 && stride < self.k {
                return Err(PlanError::Stride { role, stride, need: self.k.into() }.into());
            }
            if self.max_m > 1 && float == FloatType::F16 && stride % 2 == 1 {
                return Err(PlanError::OddStride { role, stride, multiple: 2 }.into());
            }
        }
        Ok(())
    }

    /// The kernels of the forward pass, in the order they run.
    pub fn forward_shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        match (self.format.granularity(), self.given) {
            (_, true) => vec![self.shader(caps, FORWARD)],
            (Granularity::Tensor, false) => {
                [RANGES, SCALE, FORWARD].map(|kernel| self.shader(caps, kernel)).to_vec()
            }
            _ => vec![self.shader(caps, DYNAMIC)],
        }
    }

    /// The kernels of the backward pass, in the order they run.
    pub fn backward_shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        match (self.given, self.is_split()) {
            (true, true) => [BACKWARD, SUMS].map(|kernel| self.shader(caps, kernel)).to_vec(),
            (true, false) => vec![self.shader(caps, GROUPS)],
            (false, _) => vec![self.shader(caps, BACKWARD)],
        }
    }

    /// Whether several workgroups sum what shares a scale.
    fn is_split(&self) -> bool {
        self.format.granularity() == Granularity::Tensor
            || (self.group_size() >= self.k && self.k > WHOLE_ROW)
    }

    /// Whether four columns from a multiple of 4 on share a scale.
    fn is_aligned(&self) -> bool {
        self.group_size() >= self.k || self.group_size().is_multiple_of(4)
    }

    /// Whether rows of f32 are loaded by 16 bytes.
    fn quads(&self, float: FloatType, stride: u32) -> bool {
        float == FloatType::F32 && self.k.is_multiple_of(4) && stride.is_multiple_of(4)
    }
}

fn extent(m: u32, k: u32, stride: u32, float: FloatType) -> u64 {
    if m == 0 || k == 0 {
        return 0;
    }
    (u64::from(m - 1) * u64::from(stride) + u64::from(k)).saturating_mul(float.bytes())
}
