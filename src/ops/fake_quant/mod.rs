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
//! | int4, and so int2, int3, int5 and int6 | −8…7 | absmax/7 | 0 |
//! | int8, asymmetric | −128…127 | (max−min)/255 | clamp(rne(−min/s), 0, 255) − 128 |
//! | int4, asymmetric, and so on | 0…15 | (max−min)/15 | clamp(rne(−min/s), 0, 15) |
//!
//! Ranges are widened to contain 0. The format's [`Granularity`] says what shares a scale: all of
//! X, a row (a channel of weights, a token of activations), or a group of g consecutive columns of
//! a row; the last group may have fewer. Scales and zero points are f32, `[m, G]` with
//! `G = ⌈k/g⌉`, or one of each.
//!
//! - *Dynamic*: they are taken from X and written out, since the backward pass needs them.
//! - *Given*: they are learned or come from a calibration. A zero point is a float so that an
//!   optimizer can move it by less than one; kernels use the nearest integer (ties to even) within
//!   qmin…qmax, so that weights and activations can be deployed as they were trained. LSQ+ writes
//!   β = −z·s.
//!
//! With f16 scales, kernels use the nearest f16, but at least 2⁻¹⁴, the smallest normal f16
//! ([`compress`](mod@crate::compress) refuses smaller scales).
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
//! # Special values
//!
//! - If x is NaN, then y and dx are NaN, and so are ds and dz of the scale that x shares.
//! - If x is infinite, a dynamic scale is NaN; with a given scale y saturates, and x is outside.
//! - If dy is NaN or infinite, ds and dz of its scale are NaN; dx is dy inside and 0 outside.
//! - A scale that is not within 2⁻¹²⁶…2¹²⁶ (for example negative, zero or subnormal) or a zero
//!   point that is not finite makes everything that depends on it NaN.
//! - A range of zeros, or one whose scale would be subnormal, gets s = 1, so y is 0.
//! - Subnormal x count as 0. A y of 0 has either sign. A y beyond f32 overflows.
//!
//! The arithmetic is floating point, so next to a tie either code is right:
//! [`reference::check_fake_quantize`](crate::reference::check_fake_quantize) states the contract.

mod bind;
mod kernel;
mod plan;

pub use bind::{FakeQuantArgs, FakeQuantBackwardArgs};
pub(crate) use kernel::kernels;
pub use plan::{BoundFakeQuant, BoundFakeQuantBackward, FakeQuantPlan};

use super::rows::RowsSpec;
use super::{FloatType, FormatUse, PlanError, Role};
use crate::format::{Granularity, WeightFormat};
use crate::gpu::{Caps, KernelDesc, MAX_COUNT};
use kernel::{BACKWARD, DYNAMIC, FORWARD, GROUPS, RANGES, SCALE, SUMS};

/// The longest row whose gradients one workgroup sums.
const WHOLE_ROW: u32 = 8192;

/// The shape of X and the format by which it is fake-quantized.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FakeQuantSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// The codes, what shares a scale, zero points, and the type of scales. It must be a dense
    /// integer format.
    pub format: WeightFormat,
    /// The type of X, and of its gradient.
    pub input: FloatType,
    /// The type of Y, and of its gradient.
    pub output: FloatType,
    /// Elements from one row of X, and of its gradient, to the next.
    pub x_stride: u32,
    /// Elements from one row of Y, and of its gradient, to the next.
    pub y_stride: u32,
    /// Whether scales and zero points are given instead of taken from X. Only given ones have
    /// gradients.
    pub given: bool,
    /// Whether gradients of scales and zero points are multiplied by LSQ's 1/√(N·Q).
    pub gradient_scale: bool,
}

impl FakeQuantSpec {
    /// Creates a spec with packed f32 rows and ranges taken from X.
    pub fn new(max_m: u32, k: u32, format: WeightFormat) -> Self {
        let (input, output) = (FloatType::F32, FloatType::F32);
        let (x_stride, y_stride, given, gradient_scale) = (k, k, false, false);
        Self { max_m, k, format, input, output, x_stride, y_stride, given, gradient_scale }
    }

    /// Sets the types of X and Y, and packed strides (even ones for f16).
    #[must_use]
    pub fn with_types(mut self, input: FloatType, output: FloatType) -> Self {
        (self.x_stride, self.y_stride) = (input.packed(self.k), output.packed(self.k));
        (self.input, self.output) = (input, output);
        self
    }

