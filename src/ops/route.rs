//! Routes rows to the experts of a mixture: from logits to the list that a matmul of experts takes.

use super::buffers::{Window, check, check_aliases, window_capacity};
use super::recording::{Bound, Count, Draft, Head, pipelines};
use super::rows::{Rows, RowsSpec, Span, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, Binding, BindingRole, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT,
    Pipeline, Variable, fragment, uniform,
};
use std::sync::Arc;

/// A choice of experts for each row, by logits `[m, experts]`: the `top` largest, and of equal ones the
/// lowest. A NaN is below all numbers. The weight of a chosen expert is its share in the softmax of the
/// chosen ones, or of all ([`with_weights_of_all`](Self::with_weights_of_all)).
///
/// It writes two buffers:
/// - the *list*, two u32 for each of [`list_rows`](Self::list_rows) rows: a row and its expert, as
///   [`Experts`](super::Experts) describes it. The rows of an expert are in one run, in ascending order,
///   which starts at a multiple of `unit`;
/// - the *choices*, three words for each row and each of its experts, the largest logit first: the expert, its
///   place in the list, and its weight, f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RouteSpec {
    /// The largest number of rows.
    pub max_m: u32,
    /// The number of experts, at most 1024.
    pub experts: u32,
    /// The number of experts of a row.
    pub top: u32,
    /// What the run of an expert in the list starts at a multiple of, at most 64.
    pub unit: u32,
    /// The type of the logits.
    pub logits: FloatType,
    /// Elements from one row of logits to the next.
    pub stride: u32,
    /// Whether weights are shares in the softmax of all experts, and not of the chosen ones.
    pub weights_of_all: bool,
}

impl RouteSpec {
    /// Creates a spec with packed f32 logits and runs that start anywhere. The weights of a row add up to 1.
    pub fn new(max_m: u32, experts: u32, top: u32) -> Self {
        let (logits, weights_of_all) = (FloatType::F32, false);
        Self { max_m, experts, top, unit: 1, logits, stride: experts, weights_of_all }
    }

    /// Sets what the run of an expert starts at a multiple of. Matmuls of many rows take four at a time
    /// if it is a multiple of 4.
    pub fn with_unit(mut self, unit: u32) -> Self {
        self.unit = unit;
        self
    }

    /// Sets the type of the logits, and packed rows.
    pub fn with_logits(mut self, logits: FloatType) -> Self {
        (self.logits, self.stride) = (logits, logits.packed(self.experts));
        self
    }

    /// Sets the elements from one row of logits to the next.
    pub fn with_stride(mut self, stride: u32) -> Self {
        self.stride = stride;
        self
    }

    /// Makes weights shares in the softmax of all experts.
    pub fn with_weights_of_all(mut self) -> Self {
        self.weights_of_all = true;
        self
    }

    /// Returns the number of rows of the list for `m` rows, the longest that there may be. The matmul of
    /// experts is recorded with it.
    pub fn list_rows(&self, m: u32) -> u32 {
        // Two products of 64 bits do not add up in 64.
        let pairs = u128::from(m) * u128::from(self.top);
        let unit = u128::from(self.unit.max(1));
        let used = pairs.min(self.experts.into());
        let rows = (pairs + used * (unit - 1)) / unit * unit;
        u32::try_from(rows).unwrap_or(u32::MAX)
    }

    /// Returns the number of bytes of the list.
    pub fn list_bytes(&self) -> u64 {
        8 * u64::from(self.list_rows(self.max_m))
    }

    /// Returns the number of bytes of the choices.
    pub fn choices_bytes(&self) -> u64 {
        (u64::from(self.max_m) * u64::from(self.top)).saturating_mul(12)
    }

    fn rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Logits, self.experts, self.stride, self.logits)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, a row has more experts than there are, or a
    /// stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("experts", self.experts, MAX_EXPERTS),
            ("top", self.top, self.experts),
            ("unit", self.unit, MAX_UNIT),
            ("rows of the list", self.list_rows(self.max_m), MAX_COUNT),
        ])?;
        if self.unit == 0 {
            let what = "a list in runs of 0 rows; 1 is the least".into();
            return Err(PlanError::Experts { what });
        }
        self.rows().check(self.max_m)
    }

    /// Returns the kernels in the order in which they run.
    pub fn shaders(&self) -> [KernelDesc; 2] {
        let f16 = self.logits == FloatType::F16;
        let [low, high] = Binding::COUNTS;
        let data = |number, name, what, access| {
            Binding::new(number, name, BindingRole::Data(what), access)
        };
        let choose = KernelDesc {
            id: format!("experts_choose{}", if f16 { ".xf16" } else { "" }),
            consts: vec![("M_TABLE", Const::U32(M_TABLE)), ("LOGITS_F16", Const::Bool(f16))],
            fragments: vec![fragment("experts/choose"), fragment("lib/half_pair")],
            bindings: vec![
                Binding::params("p", ChooseParams::LAYOUT),
                low,
                high,
                data(3, "logits", "logits of all experts; f16 in pairs", Access::Read),
                data(4, "choices", CHOICES, Access::Write),
            ],
            grid: Grid::new(&[(&[Variable::M], ROWS_OF_GROUP)]),
            workgroup_size: ROWS_OF_GROUP,
            workgroup_memory: 0,
            conditions: Vec::new(),
            weights: None,
        };
        let [low, high] = Binding::COUNTS;
        let sort = KernelDesc {
            id: "experts_sort".into(),
            consts: vec![("M_TABLE", Const::U32(M_TABLE)), ("EXPERTS", Const::U32(MAX_EXPERTS))],
            fragments: vec![fragment("experts/sort")],
            bindings: vec![
                Binding::params("p", SortParams::LAYOUT),
                low,
                high,
                data(3, "choices", CHOICES, Access::Write),
                data(4, "list", "a row and its expert, u32", Access::Write),
            ],
            grid: Grid::new(&[]),
            workgroup_size: 256,
            workgroup_memory: 4 * MAX_EXPERTS,
            conditions: Vec::new(),
            weights: None,
        };
        [choose, sort]
    }
}

