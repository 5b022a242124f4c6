//! Tests with devices that are lost, too small or too slow, or that get shaders which do not
//! compile. tests/faults_memory.rs tests devices that run out of memory, and tests/faults_driver.rs
//! faults that only a driver can cause.

mod common;

use lowbit::format::WeightFormat;
use lowbit::gpu::{Access, Binding, Const, DeviceError, FRAGMENTS, Fragment, KernelDesc};
use lowbit::host::{Host, HostError};
use lowbit::ops::{BindError, DeviceWeights, MatmulSpec, PlanError, Schedule, Select};
use lowbit::ops::{MatmulArgs, MatmulPlan};
use pollster::block_on;
use std::time::{Duration, Instant};

const N: usize = 24;
const K: usize = 40;

fn format() -> WeightFormat {
    "2:4+int8-channel".parse().unwrap()
}

/// Runs a matmul and checks its result.
fn works(host: &Host) {
    common::multiplies(host).unwrap();
}

fn ones() -> lowbit::format::PackedWeights {
    lowbit::compress::quantize(&[1.0; N * K], N, K, &format()).unwrap()
}

#[track_caller]
fn assert_lost<T>(result: Result<T, HostError>) {
    let error = result.err().expect("a call on a lost device succeeded");
    assert!(matches!(error.device(), Some(DeviceError::Lost(_))), "{error:?}");
}