    /// Sets the strides, in elements.
    #[must_use]
    pub fn with_strides(mut self, x_stride: u32, y_stride: u32) -> Self {
        (self.x_stride, self.y_stride) = (x_stride, y_stride);
        self
    }

    /// Takes given scales and zero points.
    #[must_use]
    pub fn with_given_scales(mut self) -> Self {
        self.given = true;
        self
    }

    /// Multiplies gradients of scales and zero points by LSQ's gradient scale.
    #[must_use]
    pub fn with_gradient_scale(mut self) -> Self {
        self.gradient_scale = true;
        self
    }

    /// Returns qmin and qmax. If the format is symmetric they are relative to the code of zero.
    pub fn codes(&self) -> (i32, i32) {
        let (low, high) = self.format.code_range().unwrap_or_default();
        match self.format.is_symmetric() {
            true => (low - self.format.symmetric_zero(), high - self.format.symmetric_zero()),
            false => (low, high),
        }
    }

    /// Returns the number of scales of a row; 0 if all of X shares one.
    fn row_scales(&self) -> u32 {
        match self.format.granularity() {
            Granularity::Tensor => 0,
            _ => self.k.div_ceil(self.group_size()),
        }
    }

    /// Returns the number of columns of a row that share a scale.
    fn group_size(&self) -> u32 {
        match self.format.granularity() {
            Granularity::Group(g) => g.get().min(self.k.max(1)),
            _ => self.k.max(1),
        }
    }

    /// Returns the number of scales, and of zero points, of `m` rows.
    pub fn scales(&self, m: u32) -> u64 {
        match self.format.granularity() {
            Granularity::Tensor => 1,
            _ => u64::from(m) * u64::from(self.row_scales()),
        }
    }

    /// Returns the number of bytes of X, or of its gradient, from its start that a run with `m`
    /// rows touches.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of Y, or of its gradient, from its start that a run with `m`
    /// rows touches.
    pub fn y_bytes(&self, m: u32) -> u64 {
        self.y_rows().bytes(m)
    }

    fn x_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.k, self.x_stride, self.input)
    }

    fn y_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Output, self.k, self.y_stride, self.output)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if the format is invalid, 2:4 or of floats, a dimension is too large,
    /// or a stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        self.format.check()?;
        let plain = FormatUse::QuantizeWeights.check(&self.format).is_ok();
        if !plain || !self.format.code_type().is_integer() || self.format.is_sparse() {
            return Err(PlanError::FakeQuantFormat { format: self.format });
        }
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("k", self.k, i32::MAX as u32),
        ])?;
        self.x_rows().check(self.max_m)?;
        self.y_rows().check(self.max_m)
    }

    /// Returns the kernels of the forward pass, in the order they run.
    pub fn forward_shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        match (self.format.granularity(), self.given) {
            (_, true) => vec![self.shader(caps, FORWARD)],
            (Granularity::Tensor, false) => {
                [RANGES, SCALE, FORWARD].map(|kernel| self.shader(caps, kernel)).to_vec()
            }
            _ => vec![self.shader(caps, DYNAMIC)],
        }
    }

    /// Returns the kernels of the backward pass, in the order they run.
    pub fn backward_shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        match (self.given, self.is_split()) {
            (true, true) => [BACKWARD, SUMS].map(|kernel| self.shader(caps, kernel)).to_vec(),
            (true, false) => vec![self.shader(caps, GROUPS)],
            (false, _) => vec![self.shader(caps, BACKWARD)],
        }
    }

    /// Returns whether several workgroups sum what shares a scale.
    fn is_split(&self) -> bool {
        self.format.granularity() == Granularity::Tensor
            || (self.group_size() >= self.k && self.k > WHOLE_ROW)
    }

    /// Returns whether four columns from a multiple of 4 on share a scale.
    fn is_aligned(&self) -> bool {
        self.group_size() >= self.k || self.group_size().is_multiple_of(4)
    }

    /// Returns whether rows of f32 are loaded 16 bytes at a time.
    fn quads(&self, float: FloatType, stride: u32) -> bool {
        RowsSpec::floats(Role::Activations, self.k, stride, float).is_quads()
    }
}
