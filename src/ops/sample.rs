//! Chooses a token for each row of logits: the largest, or one at random by temperature, top-k and top-p.
//!
//! Random numbers come from Philox4x32-10 with the seed as key and row and step as counter, so that a token
//! depends on these, the settings and the logits alone.
//! [`reference::sampled`](crate::reference::sampled) states which tokens are right.

use super::buffers::{Window, check, check_aliases};
use super::loads::Loads;
use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, AdapterClass, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT,
    Pipeline, Variable, fragment, uniform,
};
use std::sync::Arc;

/// The shape of the logits, `[m, n]`, and whether tokens are drawn at random. The stride is in elements
/// and defaults to packed rows (f16 rows are padded to an even length).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SampleSpec {
    /// The largest number of rows of logits.
    pub max_m: u32,
    /// Columns, of which one is chosen: from 1 to 2²⁴.
    pub n: u32,
    /// The type of the logits.
    pub activations: FloatType,
    /// Elements from one row of logits to the next.
    pub x_stride: u32,
    /// Whether tokens are drawn by [`SampleSettings`]. Otherwise they are the largest.
    pub random: bool,
}

impl SampleSpec {
    /// Creates a spec of packed f32 rows whose largest logit is taken.
    pub fn new(max_m: u32, n: u32) -> Self {
        Self { max_m, n, activations: FloatType::F32, x_stride: n, random: false }
    }

    /// Sets the type of the logits, and a packed stride.
    pub fn with_activations(self, activations: FloatType) -> Self {
        Self { activations, x_stride: activations.packed(self.n), ..self }
    }

    /// Sets the stride, in elements.
    pub fn with_stride(self, x_stride: u32) -> Self {
        Self { x_stride, ..self }
    }

    /// Draws tokens at random, by settings in a buffer.
    pub fn with_random(self) -> Self {
        Self { random: true, ..self }
    }

    /// Returns the number of bytes of logits from their start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of tokens of `m` rows.
    pub fn token_bytes(&self, m: u32) -> u64 {
        self.token_rows().bytes(m)
    }

