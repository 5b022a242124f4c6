//! Observes X on the device for calibration: ranges, histograms and sums of |x|.
//!
//! A recording writes the observation of one batch to a buffer of the caller's. Observations of
//! many layers and batches may lie in one buffer, one after the other, to be read back once.
//! [`ObservePlan::batch`] decodes one, and [`Statistics::fold`] adds it to the statistics. The
//! result equals [`Batch::of`] bit for bit: the kernels count, compare and add integers only.
//!
//! [`Statistics::fold`]: crate::compress::calibrate::Statistics::fold

use super::buffers::{Window, check, check_aliases, window_capacity};
use super::quantize_activations::{Loads, X};
use super::recording::{Bound, Count, Draft, Head, pipelines};
use super::rows::{Rows, Span, Spans, check_rows};
use super::{BindError, FloatType, PlanError, QuantizeActivationsSpec, Role, SubBuffer};
use crate::compress::calibrate::{
    Axis, Batch, CalibrateError, ChannelBatch, Histogram, NotFinite, Observer,
};
use crate::format::{ActivationFormat, ActivationGranularity, BLOCK_K};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, Kernels, Pipeline, Size, Variable, fragment,
    uniform,
};
use std::sync::Arc;

/// Rows of a tile, of 32 columns.
const TILE_ROWS: u32 = 256;

/// Lanes of a workgroup.
const WORKGROUP: u32 = 64;

/// Words before the ranges: NaN, infinities, index of the first of either.
const HEADER: u64 = 4;

/// Why the words of an observation cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// The histogram is invalid.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// No kernel leaves such words: the observation was not recorded, or it was overwritten.
    #[error("these {0} words are not an observation of that many rows")]
    Words(usize),
}

/// The shape of X and what to observe of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ObserveSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// What has a range of its own: all of X, or each column.
    pub axis: Axis,
    /// Bins on either side of 0, a power of two; 0 for ranges and sums only.
    pub bins: u32,
    /// The type of X.
    pub activations: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// The binary logarithm of the smallest width of bins; `None` for bins as narrow as X allows.
    pub bin_width: Option<i32>,
}

impl ObserveSpec {
    /// Creates a spec with packed f32 rows and bins as narrow as X allows.
    pub fn new(max_m: u32, k: u32, axis: Axis, bins: u32) -> Self {
        let (activations, x_stride, bin_width) = (FloatType::F32, k, None);
        Self { max_m, k, axis, bins, activations, x_stride, bin_width }
    }

    /// Creates a spec of what [`Batch::of`] this observer sees.
    ///
    /// # Errors
    /// Returns [`PlanError::TooLarge`] if there are more columns than kernels index.
    pub fn of(observer: &Observer, max_m: u32) -> Result<Self, PlanError> {
        for (name, value) in [("k", observer.columns()), ("bins", observer.bins())] {
            PlanError::check_index(name, value as u64)?;
        }
        let (k, bins) = (observer.columns() as u32, observer.bins() as u32);
        Ok(Self::new(max_m, k, observer.axis(), bins))
    }

    /// Sets the type of X, and a packed stride (an even one for f16).
    pub fn with_activations(self, activations: FloatType) -> Self {
        Self { activations, x_stride: activations.packed(self.k), ..self }
    }

    /// Sets the stride, in elements.
    pub fn with_stride(self, x_stride: u32) -> Self {
        Self { x_stride, ..self }
    }

    /// Makes bins at least 2^`exponent` wide, for example as wide as those of other batches. They
    /// are wider if X reaches further.
    pub fn with_bin_width(self, exponent: i32) -> Self {
        Self { bin_width: Some(exponent), ..self }
    }

    /// X, which is loaded as if it were to be quantized.
    fn rows(&self) -> QuantizeActivationsSpec {
        let format = ActivationFormat::int8(ActivationGranularity::Tensor);
        QuantizeActivationsSpec::new(self.max_m, self.k, format)
            .with_activations(self.activations)
            .with_stride(self.x_stride)
    }

