//! Tests of the probe, which measures properties of a device.

use lowbit::format::WeightFormat;
use lowbit::gpu::{AdapterClass, Caps, Kernels};
use lowbit::host::{Host, probe_shader};
use lowbit::ops::{MatmulPlan, MatmulSpec, Select};
use pollster::block_on;

/// The probe confirms what the crate assumes about a driver, and it detects an f16 conversion that
/// flushes a single value.
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
        // One conversion flushes only the smallest subnormal, and the other swaps the two f16 of a
        // word.
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

/// The choice of kernels depends on the result of the probe.
#[test]
fn exact_f16_unpacking_chooses_kernels() {
    let Some(host) = crate::common::host() else { return };
    for exact in [false, true] {
        let mut caps = host.kernels().caps().clone();
        caps.exact_f16_unpack = exact;
        let (info, device) = (host.adapter_info().clone(), host.device().clone());
        let host = Host::with_caps(info, device, host.queue().clone(), &caps).unwrap();
        let spec = MatmulSpec::new(1, 8, 32, "f16".parse().unwrap());
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
        assert_eq!(plan.kernel(1).name().split('.').any(|part| part == "half"), exact);
    }
}

/// Requests a device as an engine does, with nothing of this crate but the useful features.
fn engine_device(adapter: &wgpu::Adapter) -> (wgpu::Device, wgpu::Queue) {
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & Caps::useful_features(),
        required_limits: adapter.limits(),
        ..Default::default()
    };
    block_on(adapter.request_device(&descriptor)).unwrap()
}

/// The names of the kernels that plans choose, for formats and numbers of rows that differ.
fn chosen(kernels: &Kernels) -> Vec<String> {
    let formats = ["f32", "f16", "int8-channel", "int4-g64-asym", "2:4+f16", "2:4+int4-g64-asym"];
    let mut names = Vec::new();
    for format in formats {
        let format: WeightFormat = format.parse().unwrap();
        let spec = MatmulSpec::new(70, 64, 256, format);
        let plan = block_on(MatmulPlan::new(kernels, &spec, Select::Auto)).unwrap();
        names.extend([1, 8, 70].map(|m| plan.kernel(m).name()));
    }
    names
}

/// An engine's kernels on its own device are those of a `Host`.
#[test]
fn an_engines_kernels_are_the_hosts() {
    let Some(_) = crate::common::host() else { return };
    let adapter = crate::common::adapter();
    let info = adapter.get_info();
    // As the adapter is, and as a GPU of which nothing is known, so that the probe runs.
    let unknown = wgpu::AdapterInfo {
        device_type: wgpu::DeviceType::DiscreteGpu,
        driver: "unknown".into(),
        ..info.clone()
    };
    for info in [info, unknown] {
        let (device, queue) = engine_device(&adapter);
        let kernels = block_on(Kernels::for_adapter(&info, &device, &queue)).unwrap();
        let (other, other_queue) = engine_device(&adapter);
        let host = Host::with_device(info.clone(), other, other_queue, &adapter.limits()).unwrap();
        assert_eq!(kernels.caps(), host.kernels().caps());
        assert_eq!(chosen(&kernels), chosen(host.kernels()));
        if kernels.caps().class == AdapterClass::Gpu {
            assert_eq!(kernels.caps().exact_f16_unpack, host.exact_f16_unpack().unwrap());
        }
        // The engine's own callback tells these kernels of a lost device.
        let lost = kernels.lost_flag().clone();
        device.set_device_lost_callback(move |_, message| lost.set(message));
        device.destroy();
        let _ = device.poll(wgpu::PollType::Poll);
        assert!(kernels.lost_flag().reason().is_some());
    }
    let (device, queue) = engine_device(&adapter);
    let kernels = block_on(Kernels::for_adapter(&adapter.get_info(), &device, &queue)).unwrap();
    let host = Host::with_adapter(&adapter).unwrap();
    assert_eq!(kernels.caps(), host.kernels().caps());
}
