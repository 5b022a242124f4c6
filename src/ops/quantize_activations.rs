//! 8-bit activations from f32 or f16: codes, scales, zero points and the sums of codes that
//! integer matmuls fold zero points with.
//!
//! `x ≈ (c − z) · s`; see [`ActivationFormat`]. Ranges come from X itself (dynamic) or from a
//! calibration (static: [`QuantizeActivationsSpec::with_given_scale`]). The arithmetic is floating point, so
//! a code next to a tie may be either neighbour, and a scale a few ulp off:
//! [`reference::check_activations`](crate::reference::check_activations) has the contract.

use super::buffers::{Window, check};
use super::matmul::RecordError;
use super::registry::Kernel;
use super::slots::{Slots, check_grid, pipelines, spans};
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::format::{ActivationFormat, ActivationGranularity, ActivationLayout, BLOCK_K};
use crate::gpu::{
    Access, AdapterClass, Binding, BufferFill, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE,
    MAX_COUNT, Pipeline, Variable, fragment, uniform,
};
use std::sync::Arc;

/// What is to be quantized.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeActivationsSpec {
    /// Rows of X at most.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// What they become.
    pub format: ActivationFormat,
    /// The type of X.
    pub activations: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Whether scale and zero point are given, as of a calibration, and not taken from X. Only
    /// for [`ActivationGranularity::Tensor`].
    pub given: bool,
}

impl QuantizeActivationsSpec {
    /// Packed f32 rows, with ranges taken from X.
    pub fn new(max_m: u32, k: u32, format: ActivationFormat) -> Self {
        let (activations, x_stride) = (FloatType::F32, k);
        Self { max_m, k, format, activations, x_stride, given: false }
    }

    /// The same with another type of X; sets a packed stride, even for f16.
    pub fn with_activations(mut self, activations: FloatType) -> Self {
        self.activations = activations;
        self.x_stride = match activations {
            FloatType::F32 => self.k,
            FloatType::F16 => self.k.saturating_add(self.k % 2),
        };
        self
    }

    /// The same with another stride, in elements.
    pub fn with_stride(mut self, stride: u32) -> Self {
        self.x_stride = stride;
        self
    }

    /// The same by a scale and a zero point that are given.
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
        if m == 0 || self.k == 0 {
            return 0;
        }
        (u64::from(m - 1) * u64::from(self.x_stride) + u64::from(self.k))
            .saturating_mul(self.activations.bytes())
    }

    /// Refuses what no plan can serve.
    ///
    /// # Errors
    /// [`PlanError`]: a bad format, a dimension too large, a stride too short or, for f16, odd.
    pub fn check(&self) -> Result<(), PlanError> {
        self.layout()?;
        for (name, value, limit) in
            [("max_m", self.max_m, MAX_COUNT), ("k", self.k, i32::MAX as u32)]
        {
            if value > limit {
                return Err(PlanError::TooLarge { name, value, limit });
            }
        }
        if self.given && self.format.granularity() != ActivationGranularity::Tensor {
            return Err(PlanError::StaticScaleNeeded { format: self.format });
        }
        let (role, stride) = (Role::Activations, self.x_stride);
        if self.max_m > 1 && stride < self.k {
            return Err(PlanError::Stride { role, stride, need: self.k.into() });
        }
        if self.max_m > 1 && self.activations == FloatType::F16 && stride % 2 == 1 {
            return Err(PlanError::OddStride { role, stride, multiple: 2 });
        }
        Ok(())
    }

    /// The kernels, in the order in which they run.
    pub fn shaders(&self, caps: &Caps) -> Vec<KernelDesc> {
        match (self.format.granularity(), self.given) {
            (ActivationGranularity::Tensor, false) => {
                vec![reset(), self.ranges(caps), self.quantize(caps)]
            }
            _ => vec![self.quantize(caps)],
        }
    }

    fn quads(&self) -> bool {
        self.activations == FloatType::F32
            && self.k.is_multiple_of(4)
            && self.x_stride.is_multiple_of(4)
    }

    /// What the offset of X must be a multiple of, in bytes.
    pub(super) fn x_align(&self) -> u64 {
        if self.quads() { 16 } else { 4 }
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

    /// The kernel that finds the range of all of X.
    fn ranges(&self, caps: &Caps) -> KernelDesc {
        self.shader(caps, "activations/ranges", "ranges", (Access::Write, RANGE))
    }

    /// The kernel that makes codes.
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

/// Every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<Kernel> {
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
    kernels.into_iter().map(Kernel::from).collect()
}

