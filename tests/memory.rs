//! Checks that compressed weights stay compressed. The allocator of the driver layer counts what
//! the device has allocated between upload and result, and a full-size copy would not fit into
//! that.

use lowbit::host::Host;
use lowbit::ops::{MatmulArgs, MatmulPlan, MatmulSpec, Schedule, Select};
use pollster::block_on;

const N: u32 = 2048;
const K: u32 = 2048;
const M: u32 = 16;
/// The size of the dense matrix in bytes, as f16 and as f32.
const DENSE: [u64; 2] = [2 * N as u64 * K as u64, 4 * N as u64 * K as u64];

/// Returns the number of allocated bytes. Buffers of a submission stay allocated until the device
/// is polled after it.
fn allocated(host: &Host) -> Option<u64> {
    host.device().generate_allocator_report().map(|report| report.total_allocated_bytes)
}

/// Returns the size of the compressed weights, the peak of the bytes that are allocated during one
/// matmul (without those from before the weights were uploaded), and Y. `scratch` adds the
/// allocation of a careless implementation.
fn peak(host: &Host, name: &str, schedule: Schedule, scratch: u64) -> (u64, u64, Vec<f32>) {
    let packed = crate::common::random_weights(name.parse().unwrap(), N as usize, K as usize, 1);
    let mut random = crate::common::Random(2);
    let x: Vec<u32> = (0..M * K).map(|_| random.float().to_bits()).collect();
    let idle = wgpu::PollType::Wait { submission_index: None, timeout: None };
    // An empty submission frees what earlier runs have left.
    host.submit(|_| ()).unwrap();
    let before = allocated(host).unwrap();
    let now = || allocated(host).unwrap() - before;

    let weights = host.upload(&packed).unwrap();
    // Staging memory of the upload is freed after the next submission.
    host.submit(|_| ()).unwrap();
    host.device().poll(idle.clone()).unwrap();
    let compressed = now();
    assert!(compressed >= weights.device_bytes());

    let x = host.storage(&x).unwrap();
    let spec = MatmulSpec::of(M, &weights);
    let y = host.zeros(spec.y_bytes(M)).unwrap();
    host.submit(|_| ()).unwrap();
    let mut peak = now();
    let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Pinned(schedule))).unwrap();
    peak = peak.max(now());
    let bound = block_on(plan.bind(MatmulArgs {
        activations: (&x).into(),
        weights: &weights,
        bias: None,
        output: (&y).into(),
    }))
    .unwrap();
    peak = peak.max(now());
    let copy = (scratch > 0).then(|| host.zeros(scratch).unwrap());
    let mut encoder = host.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder.begin_compute_pass(&Default::default()), M).unwrap();
    if let Some(copy) = copy {
        encoder.clear_buffer(&copy, 0, None);
    }
    peak = peak.max(now());
    host.queue().submit([encoder.finish()]);
    // Nothing was polled since `bind`, so everything that the work needs is still allocated.
    peak = peak.max(now());
    host.device().poll(idle).unwrap();
    peak = peak.max(now());
    let y = host.read(&y, 0, (M * N) as usize).unwrap();
    (compressed, peak, y.into_iter().map(f32::from_bits).collect())
}

#[test]
fn no_dequantized_copy() {
    let Some(host) = crate::common::own_host() else { return };
    if allocated(&host).is_none() {
        let backend = host.adapter_info().backend;
        assert!(
            std::env::var_os("LOWBIT_REQUIRE_GPU").is_none() || backend != wgpu::Backend::Vulkan
        );
        crate::common::skipped(format_args!("no allocator report on {backend}"));
        return;
    }
    let xy = 4 * u64::from(M) * u64::from(K + N);
    // One block of parameters, and the driver's rounding of each buffer.
    let slack = 64 << 10;
    for name in ["2:4+int4-g64-asym", "2:4+int8-channel", "int4-g24", "2:4+f16"] {
        let sizes = crate::common::random_weights(name.parse().unwrap(), N as usize, K as usize, 1);
        let sizes = sizes.geometry().sizes().total() as u64;
        let schedules = [
            Schedule::Rows { m_tile: 4, n_tile: 2 },
            Schedule::Tiled { m_tile: 32 },
            Schedule::Gemv { lanes: 64, m_tile: 4 },
        ];
        for schedule in schedules {
            // The slower general decoder is tested once.
            if name == "int4-g24" && schedule != (Schedule::Tiled { m_tile: 32 }) {
                continue;
            }
            let (compressed, peak, y) = peak(&host, name, schedule, 0);
            assert!(
                compressed <= sizes + slack,
                "{name}: {compressed} bytes on the device, {sizes} packed"
            );
            assert!(
                peak <= compressed + xy + slack,
                "{name} {schedule}: {peak} bytes at the peak, {compressed} of weights, {xy} of X and Y"
            );
            // Not even an f16 copy could be hidden in X, Y and the slack.
            assert!(xy + slack < DENSE[0] / 4);
            assert!(y.iter().all(|y| y.is_finite()) && y.iter().any(|&y| y != 0.0));
        }
    }
}

/// Shows that the same measurement would detect a copy, even one of only half a byte per weight.
#[test]
fn a_copy_would_show() {
    let Some(host) = crate::common::own_host() else { return };
    if allocated(&host).is_none() {
        let backend = host.adapter_info().backend;
        crate::common::skipped(format_args!("no allocator report on {backend}"));
        return;
    }
    let (name, schedule) = ("2:4+int4-g64-asym", Schedule::Rows { m_tile: 4, n_tile: 2 });
    let limit = 4 * u64::from(M) * u64::from(K + N) + (64 << 10);
    for scratch in [DENSE[0] / 4, DENSE[0], DENSE[1]] {
        let (compressed, peak, _) = peak(&host, name, schedule, scratch);
        assert!(peak >= compressed + scratch, "{scratch} bytes went unseen: {peak}");
        assert!(peak > compressed + limit);
    }
}
