//! The kernels of fake quantization: fragments, constants, parameters, and how rows are divided.

use super::FakeQuantSpec;
use crate::gpu::{Binding, Caps, Const, M_TABLE, Shader, fragment};
use crate::ops::FloatType;

/// Lanes of a workgroup.
const WORKGROUP: u32 = 64;

/// Columns that a workgroup takes where groups do not say: eight quads a lane.
const TILE: u32 = 2048;

/// Columns of a unit of work, units of a row, lanes that share a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub tile: u32,
    pub tiles: u32,
    pub team: u32,
}

/// One file of `shaders/fake` with a `main`, and what goes with it.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
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

pub(super) const FORWARD: Kernel = Kernel {
    name: "forward",
    x: true,
    dy: false,
    stores: true,
    schemes: true,
    fragments: &["fake/apply", "fake/forward"],
    bindings: &[Read, Absent, Read, Read, Write],
};

pub(super) const DYNAMIC: Kernel = Kernel {
    name: "dynamic",
    fragments: &["fake/range", "fake/apply", "fake/dynamic"],
    bindings: &[Read, Absent, Write, Write, Write],
    ..FORWARD
};

pub(super) const RANGES: Kernel = Kernel {
    name: "ranges",
    stores: false,
    schemes: false,
    fragments: &["fake/range", "fake/ranges"],
    bindings: &[Read, Write, Absent, Absent],
    ..FORWARD
};

pub(super) const SCALE: Kernel = Kernel {
    name: "scale",
    x: false,
    fragments: &["fake/range", "fake/scale"],
    bindings: &[Absent, Write, Write, Write],
    ..RANGES
};

pub(super) const BACKWARD: Kernel = Kernel {
    name: "backward",
    dy: true,
    fragments: &["fake/tree", "fake/gradient", "fake/backward"],
    bindings: &[Read, Read, Read, Read, Write, Write, Write],
    ..FORWARD
};

pub(super) const GROUPS: Kernel = Kernel {
    name: "groups",
    fragments: &["fake/tree", "fake/gradient", "fake/finish", "fake/groups"],
    ..BACKWARD
};

pub(super) const SUMS: Kernel = Kernel {
    name: "sums",
    x: false,
    dy: false,
    stores: false,
    schemes: false,
    fragments: &["fake/tree", "fake/finish", "fake/sums"],
    bindings: &[Read, Read, Read, Read, Absent, Write, Write],
};

impl FakeQuantSpec {
    pub(super) fn shader(&self, caps: &Caps, kernel: Kernel) -> Shader {
        let native = caps.exact_f16_unpack
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
    pub(super) fn work(&self, whole_groups: bool) -> Work {
        let (k, g) = (u64::from(self.k), u64::from(self.group_size()));
        if !whole_groups {
            return Work { tile: TILE, tiles: self.k.div_ceil(TILE), team: WORKGROUP };
        }
        let chunk = u64::from(TILE).div_ceil(g);
        let chunk = if self.is_aligned() { chunk } else { chunk.next_multiple_of(4) };
        // Below 2³¹, as k is.
        let tile = (chunk * g).min(k.next_multiple_of(4)).max(4) as u32;
        // Two quads a lane, up to a whole workgroup.
        let team = g.div_ceil(8).next_power_of_two().min(WORKGROUP.into()) as u32;
        Work { tile, tiles: self.k.div_ceil(tile), team }
    }
}

/// Mirror of `Params` in `shaders/fake/code.wgsl`; a test compares the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub k: u32,
    pub group_size: u32,
    pub groups: u32,
    pub scale_stride: u32,
    pub m0: u32,
    pub m_cap: u32,
    pub x_at: u32,
    pub x_stride: u32,
    pub y_at: u32,
    pub y_stride: u32,
    pub dy_at: u32,
    pub dy_stride: u32,
    pub scale_at: u32,
    pub zero_at: u32,
    pub ds_at: u32,
    pub dz_at: u32,
    pub tiles: u32,
    pub tile: u32,
    pub team: u32,
    pub workers: u32,
    pub partial_at: u32,
    pub asymmetric: u32,
    pub f16_scales: u32,
    pub pad: u32,
    pub qmin: f32,
    pub qmax: f32,
    pub steps: f32,
    pub gain: f32,
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
        ("tiles", offset_of!(Params, tiles)),
        ("tile", offset_of!(Params, tile)),
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