/// Makes every call of the host on a lost device and checks its error.
fn all_lost(host: &Host, weights: &DeviceWeights, buffer: &wgpu::Buffer) {
    let start = Instant::now();
    assert_lost(host.upload(&ones()));
    assert_lost(host.download(weights));
    assert_lost(host.compress(&[1.0; N * K], N, K, &format()));
    assert_lost(host.dequantize(weights));
    assert_lost(host.gather(weights, &[0, 1]));
    assert_lost(host.matmul(&[1.0; K], 1, weights, None));
    assert_lost(host.storage(&[1, 2, 3]));
    assert_lost(host.zeros(64));
    assert_lost(host.submit(|_| ()));
    assert_lost(host.read(buffer, 0, 4));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_destroyed_device_is_lost() {
    let Some(host) = common::own_host() else { return };
    works(&host);
    let weights = host.upload(&ones()).unwrap();
    let buffer = host.zeros(64).unwrap();
    host.device().destroy();
    all_lost(&host, &weights, &buffer);
    // All calls are repeated, and then tried with a new host on the same device.
    all_lost(&host, &weights, &buffer);
    let (info, limits) = (host.adapter_info().clone(), host.device().limits());
    let again = Host::with_device(info, host.device().clone(), host.queue().clone(), &limits);
    // The device-lost callback has already run, so a new host cannot know why nothing works.
    match again.and_then(|again| again.storage(&[1])) {
        Err(HostError::Device(_)) => {}
        other => panic!("{other:?}"),
    }
    works(&Host::new().unwrap());
}

/// Loses the device while a pass is recorded and another thread computes.
#[test]
fn a_device_lost_midway_is_an_error() {
    let Some(host) = common::own_host() else { return };
    assert_lost(host.submit(|_| host.device().destroy()));
    let host = Host::new().unwrap();
    let weights = host.upload(&ones()).unwrap();
    let (device, rounds) = (host.device().clone(), std::sync::atomic::AtomicUsize::new(0));
    let start = Instant::now();
    let error = std::thread::scope(|scope| {
        let rounds = &rounds;
        scope.spawn(move || {
            while rounds.load(std::sync::atomic::Ordering::Relaxed) < 3 {
                std::thread::yield_now();
            }
            device.destroy();
        });
        loop {
            if let Err(error) = host.matmul(&[1.0; 3 * K], 3, &weights, None) {
                break error;
            }
            rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(start.elapsed() < Duration::from_secs(60), "the loss went unnoticed");
        }
    });
    assert_lost::<()>(Err(error));
    assert!(rounds.into_inner() >= 3);
    works(&Host::new().unwrap());
}

/// Buffers that exceed the device's limit are refused, and the host stays usable.
#[test]
fn buffers_too_large_are_refused() {
    let Some(host) = common::own_host() else { return };
    let host = common::host_within(&host, |limits| {
        limits.max_buffer_size = 1 << 20;
        limits.max_storage_buffer_binding_size = 1 << 20;
    });
    let refused = |error: HostError, size: &str| match error.device() {
        Some(DeviceError::Refused { what, message }) => {
            assert_eq!(what, "lowbit host");
            assert!(message.contains(size), "{message}");
        }
        _ => panic!("{error:?}"),
    };
    for bytes in [(1 << 20) + 4, 1 << 40, u64::MAX - 4, u64::MAX] {
        refused(host.zeros(bytes).unwrap_err(), &format!("{}", bytes.next_multiple_of(4)));
    }
    // This buffer would be filled through mapped memory, which does not exist.
    refused(host.storage(&vec![7; 300_000]).unwrap_err(), "1200000");
    host.zeros(1 << 20).unwrap();
    works(&host);
    // These ranges are outside of the buffer.
    let buffer = host.storage(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    for (first, words) in [(0, 9), (9, 1), (8, 1), (1 << 40, 1), (usize::MAX / 4, 4)] {
        let error = host.read(&buffer, first, words).unwrap_err();
        assert!(matches!(error.device(), Some(DeviceError::Refused { .. })), "{error:?}");
    }
    for (first, words) in [(usize::MAX, 1), (0, usize::MAX), (0, usize::MAX / 2)] {
        let error = host.read(&buffer, first, words).unwrap_err();
        assert!(matches!(error, HostError::TooLarge { .. }), "{error:?}");
    }
    assert_eq!(host.read(&buffer, 1, 3).unwrap(), [2, 3, 4]);
    // This buffer cannot be copied from.
    let usage = wgpu::BufferUsages::STORAGE;
    let label = None;
    let descriptor = wgpu::BufferDescriptor { label, size: 64, usage, mapped_at_creation: false };
    let private = host.device().create_buffer(&descriptor);
    let error = host.read(&private, 0, 1).unwrap_err();
    assert!(matches!(error.device(), Some(DeviceError::Refused { .. })), "{error:?}");
    works(&host);
}

/// Returns a shader with two real fragments and a broken one between them.
fn broken(text: &'static str, entry: &'static str) -> KernelDesc {
    let real = |name| *FRAGMENTS.iter().find(|f| f.name == name).unwrap();
    let fragments = vec![
        real("lib/half"),
        Fragment { name: "test/broken", text },
        Fragment { name: "test/entry", text: entry },
    ];
    let y = Binding::data(0, "y", "anything", Access::Write);
    let mut kernel = KernelDesc::new("broken", fragments, vec![y]);
    kernel.consts = vec![("M_TABLE", Const::U32(1024)), ("SECOND", Const::Bool(true))];
    kernel
}

const ENTRY: &str = "@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() { y[0] = broken(); }
";

#[test]
fn a_shader_that_does_not_compile_names_its_line() {
    let Some(host) = common::own_host() else { return };
    let kernels = host.kernels();
    let refused = |shader: &KernelDesc| match block_on(kernels.pipeline(shader)).unwrap_err() {
        DeviceError::Shader { kernel, at, message } => {
            assert_eq!(kernel, "broken");
            (at, message)
        }
        other => panic!("{other:?}"),
    };
    let good = "fn broken() -> u32 { return 1u; }";
    for (text, entry, place) in [
        ("// one\n// two\nfn broken() -> u32 { return 1u }\n", ENTRY, "test/broken.wgsl:3"),
        ("// one\nfn broken() -> u32 { return missing; }\n", ENTRY, "test/broken.wgsl:2"),
        ("fn broken() -> u32 { return 1.5; }", ENTRY, "test/broken.wgsl:1"),
        ("fn other() -> u32 { return 1u; }\n", ENTRY, "test/entry.wgsl:3"),
        ("const SECOND: u32 = 1u;\nfn broken() -> u32 { return 1u; }", ENTRY, "test/broken.wgsl:1"),
        // The validator checks types after parsing.
        (
            "\nfn broken() -> u32 {\n    var a = array<u32, 4>(1u, 2u, 3u, 4u);\n    return a[7];\n}\n",
            ENTRY,
            "test/broken.wgsl:4",
        ),
    ] {
        let (at, message) = refused(&broken(text, entry));
        assert!(at.iter().any(|at| at == place), "{place} is not in {at:?}");
        assert!(message.contains(place), "{place} is not in {message}");
    }
    // These errors belong to no line: a missing entry point, a missing binding, too many
    // invocations.
    refused(&broken(good, "fn not_main() {}"));
    refused(&broken(
        good,
        "@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() { y[0] = broken(); }",
    ));
    refused(&broken(good, "@compute @workgroup_size(1 << 20)\nfn main() {}"));
    assert_eq!(kernels.cached_pipelines(), 0);
    block_on(kernels.pipeline(&broken(good, ENTRY))).unwrap();
    assert_eq!(kernels.cached_pipelines(), 1);
    works(&host);
}

/// The device still works after errors of every other kind.
#[test]
fn errors_leave_the_host_usable() {
    let Some(host) = common::own_host() else { return };
    let weights = host.upload(&ones()).unwrap();
    let length = |result: Result<Vec<f32>, HostError>| {
        assert!(matches!(result, Err(HostError::WrongLength { .. })), "{result:?}");
    };
    length(host.matmul(&[1.0; K], 2, &weights, None));
    length(host.matmul(&[1.0; K], usize::MAX, &weights, None));
    length(host.matmul(&[1.0; K], 1, &weights, Some(&[0.0; N + 1])));
    assert!(matches!(host.gather(&weights, &[N as u32]), Err(HostError::TooLarge { .. })));
    let nan = host.compress(&[f32::NAN; N * K], N, K, &format());
    assert!(matches!(nan, Err(HostError::QuantizeWeights(_))), "{nan:?}");
    let mut caps = host.kernels().caps().clone();
    caps.max_groups = 1;
    let (info, device) = (host.adapter_info().clone(), host.device().clone());
    let one = Host::with_caps(info, device, host.queue().clone(), &caps).unwrap();
    // With one workgroup, no schedule has room for 24 × 200 results.
    let x = vec![1.0; 200 * K];
    let error = one.matmul(&x, 200, &weights, None).unwrap_err();
    assert!(matches!(error, HostError::Bind(BindError::GridTooLarge { .. })), "{error:?}");
    works(&host);
}

/// Loses the device between a submission and its read-back, and while a long queue is being
/// processed.
#[test]
fn a_device_lost_with_work_in_flight_is_an_error() {
    let Some(host) = common::own_host() else { return };
    let buffer = host.zeros(64).unwrap();
    host.submit(|_| ()).unwrap();
    host.device().destroy();
    assert_lost(host.read(&buffer, 0, 4));
    let host = Host::new().unwrap();
    let slow = Slow::new(&host);
    let mut commands = Vec::new();
    for _ in 0..64 {
        let mut encoder = host.device().create_command_encoder(&Default::default());
        slow.record(&mut encoder.begin_compute_pass(&Default::default()), 16);
        commands.push(encoder.finish());
    }
    host.queue().submit(commands);
    let device = host.device().clone();
    std::thread::spawn(move || device.destroy()).join().unwrap();
    assert_lost(host.read(&slow.y, 0, 4));
    assert_lost(host.matmul(&[1.0; Slow::N], 1, &slow.weights, None));
    drop((slow, host));
    works(&Host::new().unwrap());
}

/// A matmul that takes one GFLOP if all its rows are recorded.
struct Slow {
    weights: DeviceWeights,
    bound: lowbit::ops::BoundMatmul,
    y: wgpu::Buffer,
}

impl Slow {
    const N: usize = 2048;
    const ROWS: u32 = 128;

    fn new(host: &Host) -> Self {
        let (n, rows) = (Self::N, Self::ROWS);
        let weights = common::random_weights("int8-channel".parse().unwrap(), n, n, 1);
        let weights = host.upload(&weights).unwrap();
        let spec = MatmulSpec::of(rows, &weights);
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
        let x = host.zeros(spec.x_bytes(rows)).unwrap();
        let y = host.zeros(spec.y_bytes(rows)).unwrap();
        let args = MatmulArgs {
            activations: (&x).into(),
            weights: &weights,
            bias: None,
            output: (&y).into(),
        };
        let bound = block_on(plan.bind(args)).unwrap();
        Self { weights, bound, y }
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) {
        self.bound.record(pass, rows).unwrap();
    }
}

/// A dispatch that takes longer than the host waits gives an error that says how long it waited. A
/// longer wait is enough, and another device is not blocked.
#[test]
fn a_wait_has_an_end() {
    let Some(host) = common::own_host() else { return };
    let limit = Duration::from_millis(20);
    let slow = Slow::new(&host);
    let run = |host: &Host, count: u32| {
        host.submit(|pass| (0..count).for_each(|_| slow.record(pass, Slow::ROWS)))
    };
    // The first dispatch includes compilation on some drivers. Afterwards, however fast the machine
    // is, it gets work for twenty times as long.
    run(&host, 1).unwrap();
    let start = Instant::now();
    run(&host, 1).unwrap();
    let count = (20 * limit.as_micros()).div_ceil(start.elapsed().as_micros().max(1)) as u32;
    let host = host.with_timeout(limit);
    let start = Instant::now();
    let error = run(&host, count).unwrap_err();
    let HostError::Timeout { what, waited } = &error else { panic!("{error:?}") };
    assert_eq!(*what, "a submission");
    assert!(*waited >= limit && *waited <= start.elapsed(), "{waited:?}");
    let text = format!("{:.3} s", waited.as_secs_f64());
    assert!(error.to_string().contains(&text), "{error}");
    eprintln!("gave up after {waited:?} of {limit:?}");
    // Another device does not wait for this one, and this one finishes its work.
    works(&Host::new().unwrap());
    let host = host.with_timeout(Duration::from_secs(120));
    host.read(&slow.y, 0, 1).unwrap();
    works(&host);
}

/// Limits beyond those of the adapter are refused. The error names each limit with the requested
/// and the available value.
#[test]
fn limits_beyond_the_adapter_are_refused() {
    let Some(host) = common::own_host() else { return };
    let adapter = common::adapter();
    let has = adapter.limits();
    let asked = wgpu::Limits {
        max_buffer_size: u64::MAX,
        max_compute_invocations_per_workgroup: has.max_compute_invocations_per_workgroup + 1,
        ..has.clone()
    };
    let error = Host::with_limits(&adapter, asked).unwrap_err();
    let HostError::Limits { adapter: name, refused } = &error else { panic!("{error:?}") };
    assert_eq!(name, &host.adapter_info().name);
    let find = |name| refused.iter().find(|limit| limit.name == name).unwrap();
    let invocations = find("max_compute_invocations_per_workgroup");
    assert_eq!(invocations.asked, invocations.has + 1);
    assert_eq!(find("max_buffer_size").has, has.max_buffer_size);
    assert_eq!(refused.len(), 2, "{error}");
    for limit in refused {
        let text = error.to_string();
        assert!(text.contains(limit.name) && text.contains(&limit.asked.to_string()), "{text}");
    }
    works(&Host::with_limits(&adapter, has).unwrap());
}

type Lower = fn(&mut wgpu::Limits);

/// Tests plans on devices whose limits are lower than kernels need.
#[test]
fn devices_too_small_for_a_kernel_are_refused() {
    let Some(host) = common::own_host() else { return };
    let small = common::host_within(&host, |limits| {
        limits.max_storage_buffers_per_shader_stage = 2;
    });
    // The kernel of a matmul is chosen by the limits, but the other ops have only one kernel.
    let error = small.matmul(&[1.0; K], 1, &small.upload(&ones()).unwrap(), None).unwrap_err();
    let HostError::Plan(PlanError::NotApplicable { what, need, have: 2, .. }) = &error else {
        panic!("{error:?}")
    };
    assert!(*what == "storage buffers" && *need > 2, "{error}");
    let error = small.compress(&[1.0; N * K], N, K, &format()).unwrap_err();
    let Some(DeviceError::Limit { kernel, limit, need, have: 2 }) = error.device() else {
        panic!("{error:?}")
    };
    assert_eq!(*limit, "max_storage_buffers_per_shader_stage");
    assert!(*need > 2 && error.to_string().contains(kernel), "{error}");
    // This schedule needs more workgroup memory or a larger workgroup.
    let schedule = Schedule::Tiled { m_tile: 64 };
    let spec = MatmulSpec::new(64, N as u32, K as u32, format());
    for (what, lower) in [
        (
            "memory",
            (|limits: &mut wgpu::Limits| limits.max_compute_workgroup_storage_size = 1024) as Lower,
        ),
        ("invocations", |limits: &mut wgpu::Limits| {
            limits.max_compute_invocations_per_workgroup = 16
        }),
    ] {
        let small = common::host_within(&host, lower);
        let plan = block_on(MatmulPlan::new(small.kernels(), &spec, Select::Pinned(schedule)));
        match plan.map(drop) {
            Err(PlanError::NotApplicable { what: of, need, have, .. }) => {
                assert!(need > have && of.contains(what), "{of}: {need} of {have}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    works(&host);
}
