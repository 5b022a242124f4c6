//! Calibration of activations against definitions of its own: sorted values, integrals in pieces,
//! distributions written out.

use lowbit::compress::calibrate::{
    ActivationRange, Axis, Batch, CalibrateError, Calibration, Histogram, Method, Observer,
    Statistics,
};
use lowbit_models::checkpoint::{BadRanges, LayerRanges, RangeTarget, Ranges};
use proptest::prelude::*;
use serde_json::{Value, json};

fn observe(observer: Observer, batches: &[&[f32]]) -> Statistics {
    let mut statistics = Statistics::new(observer).unwrap();
    batches.iter().for_each(|batch| statistics.observe(batch).unwrap());
    statistics
}

/// All of these values, in one batch of one row.
fn of(x: &[f32]) -> Statistics {
    observe(Observer::tensor("layer", x.len()), &[x])
}

fn range(statistics: &Statistics, method: Method, symmetric: bool) -> (f32, f32) {
    let ranges = statistics.ranges(method, symmetric).unwrap();
    (ranges[0].min(), ranges[0].max())
}

/// Sums of twelve uniform numbers, a few of them far out.
fn tailed(count: usize, seed: u64) -> Vec<f32> {
    let mut random = crate::common::Random(seed);
    let mut bell = || (0..12).map(|_| random.float()).sum::<f32>();
    (0..count).map(|i| bell() * if i % 500 == 3 { 8.0 } else { 1.0 }).collect()
}

fn flushed(x: f32) -> f64 {
    if x.is_subnormal() { 0.0 } else { x.into() }
}

/// Counts by division in f64, which is exact for powers of two.
fn check_histogram(x: &[f32], histogram: &Histogram) {
    let (bins, width) = (histogram.bins(), histogram.width());
    let largest = x.iter().map(|&x| flushed(x).abs()).fold(0.0, f64::max);
    assert!(largest < bins as f64 * width);
    assert!(largest == 0.0 || largest >= bins as f64 * width / 2.0, "{largest} {width}");
    let mut counts = vec![0; 2 * bins];
    for x in x.iter().map(|&x| flushed(x)) {
        let bin = (x.abs() / width).floor() as usize;
        counts[if x < 0.0 { bins - 1 - bin } else { bins + bin }] += 1;
    }
    assert_eq!(histogram.counts(), counts);
}

/// Floats of all sizes, with both zeros, subnormals and edges of bins.
fn floats() -> impl Strategy<Value = f32> {
    let any = any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |x| x.is_finite());
    let near = (-1000i32..1000).prop_map(|i| i as f32 / 256.0);
    prop_oneof![4 => near, 1 => any, 1 => Just(0.0), 1 => Just(-0.0), 1 => Just(f32::MAX)]
}

