//! Every rule that makes weights, against the packages that define it. `scripts/rules.py` printed what
//! they make: a few rows are in `rules.txt`, and `scripts/rules.sh` tests many more.

use lowbit::compress::{CompressError, Rule, Scheme, dequantize, quantize_scheme};
use lowbit::format::{PackedWeights, Scales};
use std::collections::BTreeMap;

/// What `scripts/rules.py` says about one row of weights under one scheme.
#[derive(Default)]
struct Case<'a> {
    name: &'a str,
    /// The parts, or nothing if the rule refuses the row.
    parts: BTreeMap<&'a str, Vec<u32>>,
    refused: bool,
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().map(|word| u32::from_str_radix(word, 16).unwrap()).collect()
}

/// Calls `check` with every row of weights and each of its cases.
fn each_case(text: &str, mut check: impl FnMut(&[f32], &Case<'_>)) {
    let (mut x, mut case) = (Vec::new(), Case::default());
    for line in text.lines().chain(["end"]) {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        if matches!(what, "x" | "case" | "end") && !case.name.is_empty() {
            check(&x, &std::mem::take(&mut case));
        }
        match what {
            "x" => x = numbers(rest).into_iter().map(f32::from_bits).collect(),
            "case" => case.name = rest,
            "refused" => case.refused = true,
            "end" => {}
            part => drop(case.parts.insert(part, numbers(rest))),
        }
    }
}

/// Returns the parts of a matrix of one row as `scripts/rules.py` prints them.
fn parts(packed: &PackedWeights) -> BTreeMap<&'static str, Vec<u32>> {
    let format = packed.format();
    let mask = u32::MAX >> (32 - format.code_type().bits());
    let codes = (0..packed.k()).map(|at| packed.code(0, at) as u32 & mask).collect();
    let mut parts = BTreeMap::from([("codes", codes)]);
    for (scales, lower, upper) in
        [(packed.scales(), "scales", "upper"), (packed.minima(), "minima", "upper_minima")]
    {
        if scales.is_empty() {
            continue;
        }
        let (low, high): (Vec<u32>, Vec<u32>) = match scales {
            Scales::F32(all) => (all.iter().map(|s| s.to_bits()).collect(), vec![]),
            Scales::F16(all) => (all.iter().map(|s| s.to_bits().into()).collect(), vec![]),
            Scales::E8m0(all) => (all.iter().map(|&s| s.into()).collect(), vec![]),
            Scales::Int8Super { groups, supers } => (
                groups.iter().map(|&s| u32::from(s as u8)).collect(),
                supers.iter().map(|s| s.to_bits().into()).collect(),
            ),
            Scales::E4m3Tensor { groups, tensor } => {
                (groups.iter().map(|&s| s.into()).collect(), vec![tensor.to_bits()])
            }
        };
        parts.insert(lower, low);
        if !high.is_empty() {
            parts.insert(upper, high);
        }
    }
    if format.has_zeros() {
        let groups = packed.geometry().groups;
        parts.insert("zeros", (0..groups).map(|g| packed.zero(0, g) as u32).collect());
    }
    parts
}

/// Compares every case of a text. Returns how many rows each scheme made, and how many it refused.
fn compare(text: &str) -> BTreeMap<String, [usize; 2]> {
    let mut counts = BTreeMap::<String, [usize; 2]>::new();
    each_case(text, |x, case| {
        let name = case.name;
        let scheme: Scheme = name.parse().unwrap();
        let count = counts.entry(name.to_owned()).or_default();
        count[usize::from(case.refused)] += 1;
        let packed = match quantize_scheme(x, 1, x.len(), &scheme) {
            Ok(packed) => packed,
            Err(error) => {
                assert!(matches!(error, CompressError::ScaleRange { .. }), "{name}: {error}");
                return assert!(case.refused, "{name} refuses, and should not: {error}");
            }
        };
        let made = parts(&packed);
        assert!(!case.refused, "{name} should refuse this row: {x:?}, {made:?}");
        for (part, want) in &case.parts {
            let have = made.get(part).map_or(&[][..], |have| have);
            assert_eq!(have.len(), want.len(), "{name}: {part}");
            if let Some(at) = (0..want.len()).find(|&at| have[at] != want[at]) {
                panic!("{name}: {part} {at} is {:x}, not {:x}; {x:?}", have[at], want[at]);
            }
        }
        assert_eq!(made.len(), case.parts.len(), "{name}");
        assert!(dequantize(&packed).iter().all(|w| w.is_finite()), "{name}");
    });
    counts
}

#[test]
fn as_the_packages_make_them() {
    let counts = compare(include_str!("rules.txt"));
    let ggml = counts.keys().filter(|name| name.parse::<Scheme>().unwrap().rule() == Rule::Ggml);
    assert_eq!(ggml.count(), 9, "{counts:?}");
    for name in ["nf4", "fp4", "mxfp4", "nvfp4", "e4m3-g64", "e5m2-tensor"] {
        assert_eq!(counts[name], [2, 0], "{counts:?}");
    }
}

/// `scripts/rules.sh` names a file with many rows.
#[test]
fn as_the_packages_make_many() {
    let Some(path) = std::env::var_os("LOWBIT_RULES") else {
        return println!("SKIPPED: LOWBIT_RULES names no file; scripts/rules.sh makes one");
    };
    let counts = compare(&std::fs::read_to_string(path).unwrap());
    assert!(counts.len() > 100, "only {} schemes", counts.len());
    for (name, [made, refused]) in counts {
        println!("{name}: {made} rows made, {refused} refused");
        assert!(made > 0, "{name}");
    }
}
