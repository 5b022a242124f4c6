//! What a device is asked about itself.

use lowbit::gpu::Caps;
use lowbit::host::{Host, probe_shader};
use lowbit::ops::{MatmulPlan, MatmulSpec, Select};
use pollster::block_on;

/// The probe finds what the crate takes for granted of a driver, and a conversion that flushes
/// one half does not pass it.
#[test]
fn halves_are_probed() {
    let Some(host) = crate::common::host() else { return };
    let exact = host.exact_f16_unpack().unwrap();
    eprintln!("{} converts halves exactly: {exact}", host.adapter_info().name);
    assert!(exact || !host.kernels().caps().exact_f16_unpack);
    if !exact {
        return;
    }
    let faulty = Host::new().unwrap();
    let text = probe_shader().compose().unwrap().source;
    for (from, to) in [
        // Flushes the smallest subnormal alone; takes the halves of a word for each other.
        (
            "return unpack2x16float(word);",
            "return unpack2x16float(select(word, word & 0xffffu, (word >> 16u) == 1u));",
        ),
        ("return unpack2x16float(word);", "return unpack2x16float(word).yx;"),
    ] {
        assert_eq!(text.matches(from).count(), 1);
        block_on(faulty.kernels().plant(&probe_shader(), &text.replace(from, to))).unwrap();
        assert!(!faulty.exact_f16_unpack().unwrap(), "{to}");
    }
}

/// Kernels go by it.
#[test]
fn exact_halves_choose_kernels() {
    let Some(host) = crate::common::host() else { return };
    for exact in [false, true] {
        let caps = Caps { exact_f16_unpack: exact, ..host.kernels().caps().clone() };
        let (info, device) = (host.adapter_info().clone(), host.device().clone());
        let host = Host::with_caps(info, device, host.queue().clone(), &caps).unwrap();
        let spec = MatmulSpec::new(1, 8, 32, "f16".parse().unwrap());
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
        assert_eq!(plan.kernel(1).name().split('.').any(|part| part == "half"), exact);
    }
}
