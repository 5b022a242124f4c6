//! Tests of the conversion to the kernel layout on the device. It must equal the host's bit for
//! bit, for every format, in both row orders, with offsets, and if it is split for small bindings.

use lowbit::format::{DeviceLayout, PackedWeights, Scales, WeightFormat, sample_formats};
use lowbit::host::Host;
use lowbit::ops::{
    BindError, DeviceWeights, FormatUse, PlanError, RepackArgs, RepackPlan, RepackSpec, Role,
    RowBlock, SubBuffer,
};
use pollster::block_on;

/// The offset of the parts in bytes. It is not a multiple of the binding alignment.
const OFFSET: u64 = 36;
/// The word before and after each part.
const NOISE: u32 = 0xdead_beef;

/// Creates a buffer with a part that is surrounded by noise.
fn part(host: &Host, bytes: &[u8]) -> wgpu::Buffer {
    let mut words = vec![NOISE; (OFFSET / 4) as usize];
    words.extend(bytes.chunks(4).map(|chunk| {
        let mut word = NOISE.to_le_bytes();
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(word)
    }));
    words.extend([NOISE; 8]);
    host.storage(&words).unwrap()
}

/// Returns weights of at least 1, so that a group of one weight has an f16 scale.
fn random_weights(format: WeightFormat, n: usize, k: usize, seed: u64) -> PackedWeights {
    let mut random = crate::common::Random(seed);
    let w: Vec<f32> = (0..n * k).map(|_| random.float()).map(|x| x + 1f32.copysign(x)).collect();
    lowbit::compress::quantize(&w, n, k, &format).unwrap()
}

/// Repacks into weights that are full of noise, compares every row, and returns the number of
/// chunks.
fn repack(host: &Host, packed: &PackedWeights, name: &str) -> usize {
    let kernels = host.kernels();
    let (n, k, format) = (packed.n(), packed.k(), packed.format());
    let codes = part(host, bytemuck::cast_slice(packed.codes()));
    let metadata = part(host, bytemuck::cast_slice(packed.metadata()));
    let scales = match packed.scales() {
        Scales::F32(scales) => part(host, bytemuck::cast_slice(scales)),
        Scales::F16(scales) => part(host, bytemuck::cast_slice(scales)),
        Scales::E8m0(scales) => part(host, scales),
        other => panic!("repack takes no {:?} scales", other.scale_type()),
    };
    let zeros = part(host, packed.zeros());
    let output = block_on(DeviceWeights::allocate(kernels, format, n, k)).unwrap();
    for buffer in output.blocks().iter().flat_map(RowBlock::buffers) {
        let noise = vec![NOISE; (buffer.size() / 4) as usize];
        host.queue().write_buffer(buffer, 0, bytemuck::cast_slice(&noise));
    }
    let spec = RepackSpec::new(n as u32, k as u32, format);
    let plan = block_on(RepackPlan::new(kernels, &spec)).unwrap();
    let at = |buffer, there: bool| there.then_some(SubBuffer { buffer, offset: OFFSET });
    let bound = block_on(plan.bind(RepackArgs {
        codes: SubBuffer { buffer: &codes, offset: OFFSET },
        metadata: at(&metadata, format.is_sparse()),
        scales: at(&scales, format.code_type().has_scales()),
        zeros: at(&zeros, format.has_zeros()),
        output: &output,
    }))
    .unwrap();
    host.submit(|pass| bound.record(pass, n as u32).unwrap()).unwrap();
    let order = kernels.caps().row_order;
    let layout = DeviceLayout::new(format, n, k, order).unwrap();
    let want = layout.pack_rows(packed, 0..n);
    assert!(host.download_rows(&output).unwrap() == want, "{name} {n}×{k}, {order:?}");
    bound.dispatches()
}

#[test]
fn equal_to_the_host() {
    let Some(host) = crate::common::host() else { return };
    let other = crate::common::other_order(host);
    for (i, format) in crate::common::all_formats().into_iter().enumerate() {
        for (n, k) in [(1, 1), (5, 31), (16, 32), (9, 70), (11, 200)] {
            let packed = random_weights(format, n, k, (i + n) as u64);
            let name = format.to_string();
            for host in [host, &other] {
                assert_eq!(repack(host, &packed, &name), 1, "{name}");
            }
        }
    }
}

