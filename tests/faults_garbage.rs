//! Tests with a driver that returns garbage: only what is read back is corrupted. The conformance
//! runner must fail every case and name it, and the host must report impossible values.

use crate::shim::Shim;
use lowbit::compress::calibrate::{Observer, Statistics};
use lowbit::conformance::{self, Case, Extent, Op, Status};
use lowbit::host::{Host, HostError};
use lowbit::ops::{ObserveError, QuantizeWeightsError};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The way in which the bytes of one read-back are corrupted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Garbage {
    Zeros,
    Ones,
    NotNumbers,
    Noise,
    /// The data of the previous read-back, as far as they reach.
    Stale,
    /// The highest exponent bit of one word in the middle is flipped.
    OneBit,
    /// The last word, which is past all rows, is changed.
    Sentinel,
}

const ALL: [Garbage; 7] = [
    Garbage::Zeros,
    Garbage::Ones,
    Garbage::NotNumbers,
    Garbage::Noise,
    Garbage::Stale,
    Garbage::OneBit,
    Garbage::Sentinel,
];

impl Garbage {
    fn plant(self, shim: &Shim) {
        let mut random = crate::common::Random(1);
        let mut last: Vec<u8> = Vec::new();
        shim.corrupt(move |bytes| {
            let words = bytes.len() / 4;
            let mut flip = |word: usize| bytes[4 * word + 3] ^= 0x40;
            match self {
                Self::OneBit => flip(words / 2),
                Self::Sentinel => flip(words - 1),
                Self::Zeros => bytes.fill(0),
                Self::Ones => bytes.fill(0xff),
                Self::NotNumbers => {
                    bytes.chunks_exact_mut(4).for_each(|w| w.copy_from_slice(&[0, 0, 0xc0, 0x7f]));
                }
                Self::Noise => bytes.iter_mut().for_each(|byte| *byte = random.next() as u8),
                Self::Stale => {
                    let now = bytes.to_vec();
                    bytes.fill(0);
                    let reach = last.len().min(bytes.len());
                    bytes[..reach].copy_from_slice(&last[..reach]);
                    last = now;
                }
            }
        });
    }
}

fn shim() -> Shim {
    Shim::new(&Host::new().unwrap()).unwrap()
}

/// Returns some cases of the table: for each op, dense and 2:4, the first that is neither empty nor
/// large.
fn cases() -> Vec<Case> {
    let mut found = HashMap::new();
    for case in conformance::table(Extent::Quick) {
        let size = case.m.max(1) * case.n.max(1) * case.k;
        // An empty result contains only sentinels, and stale sentinels are correct.
        let rows = matches!(case.op, Op::Compress | Op::Dequantize) || case.m > 0;
        let empty = !rows || (case.op.has_weights() && case.n == 0);
        let integer = matches!(case.op, Op::IntegerMatmul(_));
        let plain = !case.textures && (integer || case.schedule.is_none());
        if plain && !empty && (64..60_000).contains(&size) {
            let kind = (case.op.name(), case.format.is_sparse());
            found.entry(kind).or_insert(case);
        }
    }
    let mut cases: Vec<_> = found.into_values().collect();
    cases.sort_by_key(Case::id);
    cases
}

#[test]
fn conformance_fails_whatever_is_read_back() {
    if crate::common::host().is_none() {
        return;
    }
    let cases = cases();
    let ops: std::collections::BTreeSet<_> = cases.iter().map(|case| case.op.name()).collect();
    let table = conformance::table(Extent::Quick);
    assert_eq!(ops, table.iter().map(|case| case.op.name()).collect(), "an op has no case here");
    let driver = [shim().host];
    let sound = conformance::run(&driver, &cases, &|_| ());
    for report in &sound {
        assert_eq!(report.status, Status::Pass, "{}: {:?}", report.id, report.reason);
    }
    for (kind, garbage) in ALL.into_iter().enumerate() {
        let shim = shim();
        garbage.plant(&shim);
        let hosts = [shim.host];
        // Each kind of garbage meets one of each three cases, the next one another of them.
        let turned = [&cases[kind % 3..], &cases[..kind % 3]].concat();
        let cases = crate::common::some_of(turned, 3);
        let reports = conformance::run(&hosts, &cases, &|_| ());
        assert_eq!(reports.len(), cases.len());
        for (report, case) in reports.iter().zip(&cases) {
            assert_eq!(report.id, case.id());
            assert_eq!(report.status, Status::Fail, "{garbage:?} passed {}", report.id);
            assert!(report.reason.as_ref().is_some_and(|reason| !reason.is_empty()));
        }
        eprintln!("{garbage:?}: {} of {} cases fail", reports.len(), cases.len());
        crate::common::multiplies(&self::shim().host).unwrap();
    }
}

/// The host reports what it can detect, and does not make other errors worse.
#[test]
fn the_host_says_what_cannot_be() {
    if crate::common::host().is_none() {
        return;
    }
    let (n, k, m) = (24, 64, 3);
    let start = Instant::now();
    for garbage in ALL {
        let shim = shim();
        let host = &shim.host;
        let packed = crate::common::random_weights("2:4+int4-g32-asym".parse().unwrap(), n, k, 1);
        let weights = host.upload(&packed).unwrap();
        garbage.plant(&shim);
        let w = crate::common::floats(n * k, 2);
        let format = "int8-g32-asym".parse().unwrap();
        let made = host.compress(&w, n, k, &format).map(drop);
        let impossible = match garbage {
            // This index means that there was no error, so the host sees nothing wrong here.
            Garbage::Ones => made == Ok(()),
            Garbage::Zeros | Garbage::Stale => made == Err(QuantizeWeightsError::NotRun.into()),
            _ => matches!(
                made,
                Err(HostError::QuantizeWeights(QuantizeWeightsError::Garbage { .. }))
            ),
        };
        assert!(impossible, "{garbage:?}: {made:?}");
        let rows = host.download(&weights);
        match garbage {
            Garbage::Ones | Garbage::NotNumbers | Garbage::Noise | Garbage::Zeros => {
                assert!(matches!(rows, Err(HostError::Format(_))), "{garbage:?}: {rows:?}");
            }
            _ => assert!(rows.as_ref() != Ok(&packed), "{garbage:?} went unseen"),
        }
        let mut seen = Statistics::new(Observer::tensor("x", k)).unwrap();
        let before = seen.clone();
        let observed = host.observe(&mut seen, &crate::common::floats(m * k, 3));
        if garbage != Garbage::Sentinel {
            let words = matches!(observed, Err(HostError::Observe(ObserveError::Words(_))));
            assert!(words, "{garbage:?}: {observed:?}");
            assert_eq!(seen, before);
        }
        // The numbers are wrong, but the host cannot know that. Their count must be right.
        let y = host.matmul(&crate::common::floats(m * k, 4), m, &weights, None).unwrap();
        assert_eq!(y.len(), m * n);
        assert_eq!(host.dequantize(&weights).unwrap().len(), n * k);
    }
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    crate::common::multiplies(&Host::new().unwrap()).unwrap();
}
