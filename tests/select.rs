//! A table of the kernels that `select` chooses on real devices, so that a change of the choice is
//! noticed.
//!
//! The limits, features and subgroup sizes are from reports at vulkan.gpuinfo.org (for Apple, from
//! Metal's feature tables), as wgpu 30 maps them: bindings are smaller than 2 GiB, and so are
//! buffers on Linux except on NVIDIA; the number of workgroups is the smallest of the three
//! dimensions; and all Metal devices have subgroups of 4 to 64 lanes. Alignments and sizes vary
//! with the driver version and do not influence the choice.

use lowbit::format::{ActivationFormat, ActivationGranularity, WeightFormat};
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::ops::matmul::{KernelChoice, Schedule, candidates, code_textures_pay, select};
use lowbit::ops::{Activations, FloatType, MatmulSpec};
use wgpu::{Backend, DeviceType, Features, Limits};

struct Device {
    name: &'static str,
    driver: &'static str,
    kind: DeviceType,
    backend: Backend,
    features: Features,
    /// The smallest and the largest size of a subgroup.
    subgroup: (u32, u32),
    limits: Limits,
}

/// Returns the limits that the crate uses: storage buffers per stage, bytes of a binding and of a
/// buffer, alignments of uniforms and storage buffers, workgroup memory and invocations.
fn limits(
    buffers: u32,
    (binding, buffer): (u64, u64),
    (uniform, storage): (u32, u32),
    memory: u32,
    invocations: u32,
) -> Limits {
    Limits {
        max_storage_buffers_per_shader_stage: buffers,
        max_storage_buffer_binding_size: binding,
        max_buffer_size: buffer,
        min_uniform_buffer_offset_alignment: uniform,
        min_storage_buffer_offset_alignment: storage,
        max_compute_workgroup_storage_size: memory,
        max_compute_invocations_per_workgroup: invocations,
        max_compute_workgroups_per_dimension: 65_535,
        ..Limits::defaults()
    }
}

/// The largest binding that wgpu allows, and the largest buffer on Linux.
const BINDING: u64 = (1 << 31) - 1;
const LINUX: u64 = (1 << 31) - 1;

fn devices() -> Vec<Device> {
    use Backend::{BrowserWebGpu, Metal, Vulkan};
    use DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other};
    let subgroups = Features::SUBGROUP;
    let both = subgroups | Features::SHADER_INT64;
    let device = |name, driver, kind, backend, features, subgroup, limits| Device {
        name,
        driver,
        kind,
        backend,
        features,
        subgroup,
        limits,
    };
    let kib = |k: u32| k << 10;
    let (nvidia, radeon, arc, apple, adreno, lavapipe) = (
        limits(1_048_576, (BINDING, 4_292_870_144), (64, 16), kib(48), 1024),
        |memory| limits(8_388_606, (BINDING, LINUX), (4, 4), memory, 1024),
        limits(65_535, (1 << 30, LINUX), (64, 4), kib(64), 1024),
        limits(29, (9_534_832_640, 9_534_832_640), (256, 32), kib(32), 1024),
        limits(24, (128 << 20, 1 << 30), (64, 64), kib(32), 1024),
        limits(1_000_000, (128 << 20, LINUX), (16, 16), kib(32), 1024),
    );
    let (rdna2, rdna3) = (radeon(kib(64)), radeon(kib(32)));
    vec![
        device("GeForce RTX 3080", "NVIDIA", DiscreteGpu, Vulkan, both, (32, 32), nvidia),
        device("Radeon RX 6800", "radv", DiscreteGpu, Vulkan, both, (32, 64), rdna2),
        device("Radeon RX 7900 XTX", "AMD", DiscreteGpu, Vulkan, both, (32, 64), rdna3),
        device("Arc A770", "Intel", DiscreteGpu, Vulkan, both, (8, 32), arc),
        device("Apple M2", "", IntegratedGpu, Metal, both, (4, 64), apple),
        device("Adreno 640", "Qualcomm", IntegratedGpu, Vulkan, subgroups, (64, 128), adreno),
        device(
            "browser's minimum",
            "",
            Other,
            BrowserWebGpu,
            Features::empty(),
            (4, 128),
            Limits::defaults(),
        ),
        device(
            "downlevel",
            "",
            Other,
            Vulkan,
            Features::empty(),
            (4, 128),
            Limits::downlevel_defaults(),
        ),
        device("lavapipe", "llvmpipe", Cpu, Vulkan, both, (8, 8), lavapipe.clone()),
        device("llvmpipe", "llvmpipe", Cpu, Backend::Gl, both, (8, 8), lavapipe),
    ]
}