/// Lanes that share a row.
const WORKGROUP: u32 = 64;

/// The kernel that clears the range of X.
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
    /// X; f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes,
    /// others at one of 4.
    pub activations: SubBuffer<'a>,
    /// Where the spec says so (NaN in X then becomes any code): a scale, f32, positive and normal, and a zero point, i32 within
    /// the codes.
    pub given: Option<SubBuffer<'a>>,
    /// `[max_m, row_words]` words ([`ActivationLayout`]), from a multiple of 16 bytes on.
    pub output: SubBuffer<'a>,
}

/// A plan with its buffers: records any m up to the plan's maximum.
#[derive(Clone, Debug)]
pub struct BoundQuantizeActivations {
    plan: QuantizeActivationsPlan,
    /// Of each kernel that takes rows, a bind group a span.
    segments: Vec<Segment>,
    reset: Option<wgpu::BindGroup>,
}

#[derive(Clone, Debug)]
struct Segment {
    groups: Vec<wgpu::BindGroup>,
    m0: u32,
    m_cap: u32,
}

impl QuantizeActivationsPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &QuantizeActivationsSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let shaders = spec.shaders(kernels.caps());
        let pipelines = pipelines(kernels, &shaders).await?;
        let (kernels, layout) = (kernels.clone(), spec.layout()?);
        Ok(Self { kernels, spec: spec.clone(), layout, pipelines })
    }

    /// What the plan is for.
    pub fn spec(&self) -> &QuantizeActivationsSpec {
        &self.spec
    }

    /// The layout of the output.
    pub fn layout(&self) -> &ActivationLayout {
        &self.layout
    }

    /// Bytes of output that `m` rows take.
    pub fn output_bytes(&self, m: u32) -> u64 {
        u64::from(m) * self.layout.row_words as u64 * 4
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
        self.check_args(&args)?;
        let spans = self.spans()?;
        let given = args.given.map(|given| Window::new(caps, given.buffer, given.offset, 8));
        let mut params = Vec::with_capacity(spans.len());
        let mut windows = Vec::with_capacity(spans.len());
        for &(m0, m_cap) in &spans {
            let row = u64::from(spec.x_stride) * spec.activations.bytes();
            let start = args.activations.offset + u64::from(m0) * row;
            let x = Window::new(caps, args.activations.buffer, start, spec.x_bytes(m_cap));
            let start = args.output.offset + self.output_bytes(m0);
            let y = Window::new(caps, args.output.buffer, start, self.output_bytes(m_cap));
            check_grid(caps, m_cap.into())?;
            params.push(Params {
                k: spec.k,
                blocks: layout.blocks as u32,
                group_blocks: layout.group_blocks as u32,
                groups: layout.groups as u32,
                x_offset: (x.skip / spec.activations.bytes()) as u32,
                x_stride: spec.x_stride,
                row_words: layout.row_words as u32,
                scale_at: layout.scale_at as u32,
                zero_at: layout.zero_at as u32,
                sum_at: layout.sum_at as u32,
                y_offset: (y.skip / 4) as u32,
                m0,
                m_cap,
                range_at: given.map_or(0, |given| (given.skip / 4) as u32),
                pad: [0; 2],
            });
            windows.push((x, y));
        }
        let slots = Slots::new(&self.kernels, "lowbit quantize activations", &params).await?;
        let storage = wgpu::BufferUsages::STORAGE;
        let scratch =
            self.kernels.buffer("lowbit activation range", storage, BufferFill::Zeros(32)).await?;
        let ranges = given.map_or(scratch.as_entire_binding(), |given| given.binding());
        let by_rows = match self.pipelines.len() {
            1 => &self.pipelines[..],
            _ => &self.pipelines[1..],
        };
        let make = || {
            let mut segments = Vec::with_capacity(spans.len());
            for (index, (&(m0, m_cap), (x, y))) in spans.iter().zip(&windows).enumerate() {
                let group = |pipeline: &Arc<Pipeline>| {
                    let bound = [(3, x.binding()), (4, ranges.clone()), (5, y.binding())];
                    slots.group_of_m(&self.kernels, pipeline, index, bound)
                };
                segments.push(Segment { groups: by_rows.iter().map(group).collect(), m0, m_cap });
            }
            let reset = (self.pipelines.len() > 1).then(|| {
                let (binding, resource) = (4, scratch.as_entire_binding());
                self.kernels.device().create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("lowbit quantize activations"),
                    layout: &self.pipelines[0].layout,
                    entries: &[wgpu::BindGroupEntry { binding, resource }],
                })
            });
            (segments, reset)
        };
        let (segments, reset) = self.kernels.guarded("bind groups of activations", make).await?;
        Ok(BoundQuantizeActivations { plan: self.clone(), segments, reset })
    }

    fn check_args(&self, args: &QuantizeActivationsArgs<'_>) -> Result<(), BindError> {
        let spec = &self.spec;
        let x = args.activations;
        check(Role::Activations, x, spec.x_bytes(spec.max_m), spec.x_align())?;
        check(Role::Output, args.output, self.output_bytes(spec.max_m), 16)?;
        if args.given.is_some() != spec.given {
            return Err(BindError::StaticScaleNeeded { planned: spec.given });
        }
        if let Some(given) = args.given {
            check(Role::Scales, given, 8, 4)?;
        }
        let inputs = [(Role::Activations, Some(x)), (Role::Scales, args.given)];
        let aliased =
            inputs.into_iter().find(|(_, at)| at.is_some_and(|at| at.buffer == args.output.buffer));
        match aliased {
            Some((role, _)) => Err(BindError::Aliased { role }),
            None => Ok(()),
        }
    }

    /// First row and rows of each dispatch, so that X and the output fit their bindings.
    fn spans(&self) -> Result<Vec<(u32, u32)>, BindError> {
        let spec = &self.spec;
        if spec.max_m == 0 || spec.k == 0 {
            return Ok(Vec::new());
        }
        let x_row = u64::from(spec.x_stride) * spec.activations.bytes();
        let parts = [
            (Role::Activations, spec.x_bytes(1), x_row),
            (Role::Output, self.output_bytes(1), self.output_bytes(1)),
        ];
        spans(self.kernels.caps(), spec.max_m, parts)
    }
}

