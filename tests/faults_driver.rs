//! Tests with a driver that fails at any one of its calls: memory, the compiler, the device itself,
//! or a submission that never ends. Every call of lowbit must return the matching error and remain
//! usable.

use crate::shim::{Fault, Shim};
use lowbit::compress;
use lowbit::compress::calibrate::{Observer, Statistics};
use lowbit::format::PackedWeights;
use lowbit::gpu::DeviceError;
use lowbit::host::{Gptq, Host, HostError};
use lowbit::reference::{self, OutputType};
use std::time::Duration;

const N: usize = 24;
const K: usize = 64;
const M: usize = 3;

fn packed() -> PackedWeights {
    crate::common::random_weights("2:4+int4-g32-asym".parse().unwrap(), N, K, 1)
}

type Call = fn(&Host) -> Result<(), HostError>;

/// The calls of a host. Each is tested on its own.
const CALLS: [(&str, Call); 11] = [
    ("matmul", crate::common::multiplies),
    ("compress", |host| {
        let format = "int8-g32-asym".parse().unwrap();
        let weights = host.compress(&crate::common::floats(N * K, 3), N, K, &format)?;
        let want = compress::quantize(&crate::common::floats(N * K, 3), N, K, &format).unwrap();
        assert_eq!(host.download(&weights)?, want);
        Ok(())
    }),
    ("repack", |host| {
        let weights = host.repack(&packed())?;
        assert_eq!(host.download(&weights)?, packed());
        Ok(())
    }),
    ("dequantize", |host| {
        let rows = host.dequantize(&host.upload(&packed())?)?;
        let want = reference::dequantize(&packed(), OutputType::F32).unwrap();
        assert!(rows.iter().zip(&want).all(|(&got, want)| reference::check(want, got).passes()));
        Ok(())
    }),
    ("gather", |host| {
        let rows = host.gather(&host.upload(&packed())?, &[5, 0, 23])?;
        let want = reference::gather(&packed(), &[5, 0, 23], OutputType::F32).unwrap();
        assert!(rows.iter().zip(&want).all(|(&got, want)| reference::check(want, got).passes()));
        Ok(())
    }),
    ("quantized matmul", |host| {
        crate::common::quantizes_and_multiplies(
            host,
            &packed(),
            &crate::common::floats(M * K, 4),
            M,
        )
    }),
    ("observe", |host| {
        let observer = Observer::tensor("x", K);
        let mut statistics = Statistics::new(observer.clone()).unwrap();
        let before = statistics.clone();
        let seen = host.observe(&mut statistics, &crate::common::floats(M * K, 5));
        if seen.is_err() {
            assert_eq!(statistics, before, "an observation that failed left something");
            return seen;
        }
        let mut want = Statistics::new(observer).unwrap();
        want.observe(&crate::common::floats(M * K, 5)).unwrap();
        assert_eq!(statistics, want);
        Ok(())
    }),
    ("fake quantization", |host| {
        let (x, dy) = (crate::common::floats(M * K, 6), crate::common::floats(M * K, 7));
        crate::common::fakes(host, &"int8-g32".parse().unwrap(), (&x, &dy), (M, K))
    }),
    ("gram", |host| {
        let x = vec![1.5; M * K];
        assert_eq!(host.gram(&x, K)?, vec![(9 * M as i128) << 70; K * (K + 1) / 2]);
        Ok(())
    }),
    ("gptq", |host| {
        // Columns that have nothing in common are rounded to nearest.
        let mut gram = Vec::new();
        (0..K).for_each(|i| gram.extend((i..K).map(|j| i128::from(i == j) << 72)));
        let (w, format) = (crate::common::floats(N * K, 8), "int4-g32".parse().unwrap());
        let packed = host.gptq(&w, N, K, &gram, &format, &Gptq::default())?;
        assert_eq!(
            packed.scale(0, 0),
            PackedWeights::quantize(&w, N, K, &format).unwrap().scale(0, 0)
        );
        Ok(())
    }),
    ("exact halves", |host| host.exact_f16_unpack().map(drop)),
];

/// Creates a new device with a driver that can fail.
fn shim() -> Shim {
    Shim::new(&Host::new().unwrap()).unwrap()
}

/// Plants a fault in the first, second, … call of the driver until there are no more calls, and
/// returns how many there were. `is` must accept the error of the lowbit call that was hit.
fn each(
    name: &str,
    call: Call,
    fault: Fault,
    mut shim: impl FnMut() -> Shim,
    is: impl Fn(&HostError) -> bool,
) -> usize {
    // A new device has not compiled any kernel yet, and a lost device cannot be used again.
    let fresh = fault != Fault::OutOfMemory;
    let mut driver = shim();
    for after in 0..200 {
        driver.plant(fault, after);
        let result = call(&driver.host);
        match (driver.clear(), result) {
            (false, Ok(())) => return after,
            (true, Err(error)) => assert!(is(&error), "{name}, {fault:?} {after}: {error:?}"),
            (struck, result) => panic!("{name}, {fault:?} {after}: {struck}, {result:?}"),
        }
        if fresh {
            driver = shim();
        } else {
            call(&driver.host).unwrap_or_else(|error| panic!("{name} after {fault:?}: {error}"));
        }
    }
    panic!("{name}: {fault:?} has no end");
}

