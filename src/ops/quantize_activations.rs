//! Quantizes f32 or f16 activations to 8 bits: codes, scales, zero points, and the sums of codes
//! that integer matmuls need to take zero points into account.
//!
//! `x ≈ (c − z) · s`; see [`ActivationFormat`]. Ranges come from X itself (dynamic) or from a
//! calibration (static: [`QuantizeActivationsSpec::with_given_scale`]). The arithmetic is floating
//! point, so a code next to a tie may be either neighbour, and a scale may be a few ulp off:
//! [`reference::check_activations`](crate::reference::check_activations) states the contract.

use super::buffers::{Window, check, check_aliases};
use super::recording::{Bound, Count, Draft, Head, pipelines};
use super::rows::{Rows, RowsSpec, Span, Spans, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::format::{ActivationFormat, ActivationGranularity, ActivationLayout, BLOCK_K};
use crate::gpu::{
    Access, AdapterClass, Binding, BufferFill, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE,
    MAX_COUNT, Pipeline, Variable, fragment, uniform,
};
use std::sync::Arc;

/// The shape of X and the format that it is quantized to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct QuantizeActivationsSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// The format of the output.
    pub format: ActivationFormat,
    /// The type of X.
    pub activations: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Whether scale and zero point are given, for example by a calibration, instead of taken from
    /// X. Only for [`ActivationGranularity::Tensor`].
    pub given: bool,
}

impl QuantizeActivationsSpec {
    /// Creates a spec with packed f32 rows and ranges taken from X.
    pub fn new(max_m: u32, k: u32, format: ActivationFormat) -> Self {
        let (activations, x_stride) = (FloatType::F32, k);
        Self { max_m, k, format, activations, x_stride, given: false }
    }

    /// Sets the type of X, and a packed stride (an even one for f16).
    pub fn with_activations(mut self, activations: FloatType) -> Self {
        self.activations = activations;
        self.x_stride = activations.packed(self.k);
        self
    }

    /// Sets the stride, in elements.
    pub fn with_stride(mut self, stride: u32) -> Self {
        self.x_stride = stride;
        self
    }

    /// Takes a given scale and zero point.
    pub fn with_given_scale(mut self) -> Self {
        self.given = true;
        self
    }

    /// Returns the layout of the output.
    ///
    /// # Errors
    /// Returns [`PlanError::Activations`].
    pub fn layout(&self) -> Result<ActivationLayout, PlanError> {
        Ok(self.format.layout(self.k as usize)?)
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.rows().bytes(m)
    }

