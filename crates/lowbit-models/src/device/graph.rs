//! A model as a list of ops over tensors, before anything is on the device.

use super::arena::{Arena, Life};
use lowbit::compress::calibrate::Axis;
use lowbit::format::{ActivationFunction, CacheFormat, Quantization};
use lowbit::ops::{DeviceWeights, Epilogue, FloatType, HeadNorm, NormKind, RotaryPairs};
use lowbit::wgpu;

/// How the rows of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rows {
    /// Floats.
    Float(FloatType),
    /// 8-bit codes with their scales.
    Int8(Quantization),
    /// Words that only one op looks into.
    Words,
}

/// A tensor of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Tensor(pub usize);

/// The shape of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub rows: u32,
    pub columns: u32,
    pub stored: Rows,
    /// Whether the tensor keeps its buffer to itself, because it is read or written outside of the graph.
    pub kept: bool,
}

impl Shape {
    /// Returns the bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        match self.stored {
            Rows::Float(float) => u64::from(float.packed(self.columns)) * float.bytes(),
            Rows::Int8(how) => {
                // Binding refuses what has no layout.
                let layout = how.format().layout(self.columns as usize);
                layout.map_or(0, |layout| 4 * layout.row_words as u64)
            }
            Rows::Words => 4 * u64::from(self.columns),
        }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        let rows = u64::from(self.rows.max(1));
        // Quads that reach past the last row are loaded whole.
        rows.saturating_mul(self.row_bytes()).saturating_add(16).next_multiple_of(16)
    }
}

/// A vector of f32 in device memory, by its number in [`Weights`](super::weights::Weights).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VectorId(pub usize);

/// A matrix in device memory, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MatrixId(pub usize);

/// One op.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Describes the rows of the step, for one window.
    Positions { rows: Tensor, state: Tensor, window: Option<u32>, base: u32, advance: bool },
    /// Rows of a table by a list of indices, which starts so many bytes into its tensor. They go to columns of the
    /// output from `column` on.
    Gather { table: MatrixId, indices: (Tensor, u64), output: Tensor, column: u32 },
    /// Normalizes rows, after a residual is added if there is one.
    Norm {
        kind: NormKind,
        epsilon: f32,
        offset: f32,
        input: Tensor,
        residual: Option<(Tensor, Tensor)>,
        weight: VectorId,
        bias: Option<VectorId>,
        output: Tensor,
    },
    /// Makes 8-bit codes, with the scale of a vector if it is given.
    Quantize { input: Tensor, output: Tensor, given: Option<VectorId> },
    /// Multiplies by weights; the result goes to columns of the output from `column` on.
    Matmul {
        weights: MatrixId,
        input: Tensor,
        bias: Option<VectorId>,
        function: ActivationFunction,
        epilogue: Epilogue,
        output: Tensor,
        column: u32,
    },
    /// Rotates queries and keys, and puts keys and values into the cache.
    Rotary {
        heads: Heads,
        input: Tensor,
        rows: Tensor,
        rotation: Option<Rotation>,
        norm: Option<(HeadNorm, VectorId, VectorId)>,
        queries: Tensor,
        cache: Cache,
    },
    /// Attention of queries over the cache.
    Attention {
        heads: Heads,
        queries: Tensor,
        rows: Tensor,
        cache: Cache,
        scale: f32,
        soft_cap: f32,
        bias: Option<(VectorId, u32)>,
        scratch: Tensor,
        output: Tensor,
    },
    /// Chooses experts for each row by its logits, and sorts the rows by them.
    Route { logits: Tensor, experts: Mixture, list: Tensor, choices: Tensor },
    /// Multiplies each row of a list by the weights of its expert.
    ExpertMatmul {
        weights: MatrixId,
        experts: Mixture,
        list: Tensor,
        input: Tensor,
        /// Whether the input has the rows of the list.
        listed: bool,
        function: ActivationFunction,
        epilogue: Epilogue,
        output: Tensor,
    },
    /// Adds the weighted sum of the results of its experts to each row.
    Combine { input: Tensor, choices: Tensor, experts: Mixture, output: Tensor },
    /// Chooses a token of each row of logits: the largest, or at random by settings.
    Sample { logits: Tensor, settings: Option<Tensor>, output: Tensor },
    /// Multiplies the function of the first half of each row with the second half.
    Gate { function: ActivationFunction, input: Tensor, output: Tensor },
    /// Observes rows, those of a list of experts if there is one. The words of the observation start so many
    /// bytes into the output.
    Observe {
        input: Tensor,
        listed: Option<(Mixture, Tensor)>,
        axis: Axis,
        bins: u32,
        output: (Tensor, u64),
    },
    /// Adds XᵀX of rows to sums, and counts what is not finite.
    Gram { input: Tensor, sums: Tensor, status: Tensor },
}

