use crate::format::{ActivationFormat, ActivationFunction, WeightFormat};
use crate::ops::{FloatType, Output, Schedule};

/// What a case checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Op {
    /// `Y = X · Wᵀ (+ bias)`.
    Matmul,
    /// The same with quantized X: exact sums bit for bit, then results.
    IntegerMatmul,
    /// Prune, ranges, scales and codes on the device, against the host bit for bit.
    Compress,
    /// Packed weights back to floats.
    Dequantize,
    /// Rows of packed weights by index, as floats.
    Gather,
}

impl Op {
    /// The op's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::IntegerMatmul => "int-matmul",
            Self::Compress => "compress",
            Self::Dequantize => "dequantize",
            Self::Gather => "gather",
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
}

impl Values {
    /// All patterns.
    pub const ALL: [Self; 6] = [
        Self::Normal,
        Self::Outliers,
        Self::SignedZeros,
        Self::DeadGroups,
        Self::Extreme,
        Self::Ties,
    ];

    /// The pattern's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Outliers => "outliers",
            Self::SignedZeros => "signed-zeros",
            Self::DeadGroups => "dead-groups",
            Self::Extreme => "extreme",
            Self::Ties => "ties",
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
    /// The format of W.
    pub format: WeightFormat,
    /// The type of X, where it is floats.
    pub activations: FloatType,
    /// The type of Y, where X is floats.
    pub output: FloatType,
    /// X and Y, where X is quantized.
    pub quantized: Option<Quantized>,
    /// What a matmul applies to its sums.
    pub function: ActivationFunction,
    /// Rows of X, or rows gathered.
    pub m: usize,
    /// Rows of W.
    pub n: usize,
    /// Columns of W.
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
            quantized: None,
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
        let quantized = Some(quantized);
        Self { op: Op::IntegerMatmul, quantized, ..Self::matmul(format, floats, shape, values) }
    }

    /// What X is, for people.
    pub fn activations_name(&self) -> String {
        let float = || self.activations.name().to_string();
        self.quantized.map_or_else(float, |quantized| quantized.format.to_string())
    }

    /// What Y is, for people.
    pub fn output_name(&self) -> String {
        let float = || self.output.name().to_string();
        self.quantized.map_or_else(float, |quantized| quantized.output.to_string())
    }

    /// A name that says everything: `lowbit verify --case` repeats it.
    pub fn id(&self) -> String {
        let mut id = format!(
            "{}/{}/{}-{}/m{}n{}k{}/{}",
            self.op.name(),
            self.format,
            self.activations_name(),
            self.output_name(),
            self.m,
            self.n,
            self.k,
            self.values.name()
        );
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
