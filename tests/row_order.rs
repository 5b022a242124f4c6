//! GPUs get single rows, but the software adapters that run these tests get panels. Therefore these
//! tests force what only GPUs use: single rows, loads of two blocks, and sums through subgroups.

use crate::common::{in_turn, long};
use lowbit::conformance::{Case, Status, Values, run};
use lowbit::format::RowOrder;
use lowbit::gpu::{AdapterClass, Caps};
use lowbit::host::Host;
use lowbit::ops::{FloatType, Schedule};
use pollster::block_on;

/// Returns a device of the same adapter that counts as a GPU, with subgroups of any size or without
/// them.
fn gpu(subgroups: bool) -> Host {
    let adapter = block_on(wgpu::Instance::default().request_adapter(&Default::default())).unwrap();
    let limits = adapter.limits();
    let required_features = match subgroups {
        true => adapter.features() & wgpu::Features::SUBGROUP,
        false => wgpu::Features::empty(),
    };
    let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_limits: limits.clone(),
        required_features,
        ..Default::default()
    }))
    .unwrap();
    let subgroups = required_features.contains(wgpu::Features::SUBGROUP);
    let mut caps = Caps::from_limits(AdapterClass::Gpu, &limits);
    assert_eq!(caps.row_order, RowOrder::Rows);
    caps.subgroups = subgroups;
    Host::with_caps(adapter.get_info(), device, queue, &caps).unwrap()
}

#[test]
fn schedules_of_gpus_with_rows_in_order() {
    if crate::common::host().is_none() {
        return;
    }
    let mut cases = Vec::new();
    for (i, format) in ["2:4+int4-g64-asym", "2:4+int4-channel", "2:4+int4-g32", "int8-g96-asym"]
        .into_iter()
        .enumerate()
    {
        // The four pairs of types, one for each format: kernels are compiled once for all K.
        let y = [FloatType::F32, FloatType::F16][i / 2];
        let x = [FloatType::F16, FloatType::F32][i % 2];
        // These K have whole pairs of blocks, an incomplete pair, an odd number of blocks, and more
        // lanes than a subgroup.
        for (j, k) in [192, 116, 224, 4096].into_iter().enumerate() {
            for schedule in Schedule::all(k as u32) {
                // These schedules are only for CPU adapters.
                if matches!(schedule, Schedule::Rows { m_tile: 8.., .. }) {
                    continue;
                }
                let (m, _) = schedule.tile();
                let format = format.parse().unwrap();
                let shape = (m as usize + j % 2, 70, k);
                let mut case = Case::matmul(format, (x, y), shape, Values::Normal);
                case.schedule = Some(schedule);
                cases.push(case);
            }
        }
    }
    // Half of the cases run with subgroups and the other half without them, or all with both.
    let half = |with: bool| -> Vec<Case> {
        let taken = |index| long() || in_turn(index, 2) == with;
        let cases = cases.iter().enumerate().filter(|(index, _)| taken(*index));
        cases.map(|(_, case)| case.clone()).collect()
    };
    let (with, without) = (half(true), half(false));
    let mut reports = run(&[gpu(true)], &with, &|_| ());
    reports.extend(run(&[gpu(false)], &without, &|_| ()));
    let kernels: Vec<_> = reports.iter().map(|r| r.kernel.as_str()).collect();
    assert!(kernels.iter().any(|name| name.ends_with(".pair.sum")), "{kernels:?}");
    for report in &reports {
        assert_eq!(report.status, Status::Pass, "{}: {:?}", report.id, report.reason);
    }
}