impl BoundQuantizeActivations {
    /// The plan it was bound from.
    pub fn plan(&self) -> &QuantizeActivationsPlan {
        &self.plan
    }

    /// Records the quantization of the first `m` rows. Sets the pass's pipeline and bind group
    /// 0. Allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; then nothing is recorded.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, m: u32) -> Result<(), RecordError> {
        let QuantizeActivationsPlan { kernels, spec, pipelines, .. } = &self.plan;
        if m > spec.max_m {
            return Err(RecordError::MTooLarge { m, max_m: spec.max_m });
        }
        let mut by_rows = &pipelines[..];
        if let Some(reset) = &self.reset {
            pass.set_pipeline(&pipelines[0].pipeline);
            pass.set_bind_group(0, reset, &[]);
            pass.dispatch_workgroups(1, 1, 1);
            by_rows = &pipelines[1..];
        }
        for (index, pipeline) in by_rows.iter().enumerate() {
            pass.set_pipeline(&pipeline.pipeline);
            for segment in self.segments.iter().filter(|segment| segment.m0 < m) {
                let rows = (m - segment.m0).min(segment.m_cap);
                // `bind` has checked the largest grid, and smaller ones fold as well.
                let [x, y, z] = kernels.caps().fold(rows.into()).unwrap_or_default();
                pass.set_bind_group(0, &segment.groups[index], &kernels.m_offsets(m));
                pass.dispatch_workgroups(x, y, z);
            }
        }
        Ok(())
    }
}
