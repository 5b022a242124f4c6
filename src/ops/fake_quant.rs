//! Fake quantization for training: quantize and dequantize in one pass, and its gradients.
//!
//! ```text
//! y = (clamp(rne(x/s) + z, qmin, qmax) − z) · s          X and Y [m, k], f32 or f16
//! ```
//!
//! | format | codes qmin…qmax | scale of a range | zero point of a range |
//! |---|---|---|---|
//! | int16 | −32767…32767 | absmax/32767 | 0 |
//! | int8 | −127…127 | absmax/127 | 0 |
//! | int4 | −8…7 | absmax/7 | 0 |
//! | int8, asymmetric | −128…127 | (max−min)/255 | clamp(rne(−min/s), 0, 255) − 128 |
//! | int4, asymmetric | 0…15 | (max−min)/15 | clamp(rne(−min/s), 0, 15) |
//!
//! Ranges are widened to hold 0. What shares a scale is the format's
//! [`Granularity`]: all of X, a row (a channel of weights, a token of
//! activations), or so many consecutive columns of a row, of which the last group may have fewer.
//! Scales and zero points are f32, `[m, G]` with `G = ⌈k/g⌉`, or one of each.
//!
//! - *Dynamic*: from X itself, and written out, as the backward pass wants them.
//! - *Given*: learned, or a calibration's. A zero point is a float so that an optimizer can move it
//!   by less than one; what counts is the nearest integer (ties to even) within qmin…qmax, so that
//!   weights and activations can be deployed as they were trained. LSQ+ writes β = −z·s.
//!
//! With f16 scales the nearest f16 counts, or 2⁻¹⁴, f16's least normal number, if that is more
//! (where [`compress`](mod@crate::compress) refuses).
//!
//! # Gradients
//!
//! Straight-through (Bengio, Léonard and Courville 2013, arXiv 1308.3432): rounding counts as the
//! identity. With v = rne(x/s), x is *inside* where qmin ≤ v + z ≤ qmax, both ends included: where
//! no code was clamped. (LSQ compares x/s before it is rounded, and differs within half a step of
//! an end.) Scales as in LSQ (Esser et al., arXiv 1902.08153), zero points as in LSQ+ (Bhalgat et
//! al., arXiv 2004.09576), each summed over what shares them:
//!
//! | | inside | below | above |
//! |---|---|---|---|
//! | dx | dy | 0 | 0 |
//! | ds/g = Σ dy · | v − x/s | qmin − z | qmax − z |
//! | dz/g = Σ dy · | 0 | −s | −s |
//!
//! g is 1, or LSQ's 1/√(N·Q) with N the elements that share the scale and Q the largest code:
//! qmax, or 255 and 15 where there are zero points (LSQ counts unsigned codes from 0). Rounding of
//! zero points, and of scales to f16, counts as the identity too. The order of sums is fixed by
//! shape, plan and buffers' split, so that a rerun gives the same bits; there are no float atomics.
//!
//! # What is not ordinary
//!
//! - x is NaN: y and dx are NaN, and so are ds and dz of what shares its scale.
//! - x is infinite: dynamic, the scale is NaN; given, y saturates, and x is outside.
//! - dy is NaN or infinite: ds and dz of what shares the scale are NaN; dx is dy inside, 0 outside.
//! - A scale that is no number from 2⁻¹²⁶ to 2¹²⁶ (negative, zero and subnormal among others), and a
//!   zero point that is not finite, make NaN of all that depends on them.
//! - A range of zeros, or one whose scale would be subnormal, gets s = 1: y is 0.
//! - Subnormal x count as 0. A y of 0 has either sign. A y beyond f32 overflows.
//!
//! The arithmetic is floating point, so that next to a tie either code is right:
//! [`reference::check_fake_quantize`](crate::reference::check_fake_quantize) has the contract.

use super::buffers::{Window, check, window_capacity};
use super::matmul::RecordError;
use super::{BindError, FloatType, PlanError, Role, SubBuffer};
use crate::format::{Granularity, ScaleType, WeightFormat};
use crate::gpu::{
    Binding, BufferFill, Caps, Const, Kernels, M_TABLE, MAX_COUNT, Pipeline, Shader, fragment,
};
use std::sync::Arc;

/// Lanes of a workgroup.
const WORKGROUP: u32 = 64;

/// Columns that a workgroup takes where groups do not say: eight quads a lane.
const PIECE: u32 = 2048;

/// Longest rows whose gradients one workgroup sums.
const WHOLE_ROW: u32 = 8192;

/// Workgroups that share a span of rows with one scale: a partial sum each.
const WORKERS: u32 = 1024;

/// What is to be quantized and dequantized.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FakeQuantSpec {
    /// Rows of X at most.
    pub max_m: u32,
    /// Columns of X.
    pub k: u32,
    /// Codes, what shares a scale, zero points, type of scales. Dense integers.
    pub format: WeightFormat,
    /// The type of X, and of its gradient.
    pub input: FloatType,
    /// The type of Y, and of its gradient.
    pub output: FloatType,
    /// Elements from one row of X, and of its gradient, to the next.
    pub x_stride: u32,
    /// Elements from one row of Y, and of its gradient, to the next.
    pub y_stride: u32,
    /// Whether scales and zero points are given, and not taken from X. Only then have they
    /// gradients.
    pub given: bool,
    /// Whether gradients of scales and zero points are multiplied by LSQ's 1/√(N·Q).
    pub gradient_scale: bool,
}

