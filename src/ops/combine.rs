//! Adds up what the experts of a mixture made of each row, with their weights.

use super::buffers::{Window, check, check_aliases, window_capacity};
use super::recording::{Bound, Count, Draft, Head};
use super::route::CHOICES;
use super::rows::{Rows, RowsSpec, Span, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT,
    Pipeline, Size, Variable, fragment, uniform,
};
use std::sync::Arc;

/// A weighted sum for each row: `Y[r] = Σ weight · X[place]` over the choices of row r, which a
/// [`RoutePlan`](super::RoutePlan) makes; X is what a matmul of experts writes. Sums are f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CombineSpec {
    /// The largest number of rows of Y.
    pub max_m: u32,
    /// Columns of X and Y.
    pub n: u32,
    /// The number of experts of a row.
    pub top: u32,
    /// The number of rows of X: of the list.
    pub x_rows: u32,
    /// The type of X.
    pub activations: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// The type of Y.
    pub output: FloatType,
    /// Elements from one row of Y to the next.
    pub y_stride: u32,
    /// Whether the sums are added to what Y holds.
    pub accumulate: bool,
}

impl CombineSpec {
    /// Creates a spec with packed f32 rows.
    pub fn new(max_m: u32, n: u32, top: u32, x_rows: u32) -> Self {
        let (activations, output) = (FloatType::F32, FloatType::F32);
        let (x_stride, y_stride, accumulate) = (n, n, false);
        Self { max_m, n, top, x_rows, activations, x_stride, output, y_stride, accumulate }
    }

    /// Sets the type of X, and packed rows.
    pub fn with_activations(mut self, activations: FloatType) -> Self {
        (self.activations, self.x_stride) = (activations, activations.packed(self.n));
        self
    }

    /// Sets the type of Y, and packed rows.
    pub fn with_output(mut self, output: FloatType) -> Self {
        (self.output, self.y_stride) = (output, output.packed(self.n));
        self
    }

    /// Sets the elements from one row to the next, of X and of Y.
    pub fn with_strides(mut self, x: u32, y: u32) -> Self {
        (self.x_stride, self.y_stride) = (x, y);
        self
    }

    /// Adds the sums to what Y holds.
    pub fn with_accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// Returns the number of bytes of the choices.
    pub fn choices_bytes(&self) -> u64 {
        (u64::from(self.max_m) * u64::from(self.top)).saturating_mul(12)
    }

    /// Returns the number of bytes of X.
    pub fn x_bytes(&self) -> u64 {
        self.x_spec().bytes(self.x_rows)
    }

