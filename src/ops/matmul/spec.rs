use super::choice::{Scaling, scaling};
use crate::format::{
    ActivationError, ActivationFormat, ActivationFunction, ActivationGranularity, ActivationLayout,
    BLOCK_K, CodeType, FormatError, Granularity, WeightFormat,
};
use crate::gpu::{DeviceError, MAX_COUNT};
use crate::ops::{DeviceWeights, FloatType, Role};

/// What X is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Floats.
    Float(FloatType),
    /// 8-bit codes, as a [`QuantizeActivationsPlan`](crate::ops::QuantizeActivationsPlan) writes them: rows of u32 words
    /// by [`ActivationFormat::layout`]. W is then int8 or int4, its groups multiples of 32.
    Int8(ActivationFormat),
}

/// What Y is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Floats.
    Float(FloatType),
    /// 8-bit codes by one scale and zero point that are known before
    /// ([`MatmulPlan::bind_scaled`](super::MatmulPlan::bind_scaled)), in rows that the next
    /// matmul takes for its X: of an `int8-tensor` format. Only of quantized X. A NaN becomes
    /// some code.
    Int8(ActivationFormat),
    /// For tests: the exact sums `Σ (cx − zx)(cw − zw)` over each slice of K
    /// ([`MatmulSpec::slice_blocks`]), i32 `[batch, m, slices, N]`, *added* to what Y holds. Only
    /// of quantized X.
    Accumulators,
}

impl From<FloatType> for Activations {
    fn from(float: FloatType) -> Self {
        Self::Float(float)
    }
}

impl From<FloatType> for Output {
    fn from(float: FloatType) -> Self {
        Self::Float(float)
    }
}

impl Activations {
    /// Bytes of what strides and offsets count: an element, or a word of a row of codes.
    pub const fn unit(self) -> u64 {
        match self {
            Self::Float(float) => float.bytes(),
            Self::Int8(_) => 4,
        }
    }

    /// The format, where X is quantized.
    pub const fn int8(self) -> Option<ActivationFormat> {
        match self {
            Self::Float(_) => None,
            Self::Int8(format) => Some(format),
        }
    }
}

impl Output {
    /// Bytes of what strides and offsets count: an element, or a word of a row of codes.
    pub const fn unit(self) -> u64 {
        match self {
            Self::Float(float) => float.bytes(),
            Self::Int8(_) | Self::Accumulators => 4,
        }
    }
}

impl std::fmt::Display for Activations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float(float) => f.write_str(float.name()),
            Self::Int8(format) => format.fmt(f),
        }
    }
}

/// What [`Display`](std::fmt::Display) writes: f32, f16 or the name of an [`ActivationFormat`].
impl std::str::FromStr for Activations {
    type Err = ActivationError;

    fn from_str(text: &str) -> Result<Self, ActivationError> {
        match [FloatType::F32, FloatType::F16].into_iter().find(|float| float.name() == text) {
            Some(float) => Ok(Self::Float(float)),
            None => Ok(Self::Int8(text.parse()?)),
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float(float) => f.write_str(float.name()),
            Self::Int8(format) => format.fmt(f),
            Self::Accumulators => f.write_str("accumulators"),
        }
    }
}

/// Blocks of 32 columns whose products an i32 holds, a power of two: 2¹⁰, since
/// 2¹⁵ · 255 · 255 < 2³¹.
const MAX_PIECE: u32 = 1 << (i32::MAX as u32 / (255 * 255 * BLOCK_K as u32)).ilog2();

