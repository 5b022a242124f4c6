//! The fast Walsh–Hadamard transform of rows: orthonormal, in natural (Sylvester) order, on blocks of a
//! power of two.
//!
//! Entry (i, j) of the matrix is `(−1)^popcount(i & j) / √block`. The transform is its own inverse. It spreads
//! outliers over the columns of a block, so that fewer bits represent them; weights that were transformed
//! alike undo it in the next matmul.

use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, AdapterClass, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT,
    Pipeline, Size, Variable, fragment, uniform,
};
use std::sync::Arc;

/// The largest number of columns of a block. A block lies in workgroup memory, of which WebGPU promises
/// 16 KiB.
pub const MAX_HADAMARD_BLOCK: u32 = 4096;

/// Columns that a workgroup takes at least, if a row has them.
const TILE: u32 = 1024;

/// The shapes and types of the rows of a transform. Strides are in elements and default to packed rows (f16
/// rows are padded to an even length).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HadamardSpec {
    /// The largest number of rows.
    pub max_m: u32,
    /// Columns.
    pub k: u32,
    /// Columns of a block: a power of two that divides `k`, at most [`MAX_HADAMARD_BLOCK`].
    pub block: u32,
    /// The type of X.
    pub activations: FloatType,
    /// The type of the result.
    pub output: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements from one row of the result to the next.
    pub y_stride: u32,
}

impl HadamardSpec {
    /// Creates a spec for packed f32 rows, in blocks of the largest power of two that divides `k`. If that
    /// is more than [`MAX_HADAMARD_BLOCK`], [`check`](Self::check) refuses it: a smaller block is another
    /// transform and must be asked for.
    pub fn new(max_m: u32, k: u32) -> Self {
        let float = FloatType::F32;
        let block = 1 << k.trailing_zeros().min(31);
        // Rows without columns have no block; any will do.
        let block = if k == 0 { 1 } else { block };
        let (x_stride, y_stride) = (k, k);
        Self { max_m, k, block, activations: float, output: float, x_stride, y_stride }
    }

    /// Sets the number of columns of a block.
    #[must_use]
    pub fn with_block(mut self, block: u32) -> Self {
        self.block = block;
        self
    }

    /// Sets the type of X, and a packed stride.
    #[must_use]
    pub fn with_activations(mut self, activations: FloatType) -> Self {
        (self.activations, self.x_stride) = (activations, activations.packed(self.k));
        self
    }

    /// Sets the type of the result, and a packed stride.
    #[must_use]
    pub fn with_output(mut self, output: FloatType) -> Self {
        (self.output, self.y_stride) = (output, output.packed(self.k));
        self
    }

    /// Sets the strides of X and of the result, in elements.
    #[must_use]
    pub fn with_strides(mut self, x: u32, y: u32) -> Self {
        (self.x_stride, self.y_stride) = (x, y);
        self
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of the result from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        // One lane owns both halves of the last word.
        self.y_rows().bytes(m).checked_next_multiple_of(4).unwrap_or(u64::MAX)
    }

    fn x_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.k, self.x_stride, self.activations)
    }

    fn y_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Output, self.k, self.y_stride, self.output)
    }

    /// Returns the number of columns that a workgroup takes: whole blocks, and whole quads.
    fn tile(&self) -> u32 {
        let blocks = self.k / self.block.max(1);
        let tile = self.block * (TILE / self.block.max(1)).clamp(1, blocks.max(1));
        tile.next_multiple_of(4)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension or a block is too large, a block is not a power of two or does
    /// not divide the columns, or a stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("k", self.k, i32::MAX as u32),
            ("block", self.block, MAX_HADAMARD_BLOCK),
        ])?;
        if !self.block.is_power_of_two() {
            let (name, need) = ("block", "a power of two");
            return Err(PlanError::Number { name, value: self.block as f32, need });
        }
        if !self.k.is_multiple_of(self.block) {
            let (name, value, multiple) = ("k", self.k, self.block);
            return Err(PlanError::NotMultiple { name, value, multiple });
        }
        self.x_rows().check(self.max_m)?;
        self.y_rows().check(self.max_m)
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let lanes = lanes(caps);
        let (access, suffix) = match (self.activations, self.x_rows().is_quads()) {
            (FloatType::F16, _) => ("access/x_f16", ".xf16"),
            (FloatType::F32, true) => ("access/x_f32x4", ""),
            (FloatType::F32, false) => ("access/x_f32", ".x1"),
        };
        let mut consts = vec![
            ("M_TABLE", Const::U32(M_TABLE)),
            ("WORKGROUP", Const::U32(lanes)),
            ("HELD", Const::U32(MAX_HADAMARD_BLOCK / 4)),
        ];
        let mut fragments = vec![fragment("hadamard/rows"), fragment(access)];
        if access != "access/x_f32" {
            consts.push(("RAGGED", Const::Bool(true)));
        }
        if self.activations == FloatType::F16 {
            fragments.push(fragment("lib/half_pair"));
        }
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: format!("hadamard{suffix}.l{lanes}"),
            consts,
            fragments,
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(
                    3,
                    "x",
                    "X, row-major from element x_at on; f16 in pairs",
                    Access::Read,
                ),
                Binding::data(4, "y", "transformed rows of X; f16 in pairs", Access::Write),
            ],
            grid: Grid::new(&[(&[Variable::M, TILES], 1)]),
            workgroup_size: lanes,
            workgroup_memory: 4 * MAX_HADAMARD_BLOCK,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

