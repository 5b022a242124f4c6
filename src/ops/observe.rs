//! What calibration wants of X, seen on the device: ranges, histograms and sums of |x|.
//!
//! A recording leaves one batch's observation in a buffer of the caller's, and nothing has to come
//! back before the caller asks: observations of many layers and batches may lie in one buffer, one
//! behind the other. [`ObservePlan::batch`] reads one, and [`Statistics::fold`] takes it in. It is
//! [`Batch::of`] bit for bit: the kernels count, compare and add integers only.
//!
//! [`Statistics::fold`]: crate::compress::calibrate::Statistics::fold

use super::buffers::{Window, check, window_capacity};
use super::matmul::RecordError;
use super::quantize_activations::{Loads, X};
use super::registry::Kernel;
use super::slots::{Slots, check_grid, pipelines, spans};
use super::{BindError, FloatType, PlanError, QuantizeActivationsSpec, Role, SubBuffer};
use crate::compress::calibrate::{
    Axis, Batch, CalibrateError, ChannelBatch, Histogram, NotFinite, Observer,
};
use crate::format::{ActivationFormat, ActivationGranularity, BLOCK_K};
use crate::gpu::{
    Access, Binding, Caps, Const, DeviceError, Grid, KernelDesc, Kernels, Pipeline, Variable,
    fragment, uniform,
};
use std::sync::Arc;

/// Rows of a tile, of 32 columns.
const TILE_ROWS: u32 = 256;

/// Lanes of a workgroup.
const WORKGROUP: u32 = 64;

/// Words before the ranges: NaN, infinities, index of the first of either.
const HEADER: u64 = 4;

/// Why X cannot be observed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// Shapes and strides that no kernel serves.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Bins that are none.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The device said no.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Words that no kernel leaves: not recorded, or overwritten.
    #[error("these {0} words are no observation of so many rows")]
    Words(usize),
}

/// What is to be observed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObserveSpec {
    /// Rows of X at most.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// What has a range of its own.
    pub axis: Axis,
    /// Bins on either side of 0, a power of two; 0 for ranges and sums alone.
    pub bins: u32,
    /// The type of X.
    pub activations: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// The binary logarithm of the least width of bins; as narrow as X allows where there is none.
    pub bin_width: Option<i32>,
}

impl ObserveSpec {
    /// Packed f32 rows, in bins as narrow as X allows.
    pub fn new(max_m: u32, k: u32, axis: Axis, bins: u32) -> Self {
        let (activations, x_stride, bin_width) = (FloatType::F32, k, None);
        Self { max_m, k, axis, bins, activations, x_stride, bin_width }
    }

    /// What [`Batch::of`] this observer sees.
    ///
    /// # Errors
    /// [`ObserveError::Plan`] for more columns than kernels index.
    pub fn of(observer: &Observer, max_m: u32) -> Result<Self, ObserveError> {
        let to_u32 = |name, value: usize| {
            let (limit, shown) = (i32::MAX as u32, u32::try_from(value).unwrap_or(u32::MAX));
            match shown > limit {
                true => Err(PlanError::TooLarge { name, value: shown, limit }),
                false => Ok(shown),
            }
        };
        let (k, bins) = (to_u32("k", observer.columns())?, to_u32("bins", observer.bins())?);
        Ok(Self::new(max_m, k, observer.axis(), bins))
    }

    /// The same with another type of X; sets a packed stride, even for f16.
    pub fn with_activations(self, activations: FloatType) -> Self {
        let x_stride = self.rows().with_activations(activations).x_stride;
        Self { activations, x_stride, ..self }
    }

    /// The same with another stride, in elements.
    pub fn with_stride(self, x_stride: u32) -> Self {
        Self { x_stride, ..self }
    }

    /// The same with bins at least 2^`exponent` wide, and wider where X reaches further: those that
    /// other batches have, say.
    pub fn with_bin_width(self, exponent: i32) -> Self {
        Self { bin_width: Some(exponent), ..self }
    }

    /// X is loaded as where it is quantized.
    fn rows(&self) -> QuantizeActivationsSpec {
        QuantizeActivationsSpec {
            max_m: self.max_m,
            k: self.k,
            format: ActivationFormat::int8(ActivationGranularity::Tensor),
            activations: self.activations,
            x_stride: self.x_stride,
            given: false,
        }
    }

