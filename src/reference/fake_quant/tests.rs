//! Tests of the definition against derivatives and values by hand.

use super::*;

fn format(name: &str) -> WeightFormat {
    name.parse().unwrap()
}

/// y as a function of x, s and z, with what rounding did at one point held fixed: what
/// straight-through gradients are the gradients of.
struct Surrogate {
    low: f64,
    high: f64,
    /// rne(x/s) − x/s, and rne(z) − z.
    rounding: [f64; 2],
}

impl Surrogate {
    fn value(&self, x: f64, s: f64, z: f64) -> f64 {
        let z = z + self.rounding[1];
        ((x / s + self.rounding[0] + z).clamp(self.low, self.high) - z) * s
    }
}

/// LSQ's formulas are the derivatives of the definition, by central differences.
#[test]
fn gradients_are_derivatives_of_the_surrogate() {
    let mut ends_met = 0;
    for (name, s, z) in [
        ("int4-tensor", 0.37f32, 0.0f32),
        ("int4-tensor-asym", 0.21, 6.3),
        ("int8-tensor-asym", 0.02, -41.6),
    ] {
        let format = format(name);
        let x: Vec<f32> = (-60..60).map(|i| i as f32 * 0.0613 + 0.057).collect();
        let dy: Vec<f32> = (0..120).map(|i| ((i * 37) % 23) as f32 / 7.0 - 1.3).collect();
        let zeros = if format.is_symmetric() { vec![] } else { vec![z] };
        let case = FakeQuantCase { format: &format, x: &x, k: 120, scales: &[s], zeros: &zeros };
        let got = fake_quantize_gradients(&case, &dy, false).unwrap();
        let (low, high) = codes(&format);
        let (s, z) = (f64::from(s), f64::from(z));
        let mut want = [0.0; 2];
        let mut outside = 0;
        for (i, (&x, &dy)) in x.iter().zip(&dy).enumerate() {
            let (x, dy) = (f64::from(x), f64::from(dy));
            let rounding = [x / s, z].map(|v| v.round_ties_even() - v);
            let surrogate = Surrogate { low, high, rounding };
            let h = 1e-6;
            let slope = |f: &dyn Fn(f64) -> f64| (f(h) - f(-h)) / (2.0 * h);
            want[0] += dy * slope(&|h| surrogate.value(x, s + h, z));
            want[1] += dy * slope(&|h| surrogate.value(x, s, z + h));
            let dx = dy * slope(&|h| surrogate.value(x + h, s, z));
            let code = (x / s).round_ties_even() + z.round_ties_even();
            let end = code == low || code == high;
            let dx = if end { 2.0 * dx } else { dx };
            assert!((got.x[i] - dx).abs() < 1e-6, "{name} {i}");
            ends_met += usize::from(end);
            outside += usize::from(got.x[i] == 0.0);
        }
        assert!(outside > 10 && outside < 110, "{name}: {outside}");
        // Codes at an end are inside; a central difference has half of each side.
        let ends = x.iter().zip(&dy).filter_map(|(&x, &dy)| {
            let code = (f64::from(x) / s).round_ties_even() + z.round_ties_even();
            (code == low || code == high).then_some((f64::from(x), f64::from(dy), code))
        });
        for (x, dy, code) in ends {
            let step = (x / s).round_ties_even();
            let (inside, outside) = (step - x / s, code - z.round_ties_even());
            want[0] += dy * (inside - (inside + outside) / 2.0);
            want[1] += dy * s / 2.0;
        }
        assert!((got.scales[0] - want[0]).abs() < 1e-5, "{name}: {:?} {want:?}", got.scales);
        if let Some(zero) = got.zeros.first() {
            assert!((zero - want[1]).abs() < 1e-5, "{name}: {zero} {want:?}");
        }
    }
    assert!(ends_met > 0);
}

#[test]
fn values_by_hand() {
    fn case<'a>(
        format: &'a WeightFormat,
        x: &'a [f32],
        scales: &'a [f32],
        zeros: &'a [f32],
    ) -> FakeQuantCase<'a> {
        FakeQuantCase { format, x, k: 6, scales, zeros }
    }
    let int4 = format("int4-g4");
    let x = [0.5, 1.5, -4.25, 3.6, 2.0, f32::NAN];
    let y = fake_quantize(&case(&int4, &x, &[0.5, 2.0], &[])).unwrap();
    assert_eq!(y[..5], [0.5, 1.5, -4.0, 3.5, 2.0]);
    assert!(y[5].is_nan());
    // Ties go to even before the zero point is added: 2.6 counts as 3.
    let asym = format("int4-channel-asym");
    let x = [0.5, 1.5, 2.5, -3.5, 40.0, -40.0];
    let y = fake_quantize(&case(&asym, &x, &[1.0], &[2.6])).unwrap();
    assert_eq!(y, [0.0, 2.0, 2.0, -3.0, 12.0, -3.0]);
    let g = fake_quantize_gradients(&case(&asym, &x, &[1.0], &[2.6]), &[1.0; 6], true).unwrap();
    assert_eq!(g.x, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    let gain = 1.0 / (6.0f64 * 15.0).sqrt();
    assert!((g.scales[0] - gain * (-0.5 + 0.5 - 0.5 - 3.0 + 12.0 - 3.0)).abs() < 1e-12);
    assert!((g.zeros[0] + 3.0 * gain).abs() < 1e-12);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40, f32::MAX] {
        let y = fake_quantize(&case(&asym, &x, &[bad], &[0.0])).unwrap();
        assert!(y.iter().all(|y| y.is_nan()), "{bad}");
    }
}
