use crate::compress::calibrate::Axis;
use crate::format::{ActivationFormat, ActivationFunction, CacheFormat, WeightFormat};
use crate::ops::{Epilogue, FloatType, GateLayout, NormKind, Output, RotaryPairs, Schedule};

/// The op that a case checks, with the parameters that only this op has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// `Y = X · Wᵀ (+ bias)`.
    Matmul,
    /// A matmul of quantized X. First its exact sums are checked bit for bit, then its results.
    IntegerMatmul(Quantized),
    /// Weights pruned and quantized on the device, which must equal the host's bit for bit.
    Compress,
    /// Packed weights converted to floats.
    Dequantize,
    /// Rows of packed weights by index, converted to floats.
    Gather,
    /// X quantized to 8-bit codes, with scales computed from X or one static scale.
    Quantize {
        /// The format that X is quantized to.
        format: ActivationFormat,
        /// Whether the scale and zero point are static.
        given: bool,
    },
    /// Ranges, sums and histograms of X, which must equal the host's bit for bit.
    Observe {
        /// The set of values that have a range of their own.
        axis: Axis,
        /// Number of bins on either side of 0.
        bins: u32,
    },
    /// XᵀX added to exact sums.
    Gram,
    /// X with its columns in another order, bit for bit.
    PermuteColumns,
    /// The description of the rows of a step after `k` tokens, bit for bit.
    Positions {
        /// The number of tokens that a token sees at most.
        window: Option<u32>,
    },
    /// Rows of X, or of its sum with a residual, normalized.
    Norm(Normalized),
    /// A function of one half of X's columns, times the other half. The columns of the case are those of
    /// the result.
    Gate {
        /// Where both halves are.
        layout: GateLayout,
        /// The type of Y.
        output: Output,
    },
    /// A token for each row.
    Sample(Sampled),
    /// The softmax of rows.
    Softmax {
        /// Whether there is a soft cap.
        capped: bool,
    },
    /// A matmul of a mixture of experts.
    ExpertMatmul {
        /// The number of experts.
        count: u32,
        /// Rows of the list that are of one expert.
        unit: u32,
    },
    /// Experts chosen for rows of `k` logits.
    Route {
        /// The number of experts of a row.
        top: u32,
        /// What the run of an expert in the list starts at a multiple of.
        unit: u32,
        /// Whether weights are shares in the softmax of all experts.
        of_all: bool,
    },
    /// Weighted sums of the rows of a list.
    Combine {
        /// The number of experts of a row.
        top: u32,
        /// Whether sums are added to what Y holds.
        add: bool,
    },
    /// X quantized and dequantized at once in the format of the case, and the gradients of that.
    FakeQuant(FakeScales),
    /// Queries, keys and values that are prepared for attention.
    Rotary(Rotary),
    /// Rows of X that are transformed.
    Hadamard {
        /// Columns of a block.
        block: usize,
    },
    /// Attention of rows of X over a cache of keys and values. K is the number of columns of a head.
    Attention(AttentionOf),
}

/// The parameters of a case of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionOf {
    /// Heads of queries.
    pub heads: u16,
    /// Heads of keys and values.
    pub kv_heads: u16,
    /// Slots of the cache.
    pub slots: u32,
    /// How keys and values are stored.
    pub cache: CacheFormat,
    /// What rows see.
    pub sight: Sight,
    /// Whether scores have a soft cap.
    pub cap: bool,
    /// Whether there is a bias by relative position.
    pub bias: bool,
    /// Whether an inverse Hadamard transform follows.
    pub hadamard: bool,
    /// Whether the kernels that need no subgroups run.
    pub plain: bool,
}

/// What the rows of a case of attention see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// Every row sees one slot more than the row before it, and the last one all slots.
    Causal,
    /// As `Causal`, but at most the last third of the slots, or the last five.
    Window,
    /// Rows are sentences side by side, whose rows see all of their sentence.
    Packed,
    /// Nothing, a range that ends before it begins, one slot, a range past the end of the cache, and
    /// others in turn.
    Odd,
}

impl Sight {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Causal, Self::Window, Self::Packed, Self::Odd];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Window => "window",
            Self::Packed => "packed",
            Self::Odd => "odd",
        }
    }
}

