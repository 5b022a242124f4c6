//! The softmax of rows, with a scale and an optional soft cap.

use super::loads::{Loads, row_lanes};
use super::output::{Stores, whole_words};
use super::recording::{Bound, Count, Draft, Head};
use super::rows::{Rows, RowsSpec, Spans, check_rows};
use super::{BindError, FloatType, Output, PlanError, Role, SubBuffer};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, Kernels, M_TABLE, MAX_COUNT, Pipeline,
    Variable, fragment, uniform,
};
use std::sync::Arc;

/// The shape of X, `[m, n]`, its types and the function: `exp(z) / Σ exp(z)` of each row, where z = scale ·
/// x, or `c · tanh(scale · x / c)` with a soft cap c. Strides are in elements and default to packed rows
/// (f16 rows are padded to an even length).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SoftmaxSpec {
    /// The largest number of rows of X.
    pub max_m: u32,
    /// Columns of X.
    pub n: u32,
    /// The scale of X. It must be a normal number.
    pub scale: f32,
    /// The soft cap, if there is one. It must be a positive normal number.
    pub soft_cap: Option<f32>,
    /// The type of X.
    pub activations: FloatType,
    /// The type of the result.
    pub output: FloatType,
    /// Elements from one row of X to the next.
    pub x_stride: u32,
    /// Elements from one row of the output to the next.
    pub y_stride: u32,
}

impl SoftmaxSpec {
    /// Creates a spec of packed f32 rows with a scale of 1 and no soft cap.
    pub fn new(max_m: u32, n: u32) -> Self {
        let (activations, output) = (FloatType::F32, FloatType::F32);
        let (scale, soft_cap, x_stride, y_stride) = (1.0, None, n, n);
        Self { max_m, n, scale, soft_cap, activations, output, x_stride, y_stride }
    }

    /// Sets the types of X and of the result, and packed strides.
    pub fn with_types(self, activations: FloatType, output: FloatType) -> Self {
        let (x_stride, y_stride) = (activations.packed(self.n), output.packed(self.n));
        Self { activations, output, x_stride, y_stride, ..self }
    }

