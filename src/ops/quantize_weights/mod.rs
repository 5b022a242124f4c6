//! Quantizes weights on the GPU: prune, quantize, pack. The result equals what
//! [`compress`](crate::compress) makes on the host bit for bit, on any conforming adapter,
//! because every number is computed with integer arithmetic on its bits.
//!
//! Each chunk of rows takes a few kernels, all in one compute pass: `reset`; `place` for a given
//! 2:4 mask; then for floats `compact` or `block_codes` alone, and for integers `block_prune` or
//! `block_ranges`, `scales`, `block_codes`. If groups are not whole blocks of 32 columns,
//! integers take `prune`, `ranges`, `scales`, `codes`. Integers of 2, 3, 5 and 6 bits, and those with
//! zero points of 4 bits, take `block_ranges` or `ranges`, `scales`, `small_codes`. The kernels report bad weights in a status
//! buffer, which the caller reads back after the submission and passes to
//! [`BoundQuantizeWeights::check`]. [`QuantizeWeightsPlan::bind_many`] takes several
//! matrices at once.

mod bind;
mod kernel;

pub use bind::{BoundQuantizeWeights, QuantizeWeightsArgs, QuantizeWeightsJob, SourceRows};
use kernel::has_small_codes;
pub(crate) use kernel::{SIDE, constants, kernel_name, kernels};
#[doc(hidden)]
pub use kernel::{WeightsAccess, WeightsKernel};

use crate::format::{Granularity, ScaleType, WeightFormat};
use crate::gpu::{Caps, DeviceError, KernelDesc, Kernels, Pipeline};
use crate::ops::recording::pipelines;
use crate::ops::rows::RowsSpec;
use crate::ops::{FormatUse, PlanError, Role};
use std::sync::Arc;

/// Words of status of a chunk, one for each kind of fault.
pub(crate) const STATUS_WORDS: usize = 4;

/// The rule by which a 2:4 format keeps weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MaskSource {
    /// The two of greatest magnitude of every four are kept. Dense formats keep all weights.
    Magnitude,
    /// Canonical metadata ([`Mask24::words`](crate::format::Mask24::words)) in a buffer of the
    /// caller's says which weights are kept.
    Given,
}

/// The shape of W, and the format that it is quantized to.
///
/// ```
/// use lowbit::format::{Granularity, WeightFormat};
/// use lowbit::ops::QuantizeWeightsSpec;
/// let format = WeightFormat::int8(Granularity::Channel).two_four();
/// assert!(QuantizeWeightsSpec::new(1536, 384, format).check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct QuantizeWeightsSpec {
    /// Rows of W.
    pub n: u32,
    /// Columns of W.
    pub k: u32,
    /// The format of the output.
    pub weights: WeightFormat,
    /// Which weights to keep, if the format is 2:4.
    pub mask: MaskSource,
    /// f32 elements from one row of the uncompressed W to the next.
    pub stride: u32,
}

impl QuantizeWeightsSpec {
    /// Creates a spec with packed rows, pruned by magnitude if the format is 2:4.
    pub fn new(n: u32, k: u32, weights: WeightFormat) -> Self {
        Self { n, k, weights, mask: MaskSource::Magnitude, stride: k }
    }

    /// Takes the 2:4 mask from the caller.
    pub fn with_given_mask(mut self) -> Self {
        self.mask = MaskSource::Given;
        self
    }

