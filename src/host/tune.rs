use super::{Host, HostError, Instant, to_u32, with_blocking};
use crate::gpu::DeviceError;
use crate::ops::matmul::{Measured, Problem, Tuning, candidates, row_ranges};
use crate::ops::{
    Activations, BoundMatmul, DeviceWeights, FloatType, MatmulArgs, MatmulPlan, MatmulSpec,
    PlanError, Schedule, Select,
};
use std::time::Duration;

/// The number of bytes of weights that are read before any of them is read again, so that they
/// come from memory and not from a cache.
pub(crate) const COLD: u64 = 64 << 20;

/// The number of rows of X in a trial run. Unsuitable schedules may be slower by any factor, and a
/// submission cannot be ended early.
const LOOK: u32 = 32;

/// A schedule that takes this many times as long in the trial run as the first one is not
/// measured further.
const HOPELESS: u32 = 4;

/// How long one submission should take, and how many of them a median is taken of at most.
const SUBMISSION: Duration = Duration::from_millis(10);
const SAMPLES: usize = 9;

/// The fewest samples that a median is taken of if the budget ends.
const FEWEST: usize = 3;

impl Host {
    with_blocking!(
        tune,
        /// Measures the schedules that apply to each spec, in each row range that its plan
        /// distinguishes, and returns the fastest ones for [`Select::Tuned`]. With the feature
        /// `serde`, [`Tuning::to_json`] stores them.
        ///
        /// The budget is shared evenly among the problems, and includes setup and compilation. It
        /// is checked between submissions. [`Tuning::unmeasured`] lists the schedules that it left
        /// unmeasured. A problem for which it ends too early keeps the choice of
        /// [`select`](crate::ops::matmul::select).
        ///
        /// # Errors
        /// Returns the errors of [`measure_async`](Self::measure_async). An engine can then use
        /// [`Select::Auto`].
        pub async fn tune_async(
            &self,
            specs: &[MatmulSpec],
            budget: Duration,
        ) -> Result<Tuning, HostError> {
            let measured = self.measure_async(specs, budget, |_, _| {}).await?;
            Ok(Tuning::of(self.adapter_info(), &measured))
        }
    );

    with_blocking!(
        measure,
        /// Measures the schedules that apply to each spec, and returns all times; [`Tuning::of`]
        /// picks the fastest. Specs that kernels do not distinguish (see [`Problem`]) are measured
        /// once, and empty ones are skipped. `next` is called before each problem, with the number
        /// of all problems.
        ///
        /// # Errors
        /// Returns [`HostError::Plan`] if no plan can serve a spec, and an error if the device
        /// refuses a request. Kernels that its driver does not compile are skipped instead.
        pub async fn measure_async(
            &self,
            specs: &[MatmulSpec],
            budget: Duration,
            next: impl FnMut(&Measured, usize),
        ) -> Result<Vec<Measured>, HostError> {
            let mut next = next;
            // A budget that ends after the clock does is unlimited.
            let end = Instant::now().checked_add(budget);
            let mut all = problems(specs, self.kernels())?;
            let count = all.len();
            let mut left = count as u32;
            for measured in &mut all {
                next(measured, count);
                let now = Instant::now();
                let share = end.map(|end| end.saturating_duration_since(now) / left.max(1));
                self.measure_one(measured, share.map(|share| now + share)).await?;
                left -= 1;
            }
            Ok(all)
        }
    );

