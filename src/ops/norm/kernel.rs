//! The kernels of normalization and their parameters.

use super::{NormKind, NormSpec};
use crate::format::{ActivationFormat, ActivationGranularity};
use crate::gpu::{
    Access, AdapterClass, Binding, Caps, Const, Grid, KernelDesc, M_TABLE, Variable, fragment,
    uniform,
};
use crate::ops::{FloatType, Output};

uniform! {
    /// The parameters of one dispatch.
    pub(super) struct Params for "NormParams" in "norm/row" {
        k: u32,
        batch: u32,
        m0: u32,
        m_cap: u32,
        x_at: u32,
        x_stride: u32,
        x_batch: u32,
        r_at: u32,
        r_stride: u32,
        r_batch: u32,
        total_at: u32,
        total_stride: u32,
        total_batch: u32,
        y_at: u32,
        y_stride: u32,
        y_batch: u32,
        weight_at: u32,
        bias_at: u32,
        weighted: u32,
        biased: u32,
        centered: u32,
        inverse_k: f32,
        epsilon: f32,
        offset: f32,
        blocks: u32,
        group_blocks: u32,
        groups: u32,
        scale_at: u32,
        zero_at: u32,
        sum_at: u32,
        given_scale: f32,
        given_zero: i32,
    }
}

/// Lanes that share a row: on a GPU enough to load a row of a few thousand columns in few steps; on a
/// software adapter few, because barriers are slow there.
fn workgroup(caps: &Caps) -> u32 {
    match caps.class {
        AdapterClass::Gpu => 128,
        AdapterClass::Cpu => 8,
    }
}

/// What the binding of X holds.
const X: &str = "X, row-major from element x_at on; f16 in pairs";

impl NormSpec {
    /// Returns whether rows of X are loaded 16 bytes at a time.
    pub(super) fn quads(&self) -> bool {
        let apart = self.batch <= 1 || self.x_batch_stride.is_multiple_of(4);
        self.activations == FloatType::F32 && self.x_rows().is_quads() && apart
    }

    /// Returns the kernel.
    pub fn shader(&self, caps: &Caps) -> KernelDesc {
        let wide = caps.int64 && caps.class == AdapterClass::Cpu;
        let (access, mut id) = match (self.activations, self.quads()) {
            (FloatType::F16, _) => ("access/x_f16", "norm.xf16".to_string()),
            (FloatType::F32, true) if wide => ("access/x_f32x4_u64", "norm.u64".to_string()),
            (FloatType::F32, true) => ("access/x_f32x4", "norm".to_string()),
            (FloatType::F32, false) => ("access/x_f32", "norm.x1".to_string()),
        };
        let (workgroup, general) = (workgroup(caps), self.kind == NormKind::Layer || self.bias);
        id.push_str(&format!(".w{workgroup}"));
        let mut consts = vec![
            ("M_TABLE", Const::U32(M_TABLE)),
            ("WORKGROUP", Const::U32(workgroup)),
            ("LAYER", Const::Bool(general)),
        ];
        id.push_str(if general { ".layer" } else { "" });
        if matches!(access, "access/x_f32x4" | "access/x_f16") {
            consts.push(("RAGGED", Const::Bool(true)));
        }
        let mut fragments = vec![access];
        let halves = [Some(self.activations), self.residual].contains(&Some(FloatType::F16));
        if halves && caps.exact_f16_unpack {
            fragments.push("lib/half_pair_native");
            id.push_str(".half");
        } else {
            fragments.push("lib/half_pair");
        }
        let mut bindings = vec![Binding::params("p", Params::LAYOUT)];
        bindings.extend(Binding::COUNTS);
        bindings.push(Binding::data(3, "x", X, Access::Read));
        match self.residual {
            None => fragments.push("norm/alone"),
            Some(float) => {
                fragments.push("norm/residual");
                consts.push(("R_F16", Const::Bool(float == FloatType::F16)));
                id.push_str(&format!(".r{}", float.name()));
                let holds = ["the residual, in words", "the sum of X and the residual, in words"];
                bindings.push(Binding::data(4, "r", holds[0], Access::Read));
                bindings.push(Binding::data(5, "total", holds[1], Access::Write));
            }
        }
        let mut workgroup_memory = 4 * workgroup;
        let holds = match self.output {
            Output::Int8(format) => {
                let given = format.granularity() == ActivationGranularity::Tensor;
                fragments.push("norm/codes");
                consts.push(("ASYMMETRIC", Const::Bool(!format.is_symmetric())));
                consts.push(("SCOPE", Const::U32(if given { 3 } else { 0 })));
                id.push_str(if given { ".given" } else { ".token" });
                id.push_str(if format.is_symmetric() { "" } else { ".asym" });
                // Three words a lane, for ranges.
                workgroup_memory += 12 * workgroup;
                "rows of codes, scales, zero points and sums of blocks"
            }
            output => {
                let half = output == Output::Float(FloatType::F16);
                fragments.push("norm/floats");
                consts.push(("Y_F16", Const::Bool(half)));
                id.push_str(if half { ".yf16" } else { "" });
                "Y, row-major from element y_at on; f16 in pairs"
            }
        };
        bindings.extend([
            Binding::data(6, "weight", "the weight, f32", Access::Read),
            Binding::data(7, "bias", "the bias, f32", Access::Read),
            Binding::data(8, "y", holds, Access::Write),
        ]);
        KernelDesc {
            id,
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings,
            grid: Grid::new(&[(&[Variable::BATCH, Variable::M], 1)]),
            workgroup_size: workgroup,
            workgroup_memory,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let floats = [FloatType::F32, FloatType::F16];
    let int8 = [ActivationGranularity::Token, ActivationGranularity::Tensor]
        .map(ActivationFormat::int8)
        .map(|format| [format, format.asymmetric()].map(Output::Int8));
    let outputs = floats.map(Output::Float).into_iter().chain(int8.into_iter().flatten());
    let mut kernels = Vec::new();
    for output in outputs {
        for residual in [None].into_iter().chain(floats.map(Some)) {
            for (kind, k, x) in NormKind::ALL.into_iter().flat_map(|kind| {
                // Quads, neither, pairs.
                [(kind, 4, floats[0]), (kind, 3, floats[0]), (kind, 4, floats[1])]
            }) {
                let spec = NormSpec::new(2, k, kind, 1e-5).with_activations(x).with_output(output);
                let spec = match residual {
                    Some(float) => spec.with_residual(float),
                    None => spec,
                };
                kernels.push(spec.shader(caps));
            }
        }
    }
    kernels
}