    /// Sets the stride, in elements.
    pub fn with_stride(mut self, stride: u32) -> Self {
        self.stride = stride;
        self
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if the format is invalid or unsupported, a mask is given for a dense format, a
    /// dimension is too large, or the stride is too short.
    pub fn check(&self) -> Result<(), PlanError> {
        self.weights.geometry(self.n as usize, self.k as usize)?;
        FormatUse::QuantizeWeights.check(&self.weights)?;
        if self.mask == MaskSource::Given && !self.weights.is_sparse() {
            return Err(PlanError::NotTwoFour { format: self.weights });
        }
        let limit = i32::MAX as u32;
        PlanError::check_dimensions(&[("n", self.n, limit), ("k", self.k, limit)])?;
        RowsSpec::words(Role::Weights, self.k, self.stride).check(self.n)
    }

    /// Returns the kernels it takes for each chunk of rows, in order.
    pub fn kernels(&self) -> Vec<WeightsKernel> {
        let is_float = !self.weights.code_type().is_integer();
        let sparse = self.weights.is_sparse();
        let ranks = sparse && self.mask == MaskSource::Magnitude;
        let mut kernels = vec![WeightsKernel::Reset];
        if sparse && !ranks {
            kernels.push(WeightsKernel::Place);
        }
        if is_float {
            kernels.push(if ranks { WeightsKernel::Compact } else { WeightsKernel::BlockCodes });
        } else if has_small_codes(&self.weights) {
            let whole = self.whole_blocks();
            kernels.extend([
                if whole { WeightsKernel::BlockRanges } else { WeightsKernel::Ranges },
                WeightsKernel::Scales,
                WeightsKernel::SmallCodes,
            ]);
        } else if self.whole_blocks() {
            kernels.push(if ranks {
                WeightsKernel::BlockPrune
            } else {
                WeightsKernel::BlockRanges
            });
            kernels.extend([WeightsKernel::Scales, WeightsKernel::BlockCodes]);
        } else {
            kernels.extend(ranks.then_some(WeightsKernel::Prune));
            kernels.extend([WeightsKernel::Ranges, WeightsKernel::Scales, WeightsKernel::Codes]);
        }
        kernels
    }

    fn shaders(&self, caps: &Caps, access: WeightsAccess) -> Vec<KernelDesc> {
        let shader = |kernel: WeightsKernel| kernel.shader(&self.weights, caps.row_order, access);
        self.kernels().into_iter().map(shader).collect()
    }

    /// Returns whether no block of 32 columns lies in two groups.
    fn whole_blocks(&self) -> bool {
        let geometry = self.weights.geometry(self.n as usize, self.k as usize);
        geometry.is_ok_and(|g| g.groups <= 1 || g.group_size % 32 == 0)
    }

    /// Returns the widest access that sources at these offsets, in words, allow.
    fn access(&self, caps: &Caps, offsets: impl Iterator<Item = u32>) -> WeightsAccess {
        // The stride counts even for one row: nothing is lost, and it is simple.
        let words = offsets.fold(self.k | self.stride, |words, offset| words | offset);
        WeightsAccess::widest(caps, words)
    }

    fn per_tensor(&self) -> bool {
        self.weights.granularity() == Granularity::Tensor
    }
}

/// The compiled kernels for one [`QuantizeWeightsSpec`]. A plan can be bound any number of times,
/// and is cheap to clone.
///
/// An engine makes weights on its own device from rows of f32, and reads the status back after the
/// submission:
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{DeviceWeights, QuantizeWeightsArgs, QuantizeWeightsPlan};
/// # use lowbit::ops::{QuantizeWeightsSpec, SourceRows};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     w: &wgpu::Buffer,
/// #     mut encoder: wgpu::CommandEncoder,
/// #     queue: &wgpu::Queue,
/// #     read_back: impl Fn(&wgpu::Buffer, usize) -> Vec<u32>,
/// # ) -> Result<DeviceWeights, Box<dyn std::error::Error>> {
/// let (n, k) = (1536, 384);
/// let spec = QuantizeWeightsSpec::new(n, k, "int4-g64-asym".parse()?);
/// let plan = QuantizeWeightsPlan::new(kernels, &spec).await?;
/// let weights =
///     DeviceWeights::allocate(kernels, spec.weights, n as usize, k as usize).await?;
/// let source = [SourceRows { at: w.into(), rows: n as usize }]; // W is one buffer of n rows
/// let args = QuantizeWeightsArgs { source: &source, mask: None, output: &weights };
/// let bound = plan.bind(args).await?;
/// bound.record(&mut encoder.begin_compute_pass(&Default::default()), n)?;
/// queue.submit([encoder.finish()]);
/// bound.check(&read_back(bound.status(), bound.status_words()))?; // NaN in W is an error here
/// # Ok(weights)
/// # }
/// ```
///
/// A 2:4 format prunes by magnitude, or keeps the weights of a given mask ([`MaskSource::Given`]):
///
/// ```no_run
/// # use lowbit::format::Mask24;
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{BoundQuantizeWeights, DeviceWeights, QuantizeWeightsArgs};
/// # use lowbit::ops::{QuantizeWeightsPlan, QuantizeWeightsSpec, SourceRows};
/// # use lowbit::wgpu::{self, util::DeviceExt};
/// # async fn example(
/// #     kernels: &Kernels,
/// #     source: &[SourceRows<'_>],
/// #     weights: &DeviceWeights,
/// # ) -> Result<BoundQuantizeWeights, Box<dyn std::error::Error>> {
/// // Keep the first two of every four columns.
/// let mask = Mask24::from_fn(1536, 384, |_row, column| column % 4 < 2)?;
/// let words = kernels.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
///     label: Some("2:4 metadata"),
///     contents: bytemuck::cast_slice(mask.words()),
///     usage: wgpu::BufferUsages::STORAGE,
/// });
/// let spec = QuantizeWeightsSpec::new(1536, 384, "2:4+int8-channel".parse()?).with_given_mask();
/// let plan = QuantizeWeightsPlan::new(kernels, &spec).await?;
/// let args = QuantizeWeightsArgs { source, mask: Some((&words).into()), output: weights };
/// let bound = plan.bind(args).await?;
/// # Ok(bound)
/// # }
/// ```
///
/// [`bind_many`](Self::bind_many) quantizes many matrices in one pass, with one status.
#[derive(Clone, Debug)]
pub struct QuantizeWeightsPlan {
    kernels: Kernels,
    spec: QuantizeWeightsSpec,
    /// The access for sources whose offsets are aligned well enough for the widest.
    access: WeightsAccess,
    pipelines: Pipelines,
}

type Pipelines = Arc<[(WeightsKernel, Arc<Pipeline>)]>;

impl QuantizeWeightsPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &QuantizeWeightsSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let access = spec.access(kernels.caps(), std::iter::empty());
        let pipelines = compile(kernels, spec, access).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), access, pipelines })
    }

    /// Returns the kernels' shaders in order, for sources at offsets of 32 bytes.
    pub fn shaders(&self) -> Vec<KernelDesc> {
        self.spec.shaders(self.kernels.caps(), self.access)
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &QuantizeWeightsSpec {
        &self.spec
    }
}

