use super::Experts;
use crate::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, ActivationLayout, BLOCK_K,
    Granularity, WeightFormat,
};
use crate::gpu::MAX_COUNT;
use crate::ops::rows::RowsSpec;
use crate::ops::{
    Activations, DeviceWeights, Epilogue, FloatType, FormatUse, Output, PermuteColumnsSpec,
    PlanError, Role,
};

/// Blocks of 32 columns whose products an i32 holds, a power of two: 2¹⁰, since
/// 2¹⁵ · 255 · 255 < 2³¹.
const MAX_PIECE: u32 = 1 << (i32::MAX as u32 / (255 * 255 * BLOCK_K as u32)).ilog2();

/// The shapes, types and strides of a matmul. Strides are in elements (words if X or Y is
/// quantized) and default to packed rows (f16 rows are padded to an even length).
///
/// ```
/// use lowbit::format::{Granularity, WeightFormat};
/// use lowbit::ops::{FloatType, MatmulSpec};
/// let format = WeightFormat::int8(Granularity::Channel);
/// let spec = MatmulSpec::new(16, 1536, 384, format).with_bias().with_output(FloatType::F16);
/// assert!(spec.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MatmulSpec {
    /// The largest number of rows of X that the plan can be recorded with.
    pub max_m: u32,
    /// Rows of W. They are the columns of Y too, unless the [epilogue](Epilogue) halves them.
    pub n: u32,
    /// Columns of X and W.
    pub k: u32,
    /// The format of W.
    pub weights: WeightFormat,
    /// The type of X.
    pub activations: Activations,
    /// The type of Y.
    pub output: Output,
    /// The function applied to the sums, after the bias.
    pub function: ActivationFunction,
    /// What becomes of the function's results.
    pub epilogue: Epilogue,
    /// The experts of a mixture, whose matrices W stacks; N is then the rows of one of them.
    pub experts: Option<Experts>,
    /// Whether row i of Y takes row i of X, and the list of experts only names its expert.
    pub own_rows: bool,
    /// Whether an f32 bias `[N]` is added.
    pub bias: bool,
    /// The number of independent X and Y that share W.
    pub batch: u32,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements from one X of the batch to the next.
    pub x_batch_stride: u32,
    /// Elements from one row of Y to the next.
    pub y_stride: u32,
    /// Elements from one Y of the batch to the next.
    pub y_batch_stride: u32,
    /// Whether f32 X may start at any element. Otherwise, if K and the strides are multiples of
    /// 4, X is loaded 16 bytes at a time and must start at a multiple of 16 bytes.
    pub any_x_offset: bool,
    /// Whether codes are read from textures if the device and the format support it
    /// ([`code_textures_pay`](super::code_textures_pay)). The weights must then come from
    /// [`DeviceWeights::with_textures`](crate::ops::DeviceWeights::with_textures).
    pub code_textures: bool,
}

impl MatmulSpec {
    /// Creates a spec with f32 X and Y, no bias, no batch and packed rows.
    pub fn new(max_m: u32, n: u32, k: u32, weights: WeightFormat) -> Self {
        Self {
            max_m,
            n,
            k,
            weights,
            activations: FloatType::F32.into(),
            output: FloatType::F32.into(),
            function: ActivationFunction::Identity,
            epilogue: Epilogue::None,
            experts: None,
            own_rows: false,
            bias: false,
            batch: 1,
            x_stride: k,
            x_batch_stride: k.saturating_mul(max_m),
            y_stride: n,
            y_batch_stride: n.saturating_mul(max_m),
            any_x_offset: false,
            code_textures: false,
        }
    }

    /// Creates a spec of the shape and format of these weights, which reads their textures if they
    /// have any.
    pub fn of(max_m: u32, weights: &DeviceWeights) -> Self {
        // Weights on a device are below 2³¹ each way.
        let (n, k) = (weights.n() as u32, weights.k() as u32);
        let code_textures = weights.has_textures();
        Self { code_textures, ..Self::new(max_m, n, k, weights.format()) }
    }

    /// Sets the type of X, and packed strides.
    pub fn with_activations(mut self, activations: impl Into<Activations>) -> Self {
        self.activations = activations.into();
        self.x_stride = match self.activations {
            Activations::Float(float) => float.packed(self.k),
            Activations::Int8(format) => row_words(format, self.k),
        };
        self.x_batch_stride = self.x_stride.saturating_mul(self.max_m);
        // Slices depend on the groups of X.
        match self.output {
            Output::Accumulators => self.with_output(Output::Accumulators),
            _ => self,
        }
    }

    /// Sets the type of Y, and packed strides.
    pub fn with_output(mut self, output: impl Into<Output>) -> Self {
        self.output = output.into();
        self.y_stride = match self.output {
            Output::Float(float) => float.packed(self.y_columns()),
            _ => self.y_row(),
        };
        self.y_batch_stride = self.y_stride.saturating_mul(self.max_m);
        self
    }

    /// Adds a bias.
    pub fn with_bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// Sets the activation function.
    pub fn with_function(mut self, function: ActivationFunction) -> Self {
        self.function = function;
        self
    }