/// The parts of statistics that do not depend on how batches are cut.
fn lasting(statistics: &Statistics) -> Vec<(u32, u32, Histogram)> {
    let channels = statistics.channels().iter();
    channels.map(|c| (c.min().to_bits(), c.max().to_bits(), c.histogram().clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_order_and_merging_do_not_matter(
        rows in prop::collection::vec([floats(), floats(), floats()], 1..60),
        cuts in prop::collection::vec(0usize..60, 0..4),
        bins in 0u32..9,
        by_channel: bool,
    ) {
        let observer = match by_channel {
            true => Observer::channels("layer", 3),
            false => Observer::tensor("layer", 3),
        };
        let observer = observer.with_bins(1 << bins);
        let x: Vec<f32> = rows.concat();
        let whole = observe(observer.clone(), &[&x]);
        for (at, channel) in whole.channels().iter().enumerate() {
            let own: Vec<f32> = match by_channel {
                true => x[at..].iter().step_by(3).copied().collect(),
                false => x.clone(),
            };
            check_histogram(&own, channel.histogram());
            let least = own.iter().map(|&x| flushed(x)).fold(f64::INFINITY, f64::min);
            let most = own.iter().map(|&x| flushed(x)).fold(f64::NEG_INFINITY, f64::max);
            prop_assert_eq!((f64::from(channel.min()), f64::from(channel.max())), (least, most));
            // Each |x| loses less than 2⁻²³ of the largest; sums of f64 err less than that.
            let sum: f64 = own.iter().map(|&x| flushed(x).abs()).sum();
            let bound = (1 + own.len()) as f64 * least.abs().max(most.abs()) / (1 << 23) as f64;
            prop_assert!((channel.abs_sum() - sum).abs() <= bound);
        }
        // Cut anywhere, in any order, into statistics that are merged in any order.
        let mut cuts: Vec<usize> = cuts.iter().map(|&cut| 3 * cut.min(rows.len())).collect();
        cuts.extend([0, x.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[f32]> = cuts.windows(2).map(|cut| &x[cut[0]..cut[1]]).collect();
        let reversed: Vec<&[f32]> = parts.iter().rev().copied().collect();
        prop_assert_eq!(lasting(&observe(observer.clone(), &parts)), lasting(&whole));
        prop_assert_eq!(lasting(&observe(observer.clone(), &reversed)), lasting(&whole));
        let mut merged = observe(observer.clone(), &parts[1..]);
        merged.merge(&observe(observer.clone(), &parts[..1])).unwrap();
        prop_assert_eq!(lasting(&merged), lasting(&whole));
        prop_assert_eq!((merged.rows(), merged.values()), (whole.rows(), whole.values()));
    }

    /// Merging comes to what feeding one after the other does; n steps of f64 on values of at most
    /// `largest` err by at most 4·n of their roundings, and powers by as many.
    #[test]
    fn averages_are_those_of_one_after_the_other(
        batches in prop::collection::vec([-9.0f32..9.0, -9.0f32..9.0], 1..30),
        cut in 0usize..30,
        momentum in prop_oneof![Just(1.0), Just(0.01), 0.001f64..1.0],
    ) {
        let observer = Observer::tensor("layer", 2).with_momentum(momentum);
        let parts: Vec<&[f32]> = batches.iter().map(|batch| &batch[..]).collect();
        let (mut low, mut high) = (None, None);
        for batch in &batches {
            let step = |to: &mut Option<f64>, b: f32| {
                *to = Some(to.map_or(b.into(), |a| (1.0 - momentum) * a + momentum * f64::from(b)));
            };
            step(&mut low, batch[0].min(batch[1]));
            step(&mut high, batch[0].max(batch[1]));
        }
        let close = |statistics: &Statistics| {
            let (a, b) = statistics.channels()[0].average();
            let off = (a - low.unwrap()).abs().max((b - high.unwrap()).abs());
            assert!(off <= 8.0 * batches.len() as f64 * 9.0 * f64::EPSILON, "{off}");
        };
        let whole = observe(observer.clone(), &parts);
        close(&whole);
        let (first, second) = parts.split_at(cut.min(parts.len()));
        let mut merged = observe(observer.clone(), first);
        merged.merge(&observe(observer, second)).unwrap();
        close(&merged);
        let (min, max) = range(&whole, Method::MovingAverage, true);
        prop_assert_eq!(min, (whole.channels()[0].average().0 as f32).min(0.0));
        prop_assert_eq!(max, (whole.channels()[0].average().1 as f32).max(0.0));
    }

    /// Statistics that are written, read and continued equal, bit for bit, those of one run.
    #[test]
    fn files_keep_every_bit(
        rows in prop::collection::vec([floats(), floats()], 0..40),
        cut in 0usize..40,
        bins in prop_oneof![Just(0usize), Just(16)],
        by_channel: bool,
        poison: bool,
    ) {
        let observer = match by_channel {
            true => Observer::channels("ä \"layer\"", 2),
            false => Observer::tensor("ä \"layer\"", 2),
        };
        let mut statistics = Statistics::new(observer.with_bins(bins).with_momentum(0.3)).unwrap();
        let (first, second) = rows.split_at(cut.min(rows.len()));
        first.iter().for_each(|row| statistics.observe(row).unwrap());
        if poison {
            statistics.observe(&[1.0, 2.0, f32::NAN, f32::INFINITY]).unwrap();
        }
        let mut ranges = Ranges::default();
        ranges.insert(statistics.clone());
        let read = Ranges::from_json(&ranges.to_json().unwrap()).unwrap();
        prop_assert_eq!(&read, &ranges);
        let LayerRanges::Statistics(read) = &read.layers["ä \"layer\""] else { panic!() };
        let mut resumed = read.clone();
        for row in second {
            resumed.observe(row).unwrap();
            statistics.observe(row).unwrap();
        }
        prop_assert_eq!(&*resumed, &statistics);
    }

    /// A percentile keeps the sorted value of its rank, and no further bin.
    #[test]
    fn percentiles_are_those_of_sorted_values(
        x in prop::collection::vec(floats(), 1..300),
        percent in prop_oneof![Just(100.0), Just(99.99), Just(50.0), 0.01f64..100.0],
    ) {
        let statistics = of(&x);
        let width = statistics.channels()[0].histogram().width();
        let sorted = |f: fn(f64) -> f64| {
            let mut sorted: Vec<f64> = x.iter().map(|&x| f(flushed(x))).collect();
            sorted.sort_by(f64::total_cmp);
            sorted
        };
        let at = |sorted: &[f64], part: f64| {
            let rank = (x.len() as f64 * part).ceil() as usize;
            sorted[rank.clamp(1, x.len()) - 1]
        };
        let (min, max) = range(&statistics, Method::Percentile(percent), true);
        let kept = at(&sorted(f64::abs), percent / 100.0);
        let reach = f64::from(max).max(-f64::from(min));
        prop_assert!(kept <= reach && reach <= kept + width, "{kept} {reach} {width}");

        let (min, max) = range(&statistics, Method::Tails(percent), true);
        let part = (100.0 + percent) / 200.0;
        for (end, kept) in [(max, at(&sorted(|x| x), part)), (-min, at(&sorted(|x| -x), part))] {
            let (end, kept) = (f64::from(end), kept.max(0.0));
            // A negative value's bin ends above it, at 0 too.
            prop_assert!(kept <= end && end <= kept + width, "{kept} {end} {width}");
        }
    }
}

/// The squared error of one value per unit of density from a to b, piece by piece between the
/// places where codes change: there the integrand is a parabola, and Simpson's rule exact.
fn error_between(a: f64, b: f64, step: f64, low: f64, high: f64) -> f64 {
    let error = |x: f64, code: f64| (x - step * code).powi(2);
    let mut ends = vec![a];
    let mut tie = ((a / step).floor() - 1.0).max(low - 1.0) + 0.5;
    while step * tie < b && tie < high {
        if step * tie > a {
            ends.push(step * tie);
        }
        tie += 1.0;
    }
    ends.push(b);
    let piece = |ends: &[f64]| {
        let (a, b) = (ends[0], ends[1]);
        let middle = (a + b) / 2.0;
        let code = (middle / step).round().clamp(low, high);
        (b - a) / 6.0 * (error(a, code) + 4.0 * error(middle, code) + error(b, code))
    };
    ends.windows(2).map(piece).sum()
}

/// The squared error of what a histogram counts, in units of its bins.
fn histogram_error(histogram: &Histogram, step: f64, low: f64, high: f64) -> f64 {
    let bins = histogram.bins() as f64;
    let errors = (0..).zip(histogram.counts()).filter(|(_, count)| **count > 0);
    errors
        .map(|(at, &count)| {
            let from = f64::from(at) - bins;
            count as f64 * error_between(from, from + 1.0, step, low, high)
        })
        .sum()
}

fn few_bins(x: &[f32]) -> Statistics {
    observe(Observer::tensor("layer", x.len()).with_bins(512), &[x])
}

#[test]
fn mse_takes_the_least_error() {
    let mut cut = 0;
    for (seed, count) in [(1, 4000), (2, 20_000), (3, 50), (4, 3)] {
        let x = tailed(count, seed);
        let statistics = few_bins(&x);
        let histogram = statistics.channels()[0].histogram();
        let whole = f64::from(statistics.absmax().unwrap()[0]) / histogram.width();
        let error = |reach: f64| histogram_error(histogram, reach / 127.0, -127.0, 127.0);
        let (min, max) = range(&statistics, Method::Mse, true);
        let reach = f64::from(max.max(-min)) / histogram.width();
        // A range that is not cut ends with the last bin that holds a value.
        let found = error(reach.ceil());
        let least = (1..=whole.ceil() as usize).map(|bins| error(bins as f64));
        let least = least.fold(f64::INFINITY, f64::min);
        // Sums of 512 bins in f64, of cubes up to 127·step.
        assert!(found <= least * (1.0 + 1e-9), "{found} {least}");
        cut += usize::from(reach < whole);
        // On the values themselves it is no worse than the whole range by more than bins matter:
        // a value is at most a bin from where the histogram may have it.
        let true_error = |reach: f64| -> f64 {
            let step = reach / 127.0 * histogram.width();
            let code = |x: f64| (x / step).round_ties_even().clamp(-127.0, 127.0);
            x.iter().map(|&x| (f64::from(x) - step * code(x.into())).powi(2)).sum()
        };
        if count == 20_000 {
            assert!(true_error(reach) < true_error(whole));
        }
    }
    assert!(cut >= 2, "no range was ever cut");
}

#[test]
fn mse_of_two_ends_is_a_minimum_of_each() {
    for shift in [0.0, 3.0, 40.0, -40.0] {
        let x: Vec<f32> = tailed(6000, 7).iter().map(|x| x + shift).collect();
        let statistics = few_bins(&x);
        let histogram = statistics.channels()[0].histogram();
        let error = |low: f64, high: f64| {
            let step = (low + high) / 255.0;
            if step == 0.0 {
                return f64::INFINITY;
            }
            let zero = (low / step).round_ties_even().clamp(0.0, 255.0);
            histogram_error(histogram, step, -zero, 255.0 - zero)
        };
        let (min, max) = range(&statistics, Method::Mse, false);
        let ends = [-f64::from(min) / histogram.width(), f64::from(max) / histogram.width()];
        let [low, high] = ends.map(f64::ceil);
        let found = error(low, high);
        let bins = histogram.bins();
        let used = |counts: &mut dyn Iterator<Item = &u64>| {
            counts.enumerate().filter(|(_, c)| **c > 0).last().map_or(0, |(at, _)| at + 1)
        };
        let most_low = used(&mut histogram.counts()[..bins].iter().rev());
        let most_high = used(&mut histogram.counts()[bins..].iter());
        assert!(found <= error(most_low as f64, most_high as f64) * (1.0 + 1e-9));
        for place in 0..256 {
            for (most, low_too) in [(most_low, true), (most_high, false)] {
                let places = most.min(256);
                if place >= places {
                    continue;
                }
                let end = (place * most / places) as f64;
                let other = if low_too { error(end, high) } else { error(low, end) };
                assert!(found <= other * (1.0 + 1e-9), "{found} {other}");
            }
        }
    }
}

/// P and Q written out, as the slides have them.
fn divergence(magnitudes: &[u64], bins: usize) -> f64 {
    let mut p: Vec<f64> = magnitudes[..bins].iter().map(|&count| count as f64).collect();
    let raw = p.clone();
    p[bins - 1] += magnitudes[bins..].iter().sum::<u64>() as f64;
    let mut q = vec![0.0; bins];
    for level in 0..128 {
        let inside = |bin: &usize| bin * 128 / bins == level;
        let values: f64 = (0..bins).filter(inside).map(|bin| raw[bin]).sum();
        let filled = (0..bins).filter(inside).filter(|&bin| raw[bin] > 0.0).count();
        for bin in (0..bins).filter(inside).filter(|&bin| raw[bin] > 0.0) {
            q[bin] = values / filled as f64;
        }
    }
    let (all_p, all_q) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
    let term = |(&p, &q): (&f64, &f64)| match p {
        0.0 => 0.0,
        _ if q == 0.0 => f64::INFINITY,
        _ => p / all_p * ((p / all_p) / (q / all_q)).ln(),
    };
    p.iter().zip(&q).map(term).sum()
}

#[test]
fn entropy_takes_the_least_divergence() {
    let mut cut = 0;
    for (seed, count) in [(1, 3000), (5, 30_000), (6, 60)] {
        let statistics = few_bins(&tailed(count, seed));
        let histogram = statistics.channels()[0].histogram();
        let (below, above) = histogram.counts().split_at(histogram.bins());
        let magnitudes: Vec<u64> = below.iter().rev().zip(above).map(|(a, b)| a + b).collect();
        let used = magnitudes.iter().rposition(|&count| count > 0).unwrap() + 1;
        let (min, max) = range(&statistics, Method::Entropy, true);
        let reach = (f64::from(max.max(-min)) / histogram.width()).ceil() as usize;
        let least = (128..=used).map(|bins| divergence(&magnitudes, bins));
        let least = least.fold(f64::INFINITY, f64::min);
        let found = divergence(&magnitudes, reach);
        assert!((128..=used).contains(&reach) && found <= least + 1e-12, "{found} {least}");
        cut += usize::from(reach < used);
    }
    assert!(cut > 0, "no range was ever cut");
}

const METHODS: [Method; 6] = [
    Method::MinMax,
    Method::MovingAverage,
    Method::Percentile(99.0),
    Method::Tails(99.0),
    Method::Mse,
    Method::Entropy,
];

#[test]
fn odd_data_has_a_range() {
    let scheme = |x: &[f32], method, symmetric| {
        let ranges = of(x).ranges(method, symmetric).unwrap();
        let scheme = ranges[0].scheme(symmetric);
        assert!(scheme.scale.is_normal() && scheme.scale > 0.0, "{method} {x:?}");
        assert!((-128..128).contains(&scheme.zero_point) && (!symmetric || scheme.zero_point == 0));
        (scheme.scale, scheme.zero_point)
    };
    let tiny = f32::MIN_POSITIVE;
    for method in METHODS {
        for symmetric in [true, false] {
            for dead in [&[0.0; 4][..], &[-0.0, 0.0], &[tiny / 2.0, -tiny / 4.0], &[tiny, -tiny]] {
                assert_eq!(scheme(dead, method, symmetric), (1.0, 0), "{method} {dead:?}");
            }
            for x in [&[7.0; 9][..], &[-3.5; 9], &[f32::MAX, -f32::MAX], &[f32::MAX, tiny], &[5.0]]
            {
                scheme(x, method, symmetric);
            }
        }
        // One value over and over is its own range, or as near as bins are wide.
        let (min, max) = range(&of(&[7.0; 9]), method, true);
        assert!(min == 0.0 && (7.0 - 8.0 / 2048.0..=7.0).contains(&max), "{method} {max}");
    }
    assert_eq!(scheme(&[f32::MAX, -f32::MAX], Method::MinMax, true), (f32::MAX / 127.0, 0));
    let (scale, zero) = scheme(&[f32::MAX, -f32::MAX], Method::MinMax, false);
    let exact = 2.0 * f64::from(f32::MAX) / 255.0;
    // −min/s is 127.5, or a rounding beside it.
    assert!(scale == exact as f32 && (zero == -1 || zero == 0), "{scale} {zero}");
    assert_eq!(scheme(&[-1.0, 254.0], Method::MinMax, false), (1.0, -127));
    assert_eq!(scheme(&[3.0, 51.0], Method::MinMax, false), (0.2, -128));
    assert_eq!(scheme(&[-51.0, -3.0], Method::MinMax, false), (0.2, 127));
    assert_eq!(scheme(&[-63.5, 12.0], Method::MinMax, true), (0.5, 0));
}

#[test]
fn what_is_not_finite_is_named() {
    let mut statistics = Statistics::new(Observer::channels("block.3.up", 3)).unwrap();
    let nothing = statistics.ranges(Method::MinMax, true).unwrap_err();
    assert_eq!(nothing, CalibrateError::Nothing { layer: "block.3.up".into() });
    statistics.observe(&[]).unwrap();
    statistics.observe(&[1.0, 2.0, 3.0]).unwrap();
    let before = statistics.clone();
    statistics.observe(&[1.0, 2.0, 3.0, 4.0, f32::NAN, f32::INFINITY]).unwrap();
    statistics.observe(&[f32::NEG_INFINITY, 1e9, -1e9]).unwrap();
    statistics.observe(&[-1.0, 0.0, 1.0]).unwrap();
    let error = statistics.ranges(Method::Mse, true).unwrap_err();
    let (layer, batch, row, column) = ("block.3.up".to_string(), 1, 1, 1);
    let fault = CalibrateError::NonFinite { layer, batch, row, column, nan: 1, infinite: 2 };
    assert_eq!(error, fault);
    assert!(error.to_string().contains("`block.3.up`") && error.to_string().contains("batch 1"));
    // Merged after a batch, it is one batch later.
    let mut merged = before.clone();
    merged.merge(&statistics).unwrap();
    let error = merged.ranges(Method::MinMax, true).unwrap_err();
    assert!(matches!(error, CalibrateError::NonFinite { batch: 2, nan: 1, infinite: 2, .. }));
    // Nothing of these batches is left.
    assert_eq!(statistics.forgive(), 2);
    let mut fed = before;
    fed.observe(&[-1.0, 0.0, 1.0]).unwrap();
    assert_eq!(statistics, fed);
    assert!(statistics.ranges(Method::MinMax, true).is_ok());
}

#[test]
fn what_cannot_be_is_refused() {
    let bad = |observer: Observer| Statistics::new(observer).unwrap_err();
    let observer = || Observer::tensor("layer", 4);
    for bins in [3, 1000, 1 << 21] {
        assert_eq!(bad(observer().with_bins(bins)), CalibrateError::Bins { bins });
    }
    for momentum in [0.0, -0.1, 1.5, f64::NAN] {
        assert!(matches!(bad(observer().with_momentum(momentum)), CalibrateError::Momentum { .. }));
    }
    let mut statistics = Statistics::new(observer()).unwrap();
    let layer = || "layer".to_string();
    let length = CalibrateError::Length { layer: layer(), have: 5, columns: 4 };
    assert_eq!(statistics.observe(&[0.0; 5]).unwrap_err(), length);
    statistics.observe(&[1.0; 4]).unwrap();
    for (other, what) in [
        (Observer::tensor("other", 4), "layer"),
        (Observer::tensor("layer", 5), "number of columns"),
        (Observer::channels("layer", 4), "axis"),
        (observer().with_bins(64), "number of bins"),
        (observer().with_momentum(0.5), "momentum"),
    ] {
        let error = statistics.merge(&Statistics::new(other).unwrap()).unwrap_err();
        assert_eq!(error, CalibrateError::Mismatch { layer: layer(), what });
    }
    // A batch that cannot be: values that no bin counts, too many, a range turned round.
    let batch = Batch::of(&observer(), &[1.0; 4]).unwrap();
    let takes = |change: &dyn Fn(&mut Batch)| {
        let (mut batch, mut statistics) = (batch.clone(), statistics.clone());
        change(&mut batch);
        let before = statistics.clone();
        let taken = statistics.fold(&batch).is_ok();
        assert!(taken || statistics == before);
        taken
    };
    assert!(takes(&|_| ()));
    assert!(!takes(&|batch| batch.rows = 2) && !takes(&|batch| batch.rows = u64::MAX));
    assert!(!takes(&|batch| batch.channels[0].min = 2.0));
    assert!(!takes(&|batch| batch.channels[0].max = f32::INFINITY));
    assert!(!takes(&|batch| drop(batch.channels.pop())));
    for p in [0.0, -1.0, 100.5, f64::NAN] {
        assert!(statistics.ranges(Method::Percentile(p), true).is_err(), "{p}");
        assert!(statistics.ranges(Method::Tails(p), true).is_err(), "{p}");
    }
    let coarse = observe(observer().with_bins(256), &[&[1.0; 4]]);
    let error = coarse.ranges(Method::Entropy, true).unwrap_err();
    assert!(matches!(error, CalibrateError::Histogram { need: 512, have: 256, .. }));
    let none = observe(observer().with_bins(0), &[&[1.0; 4]]);
    assert!(none.ranges(Method::Mse, true).is_err() && none.ranges(Method::MinMax, true).is_ok());
    let format = |name: &str| name.parse().unwrap();
    let token = statistics.calibrate(Method::MinMax, format("int8-token")).unwrap_err();
    assert_eq!(token, CalibrateError::NotStatic { format: format("int8-token") });
    let channels = observe(Observer::channels("layer", 4), &[&[1.0; 4]]);
    let error = channels.calibrate(Method::MinMax, format("int8-tensor")).unwrap_err();
    assert_eq!(error, CalibrateError::ByChannels { layer: layer() });
    for (min, max) in [(1.0, 2.0), (-2.0, -1.0), (f32::NAN, 0.0), (0.0, f32::INFINITY)] {
        assert!(ActivationRange::new(min, max).is_err());
    }
}

#[test]
fn methods_have_names() {
    for name in ["minmax", "average", "percentile-99.99", "tails-50", "mse", "entropy"] {
        assert_eq!(name.parse::<Method>().unwrap().to_string(), name);
    }
    for bad in [
        "",
        "max",
        "percentile",
        "percentile-0",
        "percentile-101",
        "tails-NaN",
        "mse-1",
        "tails-+5",
    ] {
        assert!(bad.parse::<Method>().is_err(), "{bad}");
    }
}

/// A file with statistics of two columns and a calibration, and one change to it.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Ranges, BadRanges> {
    let mut statistics = Statistics::new(Observer::channels("a", 2).with_bins(2)).unwrap();
    statistics.observe(&[1.0, -2.0, 0.5, 0.25]).unwrap();
    statistics.observe(&[f32::NAN, -2.0]).unwrap();
    let calibration = Calibration::new(
        "int8-tensor-asym".parse().unwrap(),
        Method::Percentile(99.5),
        ActivationRange::new(-1.5, 2.0).unwrap(),
    );
    let mut ranges = Ranges::default();
    ranges.insert(statistics);
    ranges.layers.insert("b".into(), LayerRanges::Calibration(calibration.unwrap()));
    let mut value: Value = serde_json::from_slice(&ranges.to_json().unwrap()).unwrap();
    change(&mut value);
    let read = Ranges::from_json(value.to_string().as_bytes())?;
    assert_eq!(read, ranges);
    Ok(read)
}

#[test]
fn files_that_cannot_be_are_refused() {
    changed(|_| ()).unwrap();
    let of_statistics = |field: &str, value: Value| {
        let error = changed(|file| file["layers"]["a"]["statistics"][field] = value.clone());
        let error = error.err().unwrap_or_else(|| panic!("{field}: {value} is taken"));
        let message = error.to_string();
        assert!(message.contains("`a`") && message.contains(&format!("`{field}`")), "{message}");
    };
    for (field, value) in [
        ("version", json!(2)),
        ("version", json!("1")),
        ("layer", json!(3)),
        ("columns", json!(-1)),
        ("axis", json!("row")),
        ("bins", json!(3)),
        ("momentum", json!(0)),
        ("momentum", json!(null)),
        ("rows", json!(1u64 << 63)),
        ("rows", json!(-1)),
        ("batches", json!(3)),
        ("batches", json!(0)),
        ("refused", json!(u64::MAX)),
        ("not_finite", json!(null)),
        ("not_finite", json!({"batch": 2, "row": 0, "column": 0, "nan": 1, "infinite": 0})),
        ("not_finite", json!({"batch": 0, "row": 0, "column": 2, "nan": 1, "infinite": 0})),
        ("not_finite", json!({"batch": 0, "row": 0, "column": 0, "nan": 0, "infinite": 0})),
        ("not_finite", json!({"batch": 0, "row": 0, "column": 0, "nan": u64::MAX, "infinite": 1})),
        ("min", json!([0.5])),
        ("min", json!([0.5, null])),
        ("min", json!([0.5, 1.0])),
        ("max", json!([1.0, 1e39])),
        ("first_min", json!([0.0, -2.0])),
        ("average_min", json!([2.0, -2.0])),
        ("average_max", json!([1.0])),
        ("abs_sum", json!([1.5, -1.0])),
        // Too narrow for a maximum of 1; wider is as good as any.
        ("width_exponent", json!([-1, 1])),
        ("width_exponent", json!([i32::MIN, 1])),
        ("counts", json!([[0, 0, 1, 1]])),
        ("counts", json!([[0, 0, 1, 1], [0, 1, 1]])),
        ("counts", json!([[0, 0, 1, 2], [0, 1, 1, 0]])),
        ("counts", json!([[u64::MAX, 0, 1, 2], [0, 1, 1, 0]])),
        ("counts", json!([[0, 0, 1, -1], [0, 1, 1, 0]])),
        ("more", json!(1)),
    ] {
        // Rows that overflow show only by tensors.
        if field == "rows" && value == json!(1u64 << 63) {
            assert!(changed(|file| file["layers"]["a"]["statistics"][field] = value).is_err());
            continue;
        }
        of_statistics(field, value);
    }
    let of_calibration = |field: &str, value: Value| {
        let error = changed(|file| file["layers"]["b"]["calibration"][field] = value).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("`b`") && message.contains(&format!("`{field}`")), "{message}");
    };
    of_calibration("format", json!("int8-token"));
    of_calibration("format", json!("int9"));
    of_calibration("method", json!("best"));
    of_calibration("min", json!(0.5));
    of_calibration("scale", json!(0.5));
    of_calibration("zero", json!(200));
    let message = |change: &dyn Fn(&mut Value)| changed(change).unwrap_err().to_string();
    assert!(message(&|file| file["version"] = json!(2)).contains("version is 2"));
    assert!(
        message(&|file| drop(file.as_object_mut().unwrap().remove("version"))).contains("version")
    );
    let lacks = |file: &mut Value| {
        let statistics = file["layers"]["a"]["statistics"].as_object_mut().unwrap();
        statistics.remove("abs_sum");
    };
    assert!(message(&lacks).contains("abs_sum"));
    let other = |file: &mut Value| file["layers"]["c"] = file["layers"]["a"].take();
    assert!(changed(other).is_err());
    let renamed = |file: &mut Value| file["layers"]["a"]["statistics"]["layer"] = json!("z");
    assert!(matches!(changed(renamed), Err(BadRanges::OtherLayer { .. })));
    let twice = br#"{"version":1,"layers":{"a":{"calibration":{"format":"int8-tensor",
        "method":"mse","min":0,"max":0,"scale":1,"zero":0}},"a":{"calibration":{"format":
        "int8-tensor","method":"mse","min":0,"max":0,"scale":1,"zero":0}}}}"#;
    assert!(matches!(Ranges::from_json(twice), Err(BadRanges::Duplicate(name)) if name == "a"));
    for garbage in
        ["", "{}", "[]", "null", "\0", "{\"version\":1}", "{\"version\":1,\"layers\":[]}"]
    {
        assert!(matches!(Ranges::from_json(garbage.as_bytes()), Err(BadRanges::Json(_))));
    }
}

