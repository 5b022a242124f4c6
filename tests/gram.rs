//! Tests of Gram matrices: what the case table does not vary.

use crate::common::{Noop, floats, host, large_and_small};
use lowbit::host::{Host, HostError};
use lowbit::ops::{
    BindError, FloatType, GRAM_UNIT, GramArgs, GramError, GramPlan, GramSpec, PlanError, Role,
    SubBuffer,
};
use pollster::block_on;

/// Records batches of rows of `x`, `[m, k]`, into the same sums, and returns the triangle.
fn sums(host: &Host, k: u32, batches: &[&[f32]]) -> Result<Vec<i128>, GramError> {
    let most = batches.iter().map(|x| x.len()).max().unwrap_or(0) as u32 / k;
    let spec = GramSpec::new(most, k);
    let plan = block_on(GramPlan::new(host.kernels(), &spec)).unwrap();
    let sums = host.zeros(spec.sums_bytes()).unwrap();
    let status = host.zeros(GramSpec::STATUS_BYTES).unwrap();
    for x in batches {
        let mut rows = x.to_vec();
        rows.resize((most * k) as usize, f32::NAN);
        let x_at = host.storage(bytemuck::cast_slice(&rows)).unwrap();
        let (activations, status) = ((&x_at).into(), (&status).into());
        let args = GramArgs { activations, sums: (&sums).into(), status };
        let bound = block_on(plan.bind(args)).unwrap();
        host.submit(|pass| bound.record(pass, x.len() as u32 / k).unwrap()).unwrap();
    }
    let words = host.read(&sums, 0, (spec.sums_bytes() / 4) as usize).unwrap();
    spec.decode(&words, &host.read(&status, 0, 2).unwrap())
}

/// Small integers are exact in f32, and so are their sums here: every bit is known.
#[test]
fn integers_are_exact() {
    // The small host has no subgroups, and takes one tile at a time.
    for host in large_and_small(70 << 10, 5) {
        let (m, k) = (150, 131);
        let x: Vec<f32> = (0..m * k).map(|i| ((i * 7919) % 31) as f32 - 15.0).collect();
        let got = sums(host, k as u32, &[&x]).unwrap();
        let mut at = 0;
        for i in 0..k {
            for j in i..k {
                let want: i128 = x.chunks(k).map(|row| (row[i] * row[j]) as i128).sum();
                assert_eq!(got[at], want << 72, "row {i}, column {j}");
                at += 1;
            }
        }
        assert_eq!(at, got.len());
    }
}

/// Values of every exponent, of both signs: what one row adds is its product, rounded to the unit.
#[test]
fn every_exponent_becomes_an_integer() {
    let Some(host) = host() else { return };
    let mut values = Vec::new();
    for exponent in -60..27 {
        for significand in [1.0, 1.5, 1.999_999_9_f32] {
            values.extend([2f32.powi(exponent) * significand, -(2f32.powi(exponent))]);
        }
    }
    // One column after the other beside a column of ones.
    for pair in values.chunks(2) {
        for &value in pair {
            let got = sums(host, 2, &[&[1.0, value]]).unwrap();
            let round = |value: f64| {
                let scaled = value * 2f64.powi(72);
                (scaled.abs() + 0.5).floor() as i128 * scaled.signum() as i128
            };
            assert_eq!(got[0], 1 << 72);
            assert_eq!(got[1], round(f64::from(value)), "{value:e}");
            let square = f64::from(value * value);
            let ulp = (square * 2f64.powi(72 - 22)) as i128;
            assert!((got[2] - round(square)).abs() <= ulp, "{value:e}");
        }
    }
    // Half a unit goes away from 0, and what is less becomes 0.
    for (power, want) in [(-73, 1), (-74, 0), (-72, 1)] {
        for sign in [1.0, -1.0] {
            let got = sums(host, 2, &[&[1.0, sign * 2f32.powi(power)]]).unwrap();
            assert_eq!(got[1], want * sign as i128);
        }
    }
}

/// The order of batches does not matter, and sums carry through all words in both directions.
#[test]
fn batches_add_up_in_any_order() {
    let Some(host) = host() else { return };
    let k = 70;
    let x = floats(200 * k, 3);
    let [a, b, c] = [&x[..64 * k], &x[64 * k..65 * k], &x[65 * k..]];
    let want = sums(host, k as u32, &[a, b, c]).unwrap();
    assert_eq!(sums(host, k as u32, &[c, a, b]).unwrap(), want);
    let alone = [a, b, c].map(|x| sums(host, k as u32, &[x]).unwrap());
    let added: Vec<i128> =
        (0..want.len()).map(|i| alone.iter().map(|sums| sums[i]).sum()).collect();
    assert_eq!(added, want);
    let large = 2f32.powi(26);
    let got = sums(host, 2, &[&[1.0, large], &[-1.0, large], &[2f32.powi(-72), -1.0]]).unwrap();
    assert_eq!(got[1], -1);
    assert_eq!(host.gram(&x, k).unwrap(), sums(host, k as u32, &[&x]).unwrap());
}