/// Why fake quantization has no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FakeQuantError {
    /// A format that is not of dense integers.
    #[error("{format} is not fake-quantized; int16, int8 and int4 without 2:4 are")]
    Format {
        /// The format.
        format: WeightFormat,
    },
    /// A bad format or shape, or a device that refuses.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl FakeQuantSpec {
    /// Packed f32 rows, with ranges taken from X.
    pub fn new(max_m: u32, k: u32, format: WeightFormat) -> Self {
        let (input, output) = (FloatType::F32, FloatType::F32);
        let (x_stride, y_stride, given, gradient_scale) = (k, k, false, false);
        Self { max_m, k, format, input, output, x_stride, y_stride, given, gradient_scale }
    }

    /// The same with other types of X and Y; sets packed strides, even ones for f16.
    #[must_use]
    pub fn with_types(mut self, input: FloatType, output: FloatType) -> Self {
        let packed = |float| match float {
            FloatType::F32 => self.k,
            FloatType::F16 => self.k.saturating_add(self.k % 2),
        };
        (self.x_stride, self.y_stride) = (packed(input), packed(output));
        (self.input, self.output) = (input, output);
        self
    }

    /// The same with other strides, in elements.
    #[must_use]
    pub fn with_strides(mut self, x_stride: u32, y_stride: u32) -> Self {
        (self.x_stride, self.y_stride) = (x_stride, y_stride);
        self
    }

    /// The same by scales and zero points that are given.
    #[must_use]
    pub fn with_given_scales(mut self) -> Self {
        self.given = true;
        self
    }

    /// The same with LSQ's gradient scale.
    #[must_use]
    pub fn with_gradient_scale(mut self) -> Self {
        self.gradient_scale = true;
        self
    }

    /// qmin and qmax, of which 0 is the code of zero where the format is symmetric.
    pub fn codes(&self) -> (i32, i32) {
        let (low, high) = self.format.code_range().unwrap_or_default();
        match self.format.is_symmetric() {
            true => (low - self.format.symmetric_zero(), high - self.format.symmetric_zero()),
            false => (low, high),
        }
    }

    /// Scales of a row: 0 where all of X shares one.
    fn row_scales(&self) -> u32 {
        match self.format.granularity() {
            Granularity::Tensor => 0,
            _ => self.k.div_ceil(self.group_size()),
        }
    }

    /// Columns of a row that share a scale.
    fn group_size(&self) -> u32 {
        match self.format.granularity() {
            Granularity::Group(g) => g.get().min(self.k.max(1)),
            _ => self.k.max(1),
        }
    }

    /// Scales, and zero points, of `m` rows.
    pub fn scales(&self, m: u32) -> u64 {
        match self.format.granularity() {
            Granularity::Tensor => 1,
            _ => u64::from(m) * u64::from(self.row_scales()),
        }
    }

    /// Bytes of X, or of its gradient, from its start that a run with `m` rows touches.
    pub fn x_bytes(&self, m: u32) -> u64 {
        extent(m, self.k, self.x_stride, self.input)
    }

    /// Bytes of Y, or of its gradient, from its start that a run with `m` rows touches.
    pub fn y_bytes(&self, m: u32) -> u64 {
        extent(m, self.k, self.y_stride, self.output)
    }

    /// Refuses what no plan can serve.
    ///
    /// # Errors
    /// [`FakeQuantError`]: a format of floats, 2:4 or one that does not exist, a dimension too
    /// large, a stride too short or, for f16, odd.
    pub fn check(&self) -> Result<(), FakeQuantError> {
        self.format.check().map_err(PlanError::from)?;
        if !self.format.element().is_integer() || self.format.is_sparse() {
            return Err(FakeQuantError::Format { format: self.format });
        }
        for (name, value, limit) in
            [("max_m", self.max_m, MAX_COUNT), ("k", self.k, i32::MAX as u32)]
        {
            if value > limit {
                return Err(PlanError::TooLarge { name, value, limit }.into());
            }
        }
        for (role, stride, float) in [
            (Role::Activations, self.x_stride, self.input),
            (Role::Output, self.y_stride, self.output),
        ] {
            if self.max_m > 1 && stride < self.k {
                return Err(PlanError::Stride { role, stride, need: self.k.into() }.into());
            }
            if self.max_m > 1 && float == FloatType::F16 && stride % 2 == 1 {
                return Err(PlanError::OddStride { role, stride, multiple: 2 }.into());
            }
        }
        Ok(())
    }

    /// The kernels of the forward pass, in the order they run.
    pub fn forward_shaders(&self, caps: &Caps) -> Vec<Shader> {
        match (self.format.granularity(), self.given) {
            (_, true) => vec![self.shader(caps, FORWARD)],
            (Granularity::Tensor, false) => {
                [RANGES, SCALE, FORWARD].map(|kernel| self.shader(caps, kernel)).to_vec()
            }
            _ => vec![self.shader(caps, DYNAMIC)],
        }
    }

    /// The kernels of the backward pass, in the order they run.
    pub fn backward_shaders(&self, caps: &Caps) -> Vec<Shader> {
        match (self.given, self.is_split()) {
            (true, true) => [BACKWARD, SUMS].map(|kernel| self.shader(caps, kernel)).to_vec(),
            (true, false) => vec![self.shader(caps, GROUPS)],
            (false, _) => vec![self.shader(caps, BACKWARD)],
        }
    }

    /// Whether several workgroups sum what shares a scale.
    fn is_split(&self) -> bool {
        self.format.granularity() == Granularity::Tensor
            || (self.group_size() >= self.k && self.k > WHOLE_ROW)
    }

    /// Whether four columns from a multiple of 4 on share a scale.
    fn is_aligned(&self) -> bool {
        self.group_size() >= self.k || self.group_size().is_multiple_of(4)
    }

    /// Whether rows of f32 are loaded by 16 bytes.
    fn quads(&self, float: FloatType, stride: u32) -> bool {
        float == FloatType::F32 && self.k.is_multiple_of(4) && stride.is_multiple_of(4)
    }

    fn shader(&self, caps: &Caps, kernel: Kernel) -> Shader {
        let native = caps.exact_halves
            && ((kernel.x && self.input == FloatType::F16)
                || (kernel.dy && self.output == FloatType::F16));
        let mut name = format!("fake_{}", kernel.name);
        let aligned = self.is_aligned() || !kernel.schemes;
        let mut consts = vec![
            ("M_TABLE", Const::U32(M_TABLE)),
            ("WORKGROUP", Const::U32(WORKGROUP)),
            ("ALIGNED", Const::Bool(aligned)),
        ];
        name.push_str(if aligned { "" } else { ".any" });
        if kernel.name == BACKWARD.name {
            consts.push(("LEARNED", Const::Bool(self.given)));
            name.push_str(if self.given { ".learned" } else { "" });
        }
        let halves = if native { "lib/half_pair_native" } else { "lib/half_pair" };
        name.push_str(if native { ".half" } else { "" });
        let mut fragments = vec!["lib/dispatch", "lib/half", halves, "fake/code"];
        if kernel.x {
            let (access, suffix) = match (self.input, self.quads(self.input, self.x_stride)) {
                (FloatType::F16, _) => ("access/x_f16", ".xf16"),
                (FloatType::F32, true) => ("access/x_f32x4", ""),
                (FloatType::F32, false) => ("access/x_f32", ".x1"),
            };
            fragments.push(access);
            name.push_str(suffix);
            if access != "access/x_f32" {
                // Loops end with the columns: only a quad that is not whole reaches past them.
                let ragged = !self.k.is_multiple_of(4);
                consts.push(("RAGGED", Const::Bool(ragged)));
                name.push_str(if ragged { ".tail" } else { "" });
            }
        }
        if kernel.dy {
            let (access, suffix) = match (self.output, self.quads(self.output, self.y_stride)) {
                (FloatType::F16, _) => ("fake/dy_f16", ".dyf16"),
                (FloatType::F32, true) => ("fake/dy_f32x4", ""),
                (FloatType::F32, false) => ("fake/dy_f32", ".dy1"),
            };
            fragments.push(access);
            name.push_str(suffix);
        }
        if kernel.stores {
            // The gradient of X has the type of X.
            let (access, suffix) = match if kernel.dy { self.input } else { self.output } {
                FloatType::F32 => ("access/y_f32", ""),
                FloatType::F16 => ("access/y_f16", ".yf16"),
            };
            fragments.push(access);
            // With dx it says nothing that X does not.
            name.push_str(if kernel.dy { "" } else { suffix });
        }
        fragments.extend(kernel.fragments);
        Shader {
            name,
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings: [&BINDINGS_0_2[..], kernel.bindings].concat(),
        }
    }

    /// How rows are divided among workgroups; `whole_groups` where each must hold whole ones.
    fn work(&self, whole_groups: bool) -> Work {
        let (k, g) = (u64::from(self.k), u64::from(self.group_size()));
        if !whole_groups {
            return Work { piece: PIECE, pieces: self.k.div_ceil(PIECE), team: WORKGROUP };
        }
        let chunk = u64::from(PIECE).div_ceil(g);
        let chunk = if self.is_aligned() { chunk } else { chunk.next_multiple_of(4) };
        // Below 2³¹, as k is.
        let piece = (chunk * g).min(k.next_multiple_of(4)).max(4) as u32;
        // Two quads a lane, up to a whole workgroup.
        let team = g.div_ceil(8).next_power_of_two().min(WORKGROUP.into()) as u32;
        Work { piece, pieces: self.k.div_ceil(piece), team }
    }
}