/// The heads of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub queries: u32,
    pub keys: u32,
    pub columns: u32,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mixture {
    pub count: u32,
    /// How many experts a row takes.
    pub used: u32,
    /// Whether the weights of the experts of a row add up to 1.
    pub normalize: bool,
    /// What the rows of an expert in the list start at a multiple of.
    pub unit: u32,
}

/// A rotation: its pairs, the number of columns that are rotated, and its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    pub pairs: RotaryPairs,
    pub columns: u32,
    pub table: usize,
    pub positions: u32,
}

/// The cache of one layer: its tensors of keys and values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache {
    pub format: CacheFormat,
    pub slots: u32,
    pub keys: Tensor,
    pub values: Tensor,
}

impl Op {
    /// Returns the kind of op, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Positions { .. } => "positions",
            Self::Gather { .. } => "gather",
            Self::Norm { .. } => "norm",
            Self::Quantize { .. } => "quantize",
            Self::Matmul { .. } => "matmul",
            Self::Rotary { .. } => "rotary",
            Self::Attention { .. } => "attention",
            Self::Gate { .. } => "gate",
            Self::Sample { .. } => "sample",
            Self::Route { .. } => "route",
            Self::ExpertMatmul { .. } => "matmul of experts",
            Self::Combine { .. } => "combine",
            Self::Observe { .. } => "observe",
            Self::Gram { .. } => "gram",
        }
    }

    /// Returns the tensors that it reads or writes.
    pub fn tensors(&self) -> Vec<Tensor> {
        match *self {
            Self::Positions { rows, state, .. } => vec![rows, state],
            Self::Gather { indices, output, .. } => vec![indices.0, output],
            Self::Norm { input, residual, output, .. } => {
                let residual = residual.map_or(vec![], |(from, sum)| vec![from, sum]);
                [vec![input, output], residual].concat()
            }
            Self::Quantize { input, output, .. }
            | Self::Matmul { input, output, .. }
            | Self::Gate { input, output, .. } => vec![input, output],
            Self::Route { logits, list, choices, .. } => vec![logits, list, choices],
            Self::ExpertMatmul { list, input, output, .. } => vec![list, input, output],
            Self::Combine { input, choices, output, .. } => vec![input, choices, output],
            Self::Observe { input, output, .. } => vec![input, output.0],
            Self::Gram { input, sums, status } => vec![input, sums, status],
            Self::Sample { logits, settings, output } => {
                [logits, output].into_iter().chain(settings).collect()
            }
            Self::Rotary { input, rows, queries, cache, .. } => {
                vec![input, rows, queries, cache.keys, cache.values]
            }
            Self::Attention { queries, rows, cache, scratch, output, .. } => {
                vec![queries, rows, cache.keys, cache.values, scratch, output]
            }
        }
    }
}

/// Ops in order, and the shapes of their tensors.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    pub shapes: Vec<Shape>,
    pub ops: Vec<Op>,
    /// A list of zeros, one for each row, if one was asked for.
    pub zeros: Option<Tensor>,
}

impl Graph {
    /// Adds a tensor.
    pub fn tensor(&mut self, rows: u32, columns: u32, stored: Rows) -> Tensor {
        self.shapes.push(Shape { rows, columns, stored, kept: false });
        Tensor(self.shapes.len() - 1)
    }

    /// Adds a tensor that keeps its buffer to itself.
    pub fn kept(&mut self, rows: u32, columns: u32, stored: Rows) -> Tensor {
        self.shapes.push(Shape { rows, columns, stored, kept: true });
        Tensor(self.shapes.len() - 1)
    }

    /// Plans the buffers.
    pub fn arena(&self) -> Arena {
        let mut lives: Vec<Option<Life>> = vec![None; self.shapes.len()];
        for (step, op) in self.ops.iter().enumerate() {
            for Tensor(tensor) in op.tensors() {
                let shape = &self.shapes[tensor];
                let steps = match &lives[tensor] {
                    _ if shape.kept => 0..=self.ops.len(),
                    Some(life) => *life.steps.start()..=step,
                    None => step..=step,
                };
                lives[tensor] = Some(Life { steps, bytes: shape.bytes() });
            }
        }
        for (tensor, shape) in self.shapes.iter().enumerate().filter(|(_, shape)| shape.kept) {
            lives[tensor] = Some(Life { steps: 0..=self.ops.len(), bytes: shape.bytes() });
        }
        Arena::new(&lives)
    }
}

/// The weights that ops name.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub matrices: Vec<DeviceWeights>,
    pub vectors: Vec<wgpu::Buffer>,
}