/// What the binding of the choices holds.
pub(super) const CHOICES: &str = "expert, place in the list and weight of each choice";

/// Rows that a workgroup chooses experts for, one an invocation.
const ROWS_OF_GROUP: u32 = 64;

/// The largest number of experts, a word of workgroup memory each.
const MAX_EXPERTS: u32 = 1024;

/// The largest unit.
const MAX_UNIT: u32 = 64;

/// Returns every kernel of this op.
pub(crate) fn kernels(_: &Caps) -> Vec<KernelDesc> {
    let spec = RouteSpec::new(2, 2, 1);
    let [f32s, sort] = spec.shaders();
    let [f16s, _] = spec.with_logits(FloatType::F16).shaders();
    vec![f32s, f16s, sort]
}

uniform! {
    /// The parameters of the choice.
    struct ChooseParams for "ChooseParams" in "experts/choose" {
        experts: u32,
        top: u32,
        logits_at: u32,
        logits_stride: u32,
        choices_at: u32,
        chosen_only: u32,
        pad: [u32; 2] = "pad0" "pad1",
    }
}

uniform! {
    /// The parameters of the list.
    struct SortParams for "SortParams" in "experts/sort" {
        experts: u32,
        top: u32,
        unit: u32,
        choices_at: u32,
        list_at: u32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The compiled kernels for one [`RouteSpec`]. A plan is cheap to clone.
#[derive(Clone, Debug)]
pub struct RoutePlan {
    kernels: Kernels,
    spec: RouteSpec,
    pipelines: Arc<[Arc<Pipeline>]>,
}

/// The buffers of one routing.
#[derive(Clone, Copy, Debug)]
pub struct RouteArgs<'a> {
    /// The logits, `[m, experts]`.
    pub logits: SubBuffer<'a>,
    /// The list that is written: [`RouteSpec::list_bytes`] bytes. Where fewer rows than the most are
    /// recorded, its end is left as it is.
    pub list: SubBuffer<'a>,
    /// The choices that are written: [`RouteSpec::choices_bytes`] bytes.
    pub choices: SubBuffer<'a>,
}

/// A routing with its buffers.
pub type BoundRoute = Bound<RoutePlan>;

impl RoutePlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &RouteSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipelines = pipelines(kernels, &spec.shaders()).await?.into();
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipelines })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &RouteSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and two small uniform buffers. No buffer may exceed a
    /// binding.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: RouteArgs<'_>) -> Result<BoundRoute, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let logits = Rows { align: 4, ..Rows::read(spec.rows(), args.logits) };
        check_rows(&[logits], spec.max_m)?;
        let (list, choices) = (spec.list_bytes(), spec.choices_bytes());
        check(Role::Indices, args.list, list, 8)?;
        check(Role::Choices, args.choices, choices, 4)?;
        let written = [args.list.buffer, args.choices.buffer];
        check_aliases([(Role::Logits, args.logits.buffer)], &written)?;
        check_aliases([(Role::Indices, args.list.buffer)], &[args.choices.buffer])?;
        let limit = window_capacity(caps);
        let sizes = [
            (Role::Logits, spec.rows().bytes(spec.max_m)),
            (Role::Indices, list),
            (Role::Choices, choices),
        ];
        if let Some((role, need)) = sizes.into_iter().find(|(_, need)| *need > limit) {
            return Err(BindError::TooLarge { role, need, limit });
        }
        let count = Count::UpTo(spec.max_m);
        let span = Span::all(spec.max_m);
        let logits = logits.window(caps, &span);
        let list = Window::new(caps, args.list.buffer, args.list.offset, list);
        let choices = Window::new(caps, args.choices.buffer, args.choices.offset, choices);
        let mut choose = Draft::new(&self.kernels, "lowbit choice of experts", count, 1)?;
        let mut sort = Draft::new(&self.kernels, "lowbit list of experts", count, 1)?;
        if let [of_choice, of_list] = &self.pipelines[..]
            && spec.max_m > 0
            && spec.top > 0
        {
            let slot = choose.slot(ChooseParams {
                experts: spec.experts,
                top: spec.top,
                logits_at: logits.at(spec.logits.bytes()),
                logits_stride: spec.stride,
                choices_at: choices.at(4),
                chosen_only: u32::from(!spec.weights_of_all),
                pad: [0; 2],
            });
            let bound = [(3, logits.into()), (4, choices.into())];
            choose.step(of_choice, Head::Counted(slot), bound, span, &[]);
            let slot = sort.slot(SortParams {
                experts: spec.experts,
                top: spec.top,
                unit: spec.unit,
                choices_at: choices.at(4),
                list_at: list.at(8),
                pad: [0; 3],
            });
            let bound = [(3, choices.into()), (4, list.into())];
            sort.step(of_list, Head::Counted(slot), bound, span, &[]);
        }
        let choose = choose.bind(self.clone()).await?;
        Ok(sort.bind(self.clone()).await?.after(choose))
    }
}
