//! Normalizes rows: RMSNorm and LayerNorm, alone or of the sum of X and a residual, with the result as
//! floats or as 8-bit codes.
//!
//! `y = (v − mean) / √(mean of (v − mean)² + ε) · (w + offset) + b`, where v is x, or x + r if there is a
//! residual r, whose sum with x is written too. RMSNorm has mean 0. The sums of a row have a fixed order;
//! [`reference::normalize`](crate::reference::normalize) states how far a result may be off.

mod kernel;
mod plan;

pub(crate) use kernel::kernels;
pub use plan::{BoundNorm, NormArgs, NormPlan, NormResidual};

use super::output::{check_output, whole_words};
use super::rows::RowsSpec;
use super::{FloatType, Output, PlanError, Role};
use crate::format::ActivationLayout;
use crate::gpu::MAX_COUNT;

/// The kind of a normalization: what it subtracts from a row before it divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NormKind {
    /// Nothing: the row is divided by the root of its mean square.
    Rms,
    /// Its mean: the row is then divided by its standard deviation.
    Layer,
}

impl NormKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Rms, Self::Layer];

    /// Returns `rms` or `layer`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rms => "rms",
            Self::Layer => "layer",
        }
    }
}

/// The shape of X, `[batch, m, k]`, and how its rows are normalized. Strides are in elements, those of an output of codes
/// in words, and default to packed rows (f16 rows are padded to an even length).
///
/// The heads of a row are a batch whose matrices lie side by side:
///
/// ```
/// use lowbit::ops::{NormKind, NormSpec};
/// // 9 heads of 64 columns in each of up to 512 rows.
/// let spec = NormSpec::new(512, 64, NormKind::Rms, 1e-6)
///     .with_batch(9)
///     .with_x_strides(9 * 64, 64)
///     .with_y_strides(9 * 64, 64);
/// assert_eq!(spec.check(), Ok(()));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NormSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// Whether the mean is subtracted.
    pub kind: NormKind,
    /// The number ε that is added to the mean square. It must be a positive normal number.
    pub epsilon: f32,
    /// Whether results are multiplied by a weight. They are by default.
    pub weight: bool,
    /// The number that is added to each weight: 0, or 1 for models that store w − 1.
    pub weight_offset: f32,
    /// Whether a bias is added.
    pub bias: bool,
    /// The type of X.
    pub activations: FloatType,
    /// The type of the residual that is added to X and of the sum, if there is one.
    pub residual: Option<FloatType>,
    /// The type of the result: floats, `int8-token`, or `int8-tensor` with a static scale.
    pub output: Output,
    /// The number of X that share weight and bias, for example the heads of a row.
    pub batch: u32,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements from one X of the batch to the next.
    pub x_batch_stride: u32,
    /// Elements from one row of the residual to the next.
    pub residual_stride: u32,
    /// Elements from one residual of the batch to the next.
    pub residual_batch_stride: u32,
    /// Elements from one row of the sum to the next.
    pub sum_stride: u32,
    /// Elements from one sum of the batch to the next.
    pub sum_batch_stride: u32,
    /// Elements, or words of codes, from one row of the output to the next.
    pub y_stride: u32,
    /// Elements, or words of codes, from one output of the batch to the next.
    pub y_batch_stride: u32,
}

impl NormSpec {
    /// Creates a spec with packed f32 rows, a weight, and no bias, residual or batch.
    pub fn new(max_m: u32, k: u32, kind: NormKind, epsilon: f32) -> Self {
        let float = FloatType::F32;
        let spec = Self {
            max_m,
            k,
            kind,
            epsilon,
            weight: true,
            weight_offset: 0.0,
            bias: false,
            activations: float,
            residual: None,
            output: float.into(),
            batch: 1,
            x_stride: 0,
            x_batch_stride: 0,
            residual_stride: 0,
            residual_batch_stride: 0,
            sum_stride: 0,
            sum_batch_stride: 0,
            y_stride: 0,
            y_batch_stride: 0,
        };
        spec.with_activations(float).with_output(float)
    }

    /// Sets the type of X, and packed strides.
    pub fn with_activations(self, activations: FloatType) -> Self {
        let stride = activations.packed(self.k);
        let batch = stride.saturating_mul(self.max_m);
        Self { activations, ..self.with_x_strides(stride, batch) }
    }

    /// Sets the type of the result, and packed strides.
    pub fn with_output(self, output: impl Into<Output>) -> Self {
        let output = output.into();
        let stride = match output {
            Output::Float(float) => float.packed(self.k),
            _ => RowsSpec::output(self.k, 0, output).columns,
        };
        let batch = stride.saturating_mul(self.max_m);
        Self { output, ..self.with_y_strides(stride, batch) }
    }

