use super::trace::MOST_GROUPS;
use super::{MemoryError, Trace, Tracer};
use lowbit::conformance::{self, Case};
use lowbit::gpu::{AdapterClass, Caps, Kernels};
use lowbit::host::Host;
use lowbit::ops::matmul::{KernelChoice, Schedule};
use lowbit::ops::{DeviceWeights, MatmulArgs, MatmulPlan, MatmulSpec, Select};
use pollster::block_on;
use serde::Serialize;
use std::sync::Arc;

/// The devices that kernels are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Graphics processors.
    Gpu,
    /// Software adapters.
    Software,
}

impl Class {
    /// Returns the capabilities that the kernels of a class are chosen by. Those of GPUs are WebGPU's
    /// defaults, with packed dot products. Those of software adapters are the adapter's own, if it is one.
    pub fn caps(self, real: &Caps) -> Caps {
        let default = |class| Caps::from_limits(class, &wgpu::Limits::defaults());
        match (self, real.class) {
            (Self::Software, AdapterClass::Cpu) => real.clone(),
            (Self::Software, _) => default(AdapterClass::Cpu),
            (Self::Gpu, _) => {
                let mut caps = default(AdapterClass::Gpu);
                caps.packed_dot = true;
                caps
            }
        }
    }

    /// `gpu` or `software`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Software => "software",
        }
    }
}

/// A host whose kernels are traced.
#[derive(Debug)]
pub struct Tracing {
    host: Host,
    tracer: Arc<Tracer>,
}

/// The trace of a matmul.
#[derive(Debug)]
pub struct Measured {
    /// The kernel.
    pub choice: KernelChoice,
    /// The accesses of its lanes.
    pub trace: Trace,
    /// Workgroups of the product that was asked about.
    pub groups: u64,
    /// Columns of W, all of which are traced.
    pub columns: u32,
}

impl Tracing {
    /// Traces on the device of `real`, with kernels that `caps` chooses.
    ///
    /// # Errors
    /// Returns [`MemoryError::Host`] if the device refuses the buffers.
    pub fn new(real: &Host, caps: &Caps) -> Result<Self, MemoryError> {
        Self::with_tracer(real, caps, Tracer::new(real)?)
    }

    /// Traces with a tracer of one's own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_tracer(real: &Host, caps: &Caps, tracer: Tracer) -> Result<Self, MemoryError> {
        let tracer = Arc::new(tracer);
        let kernels = block_on(Kernels::new(real.device(), caps))?;
        let kernels = kernels.instrumented(tracer.clone());
        let host = Host::with_kernels(real.adapter_info().clone(), real.queue().clone(), kernels);
        Ok(Self { host, tracer })
    }

    /// Returns the host. Whatever runs on it is traced.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Empties the log. Of each `every` workgroups one is traced from now on.
    pub fn start(&self, every: u32) {
        self.tracer.start(&self.host, every);
    }

    /// Returns what was traced since [`start`](Self::start).
    ///
    /// # Errors
    /// Returns [`MemoryError::Full`] if there was too much, and the errors of reading.
    pub fn take(&self) -> Result<Trace, MemoryError> {
        self.tracer.take(&self.host)
    }

    /// Traces `m` rows of X times the weights of `spec`, by a schedule. All of K is traced, but only a
    /// few tiles of rows: others repeat the same pattern. Weights are zeros, because no address of a
    /// matmul depends on values.
    ///
    /// # Errors
    /// Returns [`MemoryError`].
    pub fn matmul(
        &self,
        spec: &MatmulSpec,
        schedule: Schedule,
        m: u32,
    ) -> Result<Measured, MemoryError> {
        let caps = self.host.kernels().caps();
        let choice = KernelChoice::new(spec, schedule, caps);
        let (tile_m, tile_n) = schedule.tile();
        // At least two tiles each way, so that a second tile's alignment is met too.
        let n = spec.n.min(tile_n.saturating_mul(2).max(32));
        let some = m.min(tile_m.saturating_mul(2));
        let kernels = self.host.kernels();
        let weights = DeviceWeights::allocate(kernels, spec.weights, n as usize, spec.k as usize);
        let mut weights = block_on(weights)?;
        if spec.code_textures {
            weights = self.host.textured(&weights)?;
        }
        let part = MatmulSpec::of(some, &weights)
            .with_activations(spec.activations)
            .with_output(spec.output);
        let plan = block_on(MatmulPlan::new(kernels, &part, Select::Pinned(schedule)))?;
        let taken = plan.kernel(some);
        if *taken != choice {
            let (taken, asked) = (taken.name(), choice.name());
            return Err(MemoryError::Other { taken, asked });
        }
        let x = self.host.zeros(part.x_bytes(some))?;
        let y = self.host.zeros(part.y_bytes(some))?;
        let (activations, output) = ((&x).into(), (&y).into());
        let args = MatmulArgs { activations, weights: &weights, bias: None, output };
        let bound = block_on(plan.bind(args))?;
        let traced: u64 = bound.workgroups(some).into_iter().sum();
        let mut every = traced.div_ceil(MOST_GROUPS).max(1) as u32;
        loop {
            self.start(every);
            let mut recorded = Ok(());
            self.host.submit(|pass| recorded = bound.record(pass, some))?;
            recorded?;
            match self.take() {
                // Fewer workgroups fit.
                Err(MemoryError::Full { .. }) if u64::from(every) < traced => every *= 2,
                trace => {
                    let groups = choice.groups(m, spec.n, spec.batch);
                    return Ok(Measured { choice, trace: trace?, groups, columns: spec.k });
                }
            }
        }
    }

    /// Runs a case of `lowbit verify`, which may take several kernels, and traces it. Of its
    /// workgroups fewer are traced if all do not fit into the log. Whether its results are right is
    /// not asked.
    ///
    /// # Errors
    /// Returns the errors of [`take`](Self::take).
    pub fn case(&self, case: &Case) -> Result<Trace, MemoryError> {
        let mut every = 1;
        loop {
            self.start(every);
            block_on(conformance::run_one(&self.host, case, 1));
            match self.take() {
                Err(MemoryError::Full { .. }) if every < 1 << 20 => every *= 4,
                trace => return trace,
            }
        }
    }
}
