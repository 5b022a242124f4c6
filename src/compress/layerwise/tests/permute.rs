use super::{Random, on_threads};
use crate::compress::layerwise::{Budget, Pattern, magnitude, permute_for_two_four};

/// What 2:4 keeps of columns in an order.
fn kept(w: &[f32], k: usize, order: &[u32]) -> f64 {
    let n = w.len() / k;
    let permuted: Vec<f32> =
        w.chunks(k).flat_map(|row| order.iter().map(|&c| row[c as usize])).collect();
    let mask = magnitude(&permuted, n, k, &Pattern::TWO_FOUR).unwrap();
    let weight = |at: usize| if mask.keeps(at / k, at % k) { permuted[at].abs() } else { 0.0 };
    (0..n * k).map(|at| f64::from(weight(at))).sum()
}

fn found(w: &[f32], k: usize, seed: u64) -> Vec<u32> {
    let order = permute_for_two_four(w, w.len() / k, k, seed, Budget::default()).unwrap();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..k as u32));
    order
}

/// No other division of 12 columns into stripes keeps more.
#[test]
fn the_best_of_all() {
    let k = 12;
    for seed in 0..10 {
        let mut random = Random(seed);
        let mut w = random.normals(5 * k);
        w.iter_mut().for_each(|x| *x = x.powi(3));
        // The first column of each stripe is the lowest that is left.
        fn best(w: &[f32], k: usize, order: &mut Vec<u32>) -> f64 {
            let left: Vec<u32> = (0..k as u32).filter(|c| !order.contains(c)).collect();
            let Some(&first) = left.first() else { return kept(w, k, order) };
            let mut most = 0f64;
            for a in 1..left.len() {
                for b in a + 1..left.len() {
                    for c in b + 1..left.len() {
                        let length = order.len();
                        order.extend([first, left[a], left[b], left[c]]);
                        most = most.max(best(w, k, order));
                        order.truncate(length);
                    }
                }
            }
            most
        }
        let most = best(&w, k, &mut Vec::new());
        let got = kept(&w, k, &found(&w, k, seed));
        assert!(got >= most * (1.0 - 1e-6), "{seed}: {got} {most}");
    }
}

/// Large columns that were neighbors are spread.
#[test]
fn spreads_large_columns() {
    let (n, k) = (30, 64);
    let mut w = Random(1).normals(n * k);
    for (at, x) in w.iter_mut().enumerate() {
        *x *= if at % k < k / 2 { 10.0 } else { 0.1 };
    }
    let identity: Vec<u32> = (0..k as u32).collect();
    let order = found(&w, k, 2);
    // Half of all columns are large, so that all of them can be kept.
    let large: f64 = w.iter().map(|x| f64::from(x.abs())).filter(|x| *x > 0.0).sum();
    assert!(kept(&w, k, &order) > 0.98 * large && kept(&w, k, &identity) < 0.9 * large);
    for stripe in order.chunks(4) {
        assert_eq!(stripe.iter().filter(|&&c| c < 32).count(), 2);
        assert!(stripe.is_sorted());
    }
}

#[test]
fn never_worse_and_the_same_for_all_threads() {
    for (n, k) in [(1, 1), (3, 4), (2, 7), (9, 8), (17, 13), (40, 50), (8, 96), (20, 131)] {
        let w = Random((n * k) as u64).normals(n * k);
        let identity: Vec<u32> = (0..k as u32).collect();
        let order = found(&w, k, 5);
        assert!(kept(&w, k, &order) >= kept(&w, k, &identity), "{n} {k}");
        if k > 8 {
            assert!(kept(&w, k, &order) > kept(&w, k, &identity), "{n} {k}");
        }
        assert_eq!(on_threads(1, || found(&w, k, 5)), order);
        assert_eq!(on_threads(5, || found(&w, k, 5)), order);
        // Signs and subnormals do not matter.
        let negative: Vec<f32> = w.iter().map(|x| -x).collect();
        assert_eq!(found(&negative, k, 5), order);
    }
    // Nothing to gain: the order stays.
    let same = vec![1.0; 4 * 32];
    assert!(found(&same, 32, 1).into_iter().eq(0..32));
    assert!(found(&[0.0; 64], 16, 1).into_iter().eq(0..16));
}

#[test]
fn budgets() {
    let (n, k) = (16, 128);
    let w = Random(3).normals(n * k);
    let identity: Vec<u32> = (0..k as u32).collect();
    let run = |pairs, escapes| {
        let order = permute_for_two_four(&w, n, k, 1, Budget { pairs, escapes }).unwrap();
        kept(&w, k, &order)
    };
    let none = run(0, 10);
    assert_eq!(none, kept(&w, k, &identity));
    let (few, pass, all) = (run(40, 0), run(32 * 31 / 2, 0), run(u64::MAX, 0));
    assert!(none < few && few < pass && pass < all, "{none} {few} {pass} {all}");
    assert!(run(u64::MAX, 30) > all);
}

#[test]
fn what_is_refused() {
    let budget = Budget::default();
    assert!(permute_for_two_four(&[1.0; 7], 2, 4, 0, budget).is_err());
    assert!(permute_for_two_four(&[f32::NAN; 8], 2, 4, 0, budget).is_err());
    assert!(permute_for_two_four(&[], usize::MAX, usize::MAX, 0, budget).is_err());
    assert!(permute_for_two_four(&[], 0, 12, 0, budget).unwrap().into_iter().eq(0..12));
    assert!(permute_for_two_four(&[], 12, 0, 0, budget).unwrap().is_empty());
}