    /// Measures the schedules that apply to one problem until the deadline. Records those that are
    /// left.
    async fn measure_one(
        &self,
        measured: &mut Measured,
        deadline: Option<Instant>,
    ) -> Result<(), HostError> {
        let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let m = measured.problem.m;
        let spec = MatmulSpec { max_m: m, ..measured.spec.clone() };
        let candidates = candidates(&spec, self.kernels().caps(), m);
        if late() {
            measured.unmeasured = candidates;
            return Ok(());
        }
        let data = Data::new(self, &spec).await?;
        let mut first_look = None;
        for schedule in candidates {
            if late() {
                measured.unmeasured.push(schedule);
                continue;
            }
            let bound = match data.bind(self, &spec, schedule).await {
                // A plan without tuning would fail with this error too.
                Err(error) if schedule == measured.selected => return Err(error),
                Err(HostError::Plan(PlanError::Device(
                    DeviceError::Pipeline { .. } | DeviceError::Shader { .. },
                ))) => continue,
                bound => bound?,
            };
            // A trial run with one copy of W. Some drivers compile in the first submission.
            let (rows, one) = (m.min(LOOK), &bound[..1]);
            self.round(one, rows, 1).await?;
            let look = self.round(one, rows, 1).await?.min(self.round(one, rows, 1).await?);
            let hopeless = first_look.is_some_and(|first: Duration| look > HOPELESS * first);
            first_look = first_look.or(Some(look));
            let copies = bound.len().max(1) as u32;
            let likely = look.saturating_mul(m.div_ceil(rows.max(1))).saturating_mul(copies);
            let too_long = deadline.is_some_and(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                left < likely.saturating_mul(FEWEST as u32)
            });
            if hopeless {
                continue;
            }
            if too_long {
                measured.unmeasured.push(schedule);
                continue;
            }
            // The warm-up reads every copy, and tells how many rounds fill a submission.
            let round = self.round(&bound, m, 1).await?;
            let rounds = (SUBMISSION.as_nanos() / round.as_nanos().max(1)).clamp(1, 64) as u32;
            let mut samples = Vec::new();
            while samples.len() < SAMPLES && !late() {
                samples.push(self.round(&bound, m, rounds).await? / rounds / copies);
            }
            samples.sort();
            if samples.len() >= FEWEST {
                measured.times.push((schedule, samples[samples.len() / 2]));
            } else {
                measured.unmeasured.push(schedule);
            }
        }
        Ok(())
    }

    /// Measures one submission that runs all of `bound` `rounds` times.
    async fn round(
        &self,
        bound: &[BoundMatmul],
        m: u32,
        rounds: u32,
    ) -> Result<Duration, HostError> {
        let mut recorded = Ok(());
        let time = self
            .timed(|pass| {
                recorded =
                    (0..rounds).flat_map(|_| bound).try_for_each(|bound| bound.record(pass, m));
            })
            .await?;
        recorded?;
        Ok(time)
    }
}

/// Lists the problems to measure, each of them once.
fn problems(
    specs: &[MatmulSpec],
    kernels: &crate::gpu::Kernels,
) -> Result<Vec<Measured>, HostError> {
    let mut all: Vec<Measured> = Vec::new();
    for spec in specs {
        spec.check()?;
        if [spec.max_m, spec.n, spec.k, spec.batch].contains(&0) {
            continue;
        }
        for m in row_ranges(spec.max_m) {
            let problem = Problem::new(spec, m);
            if !all.iter().any(|other| other.problem == problem) {
                all.push(Measured::new(spec, kernels.caps(), m));
            }
        }
    }
    Ok(all)
}

/// The buffers that every schedule is measured with. The weights are zeros: apart from subnormals
/// on a CPU, no kernel's time depends on their values.
struct Data {
    weights: Vec<DeviceWeights>,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    bias: wgpu::Buffer,
}

impl Data {
    async fn new(host: &Host, spec: &MatmulSpec) -> Result<Self, HostError> {
        let words = to_u32("words of X", (spec.x_bytes(spec.max_m).div_ceil(4)) as usize)?;
        let one = match spec.activations {
            Activations::Float(FloatType::F32) => 0x3f80_0000,
            Activations::Float(_) => 0x3c00_3c00,
            // Codes of 0 and 64, and scales of 0.5. Zero points and sums do not affect the time.
            Activations::Int8(_) => 0x3f00_0000,
        };
        let (n, k) = (spec.n as usize, spec.k as usize);
        let allocate = async || {
            let weights =
                host.run(DeviceWeights::allocate(host.kernels(), spec.weights, n, k)).await?;
            if spec.code_textures { host.settled(weights).await } else { Ok(weights) }
        };
        let mut weights = vec![allocate().await?];
        let copies = (COLD / weights[0].device_bytes().max(1)).clamp(1, 16);
        for _ in 1..copies {
            weights.push(allocate().await?);
        }
        Ok(Self {
            weights,
            x: host.storage_async(&vec![one; words as usize]).await?,
            y: host.zeros_async(spec.y_bytes(spec.max_m)).await?,
            bias: host.zeros_async(4 * u64::from(spec.n)).await?,
        })
    }

    async fn bind(
        &self,
        host: &Host,
        spec: &MatmulSpec,
        schedule: Schedule,
    ) -> Result<Vec<BoundMatmul>, HostError> {
        // Codes stay in buffers if no texture can hold them.
        let code_textures = self.weights[0].has_textures();
        let spec = &MatmulSpec { code_textures, ..spec.clone() };
        let plan =
            host.run(MatmulPlan::new(host.kernels(), spec, Select::Pinned(schedule))).await?;
        let mut all = Vec::new();
        for weights in &self.weights {
            let bound = plan.bind(MatmulArgs {
                activations: (&self.x).into(),
                weights,
                bias: spec.bias.then(|| (&self.bias).into()),
                output: (&self.y).into(),
            });
            all.push(host.run(bound).await?);
        }
        Ok(all)
    }
}