    /// Sets the scale of X.
    pub fn with_scale(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// Sets the soft cap.
    pub fn with_soft_cap(self, soft_cap: f32) -> Self {
        Self { soft_cap: Some(soft_cap), ..self }
    }

    /// Sets the strides of X and of the output, in elements.
    pub fn with_strides(self, x_stride: u32, y_stride: u32) -> Self {
        Self { x_stride, y_stride, ..self }
    }

    /// Returns the number of bytes of X from its start that a run with `m` rows reads.
    pub fn x_bytes(&self, m: u32) -> u64 {
        self.x_rows().bytes(m)
    }

    /// Returns the number of bytes of output from its start that a run with `m` rows writes.
    pub fn y_bytes(&self, m: u32) -> u64 {
        whole_words(self.y_rows().bytes(m))
    }

    fn x_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Activations, self.n, self.x_stride, self.activations)
    }

    fn y_rows(&self) -> RowsSpec {
        RowsSpec::floats(Role::Output, self.n, self.y_stride, self.output)
    }

    fn quads(&self) -> bool {
        self.activations == FloatType::F32 && self.x_rows().is_quads()
    }

    /// Checks that a plan can serve this spec.
    ///
    /// # Errors
    /// Returns [`PlanError`] if a dimension is too large, a stride is too short or, for f16, odd, or the
    /// scale or the soft cap is no normal number or the cap negative.
    pub fn check(&self) -> Result<(), PlanError> {
        PlanError::check_dimensions(&[
            ("max_m", self.max_m, MAX_COUNT),
            ("n", self.n, i32::MAX as u32),
        ])?;
        let refused = |name, value, need| Err(PlanError::Number { name, value, need });
        if !self.scale.is_normal() {
            return refused("scale", self.scale, "a normal number");
        }
        if let Some(cap) = self.soft_cap.filter(|cap| !cap.is_normal() || *cap < 0.0) {
            return refused("soft_cap", cap, "a positive normal number");
        }
        self.x_rows().check(self.max_m)?;
        self.y_rows().check(self.max_m)
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let lanes = row_lanes(caps);
        let mut loads = Loads::new(caps, self.activations, self.quads(), false);
        let mut stores = Stores::new(Output::Float(self.output), lanes);
        let capped = self.soft_cap.is_some();
        let mut consts = vec![
            ("M_TABLE", Const::U32(M_TABLE)),
            ("WORKGROUP", Const::U32(lanes)),
            ("CAPPED", Const::Bool(capped)),
        ];
        consts.append(&mut loads.consts);
        consts.append(&mut stores.consts);
        let cap = if capped { ".capped" } else { "" };
        let [low, high] = Binding::COUNTS;
        let mut fragments = loads.fragments;
        fragments.push("softmax/row");
        KernelDesc {
            id: format!("softmax{}{}{cap}.w{lanes}", loads.suffix, stores.suffix),
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings: vec![
                Binding::params("p", Params::LAYOUT),
                low,
                high,
                Binding::data(3, "x", X, Access::Read),
                Binding::data(4, "y", stores.holds, Access::Write),
            ],
            grid: Grid::new(&[(&[Variable::M], 1)]),
            workgroup_size: lanes,
            // The sum and the largest number of each lane.
            workgroup_memory: 8 * lanes,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// The contents of the binding of X.
const X: &str = "X, row-major from element x_at on; f16 in pairs";

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let mut kernels = Vec::new();
    for output in [FloatType::F32, FloatType::F16] {
        // Quads, neither, pairs.
        for (n, x) in [(4, FloatType::F32), (3, FloatType::F32), (4, FloatType::F16)] {
            let spec = SoftmaxSpec::new(2, n).with_types(x, output);
            kernels.extend([spec.shader(caps), spec.with_soft_cap(1.0).shader(caps)]);
        }
    }
    kernels
}

uniform! {
    /// The parameters of one dispatch.
    struct Params for "SoftmaxParams" in "softmax/row" {
        k: u32,
        m0: u32,
        m_cap: u32,
        x_at: u32,
        x_stride: u32,
        y_at: u32,
        y_stride: u32,
        scale: f32,
        cap: f32,
        pad: [u32; 3] = "pad0" "pad1" "pad2",
    }
}

/// The compiled kernel for one [`SoftmaxSpec`]. A plan is cheap to clone.
///
/// ```no_run
/// # use lowbit::gpu::Kernels;
/// # use lowbit::ops::{SoftmaxArgs, SoftmaxPlan, SoftmaxSpec};
/// # use lowbit::wgpu;
/// # async fn example(
/// #     kernels: &Kernels,
/// #     (logits, y): (&wgpu::Buffer, &wgpu::Buffer),
/// #     pass: &mut wgpu::ComputePass<'_>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let spec = SoftmaxSpec::new(16, 49_152).with_soft_cap(30.0);
/// let plan = SoftmaxPlan::new(kernels, &spec).await?;
/// let args = SoftmaxArgs { activations: logits.into(), output: y.into() };
/// plan.bind(args).await?.record(pass, 8)?; // eight rows
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SoftmaxPlan {
    kernels: Kernels,
    spec: SoftmaxSpec,
    pipeline: Arc<Pipeline>,
}

/// The buffers of one softmax.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxArgs<'a> {
    /// X. f32 rows whose length and stride are multiples of 4 start at a multiple of 16 bytes, others at
    /// a multiple of 4. Columns of −∞ become 0 if there is no soft cap.
    pub activations: SubBuffer<'a>,
    /// The output. A row with a NaN or with +∞, or whose largest z is not finite (because all are −∞),
    /// becomes NaN. What is less than e⁻⁸⁷ of the largest becomes 0. With f16 and odd n, the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// A softmax with its buffers.
pub type BoundSoftmax = Bound<SoftmaxPlan>;

impl SoftmaxPlan {
    /// Checks a spec and compiles the kernel unless it is cached.
    ///
    /// # Errors
    /// Returns [`PlanError`].
    pub async fn new(kernels: &Kernels, spec: &SoftmaxSpec) -> Result<Self, PlanError> {
        spec.check()?;
        let pipeline = kernels.pipeline(&spec.shader(kernels.caps())).await?;
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), pipeline })
    }

    /// Returns the spec that the plan was made for.
    pub fn spec(&self) -> &SoftmaxSpec {
        &self.spec
    }

    /// Checks the buffers and makes bind groups and one small uniform buffer. Rows that exceed a
    /// binding are split.
    ///
    /// # Errors
    /// Returns [`BindError`].
    pub async fn bind(&self, args: SoftmaxArgs<'_>) -> Result<BoundSoftmax, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let align = if spec.quads() { 16 } else { 4 };
        let x = Rows { align, ..Rows::read(spec.x_rows(), args.activations) };
        let y = Rows::write(spec.y_rows(), args.output);
        check_rows(&[x, y], spec.max_m)?;
        let spans = if spec.n == 0 || spec.max_m == 0 {
            Spans::none()
        } else {
            Spans::new(caps, spec.max_m, [x.spec, y.spec])?
        };
        let (label, count) = ("lowbit softmax", Count::UpTo(spec.max_m));
        let mut draft = Draft::new(&self.kernels, label, count, spans.count())?;
        for span in spans.iter() {
            let (x_window, y_window) = (x.window(caps, &span), y.window(caps, &span));
            let slot = draft.slot(Params {
                k: spec.n,
                m0: span.m0,
                m_cap: span.m_cap,
                x_at: x_window.at(x.spec.unit),
                x_stride: spec.x_stride,
                y_at: y_window.at(y.spec.unit),
                y_stride: spec.y_stride,
                scale: spec.scale / spec.soft_cap.unwrap_or(1.0),
                cap: spec.soft_cap.unwrap_or(1.0),
                pad: [0; 3],
            });
            let bound = [(3, x_window.into()), (4, y_window.into())];
            draft.step(&self.pipeline, Head::Counted(slot), bound, span, &[]);
        }
        draft.bind(self.clone()).await
    }
}
