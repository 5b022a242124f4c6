//! The kernels of normalization and their parameters.

use super::{NormKind, NormSpec};
use crate::gpu::{
    Access, Binding, Caps, Const, Grid, KernelDesc, M_TABLE, Variable, fragment, uniform,
};
use crate::ops::FloatType;
use crate::ops::loads::{Loads, row_lanes};
use crate::ops::output::{Stores, outputs};

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
        let halves = self.residual == Some(FloatType::F16);
        let mut loads = Loads::new(caps, self.activations, self.quads(), halves);
        let mut id = format!("norm{}", loads.suffix);
        let (workgroup, general) = (row_lanes(caps), self.kind == NormKind::Layer || self.bias);
        id.push_str(&format!(".w{workgroup}"));
        let mut consts = vec![
            ("M_TABLE", Const::U32(M_TABLE)),
            ("WORKGROUP", Const::U32(workgroup)),
            ("LAYER", Const::Bool(general)),
        ];
        id.push_str(if general { ".layer" } else { "" });
        consts.append(&mut loads.consts);
        let mut fragments = loads.fragments;
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
        let mut stores = Stores::new(self.output, workgroup);
        fragments.push(if stores.codes { "norm/codes" } else { "norm/floats" });
        id.push_str(&stores.suffix);
        consts.append(&mut stores.consts);
        bindings.extend([
            Binding::data(6, "weight", "the weight, f32", Access::Read),
            Binding::data(7, "bias", "the bias, f32", Access::Read),
            Binding::data(8, "y", stores.holds, Access::Write),
        ]);
        KernelDesc {
            id,
            consts,
            fragments: fragments.into_iter().map(fragment).collect(),
            bindings,
            grid: Grid::new(&[(&[Variable::BATCH, Variable::M], 1)]),
            workgroup_size: workgroup,
            workgroup_memory: 4 * workgroup + stores.workgroup_memory,
            conditions: Vec::new(),
            weights: None,
        }
    }
}

/// Returns every kernel of this op on such a device.
pub(crate) fn kernels(caps: &Caps) -> Vec<KernelDesc> {
    let floats = [FloatType::F32, FloatType::F16];
    let mut kernels = Vec::new();
    for output in outputs() {
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