fn extent(m: u32, k: u32, stride: u32, float: FloatType) -> u64 {
    if m == 0 || k == 0 {
        return 0;
    }
    (u64::from(m - 1) * u64::from(stride) + u64::from(k)).saturating_mul(float.bytes())
}

/// Columns of a unit of work, units of a row, lanes that share a group.
#[derive(Clone, Copy, Debug)]
struct Work {
    piece: u32,
    pieces: u32,
    team: u32,
}

/// One file of `shaders/fake` with a `main`, and what goes with it.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    x: bool,
    dy: bool,
    stores: bool,
    /// Whether columns look up their schemes.
    schemes: bool,
    /// After the parameters and the access.
    fragments: &'static [&'static str],
    /// From 3 on.
    bindings: &'static [Binding],
}

const BINDINGS_0_2: [Binding; 3] = [
    Binding::Uniform(size_of::<Params>() as u32),
    Binding::DynamicUniform(16),
    Binding::DynamicUniform(16),
];

use Binding::{Absent, Read, Write};

const FORWARD: Kernel = Kernel {
    name: "forward",
    x: true,
    dy: false,
    stores: true,
    schemes: true,
    fragments: &["fake/apply", "fake/forward"],
    bindings: &[Read, Absent, Read, Read, Write],
};

const DYNAMIC: Kernel = Kernel {
    name: "dynamic",
    fragments: &["fake/range", "fake/apply", "fake/dynamic"],
    bindings: &[Read, Absent, Write, Write, Write],
    ..FORWARD
};

