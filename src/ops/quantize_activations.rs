//! Quantizes f32 or f16 activations to 8 bits: codes, scales, zero points, and the sums of codes
//! that integer matmuls need to take zero points into account.
//!
//! `x ≈ (c − z) · s`; see [`ActivationFormat`]. Ranges come from X itself (dynamic) or from a
//! calibration (static: [`QuantizeActivationsSpec::with_given_scale`]). The arithmetic is floating
//! point, so a code next to a tie may be either neighbour, and a scale may be a few ulp off:
//! [`reference::check_activations`](crate::reference::check_activations) states the contract.

use super::buffers::{Window, check, check_aliases};
use super::recording::{Bound, Count, Draft, Head, Workgroups, pipelines};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::format::{ActivationFormat, ActivationGranularity, ActivationLayout, BLOCK_K};
use crate::gpu::{
    AdapterClass, Binding, BufferFill, Caps, Const, Kernels, M_TABLE, MAX_COUNT, Pipeline, Shader,
    fragment,
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
    /// A spec with packed f32 rows and ranges taken from X.
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

    /// The layout of the output.
    ///
    /// # Errors
    /// [`PlanError::Activations`].
    pub fn layout(&self) -> Result<ActivationLayout, PlanError> {
        Ok(self.format.layout(self.k as usize)?)
    }

    /// Bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.rows().bytes(m)
    }

    /// The rows of X.
    pub(super) fn rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.k, self.x_stride, self.activations)
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// [`PlanError`] if the format is invalid, a dimension is too large, a static scale is asked
    /// for where there are many scales, or the stride is too short or, for f16, odd.
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

    /// The kernels, in the order they run: fragments, constants and bindings.
    pub fn shaders(&self, caps: &Caps) -> Vec<Shader> {
        match (self.format.granularity(), self.given) {
            (ActivationGranularity::Tensor, false) => {
                vec![reset(), self.shader(caps, "ranges"), self.shader(caps, "quantize")]
            }
            _ => vec![self.shader(caps, "quantize")],
        }
    }

    fn quads(&self) -> bool {
        self.rows().is_quads()
    }

    /// How rows of X are loaded: fragments, the constants they need, and what names them.
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
        if matches!(access, "access/x_f32x4" | "access/x_f16") {
            consts.push(("RAGGED", Const::Bool(ragged)));
            suffix.push_str(if ragged { ".tail" } else { "" });
        }
        let native = caps.exact_f16_unpack && self.activations == FloatType::F16;
        suffix.push_str(if native { ".half" } else { "" });
        let halves = if native { "lib/half_pair_native" } else { "lib/half_pair" };
        Loads { fragments: ["lib/dispatch", "lib/half", halves, access], consts, suffix }
    }

    fn shader(&self, caps: &Caps, kernel: &str) -> Shader {
        let Loads { fragments, mut consts, suffix } = self.loads(caps);
        consts.extend([
            ("WORKGROUP", Const::U32(WORKGROUP)),
            ("ASYMMETRIC", Const::Bool(!self.format.is_symmetric())),
        ]);
        let mut name = format!("activations_{kernel}.int8{suffix}");
        name.push_str(if self.format.is_symmetric() { "" } else { ".asym" });
        let last = match kernel {
            "ranges" => "activations/ranges",
            _ => {
                let (scope, suffix) = match (self.format.granularity(), self.given) {
                    (ActivationGranularity::Token, _) => (0, ".token"),
                    (ActivationGranularity::Group(_), _) => (1, ".group"),
                    (ActivationGranularity::Tensor, false) => (2, ".tensor"),
                    (ActivationGranularity::Tensor, true) => (3, ".given"),
                };
                consts.push(("SCOPE", Const::U32(scope)));
                name.push_str(suffix);
                "activations/quantize"
            }
        };
        let written = last == "activations/ranges";
        Shader {
            name,
            consts,
            fragments: fragments
                .into_iter()
                .chain(["activations/code", last])
                .map(fragment)
                .collect(),
            bindings: vec![
                Binding::Uniform(size_of::<Params>() as u32),
                Binding::DynamicUniform(16),
                Binding::DynamicUniform(16),
                Binding::Read,
                if written { Binding::Write } else { Binding::Read },
                Binding::Write,
            ],
        }
    }
}

