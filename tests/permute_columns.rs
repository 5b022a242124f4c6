//! Tests of permuting the columns of X, alone and before matmuls: what the case table does not vary.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::format::{ActivationFormat, FormatError, PackedWeights, WeightFormat, random_weights};
use lowbit::host::HostError;
use lowbit::ops::{
    Activations, BindError, DeviceWeights, FloatType, MatmulArgs, MatmulPlan, MatmulSpec,
    PermuteColumnsArgs, PermuteColumnsPlan, PermuteColumnsSpec, PlanError, RecordError, Role,
    Select, SubBuffer,
};
use pollster::block_on;

fn permuted(name: &str, n: usize, k: usize) -> PackedWeights {
    random_weights(name.parse().unwrap(), n, k, 7, true).unwrap()
}

#[test]
fn rows_have_their_columns_in_order() {
    let Some(host) = host() else { return };
    let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let got = host.permute_columns(&x, 3, &[2, 0, 3, 1]).unwrap();
    assert_eq!(got, [2.0, 0.0, 3.0, 1.0, 6.0, 4.0, 7.0, 5.0, 10.0, 8.0, 11.0, 9.0]);
    assert!(host.permute_columns(&[], 0, &[0]).unwrap().is_empty());
    assert!(host.permute_columns(&[], 5, &[]).unwrap().is_empty());
    let short = host.permute_columns(&x, 2, &[2, 0, 3, 1]);
    assert!(matches!(short, Err(HostError::WrongLength { need: 8, have: 12, .. })));
    let twice = host.permute_columns(&x, 3, &[2, 0, 2, 1]);
    let bad = FormatError::BadOrder { index: 2, value: 2, k: 4 };
    assert!(matches!(twice, Err(HostError::Format(error)) if error == bad));
}

/// An entry past the last column gives 0, and nothing is read out of bounds.
#[test]
fn columns_that_do_not_exist_are_zero() {
    let Some(host) = host() else { return };
    let spec = PermuteColumnsSpec::new(2, 3);
    let plan = block_on(PermuteColumnsPlan::new(host.kernels(), &spec)).unwrap();
    let x = host.storage(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let order = host.storage(&[1, 3, u32::MAX, 0]).unwrap();
    let y = host.storage(&[9; 8]).unwrap();
    let (activations, order, output) = ((&x).into(), (&order).into(), (&y).into());
    let bound = block_on(plan.bind(PermuteColumnsArgs { activations, order, output })).unwrap();
    host.submit(|pass| bound.record(pass, 2).unwrap()).unwrap();
    assert_eq!(host.read(&y, 0, 8).unwrap(), [2, 0, 0, 5, 0, 0, 9, 9]);
}

/// Matmuls of weights with permuted columns, alone and in parts that fit small bindings, against the
/// oracle: the rows of a whole batch, in both types, and a batch that shares X.
#[test]
fn matmuls_gather_their_x() {
    for (turn, host) in large_and_small(16384, 65535).into_iter().enumerate() {
        let (m, n, k) = (37, 50, 200);
        for name in ["int4-g64-f16s-perm", "int3-g20-min-perm", "q6_k-perm", "f16-perm"] {
            let format = match name.strip_suffix("_k-perm") {
                Some(_) => "q6_k".parse::<WeightFormat>().unwrap().permuted(),
                None => name.parse().unwrap(),
            };
            let packed = random_weights(format, n, k, 3, true).unwrap();
            let x = floats(m * k, 5);
            let y = host.matmul(&x, m, &host.upload(&packed).unwrap(), None).unwrap();
            crate::common::assert_within_bound(&packed, &x, m, &y);
        }
        // Three matrices share X, which is permuted once.
        let packed = permuted("int4-g64-perm", n, k);
        let weights = host.upload(&packed).unwrap();
        let spec = MatmulSpec::of(5, &weights).with_batch(3).with_x_strides(k as u32, 0);
        assert_eq!(spec.scratch_bytes(), 4 * 5 * k as u64);
        assert_eq!(spec.clone().with_x_strides(k as u32, 1000).scratch_bytes(), 12 * 5 * k as u64);
        let plan = block_on(MatmulPlan::new(host.kernels(), &spec, Select::Auto)).unwrap();
        let x = floats(5 * k, 6);
        let source = host.storage(bytemuck::cast_slice(&x)).unwrap();
        let y = host.zeros(spec.y_bytes(5)).unwrap();
        let (activations, output) = ((&source).into(), (&y).into());
        let args = MatmulArgs { activations, weights: &weights, bias: None, output };
        let bound = block_on(plan.bind(args)).unwrap();
        // Fewer rows than planned, then all of them, in one pass.
        host.submit(|pass| bound.record(pass, 2).and(bound.record(pass, 5)).unwrap()).unwrap();
        let words = host.read(&y, 0, 3 * 5 * n).unwrap();
        for part in words.chunks(5 * n) {
            let part: Vec<f32> = part.iter().map(|&word| f32::from_bits(word)).collect();
            crate::common::assert_within_bound(&packed, &x, 5, &part);
        }
        assert!(turn > 0 || bound.dispatches() == 2, "{}", bound.dispatches());
    }
}

/// Rows that exceed a binding are split.
#[test]
fn rows_are_split() {
    let (m, k) = (300, 100);
    let x = floats(m * k, 8);
    let order: Vec<u32> = (0..k as u32).map(|j| (j * 37 + 5) % k as u32).collect();
    let want: Vec<f32> =
        x.chunks(k).flat_map(|row| order.iter().map(|&column| row[column as usize])).collect();
    for host in large_and_small(16384, 4) {
        assert_eq!(host.permute_columns(&x, m, &order).unwrap(), want);
    }
    if let [_, small] = large_and_small(16384, 4)[..] {
        let spec = PermuteColumnsSpec::new(300, 100);
        let plan = block_on(PermuteColumnsPlan::new(small.kernels(), &spec)).unwrap();
        let [x, order, y] = [(); 3].map(|()| small.zeros(4 * 300 * 100).unwrap());
        let (activations, order, output) = ((&x).into(), (&order).into(), (&y).into());
        let bound = block_on(plan.bind(PermuteColumnsArgs { activations, order, output }));
        assert!(bound.unwrap().dispatches() > 5);
    }
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = PermuteColumnsSpec::new(4, 6);
    assert_eq!(spec.check(), Ok(()));
    let stride = |role, stride, need| Err(PlanError::Stride { role, stride, need });
    assert_eq!(spec.clone().with_x_strides(5, 0).check(), stride(Role::Activations, 5, 6));
    assert_eq!(spec.clone().with_y_strides(5, 0).check(), stride(Role::Output, 5, 6));
    let batch = spec.clone().with_batch(2).with_x_strides(6, 23);
    assert_eq!(batch.check(), stride(Role::Activations, 23, 24));
    let odd = PermuteColumnsSpec::new(4, 5).with_activations(FloatType::F16).with_y_strides(7, 28);
    let (role, multiple) = (Role::Output, 2);
    assert_eq!(odd.check(), Err(PlanError::OddStride { role, stride: 7, multiple }));
    assert!(matches!(
        PermuteColumnsSpec::new(1 << 20, 6).check(),
        Err(PlanError::TooLarge { name: "max_m", .. })
    ));

    let plan = block_on(PermuteColumnsPlan::new(&kernels, &spec)).unwrap();
    let [x, order, y, small] = [96, 24, 96, 16].map(|bytes| noop.buffer(bytes));
    let plain = noop.buffer_for(96, wgpu::BufferUsages::UNIFORM);
    let good = PermuteColumnsArgs {
        activations: (&x).into(),
        order: (&order).into(),
        output: (&y).into(),
    };
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let bound = block_on(plan.bind(good)).unwrap();
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
    });
    let too_small = |role, need| BindError::TooSmall { role, need, have: 16 };
    let short = PermuteColumnsArgs { order: (&small).into(), ..good };
    assert_eq!(refuse(short), too_small(Role::ColumnOrder, 24));
    let short = PermuteColumnsArgs { output: (&small).into(), ..good };
    assert_eq!(refuse(short), too_small(Role::Output, 96));
    let late = SubBuffer { buffer: &order, offset: 2 };
    let role = Role::ColumnOrder;
    let (offset, align) = (2, 4);
    assert_eq!(
        refuse(PermuteColumnsArgs { order: late, ..good }),
        BindError::Misaligned { role, offset, align }
    );
    let aliased = |role| BindError::Aliased { role };
    let same = PermuteColumnsArgs { order: (&y).into(), ..good };
    assert_eq!(refuse(same), aliased(Role::ColumnOrder));
    let same = PermuteColumnsArgs { output: (&x).into(), ..good };
    assert_eq!(refuse(same), aliased(Role::Activations));
    let usage = PermuteColumnsArgs { activations: (&plain).into(), ..good };
    assert_eq!(refuse(usage), BindError::Usage { role: Role::Activations });
    noop.assert_quiet();
}