    /// Returns the number of bytes of Y from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        self.y_spec().bytes(m)
    }

    fn x_spec(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.n, self.x_stride, self.activations)
    }

    fn y_spec(&self) -> RowsSpec {
        RowsSpec::floats(Role::Output, self.n, self.y_stride, self.output)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, or a stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("n", self.n, i32::MAX as u32),
            ("top", self.top, u16::MAX.into()),
            ("x_rows", self.x_rows, MAX_COUNT),
        ])?;
        self.x_spec().check(self.x_rows)?;
        self.y_spec().check(self.max_m)
    }

    /// Returns the kernel.
    pub fn shader(&self) -> KernelDesc {
        let x_f16 = self.activations == FloatType::F16;
        let (y, suffix) = match self.output {
            FloatType::F32 => (["access/y_f32", "access/y_old_f32"], ""),
            FloatType::F16 => (["access/y_f16", "access/y_old_f16"], ".yf16"),
        };
        let [low, high] = Binding::COUNTS;
        let data = |number, name, what, access| {
            Binding::new(number, name, BindingRole::Data(what), access)
        };
        let fragments = ["experts/combine", "lib/half_pair"].into_iter().chain(y);
        KernelDesc {
            id: format!("experts_combine{}{suffix}", if x_f16 { ".xf16" } else { "" }),
            consts: vec![("M_TABLE", Const::U32(M_TABLE)), ("X_F16", Const::Bool(x_f16))],
            fragments: fragments.map(fragment).collect(),
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                data(3, "x", "rows of the list; f16 in pairs", Access::Read),
                data(4, "choices", CHOICES, Access::Read),
                data(7, "y", "sums, from element y_at on; f16 in pairs", Access::Write),
            ],
            grid: Grid::new(&[(&[Variable::M, COLUMN_PAIRS], WORKGROUP)]),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// Invocations of a workgroup, two columns of a row each.
const WORKGROUP: u32 = 64;

const COLUMN_PAIRS: Variable =
    Variable { name: "column_pairs", meaning: "pairs of columns of a row: ⌈n/2⌉" };

/// Returns every kernel of this op.
pub(crate) fn kernels(_: &Caps) -> Vec<KernelDesc> {
    let floats = [FloatType::F32, FloatType::F16];
    let pairs = floats.into_iter().flat_map(|x| floats.map(|y| (x, y)));
    let spec = CombineSpec::new(2, 2, 1, 2);
    pairs.map(|(x, y)| spec.clone().with_activations(x).with_output(y).shader()).collect()
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "CombineParams" in "experts/combine" {
        n: u32,
        top: u32,
        x_at: u32,
        x_stride: u32,
        choices_at: u32,
        y_at: u32,
        y_stride: u32,
        add: u32,
    }
}

/// The compiled kernel for one [`CombineSpec`]. A plan is cheap to clone.
#[derive(Clone, Debug)]
pub struct CombinePlan {
    kernels: Kernels,
    spec: CombineSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one weighted sum.
#[derive(Clone, Copy, Debug)]
pub struct CombineArgs<'a> {
    /// X: the rows of the list, as the matmul of experts wrote them.
    pub activations: SubBuffer<'a>,
    /// The choices of each row, as a [`RoutePlan`](super::RoutePlan) wrote them.
    pub choices: SubBuffer<'a>,
    /// Y.
    pub output: SubBuffer<'a>,
}

/// A weighted sum with its buffers.
pub type BoundCombine = Bound<CombinePlan>;

impl CombinePlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &CombineSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader()).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &CombineSpec {
        &self.spec
    }

    /// Checks the buffers and makes a bind group and one small uniform buffer. No buffer may exceed a
    /// binding.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: CombineArgs<'_>) -> Result<BoundCombine, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let x = Rows { align: 4, ..Rows::read(spec.x_spec(), args.activations) };
        let y = Rows::write(spec.y_spec(), args.output);
        check_rows(&[x], spec.x_rows)?;
        check_rows(&[y], spec.max_m)?;
        check(Role::Choices, args.choices, spec.choices_bytes(), 4)?;
        let inputs =
            [(Role::Activations, args.activations.buffer), (Role::Choices, args.choices.buffer)];
        check_aliases(inputs, &[args.output.buffer])?;
        let limit = window_capacity(caps);
        let sizes = [
            (Role::Activations, spec.x_bytes()),
            (Role::Choices, spec.choices_bytes()),
            (Role::Output, spec.y_bytes(spec.max_m)),
        ];
        if let Some((role, need)) = sizes.into_iter().find(|(_, need)| *need > limit) {
            return Err(BindError::TooLarge { role, need, limit });
        }
        let mut draft =
            Draft::new(&self.kernels, "lowbit sum of experts", Count::UpTo(spec.max_m), 1)?;
        if spec.max_m > 0 && spec.n > 0 {
            let span = Span::all(spec.max_m);
            let (x, y) = (x.window(caps, &Span::all(spec.x_rows)), y.window(caps, &span));
            let (at, bytes) = (args.choices, spec.choices_bytes());
            let choices = Window::new(caps, at.buffer, at.offset, bytes);
            let slot = draft.slot(Params {
                n: spec.n,
                top: spec.top,
                x_at: x.at(spec.activations.bytes()),
                x_stride: spec.x_stride,
                choices_at: choices.at(4),
                y_at: y.at(spec.output.bytes()),
                y_stride: spec.y_stride,
                add: spec.accumulate.into(),
            });
            let bound = [(3, x.into()), (4, choices.into()), (7, y.into())];
            let pairs = (COLUMN_PAIRS, Size::Fixed(spec.n.div_ceil(2).into()));
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &[pairs]);
        }
        draft.bind(self.clone()).await
    }
}