const RANGES: Kernel = Kernel {
    name: "ranges",
    stores: false,
    schemes: false,
    fragments: &["fake/range", "fake/ranges"],
    bindings: &[Read, Write, Absent, Absent],
    ..FORWARD
};

const SCALE: Kernel = Kernel {
    name: "scale",
    x: false,
    fragments: &["fake/range", "fake/scale"],
    bindings: &[Absent, Write, Write, Write],
    ..RANGES
};

const BACKWARD: Kernel = Kernel {
    name: "backward",
    dy: true,
    fragments: &["fake/tree", "fake/gradient", "fake/backward"],
    bindings: &[Read, Read, Read, Read, Write, Write, Write],
    ..FORWARD
};

const GROUPS: Kernel = Kernel {
    name: "groups",
    fragments: &["fake/tree", "fake/gradient", "fake/finish", "fake/groups"],
    ..BACKWARD
};

const SUMS: Kernel = Kernel {
    name: "sums",
    x: false,
    dy: false,
    stores: false,
    schemes: false,
    fragments: &["fake/tree", "fake/finish", "fake/sums"],
    bindings: &[Read, Read, Read, Read, Absent, Write, Write],
};

/// Specs that between them have every kernel, for tests and [`isa`](crate::isa).
#[doc(hidden)]
pub fn every_spec() -> Vec<FakeQuantSpec> {
    let group = |g| std::num::NonZeroU32::new(g).map_or(Granularity::Channel, Granularity::Group);
    let floats = [FloatType::F32, FloatType::F16];
    let mut specs = Vec::new();
    for granularity in [Granularity::Tensor, Granularity::Channel, group(4), group(3)] {
        for (input, output) in floats.into_iter().flat_map(|x| floats.map(|y| (x, y))) {
            // Quads, pairs, and neither.
            for k in [64, 66, 67] {
                let format = WeightFormat::int8(granularity).asymmetric();
                let packed = FakeQuantSpec::new(2, k, format).with_types(input, output);
                // Strides of one side alone that are not quads.
                let (x, y) = (packed.x_stride, packed.y_stride);
                for (x, y) in [(x, y), (x + 2, y), (x, y + 2)] {
                    let spec = packed.clone().with_strides(x, y);
                    specs.push(spec.clone().with_given_scales());
                    specs.push(spec);
                }
            }
        }
    }
    specs
}

/// Mirror of `Params` in `shaders/fake/code.wgsl`; a test compares the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    k: u32,
    group_size: u32,
    groups: u32,
    scale_stride: u32,
    m0: u32,
    m_cap: u32,
    x_at: u32,
    x_stride: u32,
    y_at: u32,
    y_stride: u32,
    dy_at: u32,
    dy_stride: u32,
    scale_at: u32,
    zero_at: u32,
    ds_at: u32,
    dz_at: u32,
    pieces: u32,
    piece: u32,
    team: u32,
    workers: u32,
    partial_at: u32,
    asymmetric: u32,
    f16_scales: u32,
    pad: u32,
    qmin: f32,
    qmax: f32,
    steps: f32,
    gain: f32,
}

/// Names and offsets of the parameters, for the test against naga's reflection.
#[doc(hidden)]
pub fn params_layout() -> (usize, Vec<(&'static str, usize)>) {
    use std::mem::offset_of;
    let fields = vec![
        ("k", offset_of!(Params, k)),
        ("group_size", offset_of!(Params, group_size)),
        ("groups", offset_of!(Params, groups)),
        ("scale_stride", offset_of!(Params, scale_stride)),
        ("m0", offset_of!(Params, m0)),
        ("m_cap", offset_of!(Params, m_cap)),
        ("x_at", offset_of!(Params, x_at)),
        ("x_stride", offset_of!(Params, x_stride)),
        ("y_at", offset_of!(Params, y_at)),
        ("y_stride", offset_of!(Params, y_stride)),
        ("dy_at", offset_of!(Params, dy_at)),
        ("dy_stride", offset_of!(Params, dy_stride)),
        ("scale_at", offset_of!(Params, scale_at)),
        ("zero_at", offset_of!(Params, zero_at)),
        ("ds_at", offset_of!(Params, ds_at)),
        ("dz_at", offset_of!(Params, dz_at)),
        ("pieces", offset_of!(Params, pieces)),
        ("piece", offset_of!(Params, piece)),
        ("team", offset_of!(Params, team)),
        ("workers", offset_of!(Params, workers)),
        ("partial_at", offset_of!(Params, partial_at)),
        ("asymmetric", offset_of!(Params, asymmetric)),
        ("f16_scales", offset_of!(Params, f16_scales)),
        ("pad", offset_of!(Params, pad)),
        ("qmin", offset_of!(Params, qmin)),
        ("qmax", offset_of!(Params, qmax)),
        ("steps", offset_of!(Params, steps)),
        ("gain", offset_of!(Params, gain)),
    ];
    (size_of::<Params>(), fields)
}

/// The compiled kernels for one [`FakeQuantSpec`], forward and backward. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeQuantPlan {
    kernels: Kernels,
    spec: FakeQuantSpec,
    forward: Vec<Arc<Pipeline>>,
    backward: Vec<Arc<Pipeline>>,
}