impl Device {
    fn caps(&self) -> Caps {
        let info = wgpu::AdapterInfo {
            name: self.name.into(),
            driver: self.driver.into(),
            subgroup_min_size: self.subgroup.0,
            subgroup_max_size: self.subgroup.1,
            ..wgpu::AdapterInfo::new(self.kind, self.backend)
        };
        Caps::new(&info, &self.limits, self.features)
    }
}

const FORMATS: [&str; 9] = [
    "f32",
    "f16",
    "int16-channel",
    "int8-channel",
    "int8-g48",
    "int4-g64-asym",
    "2:4+f16",
    "2:4+int8-channel",
    "2:4+int4-g64-asym",
];
const M: [u32; 8] = [1, 2, 7, 8, 16, 64, 128, 4096];

/// The choices for K = N = 4096: the facts about a device, followed by one line for all formats
/// that have the same choices.
const EXPECTED: &str = "
GeForce RTX 3080: Gpu, 32 lanes, int64
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–64 tiled_32x64, 128–4096 tiled_64x64
Radeon RX 6800: Gpu, 0 lanes, int64
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–64 tiled_32x64, 128–4096 tiled_64x64
Radeon RX 7900 XTX: Gpu, 0 lanes, int64
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–64 tiled_32x64, 128–4096 tiled_64x64
Arc A770: Gpu, 0 lanes, int64
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–64 tiled_32x64, 128–4096 tiled_64x64
Apple M2: Gpu, 0 lanes, int64
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–64 tiled_32x64, 128–4096 tiled_64x64
Adreno 640: Gpu, 0 lanes
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–64 tiled_32x64, 128–4096 tiled_64x64
browser's minimum: Gpu, 0 lanes
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–64 tiled_32x64, 128–4096 tiled_64x64
downlevel: Gpu, 0 lanes
  all formats: 1 gemv_m1_l32, 2–8 gemv_m4_l32, 16–4096 tiled_32x64
lavapipe: Cpu, 8 lanes, int64, textures
  all formats: 1 rows_m1_n4, 2–4096 rows_m4_n2
llvmpipe: Cpu, 8 lanes, int64
  f32 f16 int16-channel: 1 rows_m1_n2, 2 rows_m4_n2, 7–64 rows_m8_n2, 128–4096 rows_m16_n2
  int8-channel int8-g48 2:4+f16: 1 rows_m1_n2, 2–4096 rows_m4_n2
  int4-g64-asym 2:4+int8-channel 2:4+int4-g64-asym: 1 rows_m1_n4, 2–4096 rows_m4_n2
";

/// Returns the choices for every m, with equal neighbors combined.
fn choices(caps: &Caps, format: &str) -> String {
    choices_of(caps, format, FloatType::F32.into())
}