    /// Returns the rows of X.
    pub(super) fn rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.k, self.x_stride, self.activations)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if the format is invalid, a dimension is too large, a static scale is
    /// requested for a format with many scales, or the stride is too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        self.layout()?;
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("k", self.k, i32::MAX as u32),
        ])?;
        if self.given && self.format.granularity() != ActivationGranularity::Tensor {
            return Err(PlanError::StaticScaleNeeded { format: self.format });
        }
        self.rows().check(self.max_m)
    }

    /// Returns the kernels, in the order in which they run.
    pub fn shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        match (self.format.granularity(), self.given) {
            (ActivationGranularity::Tensor, false) => {
                vec![reset(), self.ranges(caps), self.quantize(caps)]
            }
            _ => vec![self.quantize(caps)],
        }
    }

    fn quads(&self) -> bool {
        self.rows().is_quads()
    }

    /// Returns how rows of X are loaded: fragments, the constants they need, and what names them.
    pub(super) fn loads(&self, caps: &Caps) -> Loads {
        let wide = caps.int64 && caps.class == AdapterClass::Cpu;
        let ragged = !self.k.is_multiple_of(BLOCK_K as u32);
        let (access, suffix) = match (self.activations, self.quads()) {
            (FloatType::F16, _) => ("access/x_f16", ".xf16"),
            (FloatType::F32, true) if wide => ("access/x_f32x4_u64", ".u64"),
            (FloatType::F32, true) => ("access/x_f32x4", ""),
            (FloatType::F32, false) => ("access/x_f32", ".x1"),
        };
        let mut consts = vec![("M_TABLE", Const::U32(M_TABLE))];
        let mut suffix = suffix.to_string();
        let mut conditions = Vec::new();
        if matches!(access, "access/x_f32x4" | "access/x_f16") {
            consts.push(("RAGGED", Const::Bool(ragged)));
            if ragged {
                suffix.push_str(".tail");
            } else {
                conditions.push("k is a multiple of 32".into());
            }
        }
        let native = caps.exact_f16_unpack && self.activations == FloatType::F16;
        suffix.push_str(if native { ".half" } else { "" });
        let halves = if native { "lib/half_pair_native" } else { "lib/half_pair" };
        Loads { fragments: [halves, access], consts, suffix, conditions }
    }

    /// Returns the kernel that finds the range of all of X.
    fn ranges(&self, caps: &Caps) -> KernelDesc {
        self.shader(caps, "activations/ranges", "ranges", (Access::Write, RANGE))
    }

    /// Returns the kernel that makes codes.
    fn quantize(&self, caps: &Caps) -> KernelDesc {
        let (scope, suffix) = match (self.format.granularity(), self.given) {
            (ActivationGranularity::Token, _) => (0, ".token"),
            (ActivationGranularity::Group(_), _) => (1, ".group"),
            (ActivationGranularity::Tensor, false) => (2, ".tensor"),
            (ActivationGranularity::Tensor, true) => (3, ".given"),
        };
        let range = (Access::Read, RANGE);
        let mut kernel = self.shader(caps, "activations/quantize", "quantize", range);
        kernel.id.push_str(suffix);
        kernel.consts.push(("SCOPE", Const::U32(scope)));
        // Three words a lane; other scopes do not use them, and the compiler drops them.
        kernel.workgroup_memory = 12 * WORKGROUP;
        kernel
    }

    fn shader(
        &self,
        caps: &Caps,
        main: &str,
        name: &str,
        (access, range): (Access, &'static str),
    ) -> KernelDesc {
        let Loads { fragments, mut consts, suffix, conditions } = self.loads(caps);
        consts.extend([
            ("WORKGROUP", Const::U32(WORKGROUP)),
            ("ASYMMETRIC", Const::Bool(!self.format.is_symmetric())),
        ]);
        let asymmetric = if self.format.is_symmetric() { "" } else { ".asym" };
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: format!("activations_{name}.int8{suffix}{asymmetric}"),
            consts,
            fragments: fragments.into_iter().chain([main]).map(fragment).collect(),
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "x", X, Access::Read),
                Binding::data(4, "ranges", range, access),
                Binding::data(
                    5,
                    "y",
                    "rows of codes, scales, zero points and sums of blocks",
                    Access::Write,
                ),
            ],
            grid: Grid::new(&[(&[Variable::M], 1)]),
            workgroup_size: WORKGROUP,
            workgroup_memory: 0,
            conditions,
            weights: None,
        }
    }
}

/// What the binding of X holds in kernels that read X as floats.
pub(super) const X: &str = "X, row-major from element x_offset on; f16 in pairs";

/// What the binding of a range holds.
pub(super) const RANGE: &str =
    "the range of all of X, as ordered keys, or the given scale and zero point";