const TILES: Variable =
    Variable { name: "tiles", meaning: "tiles of whole blocks in a row: the parameter `tiles`" };

/// Returns the number of lanes that share a tile. On CPUs they are one vector, so that no lane waits for
/// another.
fn lanes(caps: &Caps) -> u32 {
    match caps.class {
        AdapterClass::Gpu => 64,
        AdapterClass::Cpu => 8,
    }
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let spec = |k, float| HadamardSpec::new(2, k).with_activations(float).shader(caps);
    vec![spec(64, FloatType::F32), spec(66, FloatType::F32), spec(64, FloatType::F16)]
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "HadamardParams" in "hadamard/rows" {
        k: u32,
        x_at: u32,
        x_stride: u32,
        y_at: u32,
        y_stride: u32,
        y_f16: u32,
        block: u32,
        tile: u32,
        tiles: u32,
        gain: f32,
        m0: u32,
        m_cap: u32,
    }
}

/// The compiled kernel for one [`HadamardSpec`]. A plan is cheap to clone.
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{HadamardArgs, HadamardPlan, HadamardSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (x, y): (&wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let spec = HadamardSpec::new(512, 11008); // 43 blocks of 256 columns
/// let plan = HadamardPlan::new(kernels, &spec).await?;
/// assert!(y.size() >= spec.y_bytes(512));
/// let args = HadamardArgs { activations: x.into(), output: y.into() };
/// plan.bind(args).await?.record(pass, 8)?; // eight rows
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HadamardPlan {
    kernels: Kernels,
    spec: HadamardSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one transform.
#[derive(Clone, Copy, Debug)]
pub struct HadamardArgs<'a> {
    /// X. f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes, others at a
    /// multiple of 4.
    pub activations: SubBuffer<'a>,
    /// The result. With f16 and an odd number of columns, the upper half of a row's last word is
    /// preserved.
    pub output: SubBuffer<'a>,
}

/// A transform with its buffers.
pub type BoundHadamard = Bound<HadamardPlan>;

impl HadamardPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &HadamardSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &HadamardSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Rows that exceed a
    /// binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: HadamardArgs<'_>) -> Result<BoundHadamard, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let x = Rows::read(spec.x_rows(), args.activations);
        let y = Rows::write(spec.y_rows(), args.output);
        check_rows(&[x, y], spec.max_m)?;
        let spans = if spec.k == 0 || spec.max_m == 0 {
            Spans::none()
        } else {
            Spans::new(caps, spec.max_m, [x.spec, y.spec])?
        };
        let tile = spec.tile();
        let tiles = spec.k.div_ceil(tile);
        let (label, count) = ("lowbit hadamard", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        for span in spans.iter() {
            let (x, y) = (x.window(caps, &span), y.window(caps, &span));
            let slot = draft.slot(Params {
                k: spec.k,
                x_at: x.at(spec.activations.bytes()),
                x_stride: spec.x_stride,
                y_at: y.at(spec.output.bytes()),
                y_stride: spec.y_stride,
                y_f16: u32::from(spec.output == FloatType::F16),
                block: spec.block,
                tile,
                tiles,
                gain: f64::from(spec.block).sqrt().recip() as f32,
                m0: span.m0,
                m_cap: span.m_cap,
            });
            let bound = [(3, x.into()), (4, y.into())];
            let sizes = [(TILES, Size::Fixed(tiles.into()))];
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &sizes);
        }
        draft.bind(self.clone()).await
    }
}
