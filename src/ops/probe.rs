//! The small kernel that asks a device how it converts f16.

use crate::gpu::{Access, Binding, Caps, Grid, KernelDesc, Variable, fragment};

/// Pairs of f16 values: every value once.
pub(crate) const PAIRS: u32 = 1 << 15;

/// Invocations of a workgroup, a pair each.
const WORKGROUP: u32 = 64;

const ALL_PAIRS: Variable =
    Variable { name: "pairs", meaning: "pairs of f16: 32768, every f16 once" };

/// Returns the kernel behind [`Host::exact_f16_unpack`](crate::host::Host::exact_f16_unpack).
pub(crate) fn halves() -> KernelDesc {
    KernelDesc {
        id: "probe_halves".into(),
        consts: Vec::new(),
        fragments: vec![fragment("probe/halves")],
        bindings: vec![
            Binding::data(0, "halves", "every f16, in pairs", Access::Read),
            Binding::data(
                1,
                "wrong",
                "how many of them the device converts otherwise",
                Access::Write,
            ),
        ],
        grid: Grid::new(&[(&[ALL_PAIRS], WORKGROUP)]).along_x(),
        workgroup_size: WORKGROUP,
        workgroup_memory: 0,
        conditions: Vec::new(),
        weights: None,
    }
}

/// Returns every kernel that probes a device.
pub(crate) fn kernels(_: &Caps) -> Vec<KernelDesc> {
    vec![halves()]
}