    fn channels(&self) -> u64 {
        match self.axis {
            Axis::Channel => self.k.into(),
            _ => 1,
        }
    }

    /// Returns the number of words of an observation.
    pub fn words(&self) -> u64 {
        HEADER + self.channels() * (4 + 2 * u64::from(self.bins))
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.rows().x_bytes(m)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] as for [`QuantizeActivationsSpec::check`]; also if X has 2³² − 1
    /// elements or more, the number of bins is not a power of two or is too large, or no f32 needs
    /// bins of that width.
    pub fn check(&self) -> Result<(), PlanError> {
        self.rows().check()?;
        // The index of an element is a u32, and u32::MAX stands for none.
        let elements = u64::from(self.max_m) * u64::from(self.k);
        let value = u32::try_from(elements).unwrap_or(u32::MAX);
        PlanError::check_dimensions(&[("max_m · k", value, u32::MAX - 1)])?;
        PlanError::check_index("words of histograms", self.words())?;
        self.least()?;
        Ok(())
    }

    /// Returns the biased exponent that bins reach at least.
    fn least(&self) -> Result<u32, CalibrateError> {
        let mut bins = Histogram::new(self.bins as usize)?;
        if let Some(exponent) = self.bin_width {
            bins = Histogram::from_counts(exponent, vec![0; 2 * self.bins as usize])?;
        }
        Ok((bins.width_exponent() + 126 + self.bins_log() as i32) as u32)
    }

    fn bins_log(&self) -> u32 {
        self.bins.max(1).trailing_zeros()
    }

    /// Returns the kernels, in the order in which they run.
    pub fn shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        Part::ALL.map(|kernel| self.shader(caps, kernel)).to_vec()
    }

    fn shader(&self, caps: &Caps, kernel: Part) -> KernelDesc {
        let Loads { fragments, mut consts, suffix, conditions } = self.rows().loads(caps);
        consts.push(("TILE_ROWS", Const::U32(TILE_ROWS)));
        let (name, main, workgroup_memory) = match kernel {
            Part::Reset => ("reset", "observe/reset", 0),
            // Two words for each of 32 columns.
            Part::Ranges => ("ranges", "observe/ranges", 256),
            Part::Histogram => ("histogram", "observe/histogram", 256),
        };
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: format!("observe_{name}{suffix}"),
            consts,
            fragments: fragments.into_iter().chain([main]).map(fragment).collect(),
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "x", X, Access::Read),
                Binding::data(
                    4,
                    "y",
                    "the observation: counts of what is not finite, ranges, sums, bins",
                    Access::Write,
                ),
            ],
            grid: match kernel {
                Part::Reset => Grid::new(&[(&[WORDS], WORKGROUP)]),
                Part::Ranges | Part::Histogram => {
                    Grid::new(&[(&[Variable::BLOCKS], 1), (&[Variable::M], TILE_ROWS)])
                }
            },
            workgroup_size: WORKGROUP,
            workgroup_memory,
            conditions,
            weights: None,
        }
    }
}

/// The kernels of an observation.
#[derive(Clone, Copy)]
enum Part {
    Reset,
    Ranges,
    Histogram,
}

impl Part {
    const ALL: [Self; 3] = [Self::Reset, Self::Ranges, Self::Histogram];
}

