use super::*;
use crate::checkpoint::{Content, Dtype, write_model};
use lowbit::compress::smooth::factors;
use lowbit::format::ActivationFormat;

const N: usize = 48;
const K: usize = 64;
const M: usize = 40;

/// Pseudo-random numbers of about a normal distribution.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| (0..6).map(|_| next()).sum::<f32>() * 0.7).collect()
}

/// Rows whose channels 3, 20 and 41 are `times` as large as the others.
fn rows(times: f32) -> Vec<f32> {
    let large = |at: usize| if [3, 20, 41].contains(&(at % K)) { times } else { 1.0 };
    noise(7, M * K).iter().enumerate().map(|(at, x)| x * large(at)).collect()
}

fn absmax(matrix: &[f32]) -> Vec<f32> {
    let mut most = vec![0.0f32; K];
    for row in matrix.chunks_exact(K) {
        most.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(x.abs()));
    }
    most
}

/// Rounds what shares a scale to symmetric codes up to `most`, in f64.
fn rounded(values: &[f64], most: f64) -> Vec<f64> {
    let scale = values.iter().fold(0.0f64, |max, x| max.max(x.abs())) / most;
    values.iter().map(|x| (x / scale).round_ties_even().clamp(-most, most) * scale).collect()
}

/// The relative error of a layer in f64, without any of the code that is tested: a scale for each row of W, and one for
/// each row of X or for all of X.
fn brute(x: &[f32], w: &[f32], s: &[f32], most_w: f64, by_row: bool) -> f64 {
    let wide = |of: &[f32], turn: fn(f64, f64) -> f64| -> Vec<f64> {
        let columns = s.iter().cycle();
        of.iter().zip(columns).map(|(&x, &s)| turn(f64::from(x), f64::from(s))).collect()
    };
    let (xs, ws) = (wide(x, |x, s| x / s), wide(w, |w, s| w * s));
    let unit = if by_row { K } else { xs.len() };
    let xs: Vec<f64> = xs.chunks(unit).flat_map(|part| rounded(part, 127.0)).collect();
    let ws: Vec<f64> = ws.chunks(K).flat_map(|row| rounded(row, most_w)).collect();
    let (mut error, mut norm) = (0.0, 0.0);
    for (x, xs) in x.chunks(K).zip(xs.chunks(K)) {
        for (w, ws) in w.chunks(K).zip(ws.chunks(K)) {
            let y: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            let found: f64 = xs.iter().zip(ws).map(|(x, w)| x * w).sum();
            error += (y - found).powi(2);
            norm += y * y;
        }
    }
    (error / norm).sqrt()
}

fn search(x: &[f32], w: &[f32], weights: &str, activations: &str) -> FoundAlpha {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
    let content = Content::Plain { dtype: Dtype::F32, shape: &[N, K], bytes: &bytes };
    write_model(&path, &[("a.weight", content)], &BTreeMap::new()).unwrap();
    let model = ModelFile::open(&path).unwrap();
    let tensor = model.tensor("a.weight").unwrap();
    let here = [(0, Chosen::new(tensor, weights.parse().unwrap()))];
    let mut channels = Statistics::new(Observer::channels("a.weight", K).with_bins(0)).unwrap();
    channels.observe(x).unwrap();
    let seen: BTreeMap<usize, Seen> = [(0, Seen { columns: K, channels, x: x.to_vec() })].into();
    let mut ranges = Ranges::default();
    add_ranges(&mut ranges, &here, &seen).unwrap();
    let format: ActivationFormat = activations.parse().unwrap();
    let request = ActivationRequest {
        format: Some(format),
        fixed: false,
        ranges: Some(&ranges),
        smooth: SmoothRequest::None,
    };
    let choices: Vec<Option<f64>> =
        std::iter::once(None).chain(AlphaSearch::usual_alphas().into_iter().map(Some)).collect();
    let measured = errors(&model, &here, &seen, &request, &choices).unwrap();
    decide(&choices, &measured, M, Ranges::default())
}

