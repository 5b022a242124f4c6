use super::{Host, HostError, Instant, to_u32};
use crate::gpu::DeviceError;
use crate::ops::matmul::{Measured, Problem, Tuning, candidates, row_ranges};
use crate::ops::{
    Activations, BoundMatmul, DeviceWeights, FloatType, MatmulArgs, MatmulPlan, MatmulSpec,
    PlanError, Schedule, Select,
};
use std::time::Duration;

/// Bytes of weights that are gone through before any is read again, so that they come from
/// memory and not from a cache.
pub(crate) const COLD: u64 = 64 << 20;

/// Rows of X of a first look. Unsuitable schedules are slower by any factor, and nothing
/// ends a submission before its time.
const LOOK: u32 = 32;

/// A schedule this many times as slow at first look is not measured further.
const HOPELESS: u32 = 4;

/// How long one submission should take, and the most of a median.
const SUBMISSION: Duration = Duration::from_millis(10);
const SAMPLES: usize = 9;

/// Fewest samples that a median is taken of, when the budget ends.
const FEWEST: usize = 3;

impl Host {
    /// Measures the schedules that apply to each spec, in each regime of m that a plan of it
    /// has, and keeps the fastest: for [`Select::Tuned`]. To be stored with the feature `io`.
    ///
    /// The budget is shared evenly among what is to be measured, and looked at between
    /// submissions; setting up and compiling count. Where it does not suffice, what
    /// [`select`](crate::ops::matmul::select) chooses stays.
    ///
    /// # Errors
    /// As [`measure`](Self::measure). An engine then goes by [`Select::Auto`].
    pub async fn tune_async(
        &self,
        specs: &[MatmulSpec],
        budget: Duration,
    ) -> Result<Tuning, HostError> {
        let measured = self.measure_async(specs, budget, |_, _| {}).await?;
        Ok(Tuning::of(self.adapter_info(), &measured))
    }

    /// What [`tune`](Self::tune) goes by. `next` is told each problem before it
    /// is measured, and how many there are.
    /// Specs that kernels do not distinguish (see [`Problem`]) are measured once, and empty
    /// ones not at all.
    ///
    /// # Errors
    /// [`HostError::Plan`] for a spec that no plan can serve, and what the device refuses,
    /// except kernels that it does not compile: those are passed over.
    pub async fn measure_async(
        &self,
        specs: &[MatmulSpec],
        budget: Duration,
        mut next: impl FnMut(&Measured, usize),
    ) -> Result<Vec<Measured>, HostError> {
        // A budget past the end of time is none.
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

    /// Times what applies until the deadline.
    async fn measure_one(
        &self,
        measured: &mut Measured,
        deadline: Option<Instant>,
    ) -> Result<(), HostError> {
        let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late() {
            return Ok(());
        }
        let m = measured.problem.m;
        let spec = MatmulSpec { max_m: m, ..measured.spec.clone() };
        let data = Data::new(self, &spec).await?;
        let mut first_look = None;
        for schedule in candidates(&spec, self.kernels().caps(), m) {
            if late() {
                break;
            }
            let bound = match data.bind(self, &spec, schedule).await {
                // It is what a plan without tuning would fail with too.
                Err(error) if schedule == measured.selected => return Err(error),
                Err(HostError::Plan(PlanError::Device(
                    DeviceError::Pipeline { .. } | DeviceError::Shader { .. },
                ))) => continue,
                bound => bound?,
            };
            // A first look, with one copy of W; the first run compiles on some drivers.
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
            if hopeless || too_long {
                continue;
            }
            // The warm-up touches every copy, and says how many rounds fill a submission.
            let round = self.round(&bound, m, 1).await?;
            let rounds = (SUBMISSION.as_nanos() / round.as_nanos().max(1)).clamp(1, 64) as u32;
            let mut samples = Vec::new();
            while samples.len() < SAMPLES && !late() {
                samples.push(self.round(&bound, m, rounds).await? / rounds / copies);
            }
            samples.sort();
            if samples.len() >= FEWEST {
                measured.times.push((schedule, samples[samples.len() / 2]));
            }
        }
        Ok(())
    }

    /// Each of `bound`, `rounds` times over, in one submission.
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

/// What there is to measure, each once.
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

/// Buffers that every schedule is measured with. Weights are zeros: no kernel's time depends
/// on what they are, but for subnormals on a CPU.
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
            // Codes of 0 and 64, and 0.5 for a scale; zero points and sums of any size cost the same.
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
        // Codes that no texture holds stay in buffers.
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