/// See [`QuantizeActivationsSpec::loads`].
pub(super) struct Loads {
    pub fragments: [&'static str; 4],
    pub consts: Vec<(&'static str, Const)>,
    pub suffix: String,
}

/// Specs that between them have every kernel, for tests and `lowbit-isa`.
#[doc(hidden)]
pub fn every_spec() -> Vec<QuantizeActivationsSpec> {
    let group = ActivationGranularity::Group(std::num::NonZeroU32::MIN.saturating_add(31));
    let mut specs = Vec::new();
    for granularity in [ActivationGranularity::Token, group, ActivationGranularity::Tensor] {
        let format = ActivationFormat::int8(granularity);
        for format in [format, format.asymmetric()] {
            // Whole blocks, quads, pairs, neither.
            for k in [64, 68, 66, 67] {
                for float in [FloatType::F32, FloatType::F16] {
                    let spec = QuantizeActivationsSpec::new(2, k, format).with_activations(float);
                    if granularity == ActivationGranularity::Tensor {
                        specs.push(spec.clone().with_given_scale());
                    }
                    specs.push(spec);
                }
            }
        }
    }
    specs
}

/// Lanes that share a row.
const WORKGROUP: u32 = 64;

fn reset() -> Shader {
    let mut bindings = vec![Binding::Absent; 4];
    bindings.push(Binding::Write);
    Shader {
        name: "activations_reset".into(),
        consts: Vec::new(),
        fragments: vec![fragment("activations/reset")],
        bindings,
    }
}

/// Mirror of `Params` in `shaders/activations/code.wgsl`; a test compares the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
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
    pad: [u32; 2],
}

/// Names and offsets of the parameters, for the test against naga's reflection.
#[doc(hidden)]
pub fn params_layout() -> (usize, Vec<(&'static str, usize)>) {
    use std::mem::offset_of;
    let pad = offset_of!(Params, pad);
    let fields = vec![
        ("k", offset_of!(Params, k)),
        ("blocks", offset_of!(Params, blocks)),
        ("group_blocks", offset_of!(Params, group_blocks)),
        ("groups", offset_of!(Params, groups)),
        ("x_offset", offset_of!(Params, x_offset)),
        ("x_stride", offset_of!(Params, x_stride)),
        ("row_words", offset_of!(Params, row_words)),
        ("scale_at", offset_of!(Params, scale_at)),
        ("zero_at", offset_of!(Params, zero_at)),
        ("sum_at", offset_of!(Params, sum_at)),
        ("y_offset", offset_of!(Params, y_offset)),
        ("m0", offset_of!(Params, m0)),
        ("m_cap", offset_of!(Params, m_cap)),
        ("range_at", offset_of!(Params, range_at)),
        ("pad0", pad),
        ("pad1", pad + 4),
    ];
    (size_of::<Params>(), fields)
}

/// The compiled kernels for one [`QuantizeActivationsSpec`]. Cheap to clone.
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
    /// [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &QuantizeActivationsSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipelines = pipelines(kernels, &spec.shaders(kernels.caps())).await?;
        let (kernels, layout) = (kernels.clone(), spec.layout()?);
        Ok(Self { kernels, spec: spec.clone(), layout, pipelines })
    }

    /// The spec that the plan was made for.
    pub fn spec(&self) -> &QuantizeActivationsSpec {
        &self.spec
    }

    /// The layout of the output.
    pub fn layout(&self) -> &ActivationLayout {
        &self.layout
    }

    /// Bytes of output that `m` rows take.
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
    /// [`BindError`].
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
        let mut by_rows = &self.pipelines[..];
        if let [reset, rest @ ..] = by_rows
            && !rest.is_empty()
        {
            draft.step(reset, Head::None, [(4, (&scratch).into())], Workgroups::Fixed(1));
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
                let grid = Workgroups::Tiles { span, tile: 1, each: 1 };
                draft.step(pipeline, Head::Counted(slot), bound, grid);
            }
        }
        draft.bind(self.clone()).await
    }
}