/// The α of a layer with outliers is that of a search in f64 with five times as many values, and so are the errors.
#[test]
fn the_best_alpha_is_that_of_brute_force() {
    let w: Vec<f32> = noise(3, N * K).iter().map(|w| w * 0.05).collect();
    for (times, weights, most_w, activations) in [
        (60.0, "int8-channel", 127.0, "int8-token"),
        (200.0, "int8-channel", 127.0, "int8-tensor"),
        (60.0, "int4-channel", 7.0, "int8-token"),
        (1.0, "int8-channel", 127.0, "int8-token"),
    ] {
        let x = rows(times);
        let found = search(&x, &w, weights, activations);
        let by_row = activations == "int8-token";
        let ones = vec![1.0; K];
        let of = |alpha: f64| {
            let s = factors(&absmax(&x), &absmax(&w), alpha, true).unwrap();
            brute(&x, &w, &s, most_w, by_row)
        };
        assert_eq!(found.tried.len(), 22);
        for &(alpha, error) in &found.tried {
            let want = alpha.map_or_else(|| brute(&x, &w, &ones, most_w, by_row), of);
            // Codes next to a tie may differ between f32 and f64.
            assert!((error / want - 1.0).abs() < 0.02, "{alpha:?}: {error}, {want} in f64");
        }
        let fine = (0..=100).map(|step| f64::from(step) / 100.0);
        let least = fine.map(|alpha| (of(alpha), alpha)).min_by(|a, b| a.0.total_cmp(&b.0));
        let (least, at) = least.unwrap();
        let before = found.error(None).unwrap();
        let error = found.error(found.alpha).unwrap();
        println!(
            "{times} {weights} {activations}: {:?} {error:.5}, {at} {least:.5}, {before:.5} without, {:.5} at 0.5",
            found.alpha,
            found.error(Some(0.5)).unwrap()
        );
        assert!(error <= before && error <= found.error(Some(0.5)).unwrap());
        // The grid is coarser, and not to smooth may be better than any α.
        assert!(error < 1.1 * least, "{error}, {least} at {at}");
        if times > 1.0 && most_w > 100.0 {
            // What outliers cost is most of the error.
            assert!(error < 0.6 * before, "{error} of {before}");
        }
    }
}

/// One α suits all weights together, and each has its own best one.
#[test]
fn weights_count_the_same() {
    let choices = [None, Some(0.0), Some(0.5), Some(1.0)];
    let measured = |errors: [[Option<f64>; 4]; 2]| -> Vec<(String, Vec<Option<f64>>)> {
        ["a", "b"].map(str::to_owned).into_iter().zip(errors.map(Vec::from)).collect()
    };
    let squares = |errors: [f64; 4]| errors.map(|error| Some(error * error));
    let all = measured([squares([0.4, 0.1, 0.2, 0.9]), squares([0.2, 0.5, 0.3, 0.1])]);
    let found = decide(&choices, &all, 5, Ranges::default());
    assert_eq!((found.alpha, found.rows, found.tried.len()), (Some(0.5), 5, 4));
    let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(near(found.error(Some(0.5)).unwrap(), f64::sqrt((0.04 + 0.09) / 2.0)));
    let [a, b] = &found.weights[..] else { panic!("{:?}", found.weights) };
    assert_eq!((a.best_alpha, b.best_alpha), (Some(0.0), Some(1.0)));
    assert!(near(a.before, 0.4) && near(a.found, 0.2) && near(a.best, 0.1) && near(b.best, 0.1));
    // An α that one weight cannot take is none for all.
    let mut without = all.clone();
    without[1].1[2] = None;
    let found = decide(&choices, &without, 5, Ranges::default());
    assert_eq!((found.alpha, found.error(Some(0.5))), (None, None));
    // The first of equal ones is taken, and no smoothing comes first.
    let same = measured([squares([0.1; 4]), squares([0.2; 4])]);
    assert_eq!(decide(&choices, &same, 5, Ranges::default()).alpha, None);
}

/// X is rounded to what the formats say: each row, group or everything by its own range, or by a given scale.
#[test]
fn rows_are_rounded_as_formats_say() {
    let x = [1.0f32, -0.3, 0.26, 100.0, 0.0, 37.2];
    let by = |name: &str| {
        let mut x = x.to_vec();
        round(&mut x, 3, Quantization::Dynamic(name.parse().unwrap()));
        x
    };
    let token = by("int8-token");
    assert_eq!((token[0], token[3]), (1.0, 100.0));
    assert!((token[1] + 0.3).abs() <= 0.5 / 127.0 && token[1] != -0.3);
    let tensor = by("int8-tensor");
    assert_eq!((tensor[1], tensor[3]), (0.0, 100.0));
    let asymmetric = by("int8-token-asym");
    let steps = asymmetric.iter().zip(x).take(3).map(|(a, x)| (a - x).abs());
    assert!(steps.fold(0.0, f32::max) <= 0.5 * 1.3 / 255.0 + 1e-6);
    assert_eq!(by("int8-g32"), token);
    let mut given = x.to_vec();
    let scale = StaticScale { scale: 0.5, zero_point: 0 };
    round(&mut given, 3, Quantization::Static(scale));
    assert_eq!(given, [1.0, -0.5, 0.5, 63.5, 0.0, 37.0]);
}
