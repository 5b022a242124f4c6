//! The kernels of fake quantization, their parameters, and how rows are divided among workgroups.

use super::FakeQuantSpec;
use crate::format::{Granularity, WeightFormat};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, M_TABLE, Variable, fragment, uniform,
};
use crate::ops::FloatType;
use crate::ops::quantize_activations::RANGE;

/// Lanes of a workgroup.
const WORKGROUP: u32 = 64;

/// Columns of a workgroup if groups do not decide: eight quads a lane.
const TILE: u32 = 2048;

/// Columns of a unit of work, units of a row, and lanes that share a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub tile: u32,
    pub tiles: u32,
    pub team: u32,
}

/// One file of `shaders/fake` with an entry point, and what goes with it.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    name: &'static str,
    /// The fragment with the entry point.
    main: &'static str,
    /// Whether it loads X.
    x: bool,
    /// Whether it loads the gradient of Y.
    dy: bool,
    /// Whether it stores Y or the gradient of X.
    stores: bool,
    /// Whether columns look up their schemes.
    schemes: bool,
    /// The bindings from number 3 on, in order, without those that the shader does not have.
    bindings: &'static [Binding],
    grid: fn() -> Grid,
    workgroup_size: u32,
    workgroup_memory: u32,
}

pub(super) const TILES: Variable =
    Variable { name: "tiles", meaning: "the parameter `tiles`: units of work in a row" };
pub(super) const UNITS: Variable = Variable {
    name: "units",
    meaning: "m · tiles; where all of X shares a learned scale, the parameter `workers`, which is any",
};
pub(super) const ROW_SUMS: Variable = Variable {
    name: "row_sums",
    meaning: "m; where all of X shares a scale (the parameter `scale_stride` is 0), 1",
};

const fn x() -> Binding {
    const X: &str = "X, row-major from element x_at on; f16 in pairs";
    Binding::data(3, "x", X, Access::Read)
}

const fn dy() -> Binding {
    const DY: &str = "the gradient of Y, row-major from element dy_at on; f16 in pairs";
    Binding::data(4, "dy_in", DY, Access::Read)
}

const fn ranges() -> Binding {
    Binding::data(4, "ranges", RANGE, Access::Write)
}

const fn scales(access: Access) -> Binding {
    let holds = "scales, f32";
    Binding::data(5, "scales", holds, access)
}

const fn zeros(access: Access) -> Binding {
    Binding::data(6, "zeros", "zero points, f32", access)
}

const fn y() -> Binding {
    const Y: &str = "Y: X quantized and dequantized, or the gradient of X";
    Binding::data(7, "y", Y, Access::Write)
}

const fn scale_partials(number: u32, access: Access) -> Binding {
    let holds = "partial sums of the gradients of scales";
    Binding::data(number, "scale_partials", holds, access)
}

const fn outside_partials(number: u32, access: Access) -> Binding {
    let holds = "partial sums of the gradients of zero points";
    Binding::data(number, "outside_partials", holds, access)
}

const fn ds() -> Binding {
    Binding::data(8, "ds", "gradients of scales, f32", Access::Write)
}

const fn dz() -> Binding {
    Binding::data(9, "dz", "gradients of zero points, f32", Access::Write)
}

use Access::{Read, Write};

pub(super) const FORWARD: Kernel = Kernel {
    name: "forward",
    main: "fake/forward",
    x: true,
    dy: false,
    stores: true,
    schemes: true,
    bindings: &[x(), scales(Read), zeros(Read), y()],
    grid: || Grid::new(&[(&[Variable::M], 1), (&[TILES], 1)]),
    workgroup_size: WORKGROUP,
    workgroup_memory: 0,
};

pub(super) const DYNAMIC: Kernel = Kernel {
    name: "dynamic",
    main: "fake/dynamic",
    bindings: &[x(), scales(Write), zeros(Write), y()],
    // The range of each lane: two words.
    workgroup_memory: 8 * WORKGROUP,
    ..FORWARD
};

pub(super) const RANGES: Kernel = Kernel {
    name: "ranges",
    main: "fake/ranges",
    stores: false,
    schemes: false,
    bindings: &[x(), ranges()],
    ..FORWARD
};

pub(super) const SCALE: Kernel = Kernel {
    name: "scale",
    main: "fake/scale",
    x: false,
    bindings: &[ranges(), scales(Write), zeros(Write)],
    grid: || Grid::new(&[]),
    workgroup_size: 1,
    ..RANGES
};