    /// Sets what becomes of the function's results, and packed strides of Y.
    pub fn with_epilogue(mut self, epilogue: Epilogue) -> Self {
        self.epilogue = epilogue;
        let output = self.output;
        self.with_output(output)
    }

    /// Sets the number of matrices in the batch.
    pub fn with_batch(mut self, batch: u32) -> Self {
        self.batch = batch;
        self
    }

    /// Sets the strides of X, in elements.
    pub fn with_x_strides(mut self, row: u32, batch: u32) -> Self {
        (self.x_stride, self.x_batch_stride) = (row, batch);
        self
    }

    /// Sets the strides of Y, in elements.
    pub fn with_y_strides(mut self, row: u32, batch: u32) -> Self {
        (self.y_stride, self.y_batch_stride) = (row, batch);
        self
    }

    /// Allows X to start at any element.
    pub fn with_any_x_offset(mut self) -> Self {
        self.any_x_offset = true;
        self
    }

    /// Reads codes from textures.
    pub fn with_code_textures(mut self) -> Self {
        self.code_textures = true;
        self
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads: all of X if there
    /// are experts.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(if self.experts.is_some() { self.max_x_rows() } else { m })
    }

    /// Returns the number of bytes of Y from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        self.y_rows().bytes(m)
    }

    /// Returns the number of rows of W, of all experts.
    pub fn w_rows(&self) -> u32 {
        self.n.saturating_mul(self.experts.map_or(1, |experts| experts.count))
    }

    /// Returns the largest number of rows of X.
    pub(super) fn max_x_rows(&self) -> u32 {
        let listed = self.experts.filter(|_| !self.own_rows);
        listed.map_or(self.max_m, |experts| experts.x_rows)
    }

    /// Returns the rows of X. A whole batch may share them.
    pub(super) fn x_rows(&self) -> RowsSpec {
        let (role, columns, stride) = (Role::Activations, self.x_row(), self.x_stride);
        let rows = match self.activations {
            Activations::Float(float) => RowsSpec::floats(role, columns, stride, float),
            Activations::Int8(_) => {
                RowsSpec { multiple: 4, ..RowsSpec::words(role, columns, stride) }
            }
        };
        RowsSpec { batch: self.batch, batch_stride: self.x_batch_stride, shared: true, ..rows }
    }

    /// Returns the number of bytes of scratch that binding allocates: X with its columns in the order of
    /// the codes, `[batch, max_m, K]` packed, if the columns of W are permuted; otherwise 0. A batch that
    /// shares X needs it once.
    pub fn scratch_bytes(&self) -> u64 {
        self.permutation().map_or(0, |spec| spec.y_bytes(self.max_m))
    }

    /// Returns the permutation of X that precedes the matmul if the columns of W are permuted.
    pub(super) fn permutation(&self) -> Option<PermuteColumnsSpec> {
        let Activations::Float(float) = self.activations else { return None };
        if !self.weights.is_permuted() {
            return None;
        }
        // A batch that shares X needs it permuted once.
        let batch = if self.x_batch_stride == 0 { self.batch.min(1) } else { self.batch };
        let spec = PermuteColumnsSpec::new(self.max_m, self.k).with_activations(float);
        Some(spec.with_batch(batch).with_x_strides(self.x_stride, self.x_batch_stride))
    }

    /// Returns the spec of the kernels: X is what the permutation of its columns wrote, if there is one.
    pub(super) fn after_permutation(&self) -> Self {
        let mut spec = self.clone();
        if let Some(permutation) = self.permutation() {
            spec.x_stride = permutation.y_stride;
            if spec.x_batch_stride != 0 {
                spec.x_batch_stride = permutation.y_batch_stride;
            }
            spec.any_x_offset = false;
        }
        spec
    }

    /// Returns the rows of Y.
    pub(super) fn y_rows(&self) -> RowsSpec {
        let (role, columns, stride) = (Role::Output, self.y_row(), self.y_stride);
        let rows = match self.output {
            Output::Float(float) => RowsSpec::floats(role, columns, stride, float),
            Output::Int8(_) => RowsSpec { multiple: 4, ..RowsSpec::words(role, columns, stride) },
            Output::Accumulators => RowsSpec::words(role, columns, stride),
        };
        RowsSpec { batch: self.batch, batch_stride: self.y_batch_stride, ..rows }
    }

    /// Elements (words if X is quantized) that a row of X spans.
    pub fn x_row(&self) -> u32 {
        self.activations.int8().map_or(self.k, |format| row_words(format, self.k))
    }

    /// Columns of Y.
    pub fn y_columns(&self) -> u32 {
        self.n / if self.epilogue == Epilogue::Gated { 2 } else { 1 }
    }

    /// Elements (words if Y is quantized) that a row of Y spans.
    pub fn y_row(&self) -> u32 {
        match self.output {
            Output::Float(_) => self.y_columns(),
            Output::Int8(format) => row_words(format, self.n),
            Output::Accumulators => self.n.saturating_mul(self.slices()),
        }
    }

    /// Returns the layout of rows of X if it is quantized.
    pub fn x_layout(&self) -> Option<ActivationLayout> {
        self.activations.int8()?.layout(self.k as usize).ok()
    }

    /// Blocks of 32 columns of W that share a scale: one if groups are smaller, and all of them if there
    /// are no groups.
    pub(super) fn w_group_blocks(&self) -> u32 {
        match self.weights.granularity() {
            Granularity::Group(g) if g.get() < self.k => (g.get() / BLOCK_K as u32).max(1),
            _ => self.k.div_ceil(BLOCK_K as u32).max(1),
        }
    }

    /// Returns whether groups of W are half a block of 32 columns.
    pub(super) fn has_half_groups(&self) -> bool {
        match self.weights.granularity() {
            Granularity::Group(g) => g.get() == BLOCK_K as u32 / 2 && g.get() < self.k,
            _ => false,
        }
    }

    /// Blocks of 32 columns in a *slice* of K: the largest number, of at most 1024, that groups of
    /// both W and quantized X are whole multiples of, or one if groups of W are half a block. Within a
    /// slice, sums of products are exact in i32. Groups of a prime number of blocks above 1024 have slices of one.
    pub fn slice_blocks(&self) -> u32 {
        let blocks = self.k.div_ceil(BLOCK_K as u32).max(1);
        let x = self.x_layout().map_or(blocks, |layout| layout.group_blocks as u32);
        let shared = match (self.w_group_blocks(), x) {
            (w, x) if w == blocks && x == blocks => return blocks.min(MAX_PIECE),
            (w, x) if w == blocks => x,
            (w, x) if x == blocks => w,
            (w, x) => gcd(w, x),
        };
        (1..=shared.min(MAX_PIECE)).rev().find(|slice| shared % slice == 0).unwrap_or(1)
    }

    /// Returns the number of slices of K.
    pub fn slices(&self) -> u32 {
        self.k.div_ceil(BLOCK_K as u32).div_ceil(self.slice_blocks())
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if the format is invalid, a dimension is too large, or a stride is too
    /// short or not a multiple of what the type needs (2 for f16). Epilogues other than
    /// [`Epilogue::None`] need an output of floats, and [`Epilogue::Gated`] an even number of rows of W.
    pub fn check(&self) -> Result<(), PlanError> {
        self.weights.geometry(self.w_rows() as usize, self.k as usize)?;
        self.check_format()?;
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("n", self.n, i32::MAX as u32),
            ("k", self.k, i32::MAX as u32),
            ("batch", self.batch, u16::MAX.into()),
        ])?;
        self.check_integers()?;
        self.check_epilogue()?;
        self.check_experts()?;
        self.x_rows().check(self.max_x_rows())?;
        self.y_rows().check(self.max_m)
    }

    /// Returns an error if no kernel takes the weights. A group that has the whole row counts as a
    /// channel.
    fn check_format(&self) -> Result<(), PlanError> {
        let whole =
            matches!(self.weights.granularity(), Granularity::Group(g) if g.get() >= self.k);
        let format =
            if whole { self.weights.with_granularity(Granularity::Channel) } else { self.weights };
        self.format_use().check(&format).map_err(|error| match error {
            PlanError::Unsupported { op, why, .. } => {
                PlanError::Unsupported { op, format: self.weights, why }
            }
            other => other,
        })
    }

    fn check_epilogue(&self) -> Result<(), PlanError> {
        let Self { epilogue, output, n, .. } = *self;
        match (epilogue, output) {
            (Epilogue::None, _) => Ok(()),
            (Epilogue::Gated, Output::Float(_)) if !n.is_multiple_of(2) => {
                Err(PlanError::OddGates { n })
            }
            (_, Output::Float(_)) => Ok(()),
            _ => Err(PlanError::EpilogueOutput { epilogue, output }),
        }
    }

    /// Returns what this matmul does with the weights.
    pub(super) fn format_use(&self) -> FormatUse {
        match self.activations {
            Activations::Int8(_) => FormatUse::IntegerMatmul,
            Activations::Float(_) => FormatUse::Matmul,
        }
    }

    fn check_integers(&self) -> Result<(), PlanError> {
        let Activations::Int8(format) = self.activations else {
            return match self.output {
                Output::Float(_) => Ok(()),
                output => Err(PlanError::IntegerOutput { output }),
            };
        };
        format.layout(self.k as usize)?;
        if let Output::Int8(format) = self.output {
            format.layout(self.n as usize)?;
            if format.granularity() != ActivationGranularity::Tensor {
                return Err(PlanError::StaticScaleNeeded { format });
            }
        }
        if self.output == Output::Accumulators {
            let sums = u64::from(self.n) * u64::from(self.slices());
            PlanError::check_index("n · slices", sums)?;
        }
        Ok(())
    }
}

/// Returns the number of words of a row of codes; `u32::MAX`, which no plan accepts, if that
/// overflows.
fn row_words(format: ActivationFormat, columns: u32) -> u32 {
    let layout = format.layout(columns as usize);
    layout.map_or(u32::MAX, |layout| u32::try_from(layout.row_words).unwrap_or(u32::MAX))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