/// What is to be multiplied. Strides are in elements (words, where X or Y is quantized) and default
/// to packed rows (f16 rows padded to even).
///
/// ```
/// use lowbit::format::{Granularity, WeightFormat};
/// use lowbit::ops::{FloatType, MatmulSpec};
/// let format = WeightFormat::int8(Granularity::Channel);
/// let spec = MatmulSpec::new(16, 1536, 384, format).with_bias().with_output(FloatType::F16);
/// assert!(spec.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatmulSpec {
    /// Largest m that the plan is recorded with.
    pub max_m: u32,
    /// Columns of Y: rows of W.
    pub n: u32,
    /// Columns of X and W.
    pub k: u32,
    /// The format of W.
    pub weights: WeightFormat,
    /// What X is.
    pub activations: Activations,
    /// What Y is.
    pub output: Output,
    /// What is applied to sums, after the bias.
    pub function: ActivationFunction,
    /// Whether an f32 bias `[N]` is added.
    pub bias: bool,
    /// Independent X and Y that share W.
    pub batch: u32,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements from one X of the batch to the next.
    pub x_batch_stride: u32,
    /// Elements from one row of Y to the next.
    pub y_stride: u32,
    /// Elements from one Y of the batch to the next.
    pub y_batch_stride: u32,
    /// Whether f32 X may start at any element. Otherwise, where K and the strides are
    /// multiples of 4, X is loaded 16 bytes at a time and must start at a multiple of 16.
    pub any_x_offset: bool,
    /// Whether codes are read out of textures, where the device and the format have them
    /// ([`code_textures_pay`](super::code_textures_pay)): the weights must then come from
    /// [`DeviceWeights::with_textures`](crate::ops::DeviceWeights::with_textures).
    pub code_textures: bool,
}