#[test]
fn without_a_fault_all_calls_work() {
    if crate::common::host().is_none() {
        return;
    }
    let shim = shim();
    for (name, call) in CALLS {
        call(&shim.host).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(shim.readbacks() > 8 && !shim.clear());
}

/// The first, second, … allocation fails. The error names it and its size, and the device stays
/// usable.
#[test]
fn every_allocation_may_fail() {
    if crate::common::host().is_none() {
        return;
    }
    let driver = std::cell::RefCell::new(Some(shim()));
    for (name, call) in CALLS {
        let is = |error: &HostError| match error.device() {
            Some(DeviceError::OutOfMemory { what, bytes: Some(bytes), .. }) => {
                let text = error.to_string();
                *bytes > 0 && !what.is_empty() && text.contains(what) && {
                    text.contains(&format!("({bytes} bytes)"))
                }
            }
            _ => false,
        };
        let one = || driver.borrow_mut().take().unwrap_or_else(shim);
        let count = each(name, call, Fault::OutOfMemory, one, is);
        eprintln!("{name}: each of {count} allocations failed in turn");
        assert!(count >= 3, "{name}: {count}");
    }
}

/// The driver's compiler fails on the first, second, … kernel. The error names the kernel. Tuning
/// skips such kernels, except the one that it would fall back to.
#[test]
fn every_kernel_may_fail_to_compile() {
    if crate::common::host().is_none() {
        return;
    }
    for (name, call) in CALLS {
        let is = |error: &HostError| match error.device() {
            Some(DeviceError::Pipeline { kernel, message }) => {
                !kernel.is_empty() && message.contains(crate::shim::PIPELINE_MESSAGE)
            }
            _ => false,
        };
        let count = each(name, call, Fault::Pipeline, shim, is);
        eprintln!("{name}: each of {count} kernels failed to compile in turn");
        assert!(count >= 1, "{name}");
    }
}

/// The driver loses the device at the first, second, … submission.
#[test]
fn every_submission_may_lose_the_device() {
    if crate::common::host().is_none() {
        return;
    }
    for (name, call) in CALLS {
        let is = |error: &HostError| match error.device() {
            Some(DeviceError::Lost(reason)) => reason == crate::shim::LOST_MESSAGE,
            _ => false,
        };
        let count = each(name, call, Fault::Lost, shim, is);
        eprintln!("{name}: the device was lost at each of {count} submissions in turn");
        assert!(count >= 1, "{name}");
    }
    // A lost device stays lost, and another device works.
    let lost = shim();
    lost.plant(Fault::Lost, 0);
    for (name, call) in CALLS {
        let error = call(&lost.host).expect_err(name);
        assert!(matches!(error.device(), Some(DeviceError::Lost(_))), "{name}: {error:?}");
    }
    crate::common::multiplies(&shim().host).unwrap();
}

/// The first, second, … submission never ends. The wait for it ends, and the error says how long it
/// was.
#[test]
fn every_wait_may_time_out() {
    if crate::common::host().is_none() {
        return;
    }
    // This is longer than a busy machine needs to compile a kernel at its first dispatch.
    let limit = Duration::from_secs(2);
    let impatient = || {
        let Shim { host, state } = shim();
        Shim { host: host.with_timeout(limit), state }
    };
    let is = |error: &HostError| match error {
        HostError::Timeout { what, waited } => {
            let text = error.to_string();
            assert!(
                text.contains(what) && text.contains(&format!("{:.3} s", waited.as_secs_f64()))
            );
            *waited >= limit && *waited < 10 * limit
        }
        _ => false,
    };
    // The threads mostly sleep.
    std::thread::scope(|scope| {
        for (name, call) in CALLS {
            scope.spawn(move || {
                let count = each(name, call, Fault::Hang, impatient, is);
                eprintln!("{name}: each of {count} submissions hung in turn");
                assert!(count >= 1, "{name}");
            });
        }
    });
    crate::common::multiplies(&shim().host).unwrap();
}

/// Tuning skips a kernel that the driver cannot compile, unless it is the one that is chosen
/// without tuning. With other faults, tuning fails.
#[test]
fn tuning_fails_as_other_calls_do() {
    if crate::common::host().is_none() {
        return;
    }
    let spec = lowbit::ops::MatmulSpec::new(2, N as u32, K as u32, packed().format());
    let tune = |driver: &Shim| {
        driver.host.tune(std::slice::from_ref(&spec), Duration::from_secs(2)).map(drop)
    };
    let failed = |fault, after| {
        let driver = shim();
        driver.plant(fault, after);
        let result = tune(&driver);
        assert!(driver.clear(), "{fault:?} {after} struck nothing");
        result.err().map(|error| error.device().cloned().unwrap())
    };
    assert!(matches!(failed(Fault::Pipeline, 0), Some(DeviceError::Pipeline { .. })));
    assert_eq!(failed(Fault::Pipeline, 1), None);
    for after in [0, 5, 40] {
        let memory = failed(Fault::OutOfMemory, after);
        assert!(matches!(memory, Some(DeviceError::OutOfMemory { .. })), "{memory:?}");
    }
    for after in [0, 5] {
        assert!(matches!(failed(Fault::Lost, after), Some(DeviceError::Lost(_))));
    }
}