    /// Adds a residual of this type to X and writes the sum in the same type, both in packed rows.
    pub fn with_residual(self, float: FloatType) -> Self {
        let stride = float.packed(self.k);
        let batch = stride.saturating_mul(self.max_m);
        let spec = self.with_residual_strides(stride, batch).with_sum_strides(stride, batch);
        Self { residual: Some(float), ..spec }
    }

    /// Adds a bias to the result.
    pub fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// Leaves out the weight.
    pub fn without_weight(self) -> Self {
        Self { weight: false, ..self }
    }

    /// Sets what is added to the weight.
    pub fn with_weight_offset(self, weight_offset: f32) -> Self {
        Self { weight_offset, ..self }
    }

    /// Sets the number of matrices in the batch.
    pub fn with_batch(self, batch: u32) -> Self {
        Self { batch, ..self }
    }

    /// Sets the strides of X, in elements.
    pub fn with_x_strides(self, x_stride: u32, x_batch_stride: u32) -> Self {
        Self { x_stride, x_batch_stride, ..self }
    }

    /// Sets the strides of the residual, in elements.
    pub fn with_residual_strides(self, row: u32, batch: u32) -> Self {
        Self { residual_stride: row, residual_batch_stride: batch, ..self }
    }

    /// Sets the strides of the sum, in elements.
    pub fn with_sum_strides(self, sum_stride: u32, sum_batch_stride: u32) -> Self {
        Self { sum_stride, sum_batch_stride, ..self }
    }

    /// Sets the strides of the output, in elements or in words of codes.
    pub fn with_y_strides(self, y_stride: u32, y_batch_stride: u32) -> Self {
        Self { y_stride, y_batch_stride, ..self }
    }

    /// Returns the layout of rows of the output if they hold codes.
    pub fn y_layout(&self) -> Option<ActivationLayout> {
        match self.output {
            Output::Int8(format) => format.layout(self.k as usize).ok(),
            _ => None,
        }
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of the residual from its start that a run with `m` rows reads; 0 if
    /// there is none.
    pub fn residual_bytes(&self, m: u32) -> u64 {
        self.residual_rows().map_or(0, |rows| rows.bytes(m))
    }

    /// Returns the number of bytes of the sum from its start that a run with `m` rows writes; 0 if there
    /// is no residual.
    pub fn sum_bytes(&self, m: u32) -> u64 {
        self.sum_rows().map_or(0, |rows| whole_words(rows.bytes(m)))
    }

    /// Returns the number of bytes of output from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        whole_words(self.y_rows().bytes(m))
    }

    pub(super) fn x_rows(&self) -> RowsSpec {
        let rows = RowsSpec::floats(Role::Activations, self.k, self.x_stride, self.activations);
        RowsSpec { batch: self.batch, batch_stride: self.x_batch_stride, ..rows }
    }

    pub(super) fn residual_rows(&self) -> Option<RowsSpec> {
        let rows = RowsSpec::floats(Role::Residual, self.k, self.residual_stride, self.residual?);
        Some(RowsSpec { batch: self.batch, batch_stride: self.residual_batch_stride, ..rows })
    }

    pub(super) fn sum_rows(&self) -> Option<RowsSpec> {
        let rows = RowsSpec::floats(Role::Sum, self.k, self.sum_stride, self.residual?);
        Some(RowsSpec { batch: self.batch, batch_stride: self.sum_batch_stride, ..rows })
    }

    pub(super) fn y_rows(&self) -> RowsSpec {
        let rows = RowsSpec::output(self.k, self.y_stride, self.output);
        RowsSpec { batch: self.batch, batch_stride: self.y_batch_stride, ..rows }
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, a stride is too short or, for f16, odd, ε is
    /// no positive normal number, the offset is not finite, or the output is one that this op does not
    /// write.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("k", self.k, i32::MAX as u32),
            ("batch", self.batch, u16::MAX.into()),
        ])?;
        if !self.epsilon.is_normal() || self.epsilon < 0.0 {
            let need = "a positive normal number";
            return Err(PlanError::Number { name: "epsilon", value: self.epsilon, need });
        }
        if !self.weight_offset.is_finite() {
            let (name, value, need) = ("weight_offset", self.weight_offset, "a finite number");
            return Err(PlanError::Number { name, value, need });
        }
        check_output("norm", self.k, self.output)?;
        for rows in [Some(self.x_rows()), self.residual_rows(), self.sum_rows()] {
            rows.map_or(Ok(()), |rows| rows.check(self.max_m))?;
        }
        self.y_rows().check(self.max_m)
    }
}