#[test]
fn files_are_written_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ranges.json");
    let missing = Ranges::read(&path).unwrap_err();
    assert!(matches!(missing.why, BadRanges::Unreadable(_)));
    assert!(missing.to_string().contains("ranges.json"), "{missing}");
    let mut ranges = Ranges::default();
    ranges.insert(of(&tailed(100, 1)));
    ranges.write(&path).unwrap();
    assert_eq!(Ranges::read(&path).unwrap(), ranges);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let text = std::fs::read(&path).unwrap();
    for length in 0..text.len() - 1 {
        assert!(Ranges::from_json(&text[..length]).is_err(), "{length}");
    }
    std::fs::File::create(&path).unwrap().set_len((1 << 30) + 1).unwrap();
    assert!(matches!(Ranges::read(&path).unwrap_err().why, BadRanges::TooLarge(_)));
    assert!(matches!(Ranges::read(directory.path()).unwrap_err().why, BadRanges::Unreadable(_)));

    // Bins wider than values ask for come back too, and take what is fed further.
    let observer = Observer::tensor("wide", 1).with_bins(4);
    let mut batch = Batch::of(&observer, &[1.0]).unwrap();
    let counts = vec![0, 0, 0, 0, 1, 0, 0, 0];
    batch.channels[0].histogram = Histogram::from_counts(7, counts).unwrap();
    let mut wide = Statistics::new(observer).unwrap();
    wide.fold(&batch).unwrap();
    let mut file = Ranges::default();
    file.insert(wide.clone());
    assert_eq!(Ranges::from_json(&file.to_json().unwrap()).unwrap(), file);
    wide.observe(&[-300.0]).unwrap();
    assert_eq!(wide.channels()[0].histogram().counts(), [0, 1, 0, 0, 1, 0, 0, 0]);

    // A layer's statistics give any method and format, a calibration its own.
    let format = "int8-tensor".parse().unwrap();
    let layer = &ranges.layers["layer"];
    let made = layer.calibrate(Method::Mse, format).unwrap();
    let fixed = LayerRanges::Calibration(made);
    assert_eq!(fixed.calibrate(Method::MinMax, format).unwrap(), made);
    assert!(fixed.calibrate(Method::MinMax, "int8-tensor-asym".parse().unwrap()).is_err());
    assert_eq!(of(&[1.0]).observer().axis(), Axis::Tensor);
}