const WORDS: Variable =
    Variable { name: "words", meaning: "words of the observation: the parameter `words`" };

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let spec = |k, float| ObserveSpec::new(2, k, Axis::Tensor, 64).with_activations(float);
    // Whole blocks, quads, pairs, neither.
    let floats = [FloatType::F32, FloatType::F16];
    let specs = [64, 68, 66, 67].into_iter().flat_map(|k| floats.map(|float| spec(k, float)));
    specs.flat_map(|spec| spec.shaders(caps)).collect()
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "Params" in "observe/tile" {
        k: u32,
        blocks: u32,
        channels: u32,
        by_column: u32,
        x_offset: u32,
        x_stride: u32,
        y_offset: u32,
        words: u32,
        m0: u32,
        m_cap: u32,
        bins_2: u32,
        bins_log: u32,
        least: u32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The compiled kernels for one [`ObserveSpec`]. A plan is cheap to clone.
///
/// Calibration observes the input of a layer while samples run, and then computes a static scale:
///
/// ```no_run
/// # use lowbit::compress::calibrate::{Method, Observer, Statistics};
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{ObserveArgs, ObservePlan, ObserveSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (x, output): (&wgpu::Buffer, &wgpu::Buffer),
/// #     mut encoder: wgpu::CommandEncoder,
/// #     queue: &wgpu::Queue,
/// #     read_back: impl Fn(&wgpu::Buffer, usize) -> Vec<u32>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let observer = Observer::tensor("encoder.0.query", 384);
/// let spec = ObserveSpec::of(&observer, 512)?; // up to 512 rows of X
/// let mut statistics = Statistics::new(observer)?;
/// let plan = ObservePlan::new(kernels, &spec).await?;
/// let words = spec.words() as usize; // of `output`
/// let args = ObserveArgs { activations: x.into(), output: output.into() };
/// let bound = plan.bind(args).await?;
///
/// // For each batch, here of 100 rows:
/// bound.record(&mut encoder.begin_compute_pass(&Default::default()), 100)?;
/// queue.submit([encoder.finish()]);
/// statistics.fold(&plan.batch(100, &read_back(output, words))?)?;
///
/// // After all batches:
/// let calibration = statistics.calibrate(Method::Percentile(99.99), "int8-tensor".parse()?)?;
/// println!("scale {}", calibration.scheme().scale);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ObservePlan {
    kernels: Kernels,
    spec: ObserveSpec,
    /// Reset, ranges, histogram.
    pipelines: Vec<Arc<Pipeline>>,
}

/// The buffers of one observation.
#[derive(Clone, Copy, Debug)]
pub struct ObserveArgs<'a> {
    /// X. f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes,
    /// others at a multiple of 4.
    pub activations: SubBuffer<'a>,
    /// [`ObserveSpec::words`] words, at a multiple of 4 bytes.
    pub output: SubBuffer<'a>,
}

/// An observation with its buffers. A recording replaces what the output held.
pub type BoundObserve = Bound<ObservePlan>;

