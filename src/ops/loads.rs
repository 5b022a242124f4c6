//! How kernels that see whole rows load them.

use super::FloatType;
use crate::gpu::{AdapterClass, Caps, Const};

/// The fragments that load rows of X four columns at a time, with zeros past the last.
#[derive(Clone, Debug)]
pub(crate) struct Loads {
    pub fragments: Vec<&'static str>,
    pub consts: Vec<(&'static str, Const)>,
    /// A part of the kernel id.
    pub suffix: String,
}

impl Loads {
    /// Chooses the loads of X: of `quads` 16 bytes at a time. `halves` says that the kernel also reads
    /// f16 elsewhere.
    pub fn new(caps: &Caps, x: FloatType, quads: bool, halves: bool) -> Self {
        // Software adapters load one component of one lane at a time.
        let wide = caps.int64 && caps.class == AdapterClass::Cpu;
        let (access, suffix) = match (x, quads) {
            (FloatType::F16, _) => ("access/x_f16", ".xf16"),
            (FloatType::F32, true) if wide => ("access/x_f32x4_u64", ".u64"),
            (FloatType::F32, true) => ("access/x_f32x4", ""),
            (FloatType::F32, false) => ("access/x_f32", ".x1"),
        };
        let mut suffix = suffix.to_string();
        let native = caps.exact_f16_unpack && (halves || x == FloatType::F16);
        suffix.push_str(if native { ".half" } else { "" });
        let half_pair = if native { "lib/half_pair_native" } else { "lib/half_pair" };
        let ragged = matches!(access, "access/x_f32x4" | "access/x_f16");
        let consts = if ragged { vec![("RAGGED", Const::Bool(true))] } else { Vec::new() };
        Self { fragments: vec![half_pair, access], consts, suffix }
    }
}

/// Returns the number of lanes that share a row: on a GPU enough to load a row of a few thousand columns
/// in few steps, on a software adapter those of a subgroup, because barriers are slow there.
pub(crate) fn row_lanes(caps: &Caps) -> u32 {
    match caps.class {
        AdapterClass::Gpu => 128,
        AdapterClass::Cpu => 8,
    }
}
