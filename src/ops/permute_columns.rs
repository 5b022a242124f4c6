//! Copies rows of activations with their columns in another order: `X' = X[:, order]`.
//!
//! Weights with permuted columns
//! ([`WeightFormat::permuted`](crate::format::WeightFormat::permuted)) are multiplied with columns of X
//! in the order of their codes. A [`MatmulPlan`](super::MatmulPlan) does that by itself; a model whose
//! layers share one order can do it once. Bits are moved and nothing is computed.

use super::buffers::{Window, check, check_aliases, window_capacity};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT, Pipeline, Size,
    Variable, fragment, uniform,
};
use std::sync::Arc;

/// The shape and type of X, `[batch, m, K]`, and where its rows lie before and after. Strides are in
/// elements and default to packed rows (f16 rows are padded to an even length).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PermuteColumnsSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// The type of X.
    pub activations: FloatType,
    /// The number of X that share one order.
    pub batch: u32,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements from one X of the batch to the next.
    pub x_batch_stride: u32,
    /// Elements from one row of the output to the next.
    pub y_stride: u32,
    /// Elements from one output of the batch to the next.
    pub y_batch_stride: u32,
}

impl PermuteColumnsSpec {
    /// Creates a spec with packed f32 rows and no batch.
    pub fn new(max_m: u32, k: u32) -> Self {
        let (activations, batch) = (FloatType::F32, 1);
        let (x_stride, x_batch_stride, y_stride, y_batch_stride) = (0, 0, 0, 0);
        let spec = Self {
            max_m,
            k,
            activations,
            batch,
            x_stride,
            x_batch_stride,
            y_stride,
            y_batch_stride,
        };
        spec.with_activations(activations)
    }

    /// Sets the type of X, and packed strides.
    pub fn with_activations(self, activations: FloatType) -> Self {
        let stride = activations.packed(self.k);
        let batch = stride.saturating_mul(self.max_m);
        Self { activations, ..self.with_x_strides(stride, batch).with_y_strides(stride, batch) }
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

    /// Sets the strides of the output, in elements.
    pub fn with_y_strides(mut self, row: u32, batch: u32) -> Self {
        (self.y_stride, self.y_batch_stride) = (row, batch);
        self
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of output from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        // One invocation owns both halves of the last word.
        self.y_rows().bytes(m).checked_next_multiple_of(4).unwrap_or(u64::MAX)
    }

    fn x_rows(&self) -> RowsSpec {
        self.rows(Role::Activations, self.x_stride, self.x_batch_stride)
    }

    fn y_rows(&self) -> RowsSpec {
        self.rows(Role::Output, self.y_stride, self.y_batch_stride)
    }

    fn rows(&self, role: Role, stride: u32, batch_stride: u32) -> RowsSpec {
        let rows = RowsSpec::floats(role, self.k, stride, self.activations);
        RowsSpec { batch: self.batch, batch_stride, ..rows }
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, or a stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("k", self.k, i32::MAX as u32),
            ("batch", self.batch, u16::MAX.into()),
        ])?;
        self.x_rows().check(self.max_m)?;
        self.y_rows().check(self.max_m)
    }

    /// Returns the kernel.
    pub fn shader(&self) -> KernelDesc {
        let f16 = self.activations == FloatType::F16;
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: format!("permute_columns{}", if f16 { ".xf16" } else { "" }),
            consts: vec![("M_TABLE", Const::U32(M_TABLE)), ("X_F16", Const::Bool(f16))],
            fragments: vec![fragment("activations/permute")],
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "x", X, Access::Read),
                Binding::data(4, "order", "the column of X at each place, u32", Access::Read),
                Binding::data(5, "y", Y, Access::Write),
            ],
            grid: Grid::new(&[(&[Variable::BATCH, Variable::M, OUT_WORDS], WORKGROUP)]),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// What the binding of X holds.
const X: &str = "X, row-major from element x_at on; f16 in pairs";

/// What the binding of the output holds.
const Y: &str = "rows of X with permuted columns, from word y_at on; f16 in pairs";

/// Invocations of a workgroup, a word of the output each.
const WORKGROUP: u32 = 64;

const OUT_WORDS: Variable = Variable {
    name: "out_words",
    meaning: "words of a row that is written: k, or ⌈k/2⌉ of f16",
};

