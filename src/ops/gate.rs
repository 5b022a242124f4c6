//! Gated activations: `y = f(gate) · up` of rows that hold both, as floats or as 8-bit codes. With SiLU
//! this is SwiGLU, with GELU GeGLU.

use super::loads::{Loads, row_lanes};
use super::matmul::function_fragment;
use super::output::{Stores, check_output, check_scale, outputs, whole_words};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, Output, PlanError, Role, SubBuffer};
use crate::format::{ActivationFunction, ActivationLayout, StaticScale};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT, Pipeline, Size,
    Variable, fragment, uniform,
};
use std::sync::Arc;

/// The arrangement of gate and up in a row of X.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GateLayout {
    /// All columns of the gate, then all of up.
    Halves,
    /// A column of the gate and one of up in turn.
    Interleaved,
}

impl GateLayout {
    /// Every layout.
    pub const ALL: [Self; 2] = [Self::Halves, Self::Interleaved];

    /// Returns `halves` or `interleaved`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Halves => "halves",
            Self::Interleaved => "interleaved",
        }
    }
}

/// The shape of the result, `[m, n]`, and the function and types. X is `[m, 2n]`. Strides are in
/// elements, those of an output of codes in words, and default to packed rows (f16 rows are padded to an
/// even length).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GateSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of the result. X has twice as many.
    pub n: u32,
    /// The function of the gate.
    pub function: ActivationFunction,
    /// Where gate and up are in a row of X.
    pub layout: GateLayout,
    /// The type of X.
    pub activations: FloatType,
    /// The type of the result: floats, `int8-token`, or `int8-tensor` with a static scale.
    pub output: Output,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements, or words of codes, from one row of the output to the next.
    pub y_stride: u32,
}

impl GateSpec {
    /// Creates a spec of packed f32 rows in halves.
    pub fn new(max_m: u32, n: u32, function: ActivationFunction) -> Self {
        let (activations, layout) = (FloatType::F32, GateLayout::Halves);
        let (output, x_stride, y_stride) = (activations.into(), 0, 0);
        let spec = Self { max_m, n, function, layout, activations, output, x_stride, y_stride };
        spec.with_activations(activations).with_output(activations)
    }

    /// Sets where gate and up are in a row of X.
    pub fn with_layout(self, layout: GateLayout) -> Self {
        Self { layout, ..self }
    }

    /// Sets the type of X, and a packed stride.
    pub fn with_activations(self, activations: FloatType) -> Self {
        Self { activations, x_stride: activations.packed(self.x_columns()), ..self }
    }

    /// Sets the type of the result, and a packed stride.
    pub fn with_output(self, output: impl Into<Output>) -> Self {
        let output = output.into();
        let y_stride = match output {
            Output::Float(float) => float.packed(self.n),
            _ => RowsSpec::output(self.n, 0, output).columns,
        };
        Self { output, y_stride, ..self }
    }

    /// Sets the strides of X, in elements, and of the output, in elements or in words of codes.
    pub fn with_strides(self, x_stride: u32, y_stride: u32) -> Self {
        Self { x_stride, y_stride, ..self }
    }

    /// Returns the layout of rows of the output if they hold codes.
    pub fn y_layout(&self) -> Option<ActivationLayout> {
        match self.output {
            Output::Int8(format) => format.layout(self.n as usize).ok(),
            _ => None,
        }
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of output from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        whole_words(self.y_rows().bytes(m))
    }

    fn x_columns(&self) -> u32 {
        self.n.saturating_mul(2)
    }

    fn x_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.x_columns(), self.x_stride, self.activations)
    }

    fn y_rows(&self) -> RowsSpec {
        RowsSpec::output(self.n, self.y_stride, self.output)
    }

    /// Returns whether rows of X are loaded 16 bytes at a time.
    fn quads(&self) -> bool {
        let whole = self.layout == GateLayout::Interleaved || self.n.is_multiple_of(4);
        self.activations == FloatType::F32 && self.x_rows().is_quads() && whole
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, a stride is too short or, for f16, odd, the
    /// output is one that this op does not write, or X holds f16 in halves of an odd length.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("n", self.n, i32::MAX as u32 / 2),
        ])?;
        check_output("gate", self.n, self.output)?;
        let odd = self.activations == FloatType::F16 && !self.n.is_multiple_of(2);
        if odd && self.layout == GateLayout::Halves {
            return Err(PlanError::OddHalves { n: self.n });
        }
        self.x_rows().check(self.max_m)?;
        self.y_rows().check(self.max_m)
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let mut loads = Loads::new(caps, self.activations, self.quads(), false);
        let mut stores = Stores::new(self.output, row_lanes(caps));
        let mut consts = vec![("M_TABLE", Const::U32(M_TABLE))];
        consts.append(&mut loads.consts);
        consts.append(&mut stores.consts);
        let mut fragments = loads.fragments;
        fragments.push(function_fragment(self.function));
        let (workgroup_size, grid) = if stores.codes {
            let lanes = row_lanes(caps);
            consts.push(("WORKGROUP", Const::U32(lanes)));
            fragments.push("gate/codes");
            (lanes, Grid::new(&[(&[Variable::M], 1)]))
        } else {
            fragments.push("gate/floats");
            (WORKGROUP, Grid::new(&[(&[Variable::M, QUADS], WORKGROUP)]))
        };
        let lanes = if stores.codes { format!(".w{workgroup_size}") } else { String::new() };
        let function = self.function.name();
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: format!("gate_{function}{}{}{lanes}", loads.suffix, stores.suffix),
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "x", X, Access::Read),
                Binding::data(4, "y", stores.holds, Access::Write),
            ],
            grid,
            workgroup_size,
            workgroup_memory: stores.workgroup_memory,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// The contents of the binding of X.
