//! Devices that are lost, run out of memory, or are given what does not compile.

mod common;

use lowbit::format::WeightFormat;
use lowbit::gpu::{Binding, Const, DeviceError, FRAGMENTS, Fragment, Shader};
use lowbit::host::{Host, HostError};
use lowbit::ops::{BindError, DeviceWeights, PlanError, WeightsError};
use pollster::block_on;
use std::time::{Duration, Instant};

const N: usize = 24;
const K: usize = 40;

fn format() -> WeightFormat {
    "2:4+int8-channel".parse().unwrap()
}

/// A matmul that must come out right: W = 1 where kept, X = 1, so that Y counts K / 2.
fn works(host: &Host) {
    let weights = host.upload(&ones()).unwrap();
    let y = host.matmul(&[1.0; 3 * K], 3, &weights, None).unwrap();
    assert_eq!(y, [(K / 2) as f32; 3 * N]);
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

const CHILD: &str = "LOWBIT_TEST_OUT_OF_MEMORY";

/// A process of its own with an address space of a few GiB: allocations fail there.
#[test]
#[cfg(target_os = "linux")]
fn out_of_memory_is_an_error() {
    if std::env::var_os(CHILD).is_some() {
        return fill_memory();
    }
    let Some(host) = common::host() else { return };
    if host.adapter_info().device_type != wgpu::DeviceType::Cpu {
        eprintln!("SKIPPED: a limit of address space bounds only software adapters");
        return;
    }
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -v 6000000; exec \"$0\" --exact out_of_memory_is_an_error --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    assert!(text.contains("out of memory, as it should be"), "{text}");
}

fn fill_memory() {
    let host = Host::new().unwrap();
    works(&host);
    let bytes = host.device().limits().max_buffer_size.min(1 << 29);
    let mut buffers = Vec::new();
    let error = loop {
        match host.zeros(bytes) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => break error,
        }
        assert!(buffers.len() < 100, "memory has no end");
    };
    match device_error(&error) {
        Some(DeviceError::OutOfMemory { what, .. }) => assert_eq!(what, "lowbit host"),
        _ => panic!("{error:?}"),
    }
    // Less than `bytes` is left; as weights, in blocks, four times as many do not fit either.
    let k = (bytes / 512) as usize;
    let allocated = block_on(DeviceWeights::allocate(host.kernels(), WeightFormat::f32(), 512, k));
    match allocated.map(drop) {
        Err(WeightsError::Device(DeviceError::OutOfMemory { .. })) => {}
        other => panic!("{other:?}"),
    }
    drop(buffers);
    works(&host);
    eprintln!("out of memory, as it should be");
}

/// A shader with two real fragments and a broken one between.
fn broken(text: &'static str, entry: &'static str) -> Shader {
    let real = |name| *FRAGMENTS.iter().find(|f| f.name == name).unwrap();
    Shader {
        name: "broken".into(),
        consts: vec![("M_TABLE", Const::U32(1024)), ("SECOND", Const::Bool(true))],
        fragments: vec![
            real("lib/half"),
            Fragment { name: "test/broken", text },
            Fragment { name: "test/entry", text: entry },
        ],
        bindings: vec![Binding::Write],
    }
}

const ENTRY: &str = "@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() { y[0] = broken(); }
";

#[test]
fn a_shader_that_does_not_compile_names_its_line() {
    let Some(host) = common::host() else { return };
    let kernels = host.kernels();
    let message = |shader: &Shader| match block_on(kernels.pipeline(shader)).unwrap_err() {
        DeviceError::Refused { what, message } => {
            assert_eq!(what, "broken");
            message
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
        let message = message(&broken(text, entry));
        assert!(message.contains(place), "{place} is not in {message}");
    }
    // No line to blame: no entry point, a missing binding, too many invocations.
    message(&broken(good, "fn not_main() {}"));
    message(&broken(
        good,
        "@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() { y[0] = broken(); }",
    ));
    message(&broken(good, "@compute @workgroup_size(1 << 20)\nfn main() {}"));
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