/// The buffers of a forward pass. Y is a buffer of its own: wgpu lets no dispatch read and write
/// one. X starts at a multiple of 16 bytes where it is f32 and its columns and stride are
/// multiples of 4; everything else, and other X, at one of 4.
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantArgs<'a> {
    /// X, `[max_m, k]`.
    pub input: SubBuffer<'a>,
    /// Scales, f32, [`FakeQuantSpec::scales`] of them: read where they are given, else written.
    pub scales: SubBuffer<'a>,
    /// Zero points, f32, as many; there where the format is asymmetric.
    pub zeros: Option<SubBuffer<'a>>,
    /// Y, `[max_m, k]`. With f16 and odd k the upper half of a row's last word is preserved.
    pub output: SubBuffer<'a>,
}

/// The buffers of a backward pass. The gradient of Y is aligned as X is: [`FakeQuantArgs`].
#[derive(Clone, Copy, Debug)]
pub struct FakeQuantBackwardArgs<'a> {
    /// X, `[max_m, k]`, as the forward pass had it.
    pub input: SubBuffer<'a>,
    /// Scales, those that the forward pass had or wrote.
    pub scales: SubBuffer<'a>,
    /// Zero points, where the format is asymmetric.
    pub zeros: Option<SubBuffer<'a>>,
    /// The gradient of Y, `[max_m, k]`, of the type and stride of Y.
    pub output_gradient: SubBuffer<'a>,
    /// Where the gradient of X goes, of the type and stride of X.
    pub input_gradient: SubBuffer<'a>,
    /// Where those of scales go, f32; there where scales are given.
    pub scale_gradients: Option<SubBuffer<'a>>,
    /// Where those of zero points go, f32; there where scales are given and the format is
    /// asymmetric.
    pub zero_gradients: Option<SubBuffer<'a>>,
}

/// A forward pass with its buffers: records any m up to the plan's maximum.
#[derive(Clone, Debug)]
pub struct BoundFakeQuant {
    plan: FakeQuantPlan,
    steps: Vec<Step>,
}

/// A backward pass with its buffers: records any m up to the plan's maximum.
#[derive(Clone, Debug)]
pub struct BoundFakeQuantBackward {
    plan: FakeQuantPlan,
    steps: Vec<Step>,
}

/// A dispatch.
#[derive(Clone, Debug)]
struct Step {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    grid: Grid,
}

/// Workgroups of a dispatch.
#[derive(Clone, Copy, Debug)]
enum Grid {
    /// So many, whatever m is.
    Fixed(u32),
    /// So many for each row of a span.
    Rows { m0: u32, m_cap: u32, each: u32 },
}

impl Grid {
    fn groups(self, m: u32) -> u64 {
        match self {
            Self::Fixed(groups) => groups.into(),
            Self::Rows { m0, m_cap, each } => {
                u64::from(m.saturating_sub(m0).min(m_cap)) * u64::from(each)
            }
        }
    }
}

/// One of the caller's buffers: `one` bytes of a row, rows `row` bytes apart.
#[derive(Clone, Copy)]
struct Part<'a> {
    role: Role,
    at: SubBuffer<'a>,
    one: u64,
    row: u64,
    align: u64,
    written: bool,
}

impl<'a> Part<'a> {
    fn bytes(&self, m: u32) -> u64 {
        match m {
            0 => 0,
            _ if self.one == 0 => 0,
            _ => u64::from(m - 1).saturating_mul(self.row).saturating_add(self.one),
        }
    }

    fn window(&self, caps: &Caps, (m0, m_cap): (u32, u32)) -> Window<'a> {
        let start = self.at.offset + u64::from(m0) * self.row;
        Window::new(caps, self.at.buffer, start, self.bytes(m_cap))
    }
}

/// A dispatch before there are bind groups: what is bound from 3 on.
struct Draft<'a> {
    pipeline: usize,
    slot: usize,
    bound: Vec<(u32, wgpu::BindingResource<'a>)>,
    grid: Grid,
}

impl FakeQuantPlan {
    /// Checks a spec and compiles the kernels that are not cached.
    ///
    /// # Errors
    /// [`FakeQuantError`].
    pub async fn new(kernels: &Kernels, spec: &FakeQuantSpec) -> Result<Self, FakeQuantError> {
        spec.check()?;
        let caps = kernels.caps();
        let mut shaders = spec.forward_shaders(caps);
        let forwards = shaders.len();
        shaders.extend(spec.backward_shaders(caps));
        kernels.prepare(&shaders).await.map_err(PlanError::from)?;
        let mut forward = Vec::with_capacity(shaders.len());
        for shader in &shaders {
            forward.push(kernels.pipeline(shader).await.map_err(PlanError::from)?);
        }
        let backward = forward.split_off(forwards);
        Ok(Self { kernels: kernels.clone(), spec: spec.clone(), forward, backward })
    }

    /// What the plan is for.
    pub fn spec(&self) -> &FakeQuantSpec {
        &self.spec
    }

