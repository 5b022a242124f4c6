//! Tests of products of f32 matrices, against sums in f64 and their bounds.

use crate::common::{Noop, floats, large_and_small};
use lowbit::host::Host;
use lowbit::ops::{
    BindError, ColumnsSpec, FactorSpec, GramSpec, PlanError, ProductArgs, ProductPlan, ProductSpec,
    Role, Strides, SubBuffer,
};
use lowbit::reference::gamma;
use pollster::block_on;

/// Elements before each matrix. It is not a multiple of a binding's alignment.
const BEFORE: usize = 5;

fn at(strides: Strides, i: usize, j: usize) -> usize {
    BEFORE + i * strides.row as usize + j * strides.column as usize
}

/// Multiplies numbers at the places of a spec, and checks every element of C and everything around it.
fn check(host: &Host, spec: &ProductSpec) {
    let (m, n, k) = (spec.m as usize, spec.n as usize, spec.k as usize);
    let size = |strides, rows, columns| at(strides, rows - 1, columns - 1) + 3;
    let a = floats(size(spec.left, m, k), 1);
    let b = floats(size(spec.right, k, n), 2);
    let mut c = floats(size(spec.output, m, n), 3);
    if !spec.keep {
        // What C holds must not matter.
        (0..m).for_each(|i| (0..n).for_each(|j| c[at(spec.output, i, j)] = f32::NAN));
    }
    let [left, right, output] =
        [&a, &b, &c].map(|values| host.storage(bytemuck::cast_slice(values)).unwrap());
    let plan = block_on(ProductPlan::new(host.kernels(), spec)).unwrap();
    let part = |buffer| SubBuffer { buffer, offset: 4 * BEFORE as u64 };
    let args = ProductArgs { left: part(&left), right: part(&right), output: part(&output) };
    let bound = block_on(plan.bind(args)).unwrap();
    host.submit(|pass| bound.record(pass, spec.m).unwrap()).unwrap();
    let got = host.read(&output, 0, c.len()).unwrap();
    let mut inside = vec![false; c.len()];
    for i in 0..m {
        for j in 0..n {
            let place = at(spec.output, i, j);
            inside[place] = true;
            if spec.only_upper && i > j {
                continue;
            }
            let (mut sum, mut size) = (0.0, 0.0);
            for l in 0..k {
                let left = f64::from(a[at(spec.left, i, l)]);
                let product = left * f64::from(b[at(spec.right, l, j)]);
                sum += product;
                size += product.abs();
            }
            let sum = if spec.subtract { -sum } else { sum };
            let old = if spec.keep { f64::from(c[place]) } else { 0.0 };
            let error = (f64::from(f32::from_bits(got[place])) - (old + sum)).abs();
            // k roundings of the sum, and one where it is added.
            let bound = gamma(k + 1) * (size + old.abs());
            assert!(error <= bound, "{spec:?}: row {i}, column {j} is off by {error}, not {bound}");
        }
    }
    for (place, _) in inside.iter().enumerate().filter(|(_, inside)| !**inside) {
        assert_eq!(got[place], c[place].to_bits(), "{spec:?}: word {place} was written");
    }
}

#[test]
fn products_are_within_their_bounds() {
    for host in large_and_small(1 << 20, 10) {
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (64, 64, 64), (65, 130, 17), (130, 66, 201)] {
            let spec = ProductSpec::new(m, n, k);
            check(host, &spec);
            check(host, &spec.clone().adding());
            check(host, &spec.clone().subtracting());
            // Gaps between rows, and each matrix transposed in turn.
            let [a, b, c] = [k + 3, n + 2, n + 1].map(Strides::rows);
            let [at, bt, ct] = [m, k + 4, m + 1].map(|rows| Strides::rows(rows).transposed());
            check(host, &spec.clone().with_strides(at, b, c));
            check(host, &spec.clone().with_strides(a, bt, c).adding());
            check(host, &spec.clone().with_strides(a, b, ct).subtracting());
            check(host, &spec.with_only_upper());
        }
    }
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = ProductSpec::new(4, 6, 8);
    let strides = |output| {
        let (left, right) = (Strides::rows(8), Strides::rows(6));
        spec.clone().with_strides(left, right, output).check()
    };
    let (role, stride, need) = (Role::Output, 5, 6);
    assert_eq!(strides(Strides::rows(5)), Err(PlanError::Stride { role, stride, need }));
    assert_eq!(strides(Strides { row: 1, column: 4 }), Ok(()));
    assert!(strides(Strides { row: 1, column: 3 }).is_err());
    assert!(strides(Strides { row: 0, column: 1 }).is_err());
    let large = ProductSpec::new(1 << 16, 1 << 16, 1).check();
    assert!(matches!(large, Err(PlanError::TooLarge { name: "bytes of C", .. })), "{large:?}");
    assert!(ProductSpec::new(1, 1, 0).check().is_err());
    let plan = block_on(ProductPlan::new(&kernels, &spec)).unwrap();
    let [a, b, c] = [128, 192, 96].map(|bytes| noop.buffer(bytes));
    let good = ProductArgs { left: (&a).into(), right: (&b).into(), output: (&c).into() };
    let bound = block_on(plan.bind(good)).unwrap();
    noop.submit(|pass| {
        assert!(bound.record(pass, 3).is_err());
        assert!(bound.record(pass, 4).is_ok());
    });
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let short = ProductArgs { right: (&a).into(), ..good };
    assert_eq!(refuse(short), BindError::TooSmall { role: Role::Right, need: 192, have: 128 });
    let same = ProductArgs { output: (&b).into(), ..good };
    assert_eq!(refuse(same), BindError::Aliased { role: Role::Right });
    noop.assert_quiet();
}

/// Sizes of specs that no plan serves are numbers, however large they are.
#[test]
fn sizes_do_not_overflow() {
    let most = u32::MAX;
    let wide = Strides { row: most, column: most };
    let spec = ProductSpec::new(i32::MAX as u32, 1 << 20, 1 << 20);
    let error = spec.with_strides(wide, wide, wide).check().unwrap_err();
    assert!(matches!(error, PlanError::TooLarge { .. }), "{error}");
    let columns = ColumnsSpec::new(most, most, None);
    let sizes = [
        GramSpec::new(most, most).sums_bytes(),
        FactorSpec::new(most).matrix_bytes(),
        columns.columns_bytes(),
        columns.output_bytes(),
        columns.scales_bytes(),
        columns.masks_bytes(),
    ];
    assert!(sizes.iter().all(|&bytes| bytes > u64::from(most)), "{sizes:?}");
    assert!(GramSpec::new(most, most).check().is_err() && columns.check().is_err());
}
