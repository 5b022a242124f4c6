//! Tests of the tables of rotary embeddings, against what transformers computes: `scripts/rotary.py`
//! prints `rotary_table.txt`.

use lowbit::format::{FormatError, RotaryScaling, RotaryTable};
use std::collections::HashMap;

/// The same cases as in the script.
fn tables() -> Vec<(&'static str, RotaryTable)> {
    let llama3 = |factor| RotaryScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_positions: 8192.0,
    };
    let yarn = |factor, original_positions, truncate| RotaryScaling::Yarn {
        factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_positions,
        truncate,
    };
    let divisors = (0..48).map(f64::from).map(|i| 1.0 + 0.37 * i + 0.011 * i * i).collect();
    let longrope = (1.0 + 32f64.ln() / 4096f64.ln()).sqrt();
    let linear = RotaryScaling::Linear { factor: 8.0 };
    vec![
        ("plain", RotaryTable::new(1e4, 64)),
        ("linear", RotaryTable::new(1e6, 256).with_scaling(linear)),
        ("llama3", RotaryTable::new(5e5, 128).with_scaling(llama3(8.0))),
        ("llama3-small", RotaryTable::new(5e5, 64).with_scaling(llama3(32.0))),
        ("yarn", RotaryTable::new(1e6, 128).with_scaling(yarn(4.0, 32768.0, true))),
        ("yarn-whole", RotaryTable::new(1.5e5, 64).with_scaling(yarn(32.0, 4096.0, false))),
        (
            "yarn-factor",
            RotaryTable::new(1e4, 64)
                .with_scaling(yarn(40.0, 4096.0, true))
                .with_attention_factor(1.0),
        ),
        (
            "longrope",
            RotaryTable::new(1e4, 96).with_divisors(divisors).with_attention_factor(longrope),
        ),
    ]
}

/// The file has f32 results. A frequency is a power whose exponent, at most 1, was rounded, and which is
/// rounded itself; scaling takes a few operations more. An angle at position 3 inherits three times that,
/// and cosines and sines are rounded and multiplied by a factor below 1.5.
#[test]
fn tables_are_those_of_transformers() {
    let mut cases: HashMap<&str, HashMap<&str, Vec<f64>>> = HashMap::new();
    let mut name = "";
    for line in include_str!("rotary_table.txt").lines() {
        let (key, values) = line.split_once(' ').unwrap();
        if key == "case" {
            name = values;
        } else {
            let values = values.split(' ').map(|value| value.parse().unwrap()).collect();
            cases.entry(name).or_default().insert(key, values);
        }
    }
    assert_eq!(cases.len(), tables().len());
    let ulp = f64::from(f32::EPSILON);
    for (name, table) in tables() {
        let case = &cases[name];
        assert!((table.attention_factor() - case["factor"][0]).abs() < ulp, "{name}");
        let frequencies = table.frequencies().unwrap();
        assert_eq!(frequencies.len(), case["frequencies"].len(), "{name}");
        let relative = ulp * (table.base.ln() + 8.0);
        for (got, want) in frequencies.iter().zip(&case["frequencies"]) {
            assert!((got - want).abs() <= relative * want, "{name}: {got} {want}");
        }
        let pairs = table.pairs(4).unwrap();
        let count = frequencies.len();
        assert_eq!(pairs.len(), 4 * count, "{name}");
        let factor = table.attention_factor() as f32;
        assert!(pairs[..count].iter().all(|pair| *pair == [factor, 0.0]), "{name}");
        for (j, &[cosine, sine]) in pairs[3 * count..].iter().enumerate() {
            let bound = 1.5 * (3.0 * frequencies[j] * relative + 4.0 * ulp);
            let off = [(cosine, "cosines"), (sine, "sines")];
            let off = off.map(|(got, key)| (f64::from(got) - case[key][j]).abs());
            assert!(off.iter().all(|off| *off <= bound), "{name}, pair {j}: {off:?}, {bound}");
        }
    }
}

/// Tables are exact far from the start, where f32 angles would be off by much.
#[test]
fn angles_are_computed_in_f64() {
    let pairs = RotaryTable::new(1e4, 4).pairs(200_001).unwrap();
    let [cosine, sine] = pairs[2 * 200_000];
    assert_eq!([cosine, sine], [200_000f64.cos() as f32, 200_000f64.sin() as f32]);
}

#[test]
fn numbers_that_make_no_table_are_refused() {
    let refused = |table: RotaryTable, text: &str| {
        let error = table.pairs(4).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let table = RotaryTable::new(1e4, 8);
    refused(RotaryTable::new(1e4, 7), "the number of rotated columns");
    for base in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(RotaryTable::new(base, 8), "the base of a rotary embedding");
    }
    let linear = |factor| RotaryScaling::Linear { factor };
    refused(table.clone().with_scaling(linear(0.0)), "the factor of a rotary embedding is 0");
    refused(table.clone().with_attention_factor(f64::NAN), "the attention factor");
    refused(table.clone().with_divisors(vec![1.0, 1.0, -2.0, 1.0]), "a divisor");
    let short = table.clone().with_divisors(vec![1.0; 3]).pairs(4);
    assert!(matches!(short, Err(FormatError::WrongLength { need: 4, have: 3, .. })), "{short:?}");
    let (factor, original_positions) = (8.0, 8192.0);
    let (low_freq_factor, high_freq_factor) = (4.0, 4.0);
    let llama3 =
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions };
    refused(table.clone().with_scaling(llama3), "more than low_freq_factor");
    let yarn = |beta_fast, beta_slow| RotaryScaling::Yarn {
        factor,
        beta_fast,
        beta_slow,
        original_positions,
        truncate: true,
    };
    refused(table.clone().with_scaling(yarn(1.0, 32.0)), "at least beta_slow");
    refused(RotaryTable::new(0.5, 8).with_scaling(yarn(32.0, 1.0)), "more than 1 with YaRN");
    let large = table.pairs(usize::MAX);
    assert!(matches!(large, Err(FormatError::RotaryTooLarge { .. })), "{large:?}");
    // No columns: no pairs, however many positions.
    assert_eq!(RotaryTable::new(1e4, 0).pairs(usize::MAX), Ok(vec![]));
}
