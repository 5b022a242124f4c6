use crate::compress::calibrate::Axis;
use crate::format::{ActivationFormat, ActivationFunction, WeightFormat};
use crate::ops::{FloatType, Output, Schedule};

/// What a case checks, with what only such cases have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// `Y = X · Wᵀ (+ bias)`.
    Matmul,
    /// The same with quantized X: exact sums bit for bit, then results.
    IntegerMatmul(Quantized),
    /// Prune, ranges, scales and codes on the device, against the host bit for bit.
    Compress,
    /// Packed weights back to floats.
    Dequantize,
    /// Rows of packed weights by index, as floats.
    Gather,
    /// X to 8-bit codes, with scales of its own or one that is given.
    Quantize {
        /// What X becomes.
        format: ActivationFormat,
        /// Whether scale and zero point are given.
        given: bool,
    },
    /// Ranges, sums and histograms of X, against the host bit for bit.
    Observe {
        /// What has a range of its own.
        axis: Axis,
        /// Bins on either side of 0.
        bins: u32,
    },
    /// X quantized and dequantized at once by the case's format, and the gradients of that.
    FakeQuant(FakeScales),
}

impl Op {
    /// The op's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::IntegerMatmul(_) => "int-matmul",
            Self::Compress => "compress",
            Self::Dequantize => "dequantize",
            Self::Gather => "gather",
            Self::Quantize { .. } => "quantize",
            Self::Observe { .. } => "observe",
            Self::FakeQuant(_) => "fake-quant",
        }
    }

    /// Whether there are weights, and not X alone.
    pub const fn has_weights(&self) -> bool {
        !matches!(self, Self::Quantize { .. } | Self::Observe { .. } | Self::FakeQuant(_))
    }
}

/// Where the scales of a fake quantization come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FakeScales {
    /// Ranges of X.
    Dynamic,
    /// The caller, who gets their gradients.
    Given,
    /// The same, with LSQ's gradient scale.
    Lsq,
}

impl FakeScales {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Dynamic, Self::Given, Self::Lsq];

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Given => "given",
            Self::Lsq => "lsq",
        }
    }
}

/// What the numbers of a case are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Values {
    /// Bell-shaped around 0.
    Normal,
    /// The same with one in 64 a hundred times as large.
    Outliers,
    /// Half of them 0 or −0.
    SignedZeros,
    /// Whole runs of 48 are 0, so that groups are dead.
    DeadGroups,
    /// Only the largest and the smallest value, so that codes are extreme.
    Extreme,
    /// Halves of what becomes one step, so that rounding meets ties.
    Ties,
    /// All the same and positive, or for quantized X all as far from the zero point as can be: sums
    /// are as large as they get.
    Constant,
    /// Subnormals and what is not much larger, so that scales are flushed or nearly.
    Tiny,
    /// A NaN and two infinities among others.
    NotFinite,
}

impl Values {
    /// The patterns that weights can have.
    pub const ALL: [Self; 6] = [
        Self::Normal,
        Self::Outliers,
        Self::SignedZeros,
        Self::DeadGroups,
        Self::Extreme,
        Self::Ties,
    ];

    /// The others, which X alone can have.
    pub const ODD: [Self; 2] = [Self::Tiny, Self::NotFinite];

    /// The pattern's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Outliers => "outliers",
            Self::SignedZeros => "signed-zeros",
            Self::DeadGroups => "dead-groups",
            Self::Extreme => "extreme",
            Self::Ties => "ties",
            Self::Constant => "constant",
            Self::Tiny => "tiny",
            Self::NotFinite => "not-finite",
        }
    }
}