    /// Checks the buffers of a forward pass and makes bind groups, one small uniform buffer and
    /// two of 32 bytes. Data that exceed a binding are split between rows.
    ///
    /// # Errors
    /// [`BindError`]; [`BindError::Part`] for zero points that the format has not, or none that it
    /// has; [`BindError::Aliased`] where a buffer that is written is also another.
    pub async fn bind(&self, args: FakeQuantArgs<'_>) -> Result<BoundFakeQuant, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let dynamic = !spec.given;
        let input = self.input(args.input);
        let output = Part {
            role: Role::Output,
            at: args.output,
            one: spec.y_bytes(1),
            row: u64::from(spec.y_stride) * spec.output.bytes(),
            align: 4,
            written: true,
        };
        let scales = self.scales(Role::Scales, args.scales, dynamic);
        let zeros = self.zeros(Role::Zeros, args.zeros, dynamic)?;
        let mut parts = vec![input, output, scales];
        parts.extend(zeros);
        let spans = self.spans(&parts)?;

        let tensor = spec.format.granularity() == Granularity::Tensor;
        let work = spec.work(dynamic && !tensor);
        let ranges = self.scratch(0).await?;
        let spare = self.scratch(0).await?;
        let mut slots = Vec::with_capacity(spans.len() + 1);
        let mut drafts = Vec::new();
        // In the last slot all rows, for what runs once.
        let all = (0, spec.max_m);
        for &span in spans.iter().chain([&all]) {
            let [x, y, s] = [input, output, scales].map(|part| part.window(caps, span));
            let z = zeros.map(|part| part.window(caps, span));
            slots.push(Params {
                x_at: (x.skip / spec.input.bytes()) as u32,
                x_stride: spec.x_stride,
                y_at: (y.skip / spec.output.bytes()) as u32,
                y_stride: spec.y_stride,
                scale_at: (s.skip / 4) as u32,
                zero_at: z.map_or(0, |z| (z.skip / 4) as u32),
                ..self.params(work, span)
            });
        }
        let rows = |(m0, m_cap)| Grid::Rows { m0, m_cap, each: work.pieces };
        // What is not there nothing reads or writes.
        let schemes = |span, written: bool| {
            let none = match written {
                true => spare.as_entire_binding(),
                false => scales.window(caps, span).binding(),
            };
            let zeros = zeros.map_or(none, |part| part.window(caps, span).binding());
            [(5, scales.window(caps, span).binding()), (6, zeros)]
        };
        let x = |span| (3, input.window(caps, span).binding());
        let y = |span| (7, output.window(caps, span).binding());
        if dynamic && tensor {
            for (slot, &span) in spans.iter().enumerate() {
                let bound = vec![x(span), (4, ranges.as_entire_binding())];
                drafts.push(Draft { pipeline: 0, slot, bound, grid: rows(span) });
            }
            let mut bound = vec![(4, ranges.as_entire_binding())];
            bound.extend(schemes((0, spec.max_m), true));
            drafts.push(Draft { pipeline: 1, slot: spans.len(), bound, grid: Grid::Fixed(1) });
        }
        for (slot, &span) in spans.iter().enumerate() {
            let mut bound = vec![x(span), y(span)];
            bound.extend(schemes(span, dynamic && !tensor));
            let pipeline = self.forward.len() - 1;
            drafts.push(Draft { pipeline, slot, bound, grid: rows(span) });
        }
        let steps = self.steps(&self.forward, &slots, drafts).await?;
        Ok(BoundFakeQuant { plan: self.clone(), steps })
    }

