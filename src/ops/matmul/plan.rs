use super::choice::Y_BINDING;
use super::{KernelChoice, MatmulSpec, Output, PlanError, Schedule, Tuning, select};
use crate::gpu::{
    Binding, BindingRole, Const, Grid, KernelDesc, Kernels, M_TABLE, Pipeline, Variable, fragment,
};
use crate::ops::PermuteColumnsPlan;
use crate::ops::recording::pipelines;
use std::sync::Arc;

/// How a plan selects its kernels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Select {
    /// The kernels that [`select`] chooses, for each range of m.
    Auto,
    /// This schedule for every m. It is an error if it does not apply; no other kernel is taken
    /// instead.
    Pinned(Schedule),
    /// The fastest measured schedule, by [`Tuning::select`]; as [`Auto`](Self::Auto) if nothing
    /// that was measured applies.
    Tuned(Arc<Tuning>),
}

/// Upper ends of the ranges of m that may have kernels of their own.
const ROW_RANGES: [u32; 4] = [1, 8, 64, u32::MAX];

/// Returns the number of the range that contains m.
pub(super) fn row_range_of(m: u32) -> usize {
    ROW_RANGES.iter().take_while(|&&up_to| up_to < m).count()
}

/// Returns the largest m of each range that a plan for up to `max_m` rows has a kernel for.
pub(crate) fn row_ranges(max_m: u32) -> impl Iterator<Item = u32> {
    ROW_RANGES.into_iter().take(row_range_of(max_m) + 1).map(move |up_to| up_to.min(max_m))
}

/// A range of m and its kernel.
#[derive(Clone, Debug)]
pub struct RowRange {
    /// The largest m of the range.
    pub up_to: u32,
    /// The kernel.
    pub choice: KernelChoice,
    pub(super) pipeline: Arc<Pipeline>,
}

/// The compiled kernels for one [`MatmulSpec`]. A plan can be bound any number of times, and is
/// cheap to clone.
///
/// If the columns of W are permuted, each recording first copies X with its columns in the order of the
/// codes into a scratch buffer, which binding allocates ([`MatmulSpec::scratch_bytes`]).
///
/// In an engine, a layer is planned and bound once, and then recorded in every pass:
///
/// ```no_run
/// # use lowbit::format::{ActivationFunction, PackedWeights};
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{DeviceWeights, MatmulArgs, MatmulPlan, MatmulSpec, Select};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     packed: &PackedWeights,
/// #     (x, bias, y): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
/// #     encoder: &mut wgpu::CommandEncoder,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let weights = DeviceWeights::upload(kernels, packed).await?;
/// // Y = GELU(X · Wᵀ + bias) for up to 512 rows of X.
/// let spec = MatmulSpec::of(512, &weights).with_bias().with_function(ActivationFunction::Gelu);
/// let plan = MatmulPlan::new(kernels, &spec, Select::Auto).await?;
/// let (activations, output) = (x.into(), y.into());
/// let args = MatmulArgs { activations, weights: &weights, bias: Some(bias.into()), output };
/// let bound = plan.bind(args).await?;
///
/// let mut pass = encoder.begin_compute_pass(&Default::default());
/// bound.record(&mut pass, 8)?; // a prompt of eight tokens
/// bound.record(&mut pass, 1)?; // one token, by a kernel that is made for it
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MatmulPlan {
    pub(super) kernels: Kernels,
    pub(super) spec: MatmulSpec,
    pub(super) row_ranges: Arc<[RowRange]>,
    /// The kernel that completes the rows of a quantized Y.
    pub(super) sums: Option<Arc<Pipeline>>,
    /// The permutation of X that comes first if the columns of W are permuted.
    pub(super) permutation: Option<PermuteColumnsPlan>,
}