impl Op {
    /// Returns the name of the op.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::IntegerMatmul(_) => "int-matmul",
            Self::Compress => "compress",
            Self::Dequantize => "dequantize",
            Self::Gather => "gather",
            Self::Quantize { .. } => "quantize",
            Self::Observe { .. } => "observe",
            Self::Gram => "gram",
            Self::PermuteColumns => "permute-columns",
            Self::Positions { .. } => "positions",
            Self::Norm(_) => "norm",
            Self::Gate { .. } => "gate",
            Self::Sample(_) => "sample",
            Self::Softmax { .. } => "softmax",
            Self::ExpertMatmul { .. } => "expert-matmul",
            Self::Route { .. } => "route",
            Self::Combine { .. } => "combine",
            Self::FakeQuant(_) => "fake-quant",
            Self::Rotary(_) => "rotary",
            Self::Hadamard { .. } => "hadamard",
            Self::Attention(_) => "attention",
        }
    }

    /// Returns whether the op has weights. All other ops have only X.
    pub const fn has_weights(&self) -> bool {
        use Op::{Compress, Dequantize, ExpertMatmul, Gather, IntegerMatmul, Matmul};
        matches!(
            self,
            Matmul | IntegerMatmul(_) | ExpertMatmul { .. } | Compress | Dequantize | Gather
        )
    }

    /// Returns whether the op has neither weights nor a weight format.
    pub const fn has_only_x(&self) -> bool {
        !self.has_weights() && !matches!(self, Self::FakeQuant(_))
    }
}

impl AttentionOf {
    /// Returns the end of the id of a case.
    fn suffix(&self) -> String {
        let Self { heads, kv_heads, slots, cache, sight, .. } = self;
        let mut suffix = format!("/h{heads}-{kv_heads}s{slots}/{cache}/{}", sight.name());
        let options = [
            (self.cap, "/cap"),
            (self.bias, "/biased"),
            (self.hadamard, "/hadamard"),
            (self.plain, "/plain"),
        ];
        options.iter().filter(|(on, _)| *on).for_each(|(_, name)| suffix.push_str(name));
        suffix
    }
}

/// The origin of the scales of a fake quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FakeScales {
    /// They are computed from X.
    Dynamic,
    /// The caller provides static scales and gets their gradients.
    Given,
    /// The caller provides them and gets their gradients with the gradient scale of LSQ.
    Lsq,
}

impl FakeScales {
    /// All origins.
    pub const ALL: [Self; 3] = [Self::Dynamic, Self::Given, Self::Lsq];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Given => "given",
            Self::Lsq => "lsq",
        }
    }
}

/// The heads of queries, keys and values, and what is done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rotary {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys, and of values.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Columns of a head that are rotated.
    pub rotary_dim: usize,
    /// Which of them rotate together.
    pub pairs: RotaryPairs,
    /// How keys and values are stored.
    pub cache: CacheFormat,
    /// Whether queries and keys have a norm.
    pub norm: bool,
    /// Whether all heads are transformed.
    pub hadamard: bool,
}

impl std::fmt::Display for Rotary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { heads, kv_heads, head_dim, rotary_dim, .. } = self;
        let pairs = if self.pairs == RotaryPairs::Adjacent { "-adjacent" } else { "" };
        let norm = if self.norm { "-norm" } else { "" };
        let hadamard = if self.hadamard { "-hadamard" } else { "" };
        let cache = self.cache;
        write!(f, "{cache}-h{heads}-kv{kv_heads}-d{head_dim}-r{rotary_dim}{pairs}{norm}{hadamard}")
    }
}

/// The pattern of the numbers of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Values {
    /// A bell-shaped distribution around 0.
    Normal,
    /// The distribution of `Normal`, with one in 64 values a hundred times as large.
    Outliers,
    /// Half of the values are 0 or −0.
    SignedZeros,
    /// Runs of 48 values are 0, so that some groups are all zeros.
    DeadGroups,
    /// Only the largest and the smallest value occur, so that codes are extreme.
    Extreme,
    /// Multiples of half a quantization step, so that rounding meets ties.
    Ties,
    /// All values are equal and positive, or as far from the zero point as possible if X is
    /// quantized, so that sums are as large as they can be.
    Constant,
    /// Subnormals and slightly larger values, so that scales are flushed or nearly flushed.
    Tiny,
    /// A NaN and two infinities among other values.
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

    /// The patterns that only X can have.
    pub const ODD: [Self; 2] = [Self::Tiny, Self::NotFinite];

    /// Returns the name of the pattern.
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

/// The types of X and Y of a matmul of quantized X.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantized {
    /// The format of X.
    pub format: ActivationFormat,
    /// The type of Y.
    pub output: Output,
}

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sampled {
    /// The largest, by the kernel that draws nothing.
    Largest,
    /// The largest, because the temperature is 0.
    Cold,
    /// One of all.
    All,
    /// One of the most likely.
    TopK,
    /// One of those that have a share of the probability.
    TopP,
    /// One that both keep.
    Both,
}

impl Sampled {
    /// Every way.
    pub const ALL: [Self; 6] =
        [Self::Largest, Self::Cold, Self::All, Self::TopK, Self::TopP, Self::Both];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Largest => "largest",
            Self::Cold => "cold",
            Self::All => "all",
            Self::TopK => "top-k",
            Self::TopP => "top-p",
            Self::Both => "top-k-p",
        }
    }
}