    /// Checks the buffers of a backward pass and makes bind groups, one small uniform buffer, and
    /// three for partial sums: where a row is longer than 8192 columns and shares a scale, 4 bytes
    /// for 2048 of them in two, else some KiB. Data that exceed a binding are split between rows.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); [`BindError::Part`] also for gradients that the spec does not have,
    /// or none that it has.
    pub async fn bind_backward(
        &self,
        args: FakeQuantBackwardArgs<'_>,
    ) -> Result<BoundFakeQuantBackward, BindError> {
        let (spec, caps) = (&self.spec, self.kernels.caps());
        let input = self.input(args.input);
        let dx =
            Part { role: Role::Output, at: args.input_gradient, align: 4, written: true, ..input };
        let dy = Part {
            role: Role::OutputGradient,
            at: args.output_gradient,
            one: spec.y_bytes(1),
            row: u64::from(spec.y_stride) * spec.output.bytes(),
            align: if spec.quads(spec.output, spec.y_stride) { 16 } else { 4 },
            written: false,
        };
        let scales = self.scales(Role::Scales, args.scales, false);
        let zeros = self.zeros(Role::Zeros, args.zeros, false)?;
        if args.scale_gradients.is_some() != spec.given {
            return Err(BindError::Part { role: Role::ScaleGradients, planned: spec.given });
        }
        let ds = args.scale_gradients.map(|at| self.scales(Role::ScaleGradients, at, true));
        let dz = match (spec.given, args.zero_gradients) {
            (true, at) => self.zeros(Role::ZeroGradients, at, true)?,
            (false, None) => None,
            (false, Some(_)) => {
                return Err(BindError::Part { role: Role::ZeroGradients, planned: false });
            }
        };
        let mut parts = vec![input, dx, dy, scales];
        parts.extend(zeros.into_iter().chain(ds).chain(dz));
        let spans = self.spans(&parts)?;

        let tensor = spec.format.granularity() == Granularity::Tensor;
        let split = spec.is_split();
        let work = spec.work(spec.given && !split);
        let workers = |(_, m_cap): (u32, u32)| match spec.given && tensor {
            true => (u64::from(m_cap) * u64::from(work.pieces)).min(WORKERS.into()) as u32,
            // One unit a workgroup.
            false => u32::MAX / 2,
        };
        let partials: u64 = match (spec.given && split, tensor) {
            (false, _) => 0,
            (true, true) => spans.iter().map(|&span| u64::from(workers(span))).sum(),
            // Each span's are done with before the next one's.
            (true, false) => {
                let rows = spans.iter().map(|&(_, m_cap)| u64::from(m_cap)).max();
                rows.unwrap_or(0) * u64::from(work.pieces)
            }
        };
        if 4 * partials > caps.max_binding {
            let (role, need, limit) = (Role::Scratch, 4 * partials, caps.max_binding);
            return Err(BindError::RowTooLarge { role, need, limit });
        }
        let scale_partials = self.scratch(4 * partials).await?;
        let outside_partials = self.scratch(4 * partials).await?;
        let spare = self.scratch(0).await?;

        let mut slots = Vec::with_capacity(spans.len() + 1);
        let mut partial_at = 0;
        let all = (0, spec.max_m);
        for &span in spans.iter().chain([&all]) {
            let [x, y, d, s] = [input, dx, dy, scales].map(|part| part.window(caps, span));
            let at = |part: Option<Part<'_>>| {
                part.map_or(0, |part| (part.window(caps, span).skip / 4) as u32)
            };
            slots.push(Params {
                x_at: (x.skip / spec.input.bytes()) as u32,
                x_stride: spec.x_stride,
                y_at: (y.skip / spec.input.bytes()) as u32,
                y_stride: spec.x_stride,
                dy_at: (d.skip / spec.output.bytes()) as u32,
                dy_stride: spec.y_stride,
                scale_at: (s.skip / 4) as u32,
                zero_at: at(zeros),
                ds_at: at(ds),
                dz_at: at(dz),
                workers: workers(span),
                partial_at,
                ..self.params(work, span)
            });
            if spec.given && tensor {
                partial_at += workers(span);
            }
        }
        if let Some(last) = slots.last_mut()
            && tensor
        {
            (last.partial_at, last.workers) = (0, partials as u32);
        }
        let schemes = |span| {
            let scales = scales.window(caps, span).binding();
            let zeros = zeros.map_or(scales.clone(), |part| part.window(caps, span).binding());
            [(5, scales), (6, zeros)]
        };
        // Without gradients of scales, two buffers that are not one.
        let gradients = |span| {
            let ds =
                ds.map_or(scale_partials.as_entire_binding(), |ds| ds.window(caps, span).binding());
            let dz = dz.map_or(spare.as_entire_binding(), |dz| dz.window(caps, span).binding());
            [(8, ds), (9, dz)]
        };
        let sums = |span, slot, grid| {
            let mut bound = vec![
                (3, scale_partials.as_entire_binding()),
                (4, outside_partials.as_entire_binding()),
            ];
            bound.extend(schemes(span));
            bound.extend(gradients(span));
            Draft { pipeline: 1, slot, bound, grid }
        };
        let mut drafts = Vec::new();
        for (slot, &span) in spans.iter().enumerate() {
            let (m0, m_cap) = span;
            let mut bound = vec![
                (3, input.window(caps, span).binding()),
                (4, dy.window(caps, span).binding()),
                (7, dx.window(caps, span).binding()),
            ];
            bound.extend(schemes(span));
            match spec.given && split {
                true => bound.extend([
                    (8, scale_partials.as_entire_binding()),
                    (9, outside_partials.as_entire_binding()),
                ]),
                false => bound.extend(gradients(span)),
            }
            let grid = match spec.given && tensor {
                true => Grid::Fixed(workers(span)),
                false => Grid::Rows { m0, m_cap, each: work.pieces },
            };
            drafts.push(Draft { pipeline: 0, slot, bound, grid });
            if spec.given && split && !tensor {
                drafts.push(sums(span, slot, Grid::Rows { m0, m_cap, each: 1 }));
            }
        }
        if spec.given && tensor {
            drafts.push(sums(all, spans.len(), Grid::Fixed(1)));
        }
        let steps = self.steps(&self.backward, &slots, drafts).await?;
        Ok(BoundFakeQuantBackward { plan: self.clone(), steps })
    }

    fn input<'a>(&self, at: SubBuffer<'a>) -> Part<'a> {
        let spec = &self.spec;
        Part {
            role: Role::Activations,
            at,
            one: spec.x_bytes(1),
            row: u64::from(spec.x_stride) * spec.input.bytes(),
            align: if spec.quads(spec.input, spec.x_stride) { 16 } else { 4 },
            written: false,
        }
    }

    /// Scales, or what there are as many of.
    fn scales<'a>(&self, role: Role, at: SubBuffer<'a>, written: bool) -> Part<'a> {
        let row = 4 * u64::from(self.spec.row_scales());
        Part { role, at, one: 4 * self.spec.scales(1), row, align: 4, written }
    }

    fn zeros<'a>(
        &self,
        role: Role,
        at: Option<SubBuffer<'a>>,
        written: bool,
    ) -> Result<Option<Part<'a>>, BindError> {
        let planned = !self.spec.format.is_symmetric();
        match at {
            _ if at.is_some() != planned => Err(BindError::Part { role, planned }),
            at => Ok(at.map(|at| self.scales(role, at, written))),
        }
    }

    async fn scratch(&self, bytes: u64) -> Result<wgpu::Buffer, BindError> {
        let usage = wgpu::BufferUsages::STORAGE;
        Ok(self.kernels.buffer("lowbit fake scratch", usage, BufferFill::Zeros(bytes)).await?)
    }

    fn params(&self, work: Work, (m0, m_cap): (u32, u32)) -> Params {
        let spec = &self.spec;
        let (qmin, qmax) = spec.codes();
        let symmetric = spec.format.is_symmetric();
        let steps = if symmetric { qmax } else { qmax - qmin } as f32;
        Params {
            k: spec.k,
            group_size: spec.group_size(),
            groups: spec.k.div_ceil(spec.group_size()),
            scale_stride: spec.row_scales(),
            m0,
            m_cap,
            pieces: work.pieces,
            piece: work.piece,
            team: work.team,
            asymmetric: u32::from(!symmetric),
            f16_scales: u32::from(spec.format.scale_type() == ScaleType::F16),
            qmin: qmin as f32,
            qmax: qmax as f32,
            steps,
            gain: if spec.gradient_scale { steps } else { 0.0 },
            ..Params::default()
        }
    }

    /// Checks all buffers; then first row and rows of each dispatch, so that they fit bindings.
    fn spans(&self, parts: &[Part<'_>]) -> Result<Vec<(u32, u32)>, BindError> {
        let max_m = self.spec.max_m;
        for (i, part) in parts.iter().enumerate() {
            // A tensor's scale is there without rows.
            check(part.role, part.at, part.bytes(max_m.max(u32::from(part.row == 0))), part.align)?;
            let shared = parts.iter().enumerate().find(|(j, other)| {
                *j != i && other.at.buffer == part.at.buffer && (part.written || other.written)
            });
            if let Some((_, other)) = shared {
                // That which is not the output.
                let role = if other.role == Role::Output { part.role } else { other.role };
                return Err(BindError::Aliased { role });
            }
        }
        if max_m == 0 || self.spec.k == 0 {
            return Ok(Vec::new());
        }
        let limit = window_capacity(self.kernels.caps());
        let mut rows = u64::from(max_m);
        for part in parts {
            let (role, need) = (part.role, part.one);
            let rest = limit.checked_sub(need);
            let rest = rest.ok_or(BindError::RowTooLarge { role, need, limit })?;
            // A tensor's scale is no row of its own.
            rows = rest.checked_div(part.row).map_or(rows, |more| rows.min(more + 1));
        }
        let starts = (0..max_m).step_by(rows as usize);
        Ok(starts.map(|m0| (m0, (rows as u32).min(max_m - m0))).collect())
    }

    async fn steps(
        &self,
        pipelines: &[Arc<Pipeline>],
        slots: &[Params],
        drafts: Vec<Draft<'_>>,
    ) -> Result<Vec<Step>, BindError> {
        let caps = self.kernels.caps();
        for draft in &drafts {
            let groups = draft.grid.groups(self.spec.max_m);
            if caps.fold(groups).is_none() {
                return Err(BindError::GridTooLarge { groups, limit: caps.max_groups });
            }
        }
        let slot = size_of::<Params>().next_multiple_of(caps.uniform_align as usize);
        let mut words = vec![0u32; slots.len() * slot / 4];
        for (params, words) in slots.iter().zip(words.chunks_mut(slot / 4)) {
            words[..size_of::<Params>() / 4]
                .copy_from_slice(bytemuck::cast_slice(std::slice::from_ref(params)));
        }
        let (usage, fill) = (wgpu::BufferUsages::UNIFORM, BufferFill::Words(&words));
        let uniforms = self.kernels.buffer("lowbit fake params", usage, fill).await?;
        let make = || {
            let uniform = |buffer, offset: usize, size: usize| {
                let (offset, size) = (offset as u64, wgpu::BufferSize::new(size as u64));
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
            };
            let mut steps = Vec::with_capacity(drafts.len());
            for draft in drafts {
                let pipeline = pipelines[draft.pipeline].clone();
                let mut entries = vec![
                    (0, uniform(&uniforms, draft.slot * slot, size_of::<Params>())),
                    (1, uniform(self.kernels.m_table(), 0, 16)),
                    (2, uniform(self.kernels.m_table(), 0, 16)),
                ];
                entries.extend(draft.bound);
                let entries: Vec<_> = entries
                    .into_iter()
                    .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
                    .collect();
                let group = self.kernels.device().create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("lowbit fake quantization"),
                    layout: &pipeline.layout,
                    entries: &entries,
                });
                steps.push(Step { pipeline, group, grid: draft.grid });
            }
            steps
        };
        Ok(self.kernels.guarded("bind groups of fake quantization", make).await?)
    }

    fn record(
        &self,
        steps: &[Step],
        pass: &mut wgpu::ComputePass<'_>,
        m: u32,
    ) -> Result<(), RecordError> {
        if m > self.spec.max_m {
            return Err(RecordError::MTooLarge { m, max_m: self.spec.max_m });
        }
        for step in steps {
            // `bind` has checked the largest grid, and smaller ones fold as well.
            let [x, y, z] = self.kernels.caps().fold(step.grid.groups(m)).unwrap_or_default();
            if x > 0 {
                pass.set_pipeline(&step.pipeline.pipeline);
                pass.set_bind_group(0, &step.group, &self.kernels.m_offsets(m));
                pass.dispatch_workgroups(x, y, z);
            }
        }
        Ok(())
    }
}

impl BoundFakeQuant {
    /// The plan it was bound from.
    pub fn plan(&self) -> &FakeQuantPlan {
        &self.plan
    }

    /// Records the fake quantization of the first `m` rows. Sets the pass's pipeline and bind group
    /// 0. Allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; then nothing is recorded.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, m: u32) -> Result<(), RecordError> {
        self.plan.record(&self.steps, pass, m)
    }
}

impl BoundFakeQuantBackward {
    /// The plan it was bound from.
    pub fn plan(&self) -> &FakeQuantPlan {
        &self.plan
    }

    /// Records the gradients of the first `m` rows; the scale of no rows has a gradient of 0. Sets
    /// the pass's pipeline and bind group 0. Allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`RecordError::MTooLarge`]; then nothing is recorded.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, m: u32) -> Result<(), RecordError> {
        self.plan.record(&self.steps, pass, m)
    }
}