impl ObservePlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &ObserveSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipelines = pipelines(kernels, &spec.shaders(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipelines })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &ObserveSpec {
        &self.spec
    }

    /// Decodes the words of an observation of `m` rows.
    ///
    /// # Errors
    /// Returns [`ObserveError::Words`] if the number of words is wrong, or no kernel leaves such
    /// words.
    pub fn batch(&self, m: u32, words: &[u32]) -> Result<Batch, ObserveError> {
        let spec = &self.spec;
        let bad = ObserveError::Words(words.len());
        let (channels, bins_2) = (spec.channels() as usize, 2 * spec.bins as usize);
        let empty = m == 0 || spec.k == 0;
        let [nan, infinite, first, _, rest @ ..] = words else { return Err(bad) };
        if words.len() as u64 != spec.words() || m > spec.max_m {
            return Err(bad);
        }
        let rows = if spec.k == 0 { 0 } else { u64::from(m) };
        if *first != u32::MAX && !empty {
            let all = u64::from(m) * u64::from(spec.k);
            let found = u64::from(*nan) + u64::from(*infinite);
            if u64::from(*first) >= all || found == 0 || found > all {
                return Err(bad);
            }
            let (row, column) = ((first / spec.k).into(), (first % spec.k).into());
            let (nan, infinite) = ((*nan).into(), (*infinite).into());
            let not_finite = Some(NotFinite { nan, infinite, row, column });
            return Ok(Batch { rows, channels: Vec::new(), not_finite });
        }
        if empty {
            return Ok(Batch { rows, channels: Vec::new(), not_finite: None });
        }
        let least = Histogram::new(bins_2 / 2)?.width_exponent();
        let values = u64::from(m) * u64::from(spec.k) / channels as u64;
        let (ends, rest) = rest.split_at(2 * channels);
        let (sums, counts) = rest.split_at(2 * channels);
        let mut out = Vec::with_capacity(channels);
        for at in 0..channels {
            let (min, max) = (float(ends[at]), float(ends[channels + at]));
            let counts: Vec<u64> =
                counts[at * bins_2..][..bins_2].iter().map(|&count| count.into()).collect();
            let all = bins_2 == 0 || counts.iter().sum::<u64>() == values;
            if !(min <= max && min.is_finite() && max.is_finite() && all) {
                return Err(bad);
            }
            let reached = |x: f32| ((x.to_bits() >> 23) & 0xff).max(1) as i32;
            let wide = match bins_2 {
                0 => least,
                _ => least + reached(min).max(reached(max)) - 1,
            };
            let width = spec.bin_width.filter(|_| bins_2 > 0).map_or(wide, |given| given.max(wide));
            let histogram = Histogram::from_counts(width, counts)?;
            let abs_units = u64::from(sums[2 * at]) | u64::from(sums[2 * at + 1]) << 32;
            out.push(ChannelBatch { min, max, abs_units, histogram });
        }
        Ok(Batch { rows, channels: out, not_finite: None })
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. X is split if it
    /// exceeds a binding.
    ///
    /// # Errors
    /// Returns [`BindError`]; [`BindError::RowTooLarge`] also if the observation exceeds a binding.
    pub async fn bind(&self, args: ObserveArgs<'_>) -> Result<BoundObserve, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let x = Rows::read(spec.rows().rows(), args.activations);
        check_rows(&[x], spec.max_m)?;
        let need = 4 * spec.words();
        check(Role::Output, args.output, need, 4)?;
        check_aliases([(Role::Activations, x.at.buffer)], &[args.output.buffer])?;
        let limit = window_capacity(caps);
        if need > limit {
            return Err(BindError::RowTooLarge { role: Role::Output, need, limit });
        }
        let mut spans = Vec::new();
        if spec.k > 0 {
            spans.extend(Spans::new(caps, spec.max_m, [x.spec])?.iter());
        }
        // The output is cleared even if there are no rows.
        if spans.is_empty() {
            spans.push(Span::all(0));
        }
        let (label, count) = ("lowbit observe", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.len() as u64)?;
        let y = Window::new(caps, args.output.buffer, args.output.offset, need);
        let blocks = spec.k.div_ceil(BLOCK_K as u32);
        // `check` and `new` have refused an invalid width.
        let least = spec.least().unwrap_or(1);
        for span in &spans {
            draft.slot(Params {
                k: spec.k,
                blocks,
                channels: spec.channels() as u32,
                by_column: u32::from(spec.axis == Axis::Channel),
                x_offset: x.window(caps, span).at(spec.activations.bytes()),
                x_stride: spec.x_stride,
                y_offset: y.at(4),
                words: spec.words() as u32,
                m0: span.m0,
                m_cap: span.m_cap,
                bins_2: 2 * spec.bins,
                bins_log: spec.bins_log(),
                least,
                pad: [0; 3],
            });
        }
        let sizes =
            [(WORDS, Size::Fixed(spec.words())), (Variable::BLOCKS, Size::Fixed(blocks.into()))];
        for (kernel, pipeline) in self.pipelines.iter().enumerate() {
            // The first kernel clears the output, once.
            let spans = if kernel == 0 { &spans[..1] } else { &spans };
            for (slot, &span) in spans.iter().enumerate() {
                let bound = [(3, x.window(caps, &span).into()), (4, y.into())];
                draft.step(pipeline, Head::Counted(slot), bound, span, &sizes);
            }
        }
        draft.bind(self.clone()).await
    }
}

/// Returns the float of a key; see `keys_of` in `shaders/observe/tile.wgsl`.
fn float(key: u32) -> f32 {
    f32::from_bits(match key.checked_sub(1 << 31) {
        Some(magnitude) => magnitude,
        None => ((1 << 31) - 1 - key) | 1 << 31,
    })
}