/// See [`QuantizeActivationsSpec::loads`].
pub(super) struct Loads {
    pub fragments: [&'static str; 2],
    pub consts: Vec<(&'static str, Const)>,
    pub suffix: String,
    /// What K must be for that.
    pub conditions: Vec<String>,
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let group = ActivationGranularity::Group(std::num::NonZeroU32::MIN.saturating_add(31));
    let mut kernels = Vec::new();
    for granularity in [ActivationGranularity::Token, group, ActivationGranularity::Tensor] {
        let format = ActivationFormat::int8(granularity);
        for format in [format, format.asymmetric()] {
            // Whole blocks, quads, pairs, neither.
            for k in [64, 68, 66, 67] {
                for float in [FloatType::F32, FloatType::F16] {
                    let spec = QuantizeActivationsSpec::new(2, k, format).with_activations(float);
                    if granularity == ActivationGranularity::Tensor {
                        kernels.extend(spec.clone().with_given_scale().shaders(caps));
                    }
                    kernels.extend(spec.shaders(caps));
                }
            }
        }
    }
    kernels
}

/// Lanes that share a row.
const WORKGROUP: u32 = 64;

/// Returns the kernel that clears the range of X.
fn reset() -> KernelDesc {
    KernelDesc {
        id: "activations_reset".into(),
        consts: Vec::new(),
        fragments: vec![fragment("activations/reset")],
        bindings: vec![Binding::data(4, "ranges", RANGE, Access::Write)],
        grid: Grid::new(&[]),
        workgroup_size: 1,
        workgroup_memory: 0,
        conditions: Vec::new(),
        weights: None,
    }
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "Params" in "activations/code" {
        k: u32,
        blocks: u32,
        group_blocks: u32,
        groups: u32,
        x_offset: u32,
        x_stride: u32,
        row_words: u32,
        scale_at: u32,
        zero_at: u32,
        sum_at: u32,
        y_offset: u32,
        m0: u32,
        m_cap: u32,
        range_at: u32,
        pad: [u32; 2] = "pad0" "pad1",
    }
}

/// The compiled kernels for one [`QuantizeActivationsSpec`]. A plan is cheap to clone.
///
/// X is quantized in the pass of the matmul that reads its codes:
///
/// ```no_run
/// # use lowbit::format::ActivationFormat;
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{Activations, DeviceWeights, MatmulArgs, MatmulPlan, MatmulSpec};
/// # use lowbit::ops::{QuantizeActivationsArgs, QuantizeActivationsPlan, QuantizeActivationsSpec};
/// # use lowbit::ops::Select;
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     weights: &DeviceWeights,
/// #     (x, codes, y): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let format: ActivationFormat = "int8-token".parse()?; // a scale for each row, computed from X
/// let spec = QuantizeActivationsSpec::new(512, weights.k() as u32, format);
/// let plan = QuantizeActivationsPlan::new(kernels, &spec).await?;
/// assert!(codes.size() >= plan.output_bytes(512));
/// let (activations, output) = (x.into(), codes.into());
/// let args = QuantizeActivationsArgs { activations, given: None, output };
/// let quantize = plan.bind(args).await?;
///
/// let spec = MatmulSpec::of(512, weights).with_activations(Activations::Int8(format));
/// let plan = MatmulPlan::new(kernels, &spec, Select::Auto).await?;
/// let (activations, output) = (codes.into(), y.into());
/// let matmul = plan.bind(MatmulArgs { activations, weights, bias: None, output }).await?;
///
/// quantize.record(pass, 8)?;
/// matmul.record(pass, 8)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QuantizeActivationsPlan {
    kernels: Kernels,
    spec: QuantizeActivationsSpec,
    layout: ActivationLayout,
    pipelines: Vec<Arc<Pipeline>>,
}

/// The buffers of one quantization.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeActivationsArgs<'a> {
    /// X. f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes,
    /// others at a multiple of 4.
    pub activations: SubBuffer<'a>,
    /// If the spec has a given scale: the scale, f32, positive and normal, and the zero point,
    /// i32 within the codes. A NaN in X then becomes an arbitrary code.
    pub given: Option<SubBuffer<'a>>,
    /// `[max_m, row_words]` words ([`ActivationLayout`]), at a multiple of 16 bytes.
    pub output: SubBuffer<'a>,
}