impl MatmulPlan {
    /// Checks a spec, selects a kernel for each range of m and compiles those that are not
    /// cached. No lock is held while compiling.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &MatmulSpec, how: Select) -> Result<Self, PlanError> {
        spec.check()?;
        let permutation = match spec.permutation() {
            Some(permutation) => Some(PermuteColumnsPlan::new(kernels, &permutation).await?),
            None => None,
        };
        let (planned, spec) = (spec, &spec.after_permutation());
        let mut chosen: Vec<(u32, KernelChoice)> = Vec::new();
        for up_to in row_ranges(spec.max_m) {
            let schedule = match &how {
                Select::Auto => select(spec, kernels.caps(), up_to),
                Select::Pinned(schedule) => *schedule,
                // Nothing of experts was measured.
                Select::Tuned(_) if spec.experts.is_some() => select(spec, kernels.caps(), up_to),
                Select::Tuned(tuning) => tuning.select(spec, kernels.caps(), up_to),
            };
            if let Some(experts) = &spec.experts {
                experts.check_schedule(schedule)?;
            }
            schedule.check(kernels.caps())?;
            if schedule.is_integer() != spec.activations.int8().is_some() {
                let (schedule, activations) = (schedule.to_string(), spec.activations);
                return Err(PlanError::WrongSchedule { schedule, activations });
            }
            if let Output::Float(float) = spec.output
                && !schedule.stores(spec.epilogue, float)
            {
                return Err(PlanError::EpilogueSchedule { schedule: schedule.to_string() });
            }
            let choice = KernelChoice::new(spec, schedule, kernels.caps());
            match chosen.last_mut() {
                Some((last, same)) if *same == choice => *last = up_to,
                _ => chosen.push((up_to, choice)),
            }
        }
        let shaders: Vec<_> = chosen.iter().map(|(_, choice)| choice.shader()).collect();
        // A bias takes one more than the four that OpenGL ES 3.1 has.
        let have = kernels.caps().max_storage_buffers;
        for ((_, choice), shader) in chosen.iter().zip(&shaders) {
            let (schedule, need) = (choice.schedule.to_string(), shader.storage_buffers());
            if need > have {
                let what = "storage buffers";
                return Err(PlanError::NotApplicable { schedule, what, need, have });
            }
        }
        let sums = matches!(spec.output, Output::Int8(_))
            .then(|| sums_shader(shaders[0].bindings.clone()));
        let shaders: Vec<_> = shaders.into_iter().chain(sums.clone()).collect();
        let mut pipelines = pipelines(kernels, &shaders).await?;
        let sums = sums.and_then(|_| pipelines.pop());
        let row_ranges: Vec<_> = chosen
            .into_iter()
            .zip(pipelines)
            .map(|((up_to, choice), pipeline)| RowRange { up_to, choice, pipeline })
            .collect();
        let (kernels, spec) = (kernels.clone(), planned.clone());
        Ok(Self { kernels, spec, row_ranges: row_ranges.into(), sums, permutation })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &MatmulSpec {
        &self.spec
    }

    /// Returns the ranges of m with their kernels, in ascending order.
    pub fn row_ranges(&self) -> &[RowRange] {
        &self.row_ranges
    }

    /// Returns the kernel that runs for `m` rows.
    pub fn kernel(&self, m: u32) -> &KernelChoice {
        &self.row_range(m).choice
    }

    /// There is always a last range: `new` makes one even for max_m = 0.
    pub(super) fn row_range(&self, m: u32) -> &RowRange {
        let at = self.row_ranges.iter().position(|r| m <= r.up_to);
        &self.row_ranges[at.unwrap_or(self.row_ranges.len() - 1)]
    }
}

/// Returns the kernel that completes rows of a quantized Y. Its bindings are those of the matmul,
/// whose bind groups it takes.
pub(super) fn sums_shader(mut bindings: Vec<Binding>) -> KernelDesc {
    for binding in &mut bindings {
        if binding.number == Y_BINDING {
            binding.role = BindingRole::Data("rows of quantized Y, whose codes are there already");
        }
    }
    KernelDesc {
        id: "activations_sums".into(),
        consts: vec![
            ("M_TABLE", Const::U32(M_TABLE)),
            ("PANEL", Const::U32(1)),
            ("WORKGROUP", Const::U32(SUMS_WORKGROUP)),
        ],
        fragments: vec![fragment("activations/sums")],
        bindings,
        grid: Grid::new(&[(&[Variable::M], 1), (&[Variable::BATCH], 1)]),
        workgroup_size: SUMS_WORKGROUP,
        workgroup_memory: 0,
        conditions: Vec::new(),
        weights: None,
    }
}

/// Lanes that share a row of Y.
const SUMS_WORKGROUP: u32 = 64;