const X: &str = "X, gate and up, row-major from element x_at on; f16 in pairs";

/// Invocations of a workgroup that writes floats, four columns each.
const WORKGROUP: u32 = 64;

const QUADS: Variable =
    Variable { name: "quads", meaning: "⌈columns/4⌉ of the result: the parameter `columns`" };

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let mut kernels = Vec::new();
    for function in ActivationFunction::ALL {
        for output in outputs() {
            // Quads, neither, pairs.
            for (n, x) in [(4, FloatType::F32), (3, FloatType::F32), (4, FloatType::F16)] {
                let spec = GateSpec::new(2, n, function).with_activations(x).with_output(output);
                kernels.push(spec.shader(caps));
            }
        }
    }
    kernels
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "GateParams" in "gate/row" {
        k: u32,
        columns: u32,
        pairs: u32,
        m0: u32,
        m_cap: u32,
        x_at: u32,
        x_stride: u32,
        y_at: u32,
        y_stride: u32,
        blocks: u32,
        group_blocks: u32,
        groups: u32,
        scale_at: u32,
        zero_at: u32,
        sum_at: u32,
        given_scale: f32,
        given_zero: i32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The compiled kernel for one [`GateSpec`]. A plan is cheap to clone.
///
/// ```no_run
/// # use lowbit::format::ActivationFunction;
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{GateArgs, GatePlan, GateSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (x, y): (&wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// // SwiGLU of rows of 2 · 1536 columns.
/// let spec = GateSpec::new(512, 1536, ActivationFunction::Silu);
/// let plan = GatePlan::new(kernels, &spec).await?;
/// let args = GateArgs { activations: x.into(), scale: None, output: y.into() };
/// plan.bind(args).await?.record(pass, 8)?; // eight rows
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct GatePlan {
    kernels: Kernels,
    spec: GateSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one gated activation.
#[derive(Clone, Copy, Debug)]
pub struct GateArgs<'a> {
    /// X. f32 rows whose halves and stride are multiples of 4 start at a multiple of 16 bytes, others at
    /// a multiple of 4.
    pub activations: SubBuffer<'a>,
    /// The scale and zero point of an `int8-tensor` output. A NaN then becomes an arbitrary code.
    pub scale: Option<StaticScale>,
    /// The output, in words. If it holds codes, it starts at a multiple of 16 bytes. A NaN in X becomes
    /// NaN, and the scale of its row of codes does; what an infinity becomes is not defined. With f16
    /// and odd n, the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// A gated activation with its buffers.
pub type BoundGate = Bound<GatePlan>;

impl GatePlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &GateSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &GateSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Rows that exceed a
    /// binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: GateArgs<'_>) -> Result<BoundGate, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        check_scale(spec.output, args.scale)?;
        let align = if spec.quads() { 16 } else { 4 };
        let x = Rows { align, ..Rows::read(spec.x_rows(), args.activations) };
        let align = if matches!(spec.output, Output::Int8(_)) { 16 } else { 4 };
        let y = Rows { align, ..Rows::write(spec.y_rows(), args.output) };
        check_rows(&[x, y], spec.max_m)?;
        let spans = if spec.n == 0 || spec.max_m == 0 {
            Spans::none()
        } else {
            Spans::new(caps, spec.max_m, [x.spec, y.spec])?
        };
        let layout = spec.y_layout();
        let fixed = Params {
            k: spec.x_columns(),
            columns: spec.n,
            pairs: (spec.layout == GateLayout::Interleaved).into(),
            x_stride: spec.x_stride,
            y_stride: spec.y_stride,
            blocks: layout.map_or(0, |layout| layout.blocks as u32),
            group_blocks: layout.map_or(0, |layout| layout.group_blocks as u32),
            groups: layout.map_or(0, |layout| layout.groups as u32),
            scale_at: layout.map_or(0, |layout| layout.scale_at as u32),
            zero_at: layout.map_or(0, |layout| layout.zero_at as u32),
            sum_at: layout.map_or(0, |layout| layout.sum_at as u32),
            given_scale: args.scale.map_or(1.0, |scale| scale.scale),
            given_zero: args.scale.map_or(0, |scale| scale.zero_point),
            ..Params::default()
        };
        let (label, count) = ("lowbit gate", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        for span in spans.iter() {
            let (x_window, y_window) = (x.window(caps, &span), y.window(caps, &span));
            let slot = draft.slot(Params {
                m0: span.m0,
                m_cap: span.m_cap,
                x_at: x_window.at(x.spec.unit),
                y_at: y_window.at(y.spec.unit),
                ..fixed
            });
            let bound = [(3, x_window.into()), (4, y_window.into())];
            let quads = (QUADS, Size::Fixed(spec.n.div_ceil(4).into()));
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &[quads]);
        }
        draft.bind(self.clone()).await
    }
}