    fn channels(&self) -> u64 {
        match self.axis {
            Axis::Channel => self.k.into(),
            _ => 1,
        }
    }

    /// Words of an observation.
    pub fn words(&self) -> u64 {
        HEADER + self.channels() * (4 + 2 * u64::from(self.bins))
    }

    /// Bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.rows().x_bytes(m)
    }

    /// Refuses what no plan can serve.
    ///
    /// # Errors
    /// [`ObserveError`]: as [`QuantizeActivationsSpec::check`]; 2³² − 1 elements or more; bins that are no power
    /// of two, or too many; a width of bins that no f32 asks for.
    pub fn check(&self) -> Result<(), ObserveError> {
        self.rows().check()?;
        // An index of an element is a u32, and one of them is none.
        let limit = u32::MAX - 1;
        if u64::from(self.max_m) * u64::from(self.k) > limit.into() {
            let (name, value) = ("max_m · k", u32::MAX);
            return Err(PlanError::TooLarge { name, value, limit }.into());
        }
        let limit = i32::MAX as u32;
        if self.words() > limit.into() {
            let value = u32::try_from(self.words()).unwrap_or(u32::MAX);
            let name = "words of histograms";
            return Err(PlanError::TooLarge { name, value, limit }.into());
        }
        self.least()?;
        Ok(())
    }

    /// The biased exponent that bins reach at least.
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

    /// The kernels, in the order in which they run.
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

/// Every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<Kernel> {
    let spec = |k, float| ObserveSpec::new(2, k, Axis::Tensor, 64).with_activations(float);
    // Whole blocks, quads, pairs, neither.
    let floats = [FloatType::F32, FloatType::F16];
    let specs = [64, 68, 66, 67].into_iter().flat_map(|k| floats.map(|float| spec(k, float)));
    specs.flat_map(|spec| spec.shaders(caps)).map(Kernel::from).collect()
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

/// The compiled kernels for one [`ObserveSpec`]. Cheap to clone.
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
    /// X; f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes,
    /// others at one of 4.
    pub activations: SubBuffer<'a>,
    /// [`ObserveSpec::words`] words, from a multiple of 4 bytes on.
    pub output: SubBuffer<'a>,
}

/// A plan with its buffers: records any m up to the plan's maximum.
#[derive(Clone, Debug)]
pub struct BoundObserve {
    plan: ObservePlan,
    segments: Vec<Segment>,
}

/// A span of rows, with the bind groups of all three kernels; the first clears too.
#[derive(Clone, Debug)]
struct Segment {
    groups: Vec<wgpu::BindGroup>,
    m0: u32,
    m_cap: u32,
}

