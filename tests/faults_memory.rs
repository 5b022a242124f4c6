//! Tests with memory that really runs out, in a process with a few GiB of address space.

mod common;

use lowbit::format::WeightFormat;
use lowbit::gpu::DeviceError;
use lowbit::host::{Host, HostError};
use lowbit::ops::{DeviceWeights, WeightsError};
use pollster::block_on;

const CHILD: &str = "LOWBIT_TEST_OUT_OF_MEMORY";

/// The limit of the address space in KiB. A driver, its threads and an LLVM need up to two thirds
/// of it.
const LIMIT: u32 = 6_000_000;

#[test]
#[cfg(target_os = "linux")]
fn out_of_memory_is_an_error() {
    if std::env::var_os(CHILD).is_some() {
        return fill_memory();
    }
    let Some(host) = common::own_host() else { return };
    if host.adapter_info().device_type != wgpu::DeviceType::Cpu {
        common::skipped("a limit of address space bounds only software adapters");
        return;
    }
    let command =
        format!("ulimit -v {LIMIT}; exec \"$0\" --exact out_of_memory_is_an_error --nocapture");
    let output = std::process::Command::new("sh")
        .args(["-c", &command])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .output()
        .unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    let said = err.lines().find(|line| line.contains("out of memory, as it should be"));
    eprintln!("{}", said.unwrap_or_else(|| panic!("the child did not come to its end: {err}")));
}

fn fill_memory() {
    let host = Host::new().unwrap();
    common::multiplies(&host).unwrap();
    let large = host.device().limits().max_buffer_size.min(1 << 29);
    let (mut buffers, mut size) = (Vec::new(), large);
    let error = loop {
        match host.zeros(size) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => break error,
        }
        assert!(buffers.len() < 100, "memory has no end");
    };
    let HostError::Device(DeviceError::OutOfMemory { what, bytes, .. }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!((what.as_str(), *bytes), ("lowbit host", Some(size)));
    assert!(error.to_string().contains(&format!("{size} bytes")), "{error}");
    // Less than `large` is left. Four times as much does not fit as the blocks of weights either.
    let k = (large / 512) as usize;
    let allocated = block_on(DeviceWeights::allocate(host.kernels(), WeightFormat::f32(), 512, k));
    match allocated.map(drop) {
        Err(WeightsError::Device(DeviceError::OutOfMemory {
            what, bytes: Some(bytes), ..
        })) => {
            assert_eq!(what, "lowbit weight codes");
            assert!(bytes > 0 && bytes <= 4 * large);
        }
        other => panic!("{other:?}"),
    }
    // A smaller buffer fits into what is left, and works.
    while host.zeros(size).is_err() {
        size /= 2;
        assert!(size >= 1 << 20, "nothing at all is left");
    }
    common::multiplies(&host).unwrap();
    let count = buffers.len();
    drop(buffers);
    host.zeros(large).unwrap();
    common::multiplies(&host).unwrap();
    common::multiplies(&Host::new().unwrap()).unwrap();
    eprintln!(
        "out of memory, as it should be: {count} buffers of {large} bytes, then one of {size}"
    );
}
