use super::normal;
use crate::gradients::{Adam8, Adam8State, BLOCK, Codes, GradientError, Moments};

/// 256 different numbers from −1 (or 0) to 1, with the ends that the construction gives: the greatest part
/// of 0.1…1 has 64 steps of 0.9/64 for signed codes, and 128 for unsigned ones.
#[test]
fn the_codes_are_those_of_the_construction() {
    for (codes, parts, least) in
        [(Codes::signed(), 64.0, 0.55e-6), (Codes::unsigned(), 128.0, 0.325e-6)]
    {
        let values = codes.values();
        assert!(values.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(values[255], 1.0);
        assert!(values.contains(&0.0));
        assert_eq!(values[254], (1.0 - 0.45 / parts) as f32);
        let smallest = values.iter().copied().filter(|&x| x > 0.0).fold(1.0, f32::min);
        assert!((f64::from(smallest) - least).abs() < 1e-12, "{smallest}");
    }
    let signed = Codes::signed();
    let mirrored = signed.values()[..254].iter().filter(|&&x| signed.values().contains(&-x));
    assert_eq!(mirrored.count(), 254);
}

/// No other code is nearer, and the error is at most half of the widest gap next to a number.
#[test]
fn the_nearest_code() {
    for codes in [Codes::signed(), Codes::unsigned()] {
        for x in normal(500, 9).into_iter().chain([0.0, 1.0, -1.0, 5.0, -5.0, 1e-9]) {
            let distance =
                |code: u8| (f64::from(codes.values()[usize::from(code)]) - f64::from(x)).abs();
            let got = codes.nearest(x);
            // The comparison in f32 may take either of two that are equally near within 2⁻²⁴.
            let best = (0..=255u8).map(distance).fold(f64::INFINITY, f64::min);
            assert!(distance(got) <= best + f64::from(x.abs().max(1.0)) * 1.2e-7, "{x}");
        }
        for code in 0..=255u8 {
            assert_eq!(codes.nearest(codes.values()[usize::from(code)]), code);
        }
    }
}

#[test]
fn blocks_have_scales_of_their_own() {
    let codes = Codes::signed();
    let mut x = normal(2 * BLOCK + 5, 3);
    x[BLOCK..2 * BLOCK].fill(0.0);
    x[3] = 1000.0;
    let quantized = codes.quantize(&x, false).unwrap();
    assert_eq!((quantized.codes.len(), quantized.scales.len()), (x.len(), 3));
    assert_eq!((quantized.scales[0], quantized.scales[1]), (1000.0, 0.0));
    let restored = codes.dequantize(&quantized);
    assert_eq!(restored[3], 1000.0);
    assert!(restored[BLOCK..2 * BLOCK].iter().all(|&x| x == 0.0));
    let bad = codes.quantize(&[0.0, f32::NAN], false).unwrap_err();
    assert!(matches!(bad, GradientError::NonFinite { index: 1, .. }));
    assert_eq!(codes.quantize(&[], false).unwrap().codes.len(), 0);
    // A second moment is never rounded to 0.
    let unsigned = Codes::unsigned();
    let kept = unsigned.quantize(&[1.0, 1e-12, 0.0], true).unwrap();
    let restored = unsigned.dequantize(&kept);
    assert!(restored[1] > 0.0 && restored[2] == 0.0);
}

/// Minimizes Σ aᵢ(xᵢ − bᵢ)²/2 with gradients of different sizes: 8-bit moments must reach what f32 moments
/// reach. Small tensors keep f32 moments, which is the control. Curvatures of 0.1 to 10 spread second
/// moments over four decades; codes cover six and a half.
#[test]
fn eight_bits_reach_what_32_bits_reach() {
    let adam = Adam8::new(0.9, 0.999, 1e-8);
    let target = normal(2 * BLOCK, 5);
    let error = |len: usize| {
        let mut x = vec![0.0; len];
        let mut state = Adam8State::default();
        for step in 0..400 {
            let curvature = |at: usize| f32::powi(10.0, (at % 3) as i32 - 1);
            let gradient: Vec<f32> =
                (0..len).map(|at| curvature(at) * (x[at] - target[at])).collect();
            let rate = 0.05 * (1.0 - step as f32 / 400.0);
            adam.step(rate, &mut x, &gradient, &mut state).unwrap();
        }
        let is_small = matches!(state.first, Moments::Full(_));
        let bytes = state.first.bytes() + state.second.bytes();
        assert_eq!(bytes, if is_small { 8 * len } else { 2 * len + 8 * len.div_ceil(BLOCK) });
        let off = x.iter().zip(&target).map(|(x, b)| f64::from((x - b).abs())).sum::<f64>();
        (is_small, off / len as f64)
    };
    let (small, full) = error(BLOCK);
    let (large, blocks) = error(2 * BLOCK);
    assert!(small && !large);
    let start = target.iter().map(|b| f64::from(b.abs())).sum::<f64>() / target.len() as f64;
    // Both end within a hundredth of where they started.
    assert!(full < 0.01 * start && blocks < 0.01 * start, "{full}, {blocks} of {start}");
}

/// The first step is sign(g) · rate, whatever the size of g; nothing changes if the gradient is wrong.
#[test]
fn steps_by_hand() {
    let adam = Adam8::new(0.9, 0.999, 0.0);
    let (mut x, mut state) = (vec![1.0f32, 1.0, 1.0], Adam8State::default());
    adam.step(0.5, &mut x, &[4.0, -0.001, 1e10], &mut state).unwrap();
    // √(g²) and the corrections are rounded a few times each.
    for (x, want) in x.iter().zip([0.5, 1.5, 0.5]) {
        assert!((x - want).abs() < 1e-5, "{x}");
    }
    let before = (x.clone(), state.clone());
    assert!(adam.step(0.5, &mut x, &[1.0, f32::INFINITY, 1.0], &mut state).is_err());
    assert!(adam.step(0.5, &mut x, &[1.0], &mut state).is_err());
    assert_eq!((x, state), before);
}