/// What a matmul of quantized X takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantized {
    /// What X is.
    pub format: ActivationFormat,
    /// What Y is.
    pub output: Output,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// What it checks.
    pub op: Op,
    /// The format of W, or that X is fake-quantized by; f32 where there is neither.
    pub format: WeightFormat,
    /// The type of X, where it is floats.
    pub activations: FloatType,
    /// The type of Y, where that is floats.
    pub output: FloatType,
    /// What a matmul applies to its sums.
    pub function: ActivationFunction,
    /// Rows of X, or rows gathered.
    pub m: usize,
    /// Rows of W; 0 where there is none.
    pub n: usize,
    /// Columns of W and X.
    pub k: usize,
    /// What the numbers are like.
    pub values: Values,
    /// Whether a bias is added.
    pub bias: bool,
    /// Two batches, rows with gaps, offsets, and a plan for more rows than are recorded.
    pub strided: bool,
    /// A pinned schedule; `None` takes the adapter's own choice.
    pub schedule: Option<Schedule>,
    /// Whether codes are read out of textures, on devices that have them.
    pub textures: bool,
}

impl Case {
    /// A matmul with the adapter's own kernel. Whether it has a bias and strides follows
    /// from the types, so that both occur with every decoder and no kernel is compiled
    /// twice for it.
    pub fn matmul(
        format: WeightFormat,
        (activations, output): (FloatType, FloatType),
        (m, n, k): (usize, usize, usize),
        values: Values,
    ) -> Self {
        let bias = (activations == output) ^ format.is_sparse() ^ format.is_symmetric();
        let strided = (m + n + k) % 3 == 0;
        Self {
            op: Op::Matmul,
            format,
            activations,
            output,
            function: ActivationFunction::Identity,
            m,
            n,
            k,
            values,
            bias,
            strided,
            schedule: None,
            textures: false,
        }
    }

    /// A matmul of quantized X.
    pub fn integer(
        format: WeightFormat,
        quantized: Quantized,
        shape: (usize, usize, usize),
        values: Values,
    ) -> Self {
        let floats = (FloatType::F32, FloatType::F32);
        let op = Op::IntegerMatmul(quantized);
        Self { op, ..Self::matmul(format, floats, shape, values) }
    }

    /// What takes X alone: quantize, observe or, with a format, fake-quant.
    pub fn of_x(
        op: Op,
        format: WeightFormat,
        types: (FloatType, FloatType),
        (m, k): (usize, usize),
        values: Values,
    ) -> Self {
        let strided = (m + k) % 3 != 0;
        Self { op, bias: false, strided, ..Self::matmul(format, types, (m, 0, k), values) }
    }

    /// What X is, for people.
    pub fn activations_name(&self) -> String {
        match self.op {
            Op::IntegerMatmul(quantized) => quantized.format.to_string(),
            _ => self.activations.name().to_string(),
        }
    }

    /// What Y is, for people.
    pub fn output_name(&self) -> String {
        match self.op {
            Op::IntegerMatmul(quantized) => quantized.output.to_string(),
            Op::Quantize { format, .. } => format.to_string(),
            Op::Observe { axis, bins } => format!("{}-bins{bins}", axis_name(axis)),
            _ => self.output.name().to_string(),
        }
    }

    /// A name that says everything: `lowbit verify --case` repeats it.
    pub fn id(&self) -> String {
        let mut id = format!("{}/", self.op.name());
        if self.op.has_weights() || matches!(self.op, Op::FakeQuant(_)) {
            id.push_str(&format!("{}/", self.format));
        }
        id.push_str(&format!("{}-{}/m{}", self.activations_name(), self.output_name(), self.m));
        if self.op.has_weights() {
            id.push_str(&format!("n{}", self.n));
        }
        id.push_str(&format!("k{}/{}", self.k, self.values.name()));
        match self.op {
            Op::Quantize { given: true, .. } => id.push_str("/given"),
            Op::FakeQuant(scales) => id.push_str(&format!("/{}", scales.name())),
            _ => {}
        }
        if self.function != ActivationFunction::Identity {
            id.push_str(&format!("/{}", self.function.name()));
        }
        if self.bias {
            id.push_str("/bias");
        }
        if self.strided {
            id.push_str("/strided");
        }
        if self.textures {
            id.push_str("/textures");
        }
        if let Some(schedule) = self.schedule {
            id.push_str(&format!("/{schedule}"));
        }
        id
    }

    /// A seed that differs from case to case and stays the same from run to run (FNV-1a).
    pub(super) fn seed(&self) -> u64 {
        self.id().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// The axis, for people.
pub(super) fn axis_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Tensor => "tensor",
        Axis::Channel => "channel",
    }
}