impl ObservePlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// [`ObserveError`].
    pub async fn new(kernels: &Kernels, spec: &ObserveSpec) -> Result<Self, ObserveError> {
        spec.check()?;
        let shaders = spec.shaders(kernels.caps());
        let pipelines = pipelines(kernels, &shaders).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipelines })
    }

    /// What the plan is for.
    pub fn spec(&self) -> &ObserveSpec {
        &self.spec
    }

    /// Reads the words of an observation of `m` rows.
    ///
    /// # Errors
    /// [`ObserveError::Words`]: the wrong number of them, or such as no kernel leaves.
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

    /// Checks the buffers and makes bind groups and one small uniform buffer. An X that exceeds a
    /// binding is split.
    ///
    /// # Errors
    /// [`BindError`]; [`BindError::RowTooLarge`] too where the observation exceeds a binding.
    pub async fn bind(&self, args: ObserveArgs<'_>) -> Result<BoundObserve, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let rows = spec.rows();
        let x = args.activations;
        check(Role::Activations, x, rows.x_bytes(spec.max_m), rows.x_align())?;
        check(Role::Output, args.output, 4 * spec.words(), 4)?;
        if x.buffer == args.output.buffer {
            return Err(BindError::Aliased { role: Role::Activations });
        }
        let spans = self.spans(&rows)?;
        let y = Window::new(caps, args.output.buffer, args.output.offset, 4 * spec.words());
        let mut params = Vec::with_capacity(spans.len());
        let mut windows = Vec::with_capacity(spans.len());
        let blocks = spec.k.div_ceil(BLOCK_K as u32);
        // `check` and `new` have refused a width that is none.
        let least = spec.least().unwrap_or(1);
        for &(m0, m_cap) in &spans {
            let row = u64::from(spec.x_stride) * spec.activations.bytes();
            let start = x.offset + u64::from(m0) * row;
            let x = Window::new(caps, x.buffer, start, rows.x_bytes(m_cap));
            for groups in [tiles(blocks, m_cap), spec.words().div_ceil(WORKGROUP.into())] {
                check_grid(caps, groups)?;
            }
            params.push(Params {
                k: spec.k,
                blocks,
                channels: spec.channels() as u32,
                by_column: u32::from(spec.axis == Axis::Channel),
                x_offset: (x.skip / spec.activations.bytes()) as u32,
                x_stride: spec.x_stride,
                y_offset: (y.skip / 4) as u32,
                words: spec.words() as u32,
                m0,
                m_cap,
                bins_2: 2 * spec.bins,
                bins_log: spec.bins_log(),
                least,
                pad: [0; 3],
            });
            windows.push(x);
        }
        let slots = Slots::new(&self.kernels, "lowbit observe", &params).await?;
        let make = || {
            let mut segments = Vec::with_capacity(spans.len());
            for (index, (&(m0, m_cap), x)) in spans.iter().zip(&windows).enumerate() {
                let group = |pipeline: &Arc<Pipeline>| {
                    let bound = [(3, x.binding()), (4, y.binding())];
                    slots.group_of_m(&self.kernels, pipeline, index, bound)
                };
                let groups = self.pipelines.iter().map(group).collect();
                segments.push(Segment { groups, m0, m_cap });
            }
            segments
        };
        let segments = self.kernels.guarded("bind groups of an observation", make).await?;
        Ok(BoundObserve { plan: self.clone(), segments })
    }

    /// First row and rows of each dispatch, so that X fits its binding; one at least, to clear by.
    fn spans(&self, rows: &QuantizeActivationsSpec) -> Result<Vec<(u32, u32)>, BindError> {
        let spec = &self.spec;
        let limit = window_capacity(self.kernels.caps());
        let need = 4 * spec.words();
        if need > limit {
            return Err(BindError::RowTooLarge { role: Role::Output, need, limit });
        }
        if spec.max_m == 0 || spec.k == 0 {
            return Ok(vec![(0, 0)]);
        }
        let stride = u64::from(spec.x_stride) * spec.activations.bytes();
        let parts = [(Role::Activations, rows.x_bytes(1), stride)];
        spans(self.kernels.caps(), spec.max_m, parts)
    }
}

/// Workgroups of a span.
fn tiles(blocks: u32, rows: u32) -> u64 {
    u64::from(blocks) * u64::from(rows.div_ceil(TILE_ROWS))
}

/// A float of its key: see `keys_of` in `shaders/observe/tile.wgsl`.
fn float(key: u32) -> f32 {
    f32::from_bits(match key.checked_sub(1 << 31) {
        Some(magnitude) => magnitude,
        None => ((1 << 31) - 1 - key) | 1 << 31,
    })
}

impl BoundObserve {
    /// The plan it was bound from.
    pub fn plan(&self) -> &ObservePlan {
        &self.plan
    }

    /// Records the observation of the first `m` rows, in place of what the output held. Sets the
    /// pass's pipeline and bind group 0. Allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; then nothing is recorded.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, m: u32) -> Result<(), RecordError> {
        let ObservePlan { kernels, spec, pipelines } = &self.plan;
        if m > spec.max_m {
            return Err(RecordError::MTooLarge { m, max_m: spec.max_m });
        }
        let blocks = spec.k.div_ceil(BLOCK_K as u32);
        for (index, pipeline) in pipelines.iter().enumerate() {
            pass.set_pipeline(&pipeline.pipeline);
            for segment in &self.segments {
                let groups = match (index, segment.m0) {
                    (0, 0) => spec.words().div_ceil(WORKGROUP.into()),
                    (0, _) => 0,
                    _ => tiles(blocks, m.saturating_sub(segment.m0).min(segment.m_cap)),
                };
                if groups > 0 {
                    // `bind` has checked the largest grid, and smaller ones fold as well.
                    let [x, y, z] = kernels.caps().fold(groups).unwrap_or_default();
                    pass.set_bind_group(0, &segment.groups[index], &kernels.m_offsets(m));
                    pass.dispatch_workgroups(x, y, z);
                }
            }
        }
        Ok(())
    }
}