/// What a normalization does. Weight, its offset and the layout of the batch follow from the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Normalized {
    /// Whether the mean is subtracted.
    pub kind: NormKind,
    /// The type of the residual and of the sum, if there is a residual.
    pub residual: Option<FloatType>,
    /// The type of Y.
    pub output: Output,
}

/// One case of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// The op that the case checks.
    pub op: Op,
    /// The format of W, or the format that X is fake-quantized to. f32 if there is neither.
    pub format: WeightFormat,
    /// The type of X if it consists of floats.
    pub activations: FloatType,
    /// The type of Y if it consists of floats.
    pub output: FloatType,
    /// The function that a matmul applies to its sums.
    pub function: ActivationFunction,
    /// What becomes of the function's results.
    pub epilogue: Epilogue,
    /// Number of rows of X, or number of gathered rows.
    pub m: usize,
    /// Number of rows of W, or 0 if there is no W.
    pub n: usize,
    /// Number of columns of W and X.
    pub k: usize,
    /// The pattern of the numbers.
    pub values: Values,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether there are two batches, gaps between rows, offsets, and a plan for more rows than are
    /// recorded.
    pub strided: bool,
    /// A pinned schedule, or `None` for the adapter's own choice.
    pub schedule: Option<Schedule>,
    /// Whether codes are read from textures, on devices that support it.
    pub textures: bool,
}

impl Case {
    /// Creates a matmul case with the adapter's own kernel. Whether it has a bias and strides
    /// follows from the types, so that both occur with every decoder and no kernel is compiled
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
            epilogue: Epilogue::None,
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

    /// Creates a case of a matmul of quantized X.
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

    /// Creates a case of an op that has only X: quantize, observe, permute-columns, rotary or, with a
    /// format, fake-quant.
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

    /// Returns the number of columns of Y of a matmul.
    pub(super) fn y_columns(&self) -> usize {
        if self.epilogue == Epilogue::Gated { self.n / 2 } else { self.n }
    }

    /// Returns a readable name of the type of X.
    pub fn activations_name(&self) -> String {
        match self.op {
            Op::IntegerMatmul(quantized) => quantized.format.to_string(),
            _ => self.activations.name().to_string(),
        }
    }

    /// Returns a readable name of the type of Y.
    pub fn output_name(&self) -> String {
        match self.op {
            Op::IntegerMatmul(quantized) => quantized.output.to_string(),
            Op::Quantize { format, .. } => format.to_string(),
            Op::Observe { axis, bins } => format!("{}-bins{bins}", axis_name(axis)),
            Op::Sample(how) => how.name().to_string(),
            Op::Norm(Normalized { output, .. }) | Op::Gate { output, .. } => output.to_string(),
            _ => self.output.name().to_string(),
        }
    }

    /// Returns a name that determines the case. `lowbit verify --case` repeats it.
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
            Op::Positions { window: Some(window) } => id.push_str(&format!("/window{window}")),
            Op::FakeQuant(scales) => id.push_str(&format!("/{}", scales.name())),
            Op::Rotary(rotary) => id.push_str(&format!("/{rotary}")),
            Op::Softmax { capped: true } => id.push_str("/capped"),
            Op::Gate { layout, .. } => id.push_str(&format!("/{}", layout.name())),
            Op::Norm(Normalized { kind, residual, .. }) => {
                id.push_str(&format!("/{}", kind.name()));
                if let Some(float) = residual {
                    id.push_str(&format!("/residual-{}", float.name()));
                }
            }
            Op::Hadamard { block } => id.push_str(&format!("/b{block}")),
            Op::ExpertMatmul { count, unit } => id.push_str(&format!("/of{count}/unit{unit}")),
            Op::Route { top, unit, of_all } => {
                id.push_str(&format!(
                    "/top{top}/unit{unit}{}",
                    if of_all { "/of-all" } else { "" }
                ));
            }
            Op::Combine { top, add } => {
                id.push_str(&format!("/top{top}{}", if add { "/add" } else { "" }));
            }
            Op::Attention(of) => id.push_str(&of.suffix()),
            _ => {}
        }
        if self.function != ActivationFunction::Identity {
            id.push_str(&format!("/{}", self.function.name()));
        }
        if self.epilogue != Epilogue::None {
            id.push_str(&format!("/{}", self.epilogue.name()));
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

    /// Returns a seed that differs between cases and is the same in every run (FNV-1a).
    pub(super) fn seed(&self) -> u64 {
        self.id().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Returns a readable name of the axis.
pub(super) fn axis_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Tensor => "tensor",
        Axis::Channel => "channel",
    }
}