fn choices_of(caps: &Caps, format: &str, activations: Activations) -> String {
    let format: WeightFormat = format.parse().unwrap();
    let mut runs: Vec<(u32, u32, Schedule)> = Vec::new();
    for m in M {
        let mut spec = MatmulSpec::new(m, 4096, 4096, format).with_activations(activations);
        spec.code_textures = code_textures_pay(&format, 4096, caps);
        let schedule = select(&spec, caps, m);
        if let Err(error) = schedule.check(caps) {
            return format!("refused ({error})");
        }
        match runs.last_mut() {
            Some(last) if last.2 == schedule => last.1 = m,
            _ => runs.push((m, m, schedule)),
        }
    }
    let run = |(from, to, schedule): &(u32, u32, Schedule)| match from == to {
        true => format!("{from} {schedule}"),
        false => format!("{from}–{to} {schedule}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_table_of_choices() {
    let mut table = String::from("\n");
    for device in devices() {
        let caps = device.caps();
        let textures = if caps.texture_extent > 0 { ", textures" } else { "" };
        let int64 = if caps.int64 { ", int64" } else { "" };
        table += &format!(
            "{}: {:?}, {} lanes{int64}{textures}\n",
            device.name, caps.class, caps.subgroup
        );
        let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
        for format in FORMATS {
            let choices = choices(&caps, format);
            match lines.iter_mut().find(|(line, _)| *line == choices) {
                Some((_, formats)) => formats.push(format),
                None => lines.push((choices, vec![format])),
            }
        }
        for (choices, formats) in lines {
            let formats = match formats.len() == FORMATS.len() {
                true => "all formats".into(),
                false => formats.join(" "),
            };
            table += &format!("  {formats}: {choices}\n");
        }
    }
    assert_eq!(table, EXPECTED, "`select` now chooses:\n{table}");
}

/// The choices for quantized X: schedules of integer products, and whether bytes are multiplied by
/// the device's own instruction.
const INTEGERS: &str = "
GeForce RTX 3080: packed dot: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
Radeon RX 6800: packed dot: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
Radeon RX 7900 XTX: packed dot: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
Arc A770: packed dot: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
Apple M2: dot in f32: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
Adreno 640: packed dot: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
browser's minimum: packed dot: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
downlevel: packed dot: 1 int_gemv_m1_l32, 2–8 int_gemv_m4_l32, 16–64 int_tiled_32x64, 128–4096 int_tiled_64x64
lavapipe: packed dot: 1 int_rows_m1, 2–4096 int_rows_m4
llvmpipe: dot in f32: 1 int_rows_m1, 2–4096 int_rows_m4
";

#[test]
fn the_table_of_integer_choices() {
    let token = ActivationFormat::int8(ActivationGranularity::Token);
    let mut table = String::from("\n");
    for device in devices() {
        let caps = device.caps();
        // The format of W does not change the schedule.
        let all = ["int8-channel", "int4-g64-asym", "2:4+int4-g64-asym"]
            .map(|format| choices_of(&caps, format, Activations::Int8(token)));
        assert!(all.iter().all(|choices| *choices == all[0]), "{}: {all:?}", device.name);
        let dot = if caps.packed_dot { "packed dot" } else { "dot in f32" };
        table += &format!("{}: {dot}: {}\n", device.name, all[0]);
    }
    assert_eq!(table, INTEGERS, "`select` now chooses:\n{table}");
}

/// For every K that leads to another schedule, the choice fits the limits of the device (checked
/// without `check`) and is one of the schedules that `verify` runs.
#[test]
fn choices_fit_the_device() {
    let mut seen = 0;
    for device in devices().iter().filter(|device| device.name != "downlevel") {
        let caps = device.caps();
        for format in FORMATS {
            let format: WeightFormat = format.parse().unwrap();
            for (m, k) in M
                .into_iter()
                .flat_map(|m| [1, 8, 33, 64, 100, 384, 1024, 4096, 11_008, 1 << 20].map(|k| (m, k)))
            {
                let spec = MatmulSpec::new(m, 640, k, format);
                let schedule = select(&spec, &caps, m);
                let what = format!("{}: {format}, m = {m}, k = {k}: {schedule}", device.name);
                assert_eq!(schedule.check(&caps), Ok(()), "{what}");
                assert!(Schedule::all(k).contains(&schedule), "{what}");
                assert_eq!(candidates(&spec, &caps, m).first(), Some(&schedule), "{what}");
                let limits = &device.limits;
                let invocations = limits.max_compute_invocations_per_workgroup;
                assert!((1..=invocations).contains(&schedule.workgroup()), "{what}");
                let memory = limits.max_compute_workgroup_storage_size;
                assert!(schedule.workgroup_memory() <= memory, "{what}");
                let choice = KernelChoice::new(&spec, schedule, &caps);
                let groups = choice.groups(m, 640, 1);
                assert!(groups > 0 && caps.fold(groups).is_some(), "{what}");
                // A feature is only used if the device has it.
                let features = device.features;
                assert!(!choice.wide || features.contains(Features::SHADER_INT64), "{what}");
                assert!(
                    choice.subgroup == 0
                        || features.contains(Features::SUBGROUP)
                            && device.subgroup == (choice.subgroup, choice.subgroup),
                    "{what}"
                );
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 9 * 9 * 8 * 10);
}

/// Lowers one limit at a time: `select` chooses something smaller that fits, or `check` says what
/// is missing.
#[test]
fn low_limits_are_kept_to() {
    for (memory, invocations, fits) in
        [(12 << 10, 128, true), (4 << 10, 64, true), (0, 32, true), (0, 31, false)]
    {
        for class in [AdapterClass::Gpu, AdapterClass::Cpu] {
            let mut caps = Caps::from_limits(class, &Limits::defaults());
            (caps.max_workgroup_memory, caps.max_invocations) = (memory, invocations);
            for m in M {
                let spec = MatmulSpec::new(m, 640, 4096, WeightFormat::f16());
                assert_eq!(select(&spec, &caps, m).check(&caps).is_ok(), fits);
                assert_eq!(candidates(&spec, &caps, m).is_empty(), !fits);
            }
        }
    }
}