/// Why no plan can be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The format is bad.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A 2:4 mask for a dense format.
    #[error("{format} is dense and takes no 2:4 mask; ask for 2:4+{format}")]
    NotTwoFour {
        /// The format.
        format: WeightFormat,
    },
    /// A dimension exceeds what kernels index.
    #[error("{name} = {value} is outside 0…{limit}")]
    TooLarge {
        /// `max_m`, `n`, `k` or `batch`.
        name: &'static str,
        /// Its value.
        value: u32,
        /// The largest allowed.
        limit: u32,
    },
    /// A stride shorter than what it spans, so that rows would overlap.
    #[error("a stride of {stride} elements of {role} is shorter than the {need} it spans")]
    Stride {
        /// X or Y.
        role: Role,
        /// Elements given.
        stride: u32,
        /// Elements needed.
        need: u64,
    },
    /// Rows of f16 must start at even elements, quantized ones at multiples of four words.
    #[error("a stride of {stride} of {role} is no multiple of {multiple}; pad rows")]
    OddStride {
        /// X or Y.
        role: Role,
        /// Elements or words given.
        stride: u32,
        /// What it must be a multiple of.
        multiple: u32,
    },
    /// A pinned schedule for other X.
    #[error("schedule {schedule} does not multiply {activations} activations")]
    WrongSchedule {
        /// The schedule.
        schedule: String,
        /// What X is.
        activations: Activations,
    },
    /// Weights that integer products have no kernel for.
    #[error(
        "int8 activations multiply int8 and int4 weights with groups of a multiple of 32, not {format}; \
         take float activations"
    )]
    IntegerWeights {
        /// The format.
        format: WeightFormat,
    },
    /// A quantized output of float activations.
    #[error("output {output} is of quantized activations only; ask for f32 or f16")]
    IntegerOutput {
        /// What was asked for.
        output: Output,
    },
    /// A pinned schedule does not apply here.
    #[error("schedule {schedule} does not apply: {what}: {need} asked for, {have} at most")]
    NotApplicable {
        /// The schedule.
        schedule: String,
        /// Of what it needs too much.
        what: &'static str,
        /// How much it needs.
        need: u32,
        /// How much there is.
        have: u32,
    },
    /// Activations that cannot be quantized so.
    #[error(transparent)]
    Activations(#[from] ActivationError),
    /// One scale and zero point for activations that have many.
    #[error("one scale and zero point are given for {format} activations; int8-tensor takes them")]
    StaticScaleNeeded {
        /// The format.
        format: ActivationFormat,
    },
    /// The device said no.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl MatmulSpec {
    /// f32 X and Y, no bias, no batch, packed rows.
    pub fn new(max_m: u32, n: u32, k: u32, weights: WeightFormat) -> Self {
        Self {
            max_m,
            n,
            k,
            weights,
            activations: FloatType::F32.into(),
            output: FloatType::F32.into(),
            function: ActivationFunction::Identity,
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

    /// As [`new`](Self::new), of the shape and format of these weights, out of their textures
    /// where they have them.
    pub fn of(max_m: u32, weights: &DeviceWeights) -> Self {
        // Weights on a device are below 2³¹ each way.
        let (n, k) = (weights.n() as u32, weights.k() as u32);
        let code_textures = weights.has_textures();
        Self { code_textures, ..Self::new(max_m, n, k, weights.format()) }
    }

    /// The same with another X; sets packed strides.
    pub fn with_activations(mut self, activations: impl Into<Activations>) -> Self {
        self.activations = activations.into();
        self.x_stride = match self.activations {
            Activations::Float(float) => packed_row(self.k, float),
            Activations::Int8(format) => row_words(format, self.k),
        };
        self.x_batch_stride = self.x_stride.saturating_mul(self.max_m);
        // Slices depend on the groups of X.
        match self.output {
            Output::Accumulators => self.with_output(Output::Accumulators),
            _ => self,
        }
    }

    /// The same with another Y; sets packed strides.
    pub fn with_output(mut self, output: impl Into<Output>) -> Self {
        self.output = output.into();
        self.y_stride = match self.output {
            Output::Float(float) => packed_row(self.n, float),
            Output::Int8(format) => row_words(format, self.n),
            Output::Accumulators => self.n.saturating_mul(self.slices()),
        };
        self.y_batch_stride = self.y_stride.saturating_mul(self.max_m);
        self
    }

    /// The same with a bias.
    pub fn with_bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// The same with an activation function.
    pub fn with_function(mut self, function: ActivationFunction) -> Self {
        self.function = function;
        self
    }

    /// The same with a batch.
    pub fn with_batch(mut self, batch: u32) -> Self {
        self.batch = batch;
        self
    }

    /// The same with other strides of X, in elements.
    pub fn with_x_strides(mut self, row: u32, batch: u32) -> Self {
        (self.x_stride, self.x_batch_stride) = (row, batch);
        self
    }

    /// The same with other strides of Y, in elements.
    pub fn with_y_strides(mut self, row: u32, batch: u32) -> Self {
        (self.y_stride, self.y_batch_stride) = (row, batch);
        self
    }

    /// The same for X that may start at any element.
    pub fn with_any_x_offset(mut self) -> Self {
        self.any_x_offset = true;
        self
    }

    /// The same for weights that have textures.
    pub fn with_code_textures(mut self) -> Self {
        self.code_textures = true;
        self
    }

    /// Bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        extent(self.batch, m, self.x_batch_stride, self.x_stride, self.x_row())
            .saturating_mul(self.activations.unit())
    }

    /// Bytes of Y from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        extent(self.batch, m, self.y_batch_stride, self.y_stride, self.y_row())
            .saturating_mul(self.output.unit())
    }

    /// Elements, or words, that a row of X spans.
    pub fn x_row(&self) -> u32 {
        self.activations.int8().map_or(self.k, |format| row_words(format, self.k))
    }

    /// Elements, or words, that a row of Y spans.
    pub fn y_row(&self) -> u32 {
        match self.output {
            Output::Float(_) => self.n,
            Output::Int8(format) => row_words(format, self.n),
            Output::Accumulators => self.n.saturating_mul(self.slices()),
        }
    }

    /// The layout of rows of X, where it is quantized.
    pub fn x_layout(&self) -> Option<ActivationLayout> {
        self.activations.int8()?.layout(self.k as usize).ok()
    }

    /// Blocks of 32 columns of W that share a scale; all, where groups are no multiples of 32.
    pub(super) fn w_group_blocks(&self) -> u32 {
        match self.weights.granularity() {
            Granularity::Group(g) if g.get() < self.k => (g.get() / BLOCK_K as u32).max(1),
            _ => self.k.div_ceil(BLOCK_K as u32).max(1),
        }
    }

    /// Blocks of 32 columns in a *slice* of K: the largest number, of at most 1024, that groups of
    /// both W and quantized X are whole multiples of. Within a slice, sums of products are exact
    /// in i32. Groups of a prime number of blocks above 1024 have slices of one.
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

    /// Slices of K.
    pub fn slices(&self) -> u32 {
        self.k.div_ceil(BLOCK_K as u32).div_ceil(self.slice_blocks())
    }

    /// Refuses what no plan can serve.
    ///
    /// # Errors
    /// [`PlanError`]: a bad format, a dimension too large, strides too short or, for f16,
    /// odd.
    pub fn check(&self) -> Result<(), PlanError> {
        self.weights.geometry(self.n as usize, self.k as usize)?;
        let limits = [
            ("max_m", self.max_m, MAX_COUNT),
            ("n", self.n, i32::MAX as u32),
            ("k", self.k, i32::MAX as u32),
            ("batch", self.batch, u16::MAX.into()),
        ];
        for (name, value, limit) in limits {
            if value > limit {
                return Err(PlanError::TooLarge { name, value, limit });
            }
        }
        self.check_integers()?;
        let multiple = |float| if float == FloatType::F16 { 2 } else { 1 };
        let x_multiple = match self.activations {
            Activations::Float(float) => multiple(float),
            Activations::Int8(_) => 4,
        };
        let y_multiple = match self.output {
            Output::Float(float) => multiple(float),
            Output::Int8(_) => 4,
            Output::Accumulators => 1,
        };
        let sides = [
            (Role::Activations, x_multiple, self.x_row(), self.x_stride, self.x_batch_stride),
            (Role::Output, y_multiple, self.y_row(), self.y_stride, self.y_batch_stride),
        ];
        for (role, multiple, columns, row, batch) in sides {
            if self.max_m > 1 && row < columns {
                return Err(PlanError::Stride { role, stride: row, need: columns.into() });
            }
            let need = extent(1, self.max_m, 0, row, columns);
            // Rows of X may be shared by a whole batch (stride 0), those of Y may not.
            let shared = role == Role::Activations && batch == 0;
            if self.batch > 1 && u64::from(batch) < need && !shared {
                return Err(PlanError::Stride { role, stride: batch, need });
            }
            let odd = [(row, self.max_m), (batch, self.batch)]
                .into_iter()
                .find(|&(stride, count)| count > 1 && stride % multiple != 0);
            if let Some((stride, _)) = odd {
                return Err(PlanError::OddStride { role, stride, multiple });
            }
        }
        Ok(())
    }

    fn check_integers(&self) -> Result<(), PlanError> {
        let Activations::Int8(format) = self.activations else {
            return match self.output {
                Output::Float(_) => Ok(()),
                output => Err(PlanError::IntegerOutput { output }),
            };
        };
        format.layout(self.k as usize)?;
        let element = self.weights.code_type();
        if !matches!(element, CodeType::Int8 | CodeType::Int4)
            || scaling(&self.weights, self.k) == Scaling::General
        {
            return Err(PlanError::IntegerWeights { format: self.weights });
        }
        if let Output::Int8(format) = self.output {
            format.layout(self.n as usize)?;
            if format.granularity() != ActivationGranularity::Tensor {
                return Err(PlanError::StaticScaleNeeded { format });
            }
        }
        if self.output == Output::Accumulators {
            let need = u64::from(self.n) * u64::from(self.slices());
            if need > i32::MAX as u64 {
                let value = u32::try_from(need).unwrap_or(u32::MAX);
                let (name, limit) = ("n · slices", i32::MAX as u32);
                return Err(PlanError::TooLarge { name, value, limit });
            }
        }
        Ok(())
    }
}

/// Words of a row of codes; too many to be planned with where that overflows.
fn row_words(format: ActivationFormat, columns: u32) -> u32 {
    let layout = format.layout(columns as usize);
    layout.map_or(u32::MAX, |layout| u32::try_from(layout.row_words).unwrap_or(u32::MAX))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn packed_row(columns: u32, float: FloatType) -> u32 {
    match float {
        FloatType::F32 => columns,
        FloatType::F16 => columns.saturating_add(columns % 2),
    }
}

/// Elements from the first to the last one used.
pub(super) fn extent(batch: u32, m: u32, batch_stride: u32, stride: u32, columns: u32) -> u64 {
    if batch == 0 || m == 0 || columns == 0 {
        return 0;
    }
    // `check` keeps these far below 2⁶⁴; whoever asks before it gets no panic.
    let batches = u64::from(batch - 1) * u64::from(batch_stride);
    let rows = u64::from(m - 1) * u64::from(stride);
    batches.saturating_add(rows).saturating_add(u64::from(columns))
}