async fn compile(
    kernels: &Kernels,
    spec: &QuantizeWeightsSpec,
    access: WeightsAccess,
) -> Result<Pipelines, DeviceError> {
    let shaders = spec.shaders(kernels.caps(), access);
    let compiled = pipelines(kernels, &shaders).await?;
    Ok(spec.kernels().into_iter().zip(compiled).collect())
}

/// Why the kernels refused weights. If several reasons apply, the first in this order is
/// reported; of several faults of one kind, the first in row-major order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeWeightsError {
    /// One matrix of several was refused.
    #[error("matrix `{name}`: {error}")]
    Matrix {
        /// The name of the matrix.
        name: String,
        /// Why it was refused.
        #[source]
        error: Box<QuantizeWeightsError>,
    },
    /// The status has the wrong length.
    #[error("the status holds {need} words, not {have}")]
    WrongLength {
        /// Words it holds.
        need: usize,
        /// Words given.
        have: usize,
    },
    /// No kernel leaves such words: they were overwritten, or the device returned something else.
    #[error("word {word} of the status holds {value:#x}, which no kernel writes there")]
    Garbage {
        /// Which word.
        word: usize,
        /// What it holds.
        value: u32,
    },
    /// The pass has not run.
    #[error("the status was never written: read it back after the pass has run")]
    NotRun,
    /// The given 2:4 metadata does not name two ascending positions.
    #[error(
        "the given 2:4 metadata of row {row}, quad {quad} does not name two ascending positions"
    )]
    BadMask {
        /// Row of `W`.
        row: usize,
        /// Group of four in that row.
        quad: usize,
    },
    /// A weight is NaN or infinite. This is refused even if the weight would be pruned.
    #[error("the weight at row {row}, column {col} is not finite")]
    NonFinite {
        /// Row of `W`.
        row: usize,
        /// Column of `W`.
        col: usize,
    },
    /// A group that is not all zeros needs a scale that is not a normal number of its type, or its
    /// `max − min` overflows.
    #[error("the weights of row {row}, group {group} are out of reach of an {} scale", scale_name(*scale_type))]
    ScaleRange {
        /// Row of `W` (0 for per-tensor scales).
        row: usize,
        /// Group of that row.
        group: usize,
        /// How scales are stored.
        scale_type: ScaleType,
    },
    /// A weight rounds to infinity as f16.
    #[error("the weight at row {row}, column {col} is beyond f16's 65504")]
    F16Overflow {
        /// Row of `W`.
        row: usize,
        /// Column of `W`.
        col: usize,
    },
}

fn scale_name(scale_type: ScaleType) -> &'static str {
    match scale_type {
        ScaleType::F32 => "f32",
        _ => "f16",
    }
}