/// Returns every kernel of this op.
pub(crate) fn kernels(_: &Caps) -> Vec<KernelDesc> {
    let spec = PermuteColumnsSpec::new(2, 2);
    [FloatType::F32, FloatType::F16]
        .map(|float| spec.clone().with_activations(float).shader())
        .into()
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "PermuteParams" in "activations/permute" {
        k: u32,
        x_at: u32,
        x_stride: u32,
        x_batch: u32,
        y_at: u32,
        y_stride: u32,
        y_batch: u32,
        batch: u32,
        m0: u32,
        m_cap: u32,
        order_at: u32,
        pad: u32,
    }
}

/// The compiled kernel for one [`PermuteColumnsSpec`]. A plan is cheap to clone.
///
/// Several layers that share X and one order of columns need it permuted only once:
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{DeviceWeights, PermuteColumnsArgs, PermuteColumnsPlan, PermuteColumnsSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     weights: &DeviceWeights,
/// #     (x, permuted): (&wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let spec = PermuteColumnsSpec::new(512, weights.k() as u32);
/// let plan = PermuteColumnsPlan::new(kernels, &spec).await?;
/// assert!(permuted.size() >= spec.y_bytes(512));
/// let order = weights.column_order().ok_or("the columns are not permuted")?.into();
/// let args = PermuteColumnsArgs { activations: x.into(), order, output: permuted.into() };
/// plan.bind(args).await?.record(pass, 8)?; // eight rows
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PermuteColumnsPlan {
    kernels: Kernels,
    spec: PermuteColumnsSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one permutation of columns.
#[derive(Clone, Copy, Debug)]
pub struct PermuteColumnsArgs<'a> {
    /// X.
    pub activations: SubBuffer<'a>,
    /// The order: `[K]` columns, u32, for example
    /// [`DeviceWeights::column_order`](super::DeviceWeights::column_order). Column j of the output is
    /// column `order[j]` of X, or 0 if that is K or more.
    pub order: SubBuffer<'a>,
    /// The output. With f16 and odd K, the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// A permutation of columns with its buffers.
pub type BoundPermuteColumns = Bound<PermuteColumnsPlan>;

impl PermuteColumnsPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &PermuteColumnsSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader()).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &PermuteColumnsSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Rows that exceed a
    /// binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(
        &self,
        args: PermuteColumnsArgs<'_>,
    ) -> Result<BoundPermuteColumns, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        // The kernel loads single words.
        let x = Rows { align: 4, ..Rows::read(spec.x_rows(), args.activations) };
        let y = Rows::write(spec.y_rows(), args.output);
        check_rows(&[x, y], spec.max_m)?;
        let (need, limit) = (4 * u64::from(spec.k), window_capacity(caps));
        check(Role::ColumnOrder, args.order, need, 4)?;
        if need > limit {
            return Err(BindError::RowTooLarge { role: Role::ColumnOrder, need, limit });
        }
        check_aliases([(Role::ColumnOrder, args.order.buffer)], &[args.output.buffer])?;
        let spans = if spec.k == 0 || spec.max_m == 0 || spec.batch == 0 {
            Spans::none()
        } else {
            Spans::new(caps, spec.max_m, [x.spec, y.spec])?
        };
        let order = Window::new(caps, args.order.buffer, args.order.offset, need);
        let words = u64::from(spec.k) * spec.activations.bytes();
        let sizes = [(OUT_WORDS, Size::Fixed(words.div_ceil(4)))];
        let in_words = |elements: u32| (u64::from(elements) * spec.activations.bytes() / 4) as u32;
        let (label, count) = ("lowbit permute columns", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        for span in spans.iter() {
            let (x, y) = (x.window(caps, &span), y.window(caps, &span));
            let slot = draft.slot(Params {
                k: spec.k,
                x_at: x.at(spec.activations.bytes()),
                x_stride: spec.x_stride,
                x_batch: spec.x_batch_stride,
                y_at: y.at(4),
                y_stride: in_words(spec.y_stride),
                y_batch: in_words(spec.y_batch_stride),
                batch: span.batch,
                m0: span.m0,
                m_cap: span.m_cap,
                order_at: order.at(4),
                pad: 0,
            });
            let bound = [(3, x.into()), (4, order.into()), (5, y.into())];
            let batch = (Variable::BATCH, Size::Fixed(span.batch.into()));
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &[sizes[0], batch]);
        }
        draft.bind(self.clone()).await
    }
}
