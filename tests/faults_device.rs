//! Devices that are lost, too small or too slow, or are given what does not compile.
//! tests/faults_memory.rs has those that run out of memory, tests/faults_driver.rs what only a
//! driver can do.

mod common;

use lowbit::format::WeightFormat;
use lowbit::gpu::{Access, Binding, Const, DeviceError, FRAGMENTS, Fragment, KernelDesc};
use lowbit::host::{Host, HostError};
use lowbit::ops::{
    BindError, DeviceWeights, MatmulSpec, PlanError, Schedule, Select, WeightsError,
};
use lowbit::ops::{MatmulArgs, MatmulPlan};
use pollster::block_on;
use std::time::{Duration, Instant};

const N: usize = 24;
const K: usize = 40;

fn format() -> WeightFormat {
    "2:4+int8-channel".parse().unwrap()
}

/// A matmul that must come out right.
fn works(host: &Host) {
    common::multiplies(host).unwrap();
}

fn ones() -> lowbit::format::PackedWeights {
    lowbit::compress::quantize(&[1.0; N * K], N, K, &format()).unwrap()
}

fn device_error(error: &HostError) -> Option<&DeviceError> {
    match error {
        HostError::Device(error)
        | HostError::Weights(WeightsError::Device(error))
        | HostError::Plan(PlanError::Device(error))
        | HostError::Bind(BindError::Device(error)) => Some(error),
        _ => None,
    }
}

#[track_caller]
fn assert_lost<T>(result: Result<T, HostError>) {
    let error = result.err().expect("a call on a lost device succeeded");
    assert!(matches!(device_error(&error), Some(DeviceError::Lost(_))), "{error:?}");
}

/// Every call of the host on a lost device.
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
    let Some(host) = common::host() else { return };
    works(&host);
    let weights = host.upload(&ones()).unwrap();
    let buffer = host.zeros(64).unwrap();
    host.device().destroy();
    all_lost(&host, &weights, &buffer);
    // Once more, and for one that is made of what is left.
    all_lost(&host, &weights, &buffer);
    let (info, limits) = (host.adapter_info().clone(), host.device().limits());
    let again = Host::with_device(info, host.device().clone(), host.queue().clone(), &limits);
    // Its lost callback is spent, so that a new host cannot tell why nothing works.
    match again.and_then(|again| again.storage(&[1])) {
        Err(HostError::Device(_)) => {}
        other => panic!("{other:?}"),
    }
    works(&Host::new().unwrap());
}