pub(super) const BACKWARD: Kernel = Kernel {
    name: "backward",
    main: "fake/backward",
    dy: true,
    bindings: &[
        x(),
        dy(),
        scales(Read),
        zeros(Read),
        y(),
        scale_partials(8, Write),
        outside_partials(9, Write),
    ],
    grid: || Grid::new(&[(&[UNITS], 1)]),
    // The sums of each lane: three words.
    workgroup_memory: 12 * WORKGROUP,
    ..FORWARD
};

pub(super) const GROUPS: Kernel = Kernel {
    name: "groups",
    main: "fake/groups",
    bindings: &[x(), dy(), scales(Read), zeros(Read), y(), ds(), dz()],
    grid: FORWARD.grid,
    ..BACKWARD
};

pub(super) const SUMS: Kernel = Kernel {
    name: "sums",
    main: "fake/sums",
    x: false,
    dy: false,
    stores: false,
    schemes: false,
    bindings: &[
        scale_partials(3, Read),
        outside_partials(4, Read),
        scales(Read),
        zeros(Read),
        ds(),
        dz(),
    ],
    grid: || Grid::new(&[(&[ROW_SUMS], 1)]),
    ..BACKWARD
};

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let group = |g| std::num::NonZeroU32::new(g).map_or(Granularity::Channel, Granularity::Group);
    let floats = [FloatType::F32, FloatType::F16];
    let mut kernels = Vec::new();
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
                    for spec in [spec.clone().with_given_scales(), spec] {
                        kernels.extend(spec.forward_shaders(caps));
                        kernels.extend(spec.backward_shaders(caps));
                    }
                }
            }
        }
    }
    kernels
}

impl FakeQuantSpec {
    pub(super) fn shader(&self, caps: &Caps, kernel: Kernel) -> KernelDesc {
        let native = caps.exact_f16_unpack
            && ((kernel.x && self.input == FloatType::F16)
                || (kernel.dy && self.output == FloatType::F16));
        let mut name = format!("fake_{}", kernel.name);
        let aligned = self.is_aligned() || !kernel.schemes;
        let mut consts = vec![("M_TABLE", Const::U32(M_TABLE)), ("ALIGNED", Const::Bool(aligned))];
        if kernel.workgroup_size > 1 {
            consts.push(("WORKGROUP", Const::U32(kernel.workgroup_size)));
        }
        let mut conditions = Vec::new();
        name.push_str(if aligned { "" } else { ".any" });
        if kernel.name == BACKWARD.name {
            consts.push(("LEARNED", Const::Bool(self.given)));
            name.push_str(if self.given { ".learned" } else { "" });
        }
        let halves = if native { "lib/half_pair_native" } else { "lib/half_pair" };
        name.push_str(if native { ".half" } else { "" });
        let mut fragments = vec![halves];
        if kernel.x {
            let (access, suffix) = match (self.input, self.quads(self.input, self.x_stride)) {
                (FloatType::F16, _) => ("access/x_f16", ".xf16"),
                (FloatType::F32, true) => ("access/x_f32x4", ""),
                (FloatType::F32, false) => ("access/x_f32", ".x1"),
            };
            fragments.push(access);
            name.push_str(suffix);
            if access != "access/x_f32" {
                // Loops end with the columns, so only a quad that is not whole reaches past them.
                let ragged = !self.k.is_multiple_of(4);
                consts.push(("RAGGED", Const::Bool(ragged)));
                if ragged {
                    name.push_str(".tail");
                } else {
                    conditions.push("k is a multiple of 4".into());
                }
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
            // dx has the type of X, which the id says already.
            name.push_str(if kernel.dy { "" } else { suffix });
        }
        if aligned {
            conditions.push("group_size is a multiple of 4, or at least k".into());
        }
        fragments.push(kernel.main);
        let [low, high] = Binding::COUNTS;
        KernelDesc {
            id: name,
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings: [&[Binding::params("p", Params::LAYOUT), low, high], kernel.bindings]
                .concat(),
            grid: (kernel.grid)(),
            workgroup_size: kernel.workgroup_size,
            workgroup_memory: kernel.workgroup_memory,
            conditions,
            weights: None,
        }
    }

    /// Returns how rows are divided among workgroups. If `whole_groups`, each unit holds whole
    /// groups.
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

uniform! {
    /// The parameters of one dispatch.
    pub(super) struct Params for "Params" in "fake/code" {
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
        tiles: u32,
        tile: u32,
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
}
