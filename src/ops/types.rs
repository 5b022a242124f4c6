//! The element types of rows, what becomes of sums, and the roles of buffers.

use crate::format::{ActivationError, ActivationFormat};

/// The floating-point type of activations and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FloatType {
    /// Four bytes an element.
    F32,
    /// Two bytes an element, pairs in a `u32`: offsets and strides are even.
    F16,
}

impl FloatType {
    /// Returns the number of bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Returns the shortest stride of rows of this type, in elements: `columns`, rounded up to even
    /// for f16.
    pub const fn packed(self, columns: u32) -> u32 {
        match self {
            Self::F32 => columns,
            Self::F16 => columns.saturating_add(columns % 2),
        }
    }

    /// `f32` or `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

/// The type of X.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Floats.
    Float(FloatType),
    /// 8-bit codes as a [`QuantizeActivationsPlan`](super::QuantizeActivationsPlan) writes them:
    /// rows of u32 words in the layout of [`ActivationFormat::layout`]. Codes of W must be integers
    /// of at most 8 bits, in groups of a multiple of 32 columns, or of 16 without zero points and
    /// minima.
    Int8(ActivationFormat),
}

/// The type of Y.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Floats.
    Float(FloatType),
    /// 8-bit codes in rows that the next matmul can take as its X. `int8-tensor` has one static
    /// scale and zero point, with which a NaN becomes an arbitrary code. A matmul writes only these
    /// ([`MatmulPlan::bind_scaled`](super::matmul::MatmulPlan::bind_scaled)), and only if X is
    /// quantized. Ops that see whole rows also write `int8-token`.
    Int8(ActivationFormat),
    /// The exact sums, for tests: `Σ (cx − zx)(cw − zw)` over each slice of K
    /// ([`MatmulSpec::slice_blocks`](super::MatmulSpec::slice_blocks)), i32
    /// `[batch, m, slices, N]`, *added* to what Y holds. X must be quantized.
    Accumulators,
}

/// What becomes of f(X · Wᵀ + bias), where f is the activation function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Epilogue {
    /// It is Y.
    #[default]
    None,
    /// It is added to what Y holds, in f32: the residual of a transformer, in place.
    Accumulate,
    /// Rows of W alternate: row 2j is a *gate*, and row 2j + 1 what it lets up. Y has N/2 columns, and
    /// column j is f(s) · t, where s and t are the sums of the rows 2j and 2j + 1 with their bias.
    /// [`PackedWeights::interleave`](crate::format::PackedWeights::interleave) makes such weights.
    Gated,
}

impl Epilogue {
    /// Every epilogue.
    pub const ALL: [Self; 3] = [Self::None, Self::Accumulate, Self::Gated];

    /// Returns the name that kernels and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Accumulate => "accumulate",
            Self::Gated => "gated",
        }
    }
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
    /// Returns the number of bytes of the unit that strides and offsets count: an element, or a
    /// word of a row of codes.
    pub const fn unit(self) -> u64 {
        match self {
            Self::Float(float) => float.bytes(),
            Self::Int8(_) => 4,
        }
    }

    /// Returns the format if X is quantized.
    pub const fn int8(self) -> Option<ActivationFormat> {
        match self {
            Self::Float(_) => None,
            Self::Int8(format) => Some(format),
        }
    }
}

impl Output {
    /// Returns the number of bytes of the unit that strides and offsets count: an element, or a
    /// word of a row of codes.
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

/// Parses what [`Display`](std::fmt::Display) writes: f32, f16 or the name of an
/// [`ActivationFormat`]; `int8` is short for `int8-g32`,
/// which loses least.
///
/// ```
/// use lowbit::ops::Activations;
/// assert_eq!("int8".parse::<Activations>()?.to_string(), "int8-g32");
/// assert!("int7".parse::<Activations>().is_err());
/// # Ok::<(), lowbit::format::ActivationError>(())
/// ```
impl std::str::FromStr for Activations {
    type Err = ActivationError;

    fn from_str(text: &str) -> Result<Self, ActivationError> {
        match [FloatType::F32, FloatType::F16].into_iter().find(|float| float.name() == text) {
            Some(float) => Ok(Self::Float(float)),
            // Groups of 32 keep outliers of language models apart (docs/models.md).
            None if text == "int8" => Ok(Self::Int8("int8-g32".parse()?)),
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

/// The role of a buffer, for error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// X.
    Activations,
    /// W: codes or side data.
    Weights,
    /// The bias of Y.
    Bias,
    /// Y.
    Output,
    /// Row indices to gather.
    Indices,
    /// The logits of experts.
    Logits,
    /// The choices of experts.
    Choices,
    /// The order of columns.
    ColumnOrder,
    /// The number of tokens of a sequence, or where rows stand in theirs.
    Positions,
    /// Sums of products.
    Sums,
    /// The diagonal of a Gram matrix.
    Diagonal,
    /// The triangle that a Gram matrix was factored into.
    Factor,
    /// W by columns.
    Columns,
    /// The left matrix of a product.
    Left,
    /// The right matrix of a product.
    Right,
    /// Intermediate results: ranges of weights, partial sums.
    Scratch,
    /// The status buffer, where kernels report bad input.
    Status,
    /// Given 2:4 metadata.
    Mask,
    /// Canonical scales.
    Scales,
    /// Canonical zero points.
    Zeros,
    /// Rows that are added to X before it is normalized.
    Residual,
    /// The sum of X and the residual.
    Sum,
    /// Settings by which tokens are drawn.
    Settings,
    /// The gradient of Y.
    OutputGradient,
    /// The gradients of scales.
    ScaleGradients,
    /// The gradients of zero points.
    ZeroGradients,
    /// The table of a rotary embedding.
    Angles,
    /// The weights of a norm.
    NormWeights,
    /// The cache of keys.
    Keys,
    /// The cache of values.
    Values,
    /// Queries of attention.
    Queries,
    /// Position, slot and visible slots of each row of a step.
    Rows,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Activations => "activations",
            Self::Weights => "weights",
            Self::Bias => "bias",
            Self::Output => "output",
            Self::Indices => "indices",
            Self::Logits => "logits",
            Self::Choices => "choices of experts",
            Self::ColumnOrder => "order of columns",
            Self::Positions => "positions",
            Self::Sums => "sums",
            Self::Diagonal => "diagonal",
            Self::Factor => "factor",
            Self::Columns => "columns of the weights",
            Self::Left => "left matrix",
            Self::Right => "right matrix",
            Self::Scratch => "scratch",
            Self::Status => "status",
            Self::Mask => "mask",
            Self::Scales => "scales",
            Self::Zeros => "zero points",
            Self::Residual => "residual",
            Self::Sum => "sum",
            Self::Settings => "settings",
            Self::OutputGradient => "gradient of the output",
            Self::ScaleGradients => "gradients of scales",
            Self::ZeroGradients => "gradients of zero points",
            Self::Angles => "table of angles",
            Self::NormWeights => "weights of the norm",
            Self::Keys => "cache of keys",
            Self::Values => "cache of values",
            Self::Queries => "queries",
            Self::Rows => "positions and slots of rows",
        })
    }
}
