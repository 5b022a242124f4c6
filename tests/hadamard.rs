//! Tests of the Hadamard transform: what the case table does not vary.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::host::Host;
use lowbit::ops::{
    BindError, FloatType, HadamardArgs, HadamardPlan, HadamardSpec, PlanError, RecordError, Role,
    SubBuffer,
};
use pollster::block_on;

fn transform(host: &Host, spec: &HadamardSpec, x: &[f32]) -> Vec<f32> {
    let plan = block_on(HadamardPlan::new(host.kernels(), spec)).unwrap();
    let source = host.storage(bytemuck::cast_slice(x)).unwrap();
    let y = host.zeros(spec.y_bytes(spec.max_m)).unwrap();
    let args = HadamardArgs { activations: (&source).into(), output: (&y).into() };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, spec.max_m).unwrap()).unwrap();
    host.read(&y, 0, x.len()).unwrap().into_iter().map(f32::from_bits).collect()
}

/// The matrix of four columns, by hand.
#[test]
fn columns_are_in_natural_order() {
    let Some(host) = host() else { return };
    let spec = HadamardSpec::new(4, 4);
    let rows: Vec<f32> = (0..16).map(|at| if at % 5 == 0 { 2.0 } else { 0.0 }).collect();
    let want = [
        [1.0, 1.0, 1.0, 1.0],
        [1.0, -1.0, 1.0, -1.0],
        [1.0, 1.0, -1.0, -1.0],
        [1.0, -1.0, -1.0, 1.0],
    ];
    assert_eq!(transform(host, &spec, &rows), want.as_flattened());
}

/// The transform is its own inverse and keeps lengths; blocks of 4096, and of 43 · 256 columns.
#[test]
fn twice_is_the_identity() {
    let Some(host) = host() else { return };
    for k in [4096, 11008, 28672] {
        let spec = HadamardSpec::new(2, k);
        let x = floats(2 * k as usize, 3);
        let once = transform(host, &spec, &x);
        assert!(once.iter().zip(&x).any(|(a, b)| (a - b).abs() > 0.1));
        let twice = transform(host, &spec, &once);
        let length = |v: &[f32]| v.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let off: Vec<f32> = twice.iter().zip(&x).map(|(a, b)| a - b).collect();
        // An element is a sum of up to 4096 = 2¹² terms with one factor: it is off by γ₁₄·Σ|x|/64 at most, which is
        // γ₁₄ of the length of its block. Of 4096 elements that is 64 times γ₁₄ of the length, and twice that after
        // two transforms.
        let bound = 2.0 * 64.0 * lowbit::reference::gamma(14);
        assert!(length(&off) <= bound * length(&x), "{k}");
        assert!((length(&once) / length(&x) - 1.0).abs() <= bound, "{k}");
    }
}

/// Rows that exceed a binding are split, and the results are the same bits.
#[test]
fn rows_are_split() {
    let x = floats(300 * 96, 8);
    let spec = HadamardSpec::new(300, 96);
    let all: Vec<_> =
        large_and_small(16384, 4).into_iter().map(|host| transform(host, &spec, &x)).collect();
    if let [large, small] = &all[..] {
        assert_eq!(large, small);
    }
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = HadamardSpec::new(4, 48);
    assert_eq!((spec.block, spec.check()), (16, Ok(())));
    // A smaller block than the largest power of two is another transform: nobody chooses it silently.
    let large = HadamardSpec::new(4, 32768);
    let limit = 4096;
    assert_eq!(large.check(), Err(PlanError::TooLarge { name: "block", value: 32768, limit }));
    assert_eq!(large.with_block(4096).check(), Ok(()));
    let three = spec.clone().with_block(3).check();
    assert!(matches!(three, Err(PlanError::Number { name: "block", .. })), "{three:?}");
    let (name, value, multiple) = ("k", 48, 32);
    let uneven = spec.clone().with_block(32).check();
    assert_eq!(uneven, Err(PlanError::NotMultiple { name, value, multiple }));
    assert!(matches!(spec.clone().with_block(0).check(), Err(PlanError::Number { .. })));
    let stride = |role, stride, need| Err(PlanError::Stride { role, stride, need });
    assert_eq!(spec.clone().with_strides(47, 48).check(), stride(Role::Activations, 47, 48));
    assert_eq!(spec.clone().with_strides(48, 47).check(), stride(Role::Output, 47, 48));
    let odd = spec.clone().with_output(FloatType::F16).with_strides(48, 49).check();
    let (role, multiple) = (Role::Output, 2);
    assert_eq!(odd, Err(PlanError::OddStride { role, stride: 49, multiple }));
    assert!(matches!(
        HadamardSpec::new(1 << 20, 6).check(),
        Err(PlanError::TooLarge { name: "max_m", .. })
    ));

    let plan = block_on(HadamardPlan::new(&kernels, &spec)).unwrap();
    let [x, y, small] = [768, 768, 16].map(|bytes| noop.buffer(bytes));
    let good = HadamardArgs { activations: (&x).into(), output: (&y).into() };
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let bound = block_on(plan.bind(good)).unwrap();
    noop.submit(|pass| {
        assert_eq!(bound.record(pass, 5), Err(RecordError::MTooLarge { m: 5, max_m: 4 }));
        assert_eq!(bound.record(pass, 4), Ok(()));
    });
    let short = HadamardArgs { output: (&small).into(), ..good };
    assert_eq!(refuse(short), BindError::TooSmall { role: Role::Output, need: 768, have: 16 });
    let late = HadamardArgs { activations: SubBuffer { buffer: &x, offset: 4 }, ..good };
    let (role, offset, align) = (Role::Activations, 4, 16);
    assert_eq!(refuse(late), BindError::Misaligned { role, offset, align });
    let same = HadamardArgs { output: (&x).into(), ..good };
    assert_eq!(refuse(same), BindError::Aliased { role: Role::Activations });
    // Rows without columns need nothing.
    let empty = HadamardSpec::new(4, 0);
    let plan = block_on(HadamardPlan::new(&kernels, &empty)).unwrap();
    assert_eq!(block_on(plan.bind(good)).unwrap().dispatches(), 0);
    noop.assert_quiet();
}