/// What scales are for, and statistics by channels, beside the layers; without, files are as before.
#[test]
fn targets_and_channels_are_written_and_read() {
    let mut ranges = Ranges::default();
    ranges.insert(of(&[1.0, -2.0]));
    let plain: Value = serde_json::from_slice(&ranges.to_json().unwrap()).unwrap();
    assert_eq!(plain.as_object().unwrap().len(), 2, "{plain}");
    let format = "int8-tensor-asym".parse().unwrap();
    ranges.target = Some(RangeTarget { method: Method::Tails(99.5), format });
    let mut channels = Statistics::new(Observer::channels("b", 2).with_bins(0)).unwrap();
    channels.observe(&[1.0, -2.0, 0.5, 4.0]).unwrap();
    ranges.insert_channels(channels);
    let text = ranges.to_json().unwrap();
    assert_eq!(Ranges::from_json(&text).unwrap(), ranges);

    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&text).unwrap();
        change(&mut value);
        Ranges::from_json(value.to_string().as_bytes())
    };
    assert_eq!(changed(&|_| ()).unwrap(), ranges);
    for (field, bad) in [
        ("format", "int8-token"),
        ("format", "int8"),
        ("method", "median"),
        ("method", "tails-101"),
    ] {
        let wrong = changed(&|file| file["target"][field] = bad.into()).unwrap_err();
        assert!(matches!(wrong, BadRanges::Target { field: f, .. } if f == field), "{wrong}");
    }
    let wrong = changed(&|file| file["target"]["more"] = 1.into());
    assert!(matches!(wrong, Err(BadRanges::Json(_))));
    let whole = |file: &mut Value| {
        let layers = file["layers"].as_object().unwrap();
        let (name, layer) = layers.iter().next().unwrap();
        let (name, statistics) = (name.clone(), layer["statistics"].clone());
        file["channels"][name] = statistics;
    };
    assert!(matches!(changed(&whole), Err(BadRanges::NotByChannels(_))));
    let moved = |file: &mut Value| file["channels"]["c"] = file["channels"]["b"].clone();
    assert!(matches!(changed(&moved), Err(BadRanges::OtherLayer { .. })));
}