#[test]
fn what_is_not_exact_is_reported() {
    let Some(host) = host() else { return };
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut x = vec![1.0; 100 * 67];
        x[99 * 67 + 66] = bad;
        let error = sums(host, 67, &[&x]).unwrap_err();
        assert!(matches!(error, GramError::NotFinite { .. }), "{error}");
    }
    let large = 2f32.powi(27);
    assert_eq!(sums(host, 1, &[&[large]]).unwrap(), [1 << 126]);
    let error = sums(host, 1, &[&[2.0 * large]]).unwrap_err();
    assert_eq!(error, GramError::TooLarge { count: 1 });
    // The second and the third addition do not fit: the second wraps.
    let batches: [&[f32]; 2] = [&[large], &[large]];
    assert_eq!(sums(host, 1, &batches).unwrap_err(), GramError::TooLarge { count: 1 });
    let error = host.gram(&[1.0; 7], 3).unwrap_err();
    assert!(matches!(error, HostError::WrongLength { need: 6, have: 7, .. }), "{error}");
    let error = host.gram(&[f32::NAN], 1).unwrap_err();
    assert!(matches!(error, HostError::Gram(GramError::NotFinite { .. })), "{error}");
    assert_eq!(host.gram(&[], 5).unwrap(), vec![0; 15]);
    assert_eq!(host.gram(&[2.0], 1).unwrap()[0] as f64 * 2f64.powi(GRAM_UNIT), 4.0);
    let spec = GramSpec::new(1, 65);
    let need = 3 * 4096 * 4;
    let (what, have) = ("sums", 8);
    assert_eq!(spec.decode(&[0; 8], &[0; 2]), Err(GramError::Words { what, need, have }));
    let (what, need, have) = ("status", 2, 1);
    assert_eq!(spec.decode(&[0; 8], &[0]), Err(GramError::Words { what, need, have }));
}

#[test]
fn misuse_is_refused() {
    let noop = Noop::new(wgpu::Limits::defaults());
    let kernels = noop.kernels();
    let spec = GramSpec::new(4, 64);
    let stride = |need| PlanError::Stride { role: Role::Activations, stride: 63, need };
    assert_eq!(spec.clone().with_stride(63).check(), Err(stride(64)));
    let odd = spec.clone().with_activations(FloatType::F16).with_stride(65).check();
    assert!(matches!(odd, Err(PlanError::OddStride { stride: 65, .. })));
    let large = GramSpec::new(1, 65537).check();
    assert_eq!(large, Err(PlanError::TooLarge { name: "k", value: 65537, limit: 65536 }));
    let plan = block_on(GramPlan::new(&kernels, &spec)).unwrap();
    let [x, y, small, status] = [1024, 65536 + 64, 64, 16].map(|bytes| noop.buffer(bytes));
    let good = GramArgs { activations: (&x).into(), sums: (&y).into(), status: (&status).into() };
    assert!(block_on(plan.bind(good)).is_ok());
    let refuse = |args| block_on(plan.bind(args)).map(drop).unwrap_err();
    let short = GramArgs { sums: (&small).into(), ..good };
    let (role, need, have) = (Role::Output, 65536, 64);
    assert_eq!(refuse(short), BindError::TooSmall { role, need, have });
    let late = GramArgs { sums: SubBuffer { buffer: &y, offset: 8 }, ..good };
    let (offset, align) = (8, 16);
    assert_eq!(refuse(late), BindError::Misaligned { role, offset, align });
    let same = GramArgs { status: (&y).into(), ..good };
    assert_eq!(refuse(same), BindError::Aliased { role: Role::Status });
    let same = GramArgs { status: (&x).into(), ..good };
    assert_eq!(refuse(same), BindError::Aliased { role: Role::Activations });
    let empty = GramSpec::new(4, 0);
    let plan = block_on(GramPlan::new(&kernels, &empty)).unwrap();
    assert_eq!(block_on(plan.bind(good)).unwrap().dispatches(), 0);
    noop.assert_quiet();
}
