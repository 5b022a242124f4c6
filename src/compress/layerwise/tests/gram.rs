use super::{Random, gram_of, inputs, on_threads};
use crate::compress::layerwise::{Gram, LayerwiseError, output_error};

#[test]
fn by_hand() {
    let gram = gram_of(&[1.0, 2.0, 3.0, -4.0, 0.5, 0.25], 3);
    // Columns (1, −4), (2, 0.5) and (3, 0.25).
    let want = [17.0, 0.0, 2.0, 4.25, 6.125, 9.0625];
    let unit = (1u128 << 72) as f64;
    assert_eq!(gram.sums(), want.map(|x| (x * unit) as i128));
    assert_eq!((gram.columns(), gram.rows(), gram.value(2, 0)), (3, 2, 2.0));
    assert_eq!(gram.diagonal(), [17.0, 4.25, 9.0625]);
    let again = Gram::from_parts(3, 2, gram.sums().to_vec()).unwrap();
    assert_eq!(again, gram);
}

/// Sums of chunks differ from sums in twice the precision by their rounding.
#[test]
fn within_the_bound_of_the_documentation() {
    for (rows, k) in [(1, 1), (63, 5), (64, 3), (200, 33), (130, 130), (70, 300)] {
        let x = inputs(rows, k, 9);
        let gram = gram_of(&x, k);
        assert_eq!(gram.rows(), rows as u64);
        for i in (0..k).step_by(1 + k / 20) {
            for j in i..k {
                let (mut exact, mut low, mut magnitude) = (0.0f64, 0.0f64, 0.0f64);
                for row in x.chunks(k) {
                    let product = f64::from(row[i]) * f64::from(row[j]);
                    // Two-sum: `exact + low` has about twice the precision.
                    let sum = exact + product;
                    let back = sum - exact;
                    low += (exact - (sum - back)) + (product - back);
                    (exact, magnitude) = (sum, magnitude + product.abs());
                }
                let at: usize = (0..i).map(|i| k - i).sum::<usize>() + j - i;
                let unit = (1u128 << 72) as f64;
                let off = ((gram.sums()[at] as f64 / unit - exact) - low).abs();
                let chunks = rows.div_ceil(64) as f64;
                // The last term is the conversion of the integer to f64 here.
                let bound = 64.0 * f64::EPSILON / 2.0 * magnitude
                    + 0.5 * chunks / unit
                    + f64::EPSILON * exact.abs();
                assert!(off <= bound, "{rows} {k} {i} {j}: {off} {bound}");
            }
        }
    }
}

#[test]
fn parts_merge_in_any_order() {
    let (k, mut random) = (37, Random(3));
    let batches: Vec<Vec<f32>> = (0..7).map(|i| inputs(1 + i * 23, k, random.next())).collect();
    let parts: Vec<Gram> = batches.iter().map(|x| gram_of(x, k)).collect();
    let merged = |order: &[usize]| {
        let mut gram = Gram::new(k).unwrap();
        order.iter().for_each(|&i| gram.merge(&parts[i]).unwrap());
        gram
    };
    let one = merged(&[0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(merged(&[6, 2, 5, 0, 1, 4, 3]), one);
    let mut added = Gram::new(k).unwrap();
    batches.iter().rev().for_each(|x| added.add(x).unwrap());
    assert_eq!(added, one);
}

#[test]
fn threads_do_not_matter() {
    let x = inputs(150, 300, 5);
    let run = |threads| on_threads(threads, || gram_of(&x, 300));
    assert_eq!(run(1), run(5));
}

#[test]
fn what_is_refused() {
    let mut gram = gram_of(&[1.0, 2.0, 3.0, 4.0], 2);
    let before = gram.clone();
    let rows = LayerwiseError::Rows { have: 3, columns: 2 };
    assert_eq!(gram.add(&[1.0, 2.0, 3.0]), Err(rows));
    for bad in [f32::NAN, f32::INFINITY] {
        let error = gram.add(&[1.0, 2.0, 3.0, bad]).unwrap_err();
        let LayerwiseError::NonFinite { row: 1, column: 1, .. } = error else { panic!("{error}") };
    }
    // 2^27.5 squared is 2^55.
    let overflow = LayerwiseError::Overflow { first: 1, second: 1 };
    assert_eq!(gram.add(&[1.0, 2f32.powf(27.5)]), Err(overflow.clone()));
    assert_eq!(gram.add(&[0.0, f32::MAX]), Err(overflow.clone()));
    let most = gram_of(&[0.0, 2f32.powi(27)], 2);
    assert_eq!(gram.merge(&most), Err(overflow));
    let other = Gram::new(3).unwrap();
    assert_eq!(gram.merge(&other), Err(LayerwiseError::Columns { need: 2, have: 3 }));
    assert_eq!(gram, before);
    let too_large = |columns| Err(LayerwiseError::TooLarge { columns });
    for columns in [usize::MAX, 1 << 40, 1 << 31] {
        assert_eq!(Gram::new(columns), too_large(columns));
    }
    assert!(Gram::from_parts(2, 1, vec![0; 2]).is_err());
    let overflow = LayerwiseError::Overflow { first: 0, second: 1 };
    assert_eq!(Gram::from_parts(2, 1, vec![0, i128::MIN, 0]), Err(overflow));
    let mut nothing = Gram::new(0).unwrap();
    nothing.add(&[]).unwrap();
    assert!(nothing.add(&[1.0]).is_err());
}

#[test]
fn errors_of_outputs() {
    let (rows, n, k) = (50, 70, 9);
    let (x, mut random) = (inputs(rows, k, 1), Random(2));
    let (w, kept) = (random.normals(n * k), random.normals(n * k));
    let mut want = 0.0;
    for x in x.chunks(k) {
        for (w, kept) in w.chunks(k).zip(kept.chunks(k)) {
            let off = |i: usize| f64::from(x[i]) * (f64::from(w[i]) - f64::from(kept[i]));
            want += (0..k).map(off).sum::<f64>().powi(2);
        }
    }
    let gram = gram_of(&x, k);
    let got = output_error(&gram, &w, &kept, n).unwrap();
    assert!((got - want).abs() < 1e-11 * want, "{got} {want}");
    assert_eq!(output_error(&gram, &w, &w, n), Ok(0.0));
    assert!(output_error(&gram, &w, &kept[1..], n).is_err());
    assert!(output_error(&gram, &w[1..], &kept, n).is_err());
    assert!(output_error(&gram, &vec![f32::NAN; n * k], &kept, n).is_err());
    assert_eq!(output_error(&Gram::new(0).unwrap(), &[], &[], 5), Ok(0.0));
}