/// Formats that nothing quantizes to, and the names of those that are left to the host.
#[test]
fn equal_to_the_host_in_other_formats() {
    let Some(host) = crate::common::host() else { return };
    let other = crate::common::other_order(host);
    let (mut taken, mut left) = (0, 0);
    for (seed, format) in (0..).zip(sample_formats()) {
        let checked = FormatUse::Repack.check(&format);
        let spec = RepackSpec::new(2, 2, format);
        assert_eq!(spec.check(), checked, "{format}");
        if let Err(PlanError::Unsupported { why, .. }) = checked {
            assert!(why.contains("on the host"), "{why}");
            left += 1;
            continue;
        }
        let known = crate::common::all_formats().contains(&format);
        if known || (seed % 3 > 0 && format.other_name().is_none()) {
            continue;
        }
        taken += 1;
        for ((n, k), host) in [((5, 31), host), ((11, 200), &other)] {
            let packed = lowbit::format::random_weights(format, n, k, seed, true).unwrap();
            assert_eq!(repack(host, &packed, &format.to_string()), 1, "{format}");
        }
    }
    assert!(taken > 40 && left > 40, "{taken} taken, {left} left");
}

#[test]
fn parts_larger_than_a_binding_are_split() {
    let Some(host) = crate::common::host() else { return };
    let small = crate::common::host_within(host, |limits| {
        limits.max_storage_buffer_binding_size = 8192;
        limits.min_storage_buffer_offset_alignment = 256;
    });
    for name in ["f16", "int8-g7-asym-f16s", "2:4+int4-g5-asym", "int4-tensor-asym"] {
        let packed = random_weights(name.parse().unwrap(), 187, 200, 3);
        assert!(repack(&small, &packed, name) > 2, "{name} was not split");
    }
    for name in ["int2-g7-asym4", "int4-tensor-asym4-f16s", "e2m1-g32-e8m0s", "nf4-g20-f16s-perm"] {
        let packed = lowbit::format::random_weights(name.parse().unwrap(), 187, 200, 3, true);
        assert!(repack(&small, &packed.unwrap(), name) > 2, "{name} was not split");
    }
}

#[test]
fn nothing_is_fine_and_wrong_parts_are_refused() {
    let Some(host) = crate::common::host() else { return };
    let format = "2:4+int8-g32-asym".parse().unwrap();
    for (n, k) in [(0, 8), (8, 0)] {
        let packed = random_weights(format, n, k, 1);
        assert_eq!(repack(host, &packed, "empty"), 0);
    }
    let plan = block_on(RepackPlan::new(host.kernels(), &RepackSpec::new(8, 64, format))).unwrap();
    let output = block_on(DeviceWeights::allocate(host.kernels(), format, 8, 64)).unwrap();
    let (large, small) = (host.zeros(4096).unwrap(), host.zeros(32).unwrap());
    let good = RepackArgs {
        codes: (&large).into(),
        metadata: Some((&large).into()),
        scales: Some((&large).into()),
        zeros: Some((&large).into()),
        output: &output,
    };
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    assert!(block_on(plan.bind(good)).is_ok());
    let without = |role| BindError::Part { role, planned: true };
    assert_eq!(refuse(RepackArgs { metadata: None, ..good }), without(Role::Mask));
    assert_eq!(refuse(RepackArgs { scales: None, ..good }), without(Role::Scales));
    assert_eq!(refuse(RepackArgs { zeros: None, ..good }), without(Role::Zeros));
    let short = refuse(RepackArgs { codes: (&small).into(), ..good });
    assert_eq!(short, BindError::TooSmall { role: Role::Weights, need: 256, have: 32 });
    let codes = SubBuffer { buffer: &large, offset: 2 };
    assert!(matches!(refuse(RepackArgs { codes, ..good }), BindError::Misaligned { .. }));
    let codes = SubBuffer::from(output.blocks()[0].codes().buffer().unwrap());
    assert_eq!(refuse(RepackArgs { codes, ..good }), BindError::Aliased { role: Role::Weights });
    let f16: DeviceWeights =
        block_on(DeviceWeights::allocate(host.kernels(), "f16".parse().unwrap(), 8, 64)).unwrap();
    assert!(matches!(refuse(RepackArgs { output: &f16, ..good }), BindError::WrongWeights { .. }));
}
