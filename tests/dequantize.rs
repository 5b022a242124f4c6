//! Tests of reading weights back in every format: what the case table does not vary.

use crate::common::{large_and_small, other_order};
use lowbit::compress;
use lowbit::format::{
    FormatError, PackedWeights, RowOrder, WeightFormat, other_formats, random_weights,
    sample_formats,
};
use lowbit::host::{Host, HostError};
use lowbit::ops::{
    BindError, DequantizeArgs, DequantizePlan, DequantizeSpec, DeviceWeights, Role, WeightsError,
};
use lowbit::reference::{self, OutputType};
use pollster::block_on;

/// Dequantizes, gathers and downloads, and compares with the oracle.
#[track_caller]
fn reads_back(host: &Host, packed: &PackedWeights, weights: &DeviceWeights) {
    let name = format!("{} {}×{}", packed.format(), packed.n(), packed.k());
    assert!(host.download(weights).unwrap() == *packed, "{name}");
    let all = host.dequantize(weights).unwrap();
    let expected = reference::dequantize(packed, OutputType::F32).unwrap();
    for (at, (want, &got)) in expected.iter().zip(&all).enumerate() {
        assert!(reference::check(want, got).passes(), "{name} at {at}: {got}, not {want:?}");
    }
    let rows: Vec<u32> = vec![packed.n() as u32 - 1, 0];
    let some = host.gather(weights, &rows).unwrap();
    let k = packed.k();
    let want = [&all[all.len() - k..], &all[..k]].concat();
    assert_eq!(some.len(), want.len());
    let same = some.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "{name}: gathered rows differ");
}

/// Every code type, offset and type of scales, in the row order that the adapter does not choose, and
/// every second one with permuted columns.
#[test]
fn every_kind_of_format_in_the_other_row_order() {
    let Some(host) = crate::common::host() else { return };
    let other = other_order(host);
    for (seed, format) in (0..).zip(other_formats()) {
        let format = if seed % 2 == 0 { format } else { format.permuted() };
        let packed = random_weights(format, 11, 301, seed, true).unwrap();
        reads_back(&other, &packed, &other.upload(&packed).unwrap());
    }
}

/// Rows of W and of the output that exceed a binding are split.
#[test]
fn rows_are_split() {
    for (turn, host) in large_and_small(16384, 64).into_iter().enumerate() {
        for name in
            ["int4-g32-min-i8s", "int3-g20-asym4-perm", "codebook-g64", "e4m3-g16-e4m3s-perm"]
        {
            let packed = random_weights(name.parse().unwrap(), 200, 301, 9, true).unwrap();
            let weights = host.upload(&packed).unwrap();
            assert_eq!(weights.blocks().len() > 1, turn == 1, "{name}");
            reads_back(host, &packed, &weights);
        }
    }
}

/// The device's values are those of the host, but for rounding: exactly equal where nothing is
/// rounded.
#[test]
fn exact_values_have_the_hosts_bits() {
    let Some(host) = crate::common::host() else { return };
    for name in ["e2m1-g32-e8m0s", "e4m3-g32-e8m0s-perm", "iq4nl-g32-e8m0s", "int6-g32-e8m0s"] {
        let packed = random_weights(name.parse().unwrap(), 5, 77, 3, true).unwrap();
        let got = host.dequantize(&host.upload(&packed).unwrap()).unwrap();
        let want = compress::dequantize(&packed);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&want), "{name}");
    }
}

/// `repack` has one result for every format, whether a kernel or the host makes it.
#[test]
fn repack_takes_every_format() {
    let Some(host) = crate::common::host() else { return };
    for (seed, format) in (0..).zip(sample_formats()).step_by(5) {
        let packed = random_weights(format, 9, 70, seed, true).unwrap();
        let repacked = host.repack(&packed).unwrap();
        assert!(host.download(&repacked).unwrap() == packed, "{format}");
    }
}

