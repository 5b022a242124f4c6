//! Tests of the driver's compiled code, which is kept between runs: complete files are used and
//! others are ignored.

use lowbit::host::Host;
use std::path::Path;

fn product(host: &Host) -> Vec<f32> {
    let format = "int8-g32".parse().unwrap();
    let w: Vec<f32> = (0..64 * 96).map(|i| (i % 31) as f32 - 15.0).collect();
    let weights = host.compress(&w, 64, 96, &format).unwrap();
    host.matmul(&[1.0; 96], 1, &weights, None).unwrap()
}

fn host_in(folder: &Path) -> Host {
    let adapter = pollster::block_on(wgpu::Instance::default().request_adapter(
        &wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        },
    ));
    // SAFETY: the folder belongs to this test. It contains what a driver returned, or files that
    // the test has truncated, which the checksum detects.
    unsafe { Host::with_pipelines_in(&adapter.unwrap(), folder) }.unwrap()
}

#[test]
fn compiled_code_is_kept() {
    let Some(plain) = crate::common::host() else { return };
    let want = product(plain);
    let folder = tempfile::tempdir().unwrap();
    let first = host_in(folder.path());
    assert_eq!(product(&first), want);
    if !first.save_pipelines(folder.path()).unwrap() {
        let name = &first.adapter_info().name;
        crate::common::skipped(format_args!("{name} has no pipeline cache"));
        return;
    }
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    let [Ok(file)] = &files[..] else { panic!("{files:?}") };
    let whole = std::fs::read(file.path()).unwrap();
    // The file contains more than the magic number and the checksum.
    assert!(whole.len() > 64, "{} bytes", whole.len());

    let second = host_in(folder.path());
    assert_eq!(product(&second), want);
    assert!(second.save_pipelines(folder.path()).unwrap());

    for bad in [&whole[..whole.len() / 2], b"", b"lowbitP1"] {
        std::fs::write(file.path(), bad).unwrap();
        assert_eq!(product(&host_in(folder.path())), want);
    }
    // A host that was created without a folder has nothing to keep.
    assert!(!plain.save_pipelines(folder.path()).unwrap());
}