/// Lost while a pass is recorded, and while another thread computes.
#[test]
fn a_device_lost_midway_is_an_error() {
    let Some(host) = common::host() else { return };
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

/// More than the device's largest buffer: refused, and no harm done.
#[test]
fn buffers_too_large_are_refused() {
    let Some(host) = common::host() else { return };
    let host = common::host_within(&host, |limits| {
        limits.max_buffer_size = 1 << 20;
        limits.max_storage_buffer_binding_size = 1 << 20;
    });
    let refused = |error: HostError, size: &str| match device_error(&error) {
        Some(DeviceError::Refused { what, message }) => {
            assert_eq!(what, "lowbit host");
            assert!(message.contains(size), "{message}");
        }
        _ => panic!("{error:?}"),
    };
    for bytes in [(1 << 20) + 4, 1 << 40, u64::MAX - 4, u64::MAX] {
        refused(host.zeros(bytes).unwrap_err(), &format!("{}", bytes.next_multiple_of(4)));
    }
    // Filled through mapped memory, which there is none of.
    refused(host.storage(&vec![7; 300_000]).unwrap_err(), "1200000");
    host.zeros(1 << 20).unwrap();
    works(&host);
    // Reads that no buffer holds.
    let buffer = host.storage(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    for (first, words) in [(0, 9), (9, 1), (8, 1), (1 << 40, 1), (usize::MAX / 4, 4)] {
        let error = host.read(&buffer, first, words).unwrap_err();
        assert!(matches!(device_error(&error), Some(DeviceError::Refused { .. })), "{error:?}");
    }
    for (first, words) in [(usize::MAX, 1), (0, usize::MAX), (0, usize::MAX / 2)] {
        let error = host.read(&buffer, first, words).unwrap_err();
        assert!(matches!(error, HostError::TooLarge { .. }), "{error:?}");
    }
    assert_eq!(host.read(&buffer, 1, 3).unwrap(), [2, 3, 4]);
    // A buffer that cannot be copied from.
    let usage = wgpu::BufferUsages::STORAGE;
    let label = None;
    let descriptor = wgpu::BufferDescriptor { label, size: 64, usage, mapped_at_creation: false };
    let private = host.device().create_buffer(&descriptor);
    let error = host.read(&private, 0, 1).unwrap_err();
    assert!(matches!(device_error(&error), Some(DeviceError::Refused { .. })), "{error:?}");
    works(&host);
}

/// A shader with two real fragments and a broken one between.
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
    let Some(host) = common::host() else { return };
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
        // Types are checked after parsing, by the validator.
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
    // No line to blame: no entry point, a missing binding, too many invocations.
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

/// The device is the same after errors of every other kind.
#[test]
fn errors_leave_the_host_usable() {
    let Some(host) = common::host() else { return };
    let weights = host.upload(&ones()).unwrap();
    let length = |result: Result<Vec<f32>, HostError>| {
        assert!(matches!(result, Err(HostError::WrongLength { .. })), "{result:?}");
    };
    length(host.matmul(&[1.0; K], 2, &weights, None));
    length(host.matmul(&[1.0; K], usize::MAX, &weights, None));
    length(host.matmul(&[1.0; K], 1, &weights, Some(&[0.0; N + 1])));
    assert!(matches!(host.gather(&weights, &[N as u32]), Err(HostError::TooLarge { .. })));
    let nan = host.compress(&[f32::NAN; N * K], N, K, &format());
    assert!(matches!(nan, Err(HostError::Make(_))), "{nan:?}");
    let mut caps = host.kernels().caps().clone();
    caps.max_groups = 1;
    let (info, device) = (host.adapter_info().clone(), host.device().clone());
    let one = Host::with_caps(info, device, host.queue().clone(), &caps).unwrap();
    // With one workgroup there is no room for 24 × 200 results of any schedule.
    let x = vec![1.0; 200 * K];
    let error = one.matmul(&x, 200, &weights, None).unwrap_err();
    assert!(matches!(error, HostError::Bind(BindError::GridTooLarge { .. })), "{error:?}");
    works(&host);
}

/// Lost between a submission and its being read, and while a long queue is being worked off.
#[test]
fn a_device_lost_with_work_in_flight_is_an_error() {
    let Some(host) = common::host() else { return };
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

/// A matmul of a GFLOP with all its rows.
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

/// A dispatch that takes longer than a host waits. It says how long it waited; a longer wait
/// suffices, and so does another device at once.
#[test]
fn a_wait_has_an_end() {
    let Some(host) = common::host() else { return };
    let limit = Duration::from_millis(20);
    let slow = Slow::new(&host);
    let run = |host: &Host, count: u32| {
        host.submit(|pass| (0..count).for_each(|_| slow.record(pass, Slow::ROWS)))
    };
    // The first dispatch compiles on some drivers. However fast the machine, it has work for
    // twenty times as long then.
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
    // Another device does not wait for this one, and this one comes to its end.
    works(&Host::new().unwrap());
    let host = host.with_timeout(Duration::from_secs(120));
    host.read(&slow.y, 0, 1).unwrap();
    works(&host);
}

/// Limits beyond the adapter's: each is named, with what was asked for and what there is.
#[test]
fn limits_beyond_the_adapter_are_refused() {
    let Some(host) = common::host() else { return };
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

/// Plans on devices that have less than the kernels want.
#[test]
fn devices_too_small_for_a_kernel_are_refused() {
    let Some(host) = common::host() else { return };
    let small = common::host_within(&host, |limits| {
        limits.max_storage_buffers_per_shader_stage = 2;
    });
    // A matmul is chosen by what there is, other kernels are what they are.
    let error = small.matmul(&[1.0; K], 1, &small.upload(&ones()).unwrap(), None).unwrap_err();
    let HostError::Plan(PlanError::NotApplicable { what, need, have: 2, .. }) = &error else {
        panic!("{error:?}")
    };
    assert!(*what == "storage buffers" && *need > 2, "{error}");
    let error = small.compress(&[1.0; N * K], N, K, &format()).unwrap_err();
    let Some(DeviceError::Limit { kernel, limit, need, have: 2 }) = device_error(&error) else {
        panic!("{error:?}")
    };
    assert_eq!(*limit, "max_storage_buffers_per_shader_stage");
    assert!(*need > 2 && error.to_string().contains(kernel), "{error}");
    // A schedule that wants more workgroup memory, or a larger workgroup.
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