#[test]
fn permuted_weights_need_their_order() {
    let Some(host) = crate::common::host() else { return };
    let (kernels, n, k) = (host.kernels(), 6, 40);
    let format: WeightFormat = "int4-g8-f16s-perm".parse().unwrap();
    let packed = random_weights(format, n, k, 1, true).unwrap();
    let uploaded = block_on(DeviceWeights::upload(kernels, &packed)).unwrap();
    let blocks = uploaded.blocks().to_vec();
    let order = kernels.caps().row_order;
    let without = DeviceWeights::from_blocks(format, n, k, order, blocks).unwrap();
    assert!(uploaded.device_bytes() >= without.device_bytes() + 8 * k as u64);
    assert!(without.column_order().is_none());
    let plan = block_on(DequantizePlan::new(kernels, &DequantizeSpec::of(&without))).unwrap();
    let y = host.zeros(4 * (n * k) as u64).unwrap();
    let refused = |weights: &DeviceWeights, output: &wgpu::Buffer| {
        let args = DequantizeArgs { weights, indices: None, output: output.into() };
        block_on(plan.bind(args)).map(drop).unwrap_err()
    };
    assert_eq!(refused(&without, &y), BindError::NoColumnOrder);
    // The order is written by nobody.
    let own = uploaded.column_order().unwrap();
    assert!(matches!(
        refused(&uploaded, own),
        BindError::Aliased { role: Role::ColumnOrder } | BindError::TooSmall { .. }
    ));
    assert!(matches!(
        host.download(&without),
        Err(HostError::Format(FormatError::WrongLength { part: "order", .. }))
    ));
    let give = |order: &[u32]| block_on(without.clone().with_column_order(kernels, order));
    reads_back(host, &packed, &give(packed.order()).unwrap());
    let short = WeightsError::Format(FormatError::WrongLength { part: "order", need: k, have: 3 });
    assert_eq!(give(&[0, 1, 2]).map(drop), Err(short));
    let mut twice = packed.order().to_vec();
    twice[7] = twice[3];
    let (index, value) = (7, twice[3]);
    let bad = WeightsError::Format(FormatError::BadOrder { index, value, k });
    assert_eq!(give(&twice).map(drop), Err(bad));
    let mut past = packed.order().to_vec();
    past[0] = k as u32;
    let (index, value) = (0, k as u32);
    let bad = WeightsError::Format(FormatError::BadOrder { index, value, k });
    assert_eq!(give(&past).map(drop), Err(bad));
    // Columns in order have none.
    let plain = random_weights("int4-g8".parse().unwrap(), n, k, 1, true).unwrap();
    let plain = block_on(DeviceWeights::upload(kernels, &plain)).unwrap();
    let refused = block_on(plain.with_column_order(kernels, packed.order())).map(drop);
    let have = k;
    let none = WeightsError::Format(FormatError::WrongLength { part: "order", need: 0, have });
    assert_eq!(refused, Err(none));
}

/// Empty matrices have an order too.
#[test]
fn empty_matrices_of_permuted_columns() {
    let Some(host) = crate::common::host() else { return };
    for (n, k) in [(0, 9), (9, 0)] {
        let packed = random_weights("int3-channel-perm".parse().unwrap(), n, k, 1, true).unwrap();
        let weights = host.upload(&packed).unwrap();
        assert_eq!(host.download(&weights).unwrap(), packed);
        assert!(host.dequantize(&weights).unwrap().is_empty());
        assert_eq!(host.matmul(&vec![1.0; 2 * k], 2, &weights, None).unwrap(), vec![0.0; 2 * n]);
    }
}

/// The order of rows is a fact of the device and that of columns one of the weights.
#[test]
fn both_orders_are_independent() {
    let Some(host) = crate::common::host() else { return };
    let other = other_order(host);
    let orders = [host, &other].map(|host| host.kernels().caps().row_order);
    assert!(orders.contains(&RowOrder::Rows) && orders.contains(&RowOrder::Panels));
    let packed =
        random_weights("q3_k".parse::<WeightFormat>().unwrap().permuted(), 21, 513, 5, true);
    let packed = packed.unwrap();
    for host in [host, &other] {
        reads_back(host, &packed, &host.upload(&packed).unwrap());
    }
}