    fn x_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.n, self.x_stride, self.activations)
    }

    fn token_rows(&self) -> RowsSpec {
        RowsSpec::words(Role::Output, 1, 1)
    }

    fn quads(&self) -> bool {
        self.activations == FloatType::F32 && self.x_rows().is_quads()
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if there are no columns, a dimension is too large, or the stride is too short
    /// or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[("max_m", self.max_m, MAX_COUNT), ("n", self.n, 1 << 24)])?;
        if self.n == 0 {
            let need = "at least 1, because a token is one of the columns";
            return Err(PlanError::Number { name: "n", value: 0.0, need });
        }
        self.x_rows().check(self.max_m)
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let mut loads = Loads::new(caps, self.activations, self.quads(), false);
        let lanes = lanes(caps);
        let mut consts = vec![("M_TABLE", Const::U32(M_TABLE)), ("WORKGROUP", Const::U32(lanes))];
        consts.append(&mut loads.consts);
        let mut fragments = loads.fragments;
        let [low, high] = Binding::COUNTS;
        let mut bindings = vec![
            Binding::params("p", Params::LAYOUT),
            low,
            high,
            Binding::data(3, "x", X, Access::Read),
        ];
        // Keys and columns of each lane; sums of four and of two words, and the place of the token.
        let (name, workgroup_memory) = if self.random {
            fragments.push("sample/random");
            bindings.push(Binding::data(4, "settings", SETTINGS, Access::Read));
            ("random", 32 * lanes + 16)
        } else {
            fragments.push("sample/greedy");
            ("greedy", 8 * lanes)
        };
        bindings.push(Binding::data(5, "tokens", "a token for each row, u32", Access::Write));
        KernelDesc {
            id: format!("sample_{name}{}.w{lanes}", loads.suffix),
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings,
            grid: Grid::new(&[(&[Variable::M], 1)]),
            workgroup_size: lanes,
            workgroup_memory,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// The contents of the bindings of logits and settings.
const X: &str = "logits, row-major from element x_at on; f16 in pairs";
const SETTINGS: &str = "temperature, top_p, top_k, an unused word, seed and step";

/// Returns the number of lanes that share a row: many on a GPU, because a row has tens of thousands of
/// columns; those of a subgroup on a software adapter, because barriers are slow there.
fn lanes(caps: &Caps) -> u32 {
    match caps.class {
        AdapterClass::Gpu => 256,
        AdapterClass::Cpu => 8,
    }
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let mut kernels = Vec::new();
    // Quads, neither, pairs.
    for (n, x) in [(4, FloatType::F32), (3, FloatType::F32), (4, FloatType::F16)] {
        let spec = SampleSpec::new(2, n).with_activations(x);
        kernels.extend([spec.shader(caps), spec.with_random().shader(caps)]);
    }
    kernels
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "SampleParams" in "sample/keys" {
        k: u32,
        levels: u32,
        m0: u32,
        m_cap: u32,
        x_at: u32,
        x_stride: u32,
        token_at: u32,
        settings_at: u32,
    }
}

/// The settings by which tokens are drawn. They are written to a small buffer, so that they may change
/// without binding again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleSettings {
    /// The number that logits are divided by. With 0 the largest is taken.
    pub temperature: f32,
    /// The number of largest logits that are kept, with all that equal the last of them; 0 for all.
    pub top_k: u32,
    /// The share of the probability that the kept tokens have at least: the least likely are left out, those
    /// as likely as the last kept one are kept. 1 for all.
    pub top_p: f32,
    /// The seed.
    pub seed: u64,
    /// The number of the step. Equal seeds, steps and rows give equal random numbers.
    pub step: u64,
}

impl SampleSettings {
    /// Bytes of settings in a buffer.
    pub const BYTES: u64 = 32;

    /// Checks the numbers.
    ///
    /// # Errors
    /// Returns [`PlanError::Number`] if the temperature is no finite number of at least 0, if it or its
    /// reciprocal is subnormal, or if `top_p` is outside of 0 to 1.
    pub fn check(&self) -> Result<(), PlanError> {
        let t = self.temperature;
        let refused = |name, value, need| Err(PlanError::Number { name, value, need });
        if t != 0.0 && !(t > 0.0 && t.is_normal() && (1.0 / t).is_normal()) {
            return refused("temperature", t, "0 or a positive normal number, as its reciprocal");
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return refused("top_p", self.top_p, "from 0 to 1");
        }
        Ok(())
    }

    /// Returns the words that the kernel reads.
    pub fn words(&self) -> [u32; 8] {
        let halves = |value: u64| [value as u32, (value >> 32) as u32];
        let ([seed, seed_high], [step, step_high]) = (halves(self.seed), halves(self.step));
        let (temperature, top_p) = (self.temperature.to_bits(), self.top_p.to_bits());
        [temperature, top_p, self.top_k, 0, seed, seed_high, step, step_high]
    }
}

/// The compiled kernel for one [`SampleSpec`]. A plan is cheap to clone.
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{SampleArgs, SamplePlan, SampleSettings, SampleSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (queue, pass): (&wgpu::Queue, &mut wgpu::ComputePass<'_>),
/// #     (logits, settings, tokens): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let plan = SamplePlan::new(kernels, &SampleSpec::new(1, 49_152).with_random()).await?;
/// let (activations, output) = (logits.into(), tokens.into());
/// let bound =
///     plan.bind(SampleArgs { activations, settings: Some(settings.into()), output }).await?;
/// let values = SampleSettings { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 1, step: 0 };
/// values.check()?;
/// let bytes: Vec<u8> = values.words().iter().flat_map(|word| word.to_le_bytes()).collect();
/// queue.write_buffer(settings, 0, &bytes); // before each step, with its number
/// bound.record(pass, 1)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SamplePlan {
    kernels: Kernels,
    spec: SampleSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one choice of tokens.
#[derive(Clone, Copy, Debug)]
pub struct SampleArgs<'a> {
    /// The logits. f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes,
    /// others at a multiple of 4. A NaN is less than any number.
    pub activations: SubBuffer<'a>,
    /// The words of [`SampleSettings`], if tokens are drawn at random. The kernel takes numbers that
    /// [`SampleSettings::check`] refuses as they come: a NaN as temperature counts as 0.
    pub settings: Option<SubBuffer<'a>>,
    /// The tokens, `[max_m]` u32. Of equal logits the first is taken; if all are NaN, the
    /// token is [`u32::MAX`], which no vocabulary has.
    pub output: SubBuffer<'a>,
}

/// A choice of tokens with its buffers.
pub type BoundSample = Bound<SamplePlan>;

impl SamplePlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &SampleSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &SampleSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Rows that exceed a
    /// binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: SampleArgs<'_>) -> Result<BoundSample, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let planned = spec.random;
        if args.settings.is_some() != planned {
            return Err(BindError::Argument { role: Role::Settings, planned });
        }
        let align = if spec.quads() { 16 } else { 4 };
        let x = Rows { align, ..Rows::read(spec.x_rows(), args.activations) };
        let tokens = Rows::write(spec.token_rows(), args.output);
        check_rows(&[x, tokens], spec.max_m)?;
        if let Some(settings) = args.settings {
            check(Role::Settings, settings, SampleSettings::BYTES, 4)?;
            check_aliases([(Role::Settings, settings.buffer)], &[args.output.buffer])?;
        }
        let settings =
            args.settings.map(|at| Window::new(caps, at.buffer, at.offset, SampleSettings::BYTES));
        let spans = match spec.max_m {
            0 => Spans::none(),
            _ => Spans::new(caps, spec.max_m, [x.spec, tokens.spec])?,
        };
        let (label, count) = ("lowbit sample", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        for span in spans.iter() {
            let (x, tokens) = (x.window(caps, &span), tokens.window(caps, &span));
            let slot = draft.slot(Params {
                k: spec.n,
                levels: levels(spec.n.div_ceil(4), lanes(caps)),
                m0: span.m0,
                m_cap: span.m_cap,
                x_at: x.at(spec.activations.bytes()),
                x_stride: spec.x_stride,
                token_at: tokens.at(4),
                settings_at: settings.map_or(0, |settings| settings.at(4)),
            });
            let bound = [Some((3, x.into())), settings.map(|at| (4, at.into()))];
            let bound = bound.into_iter().flatten().chain([(5, tokens.into())]);
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &[]);
        }
        draft.bind(self.clone()).await
    }
}

/// Returns how often `quads` must be divided among the lanes until one is left, at least once.
fn levels(quads: u32, lanes: u32) -> u32 {
    let (mut left, mut levels) = (quads.div_ceil(lanes), 1);
    while left > 1 {
        (left, levels) = (left.div_ceil(lanes), levels + 1);
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::levels;

    #[test]
    fn levels_leave_one_quad() {
        let all = [(1, 1), (8, 1), (9, 2), (64, 2), (65, 3), (12_288, 5), (1 << 22, 8)];
        assert_eq!(all.map(|(quads, _)| levels(quads, 8)), all.map(|(_, levels)| levels));
        assert_eq!([1, 256, 257, 37_984, 65_537].map(|quads| levels(quads, 256)), [1, 1, 2, 2, 3]);
    }
}