/// A quantization with its buffers.
pub type BoundQuantizeActivations = Bound<QuantizeActivationsPlan>;

impl QuantizeActivationsPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &QuantizeActivationsSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipelines = pipelines(kernels, &spec.shaders(kernels.caps())).await?;
        let (kernels, layout) = (kernels.clone(), spec.layout()?);
        Ok(Self { kernels, spec: spec.clone(), layout, pipelines })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &QuantizeActivationsSpec {
        &self.spec
    }

    /// Returns the layout of the output.
    pub fn layout(&self) -> &ActivationLayout {
        &self.layout
    }

    /// Returns the number of bytes of output that `m` rows take.
    pub fn output_bytes(&self, m: u32) -> u64 {
        self.output_rows().bytes(m)
    }

    fn output_rows(&self) -> RowsSpec {
        // `layout` keeps rows below 2³¹ words.
        let words = self.layout.row_words as u32;
        RowsSpec::words(Role::Output, words, words)
    }

    /// Checks the buffers and makes bind groups, one small uniform buffer and 32 bytes of scratch
    /// for a range. Data that exceed a binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(
        &self,
        args: QuantizeActivationsArgs<'_>,
    ) -> Result<BoundQuantizeActivations, BindError> {
        let (spec, layout, caps) = (&self.spec, &self.layout, self.kernels.caps());
        let x = Rows::read(spec.rows(), args.activations);
        let y = Rows { align: 16, ..Rows::write(self.output_rows(), args.output) };
        check_rows(&[x, y], spec.max_m)?;
        if args.given.is_some() != spec.given {
            return Err(BindError::StaticScaleNeeded { planned: spec.given });
        }
        if let Some(given) = args.given {
            check(Role::Scales, given, 8, 4)?;
        }
        let given = args.given.map(|given| (Role::Scales, given.buffer));
        check_aliases(given, &[args.output.buffer])?;
        let spans = match spec.k {
            0 => Spans::none(),
            _ => Spans::new(caps, spec.max_m, [x.spec, y.spec])?,
        };
        let storage = wgpu::BufferUsages::STORAGE;
        let scratch =
            self.kernels.buffer("lowbit activation range", storage, BufferFill::Zeros(32)).await?;
        let given = args.given.map(|given| Window::new(caps, given.buffer, given.offset, 8));
        let (label, count) = ("lowbit quantize activations", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        let every = Span::all(spec.max_m);
        let mut by_rows = &self.pipelines[..];
        if let [reset, rest @ ..] = by_rows
            && !rest.is_empty()
        {
            draft.step(reset, Head::None, [(4, (&scratch).into())], every, &[]);
            by_rows = rest;
        }
        let segments: Vec<_> = spans
            .iter()
            .map(|span| {
                let (x, y) = (x.window(caps, &span), y.window(caps, &span));
                let slot = draft.slot(Params {
                    k: spec.k,
                    blocks: layout.blocks as u32,
                    group_blocks: layout.group_blocks as u32,
                    groups: layout.groups as u32,
                    x_offset: x.at(spec.activations.bytes()),
                    x_stride: spec.x_stride,
                    row_words: layout.row_words as u32,
                    scale_at: layout.scale_at as u32,
                    zero_at: layout.zero_at as u32,
                    sum_at: layout.sum_at as u32,
                    y_offset: y.at(4),
                    m0: span.m0,
                    m_cap: span.m_cap,
                    range_at: given.map_or(0, |given| given.at(4)),
                    pad: [0; 2],
                });
                (span, slot, x, y)
            })
            .collect();
        for pipeline in by_rows {
            for &(span, slot, x, y) in &segments {
                let ranges = given.map_or((&scratch).into(), |given| given.into());
                let bound = [(3, x.into()), (4, ranges), (5, y.into())];
                draft.step(pipeline, Head::Counted(slot), bound, span, &[]);
            }
        }
        draft.bind(self.clone()).await
    }
}