/// Matmuls refuse weights that lack their order, and quantized X.
#[test]
fn matmuls_refuse_what_they_cannot_gather() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let format: WeightFormat = "int4-g64-perm".parse().unwrap();
    let int8: ActivationFormat = "int8-token".parse().unwrap();
    let spec = MatmulSpec::new(4, 8, 64, format);
    let integer = spec.clone().with_activations(Activations::Int8(int8)).check();
    let Err(error @ PlanError::Unsupported { .. }) = integer else { panic!("{integer:?}") };
    assert!(error.to_string().contains("permuted columns; use float activations"), "{error}");
    let plan = block_on(MatmulPlan::new(&kernels, &spec, Select::Auto)).unwrap();
    let (x, y) = (noop.buffer(4096), noop.buffer(4096));
    let bind = |weights: &DeviceWeights, output: &wgpu::Buffer| {
        let (activations, output) = ((&x).into(), output.into());
        block_on(plan.bind(MatmulArgs { activations, weights, bias: None, output })).map(drop)
    };
    let empty = block_on(DeviceWeights::allocate(&kernels, format, 8, 64)).unwrap();
    assert_eq!(bind(&empty, &y), Err(BindError::NoColumnOrder));
    let whole = block_on(DeviceWeights::upload(&kernels, &permuted("int4-g64-perm", 8, 64)));
    let whole = whole.unwrap();
    assert_eq!(bind(&whole, &y), Ok(()));
    let role = Role::ColumnOrder;
    let order = whole.column_order().unwrap();
    let spec = MatmulSpec::new(1, 8, 64, format);
    let own = block_on(MatmulPlan::new(&kernels, &spec, Select::Auto)).unwrap();
    let args =
        MatmulArgs { activations: (&x).into(), weights: &whole, bias: None, output: order.into() };
    assert_eq!(block_on(own.bind(args)).map(drop), Err(BindError::Aliased { role }));
    noop.assert_quiet();
}
