//! The rules of ggml's reference quantizers, bit for bit: blocks of 32 columns here, and blocks of 256
//! in [`k_quants`](super::k_quants).
//!
//! They differ from this crate's own rules in three ways. Codes are computed with the scale before it
//! is rounded to f16, by multiplying with its reciprocal. Scales may be subnormal f16, or 0 for a block
//! of zeros. And the types with an even number of codes use the lowest of them: q4_0 divides the weight
//! of greatest magnitude, with its sign, by −8.

use super::super::rows::each_row;
use super::super::{CompressError, check_weights};
use super::k_quants;
use crate::format::{
    CodeType, Geometry, PackedWeights, Parts, SUPER_K, ScaleType, Scales, WeightFormat, put_bits,
};
use half::f16;

/// What the blocks of a row store besides codes, in order.
#[derive(Clone, Debug, Default)]
pub(in crate::compress) struct Stored {
    /// The scale and the minimum (what is added) of each block.
    pub halves: Vec<[f16; 2]>,
    /// The lower level of both for each group, in blocks of 256 columns.
    pub groups: Vec<[i8; 2]>,
}

/// Makes one block: writes a code for each weight and what the block stores. Returns `None` if a scale
/// or a minimum is beyond f16.
pub(in crate::compress) type Rule = fn(&[f32], &mut [u32], &mut Stored) -> Option<()>;

/// Returns the rule that makes a format.
///
/// # Errors
/// Returns [`CompressError::NoRule`] if ggml has none, or if it is not one of these.
pub(in crate::compress) fn rule(format: &WeightFormat) -> Result<Rule, CompressError> {
    Ok(match format.other_name() {
        Some("q4_0") => |x, codes, out| signed_block(x, codes, out, 8),
        Some("q5_0") => |x, codes, out| signed_block(x, codes, out, 16),
        Some("q4_1") => |x, codes, out| minimum_block(x, codes, out, 15),
        Some("q5_1") => |x, codes, out| minimum_block(x, codes, out, 31),
        Some("q8_0") => q8_0,
        Some("iq4_nl") => iq4_nl,
        Some("q4_k") => k_quants::q4_k,
        Some("q5_k") => k_quants::q5_k,
        Some("q6_k") => k_quants::q6_k,
        _ => {
            let why = "of ggml's rules there are those for q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, \
                       q5_k, q6_k and iq4_nl";
            return Err(CompressError::NoRule { format: *format, why });
        }
    })
}

/// One row as it is made.
#[derive(Default)]
struct Row {
    codes: Vec<u32>,
    stored: Stored,
    /// The first column of the first block that cannot be stored.
    failed: Option<usize>,
}

/// Quantizes a matrix by ggml's rule for the format.
pub(in crate::compress) fn quantize(
    w: &[f32],
    n: usize,
    k: usize,
    format: WeightFormat,
) -> Result<PackedWeights, CompressError> {
    let geometry = format.geometry(n, k)?;
    let rule = rule(&format)?;
    check_weights(w, n, k)?;
    let block = block_size(&geometry);
    let mut rows: Vec<Row> = Vec::new();
    rows.resize_with(geometry.filled_rows(), Row::default);
    each_row(&mut rows, 1, |row, made| {
        made.iter_mut().for_each(|made| {
            *made = make_row(&w[row * k..][..k], &geometry, block, rule);
        });
    });
    for (row, made) in rows.iter().enumerate() {
        if let Some(column) = made.failed {
            let weights = w[row * k..][..k].iter().skip(column).take(block);
            let (low, high) = weights.fold((0f32, 0f32), |(l, h), &x| (l.min(x), h.max(x)));
            let (group, scale_type) = (geometry.group_of(column), format.scale_type());
            return Err(CompressError::ScaleRange { row, group, low, high, scale_type });
        }
    }
    let stored = rows.iter().map(|row| &row.stored);
    let parts = Parts {
        codes: rows.iter().flat_map(|row| &row.codes).copied().collect(),
        scales: scales(stored.clone(), format.scale_type(), 0),
        minima: if format.has_minima() {
            scales(stored, format.scale_type(), 1)
        } else {
            Scales::default()
        },
        ..Parts::default()
    };
    Ok(PackedWeights::new(format, n, k, parts)?)
}

/// Returns the number of columns that a rule makes at a time.
pub(in crate::compress) fn block_size(geometry: &Geometry) -> usize {
    match geometry.format.scale_type() {
        ScaleType::Int8Super => SUPER_K,
        _ => geometry.group_size,
    }
}

/// Makes all blocks of a row. The last one may be shorter.
fn make_row(weights: &[f32], geometry: &Geometry, block: usize, rule: Rule) -> Row {
    let bits = geometry.format.code_type().bits();
    let mut row = Row { codes: vec![0; geometry.code_words], ..Row::default() };
    for (at, weights) in weights.chunks(block).enumerate() {
        // Unlike this crate's own rules, ggml's keep −0.
        let flush = |x: f32| if x.is_subnormal() { 0.0 } else { x };
        let x: Vec<f32> = weights.iter().map(|&x| flush(x)).collect();
        let mut codes = vec![0; x.len()];
        let made = rule(&x, &mut codes, &mut row.stored);
        if made.is_none() || is_lost(&x, row.stored.halves.last()) {
            row.failed = Some(at * block);
            return row;
        }
        for (i, &code) in codes.iter().enumerate() {
            put_bits(&mut row.codes, (at * block + i) * bits as usize, bits, code);
        }
    }
    row
}

/// Returns whether a block with a weight other than 0 stores zeros only.
pub(in crate::compress) fn is_lost(x: &[f32], halves: Option<&[f16; 2]>) -> bool {
    let zeros = halves.is_none_or(|halves| halves.iter().all(|half| half.to_f32() == 0.0));
    zeros && x.iter().any(|&x| x != 0.0)
}

/// Collects the scales (`which` = 0) or the minima (1) of all rows.
pub(in crate::compress) fn scales<'a>(
    rows: impl Iterator<Item = &'a Stored> + Clone,
    scale_type: ScaleType,
    which: usize,
) -> Scales {
    let halves = rows.clone().flat_map(|row| &row.halves).map(|halves| halves[which]);
    match scale_type {
        ScaleType::Int8Super => Scales::Int8Super {
            groups: rows.flat_map(|row| &row.groups).map(|group| group[which]).collect(),
            supers: halves.collect(),
        },
        _ => Scales::F16(halves.collect()),
    }
}

/// Rounds to f16, or returns `None` if the result is not finite.
pub(super) fn half(x: f32) -> Option<f16> {
    Some(f16::from_f32(x)).filter(|half| half.is_finite())
}

/// Returns `1 / d`, or 0 if `d` is 0.
pub(super) fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Returns the first weight of greatest magnitude, or 0.
pub(super) fn most(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most: f32, &x| if x.abs() > most.abs() { x } else { most })
}

/// q4_0 and q5_0: the codes are 0…2·`zero` − 1. The weight of greatest magnitude has code 0.
fn signed_block(x: &[f32], codes: &mut [u32], out: &mut Stored, zero: i32) -> Option<()> {
    let d = most(x) / -zero as f32;
    out.halves.push([half(d)?, f16::ZERO]);
    let id = reciprocal(d);
    for (code, &x) in codes.iter_mut().zip(x) {
        // The sum is at least 0, so that its integer part is what rounds to nearest.
        *code = ((x * id + (zero as f32 + 0.5)) as u32).min(2 * zero as u32 - 1);
    }
    Some(())
}

/// q4_1 and q5_1: the codes are 0…`top`, the least weight is the minimum.
fn minimum_block(x: &[f32], codes: &mut [u32], out: &mut Stored, top: u32) -> Option<()> {
    let (low, high) = extremes(x);
    let d = (high - low) / top as f32;
    out.halves.push([half(d)?, half(low)?]);
    let id = reciprocal(d);
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = (((x - low) * id + 0.5) as u32).min(top);
    }
    Some(())
}

/// Returns the least and the greatest weight of a block, which is not empty.
pub(super) fn extremes(x: &[f32]) -> (f32, f32) {
    let start = x.first().copied().unwrap_or(0.0);
    x.iter().fold((start, start), |(low, high), &x| {
        (if x < low { x } else { low }, if x > high { x } else { high })
    })
}

/// q8_0: the greatest magnitude is 127, and ties go away from 0.
fn q8_0(x: &[f32], codes: &mut [u32], out: &mut Stored) -> Option<()> {
    let d = most(x).abs() / 127.0;
    out.halves.push([half(d)?, f16::ZERO]);
    let id = reciprocal(d);
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = (x * id).round() as i32 as u32;
    }
    Some(())
}

/// Blocks below this magnitude count as zeros where scales are searched for.
pub(super) const TINY: f32 = 1e-15;

/// iq4_nl: of 16 scales around the one that maps the greatest weight to −127, the one whose fit by
/// least squares has the least error, where a weight's error counts with the square of the weight.
fn iq4_nl(x: &[f32], codes: &mut [u32], out: &mut Stored) -> Option<()> {
    let table = CodeType::Iq4Nl.table()?;
    let most = most(x);
    if most.abs() < TINY {
        out.halves.push([f16::ZERO; 2]);
        codes.fill(nearest(table, 0.0));
        return Some(());
    }
    // Least squares for the codes that a reciprocal of the scale gives: Σ w·q·x and Σ w·q².
    let fit = |id: f32| {
        let mut sums = (0.0f32, 0.0f32);
        for &x in x {
            let (q, w) = (table[nearest(table, id * x) as usize & 15], x * x);
            sums = (sums.0 + w * q * x, sums.1 + w * q * q);
        }
        sums
    };
    let first = -most / table[0];
    let (sum_qx, sum_q2) = fit(1.0 / first);
    let mut d = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
    let mut best = d * sum_qx;
    for step in -7..=7 {
        let (sum_qx, sum_q2) = fit((step as f32 + table[0]) / most);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            d = sum_qx / sum_q2;
            best = d * sum_qx;
        }
    }
    out.halves.push([half(d)?, f16::ZERO]);
    let id = reciprocal(d);
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = nearest(table, id * x);
    }
    Some(())
}

/// Returns the nearest entry of an ascending table. A tie goes to the higher one.
fn nearest(table: &[f32; 16], x: f32) -> u32 {
    let above = table.iter().filter(|&&entry| entry <= x).count();
    let (low, high) = (above.saturating_sub(1), above.min(15));
    (if x - table[low] < table[high] - x { low } else { high }) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{Scheme, dequantize, quantize_scheme, relative_error};

    fn made(name: &str, w: &[f32]) -> Result<PackedWeights, CompressError> {
        quantize_scheme(w, 1, w.len(), &name.parse().unwrap())
    }

    fn codes(packed: &PackedWeights, count: usize) -> Vec<i32> {
        (0..count).map(|at| packed.code(0, at)).collect()
    }

    /// A block of 32 weights that starts with these.
    fn block(start: &[f32]) -> Vec<f32> {
        start.iter().copied().chain(std::iter::repeat(0.0)).take(32).collect()
    }

    #[test]
    fn q4_0_and_q5_0_by_hand() {
        // The greatest magnitude is −16, so that the scale is 2; of 16 it would be −2.
        let packed = made("q4_0", &block(&[-16.0, 16.0, 1.0, -1.0, 3.0, 14.0])).unwrap();
        assert_eq!(packed.scale(0, 0), 2.0);
        // Ties go up: 0.5 becomes 1 and −0.5 becomes 0.
        assert_eq!(codes(&packed, 7), [0, 15, 9, 8, 10, 15, 8]);
        let packed = made("q4_0", &block(&[16.0, -16.0, 1.0])).unwrap();
        assert_eq!((packed.scale(0, 0), codes(&packed, 4)), (-2.0, vec![0, 15, 8, 8]));
        let packed = made("q5_0", &block(&[-16.0, 16.0, 0.5, -0.5])).unwrap();
        assert_eq!((packed.scale(0, 0), codes(&packed, 5)), (1.0, vec![0, 31, 17, 16, 16]));
    }

    #[test]
    fn q4_1_and_q5_1_by_hand() {
        for (name, top) in [("q4_1", 15), ("q5_1", 31)] {
            let w: Vec<f32> = (0..32).map(|i| 100.0 + (i % (top + 1)) as f32).collect();
            let packed = made(name, &w).unwrap();
            assert_eq!((packed.scale(0, 0), packed.minimum(0, 0)), (1.0, 100.0));
            assert_eq!((codes(&packed, 3), dequantize(&packed)), (vec![0, 1, 2], w));
        }
        // Equal weights: the minimum alone.
        let packed = made("q4_1", &[0.5; 32]).unwrap();
        assert_eq!((packed.scale(0, 0), dequantize(&packed)), (0.0, vec![0.5; 32]));
    }

    /// Codes follow from the scale before it is rounded, and ties go away from 0.
    #[test]
    fn q8_0_by_hand() {
        let packed = made("q8_0", &block(&[127.0, 0.5, -0.5, -2.5])).unwrap();
        assert_eq!((packed.scale(0, 0), codes(&packed, 5)), (1.0, vec![127, 1, -1, -3, 0]));
        // A scale of 1 + 2⁻¹² becomes 1 in f16. With 1, 2.5001 steps would round to 3.
        let packed = made("q8_0", &block(&[127.0 * (1.0 + 1.0 / 4096.0), 2.5001])).unwrap();
        assert_eq!((packed.scale(0, 0), codes(&packed, 2)), (1.0, vec![127, 2]));
    }

    #[test]
    fn iq4_nl_by_hand() {
        let table = CodeType::Iq4Nl.table().unwrap();
        let w: Vec<f32> = (0..32).map(|i| table[i % 16] / 4.0).collect();
        let packed = made("iq4_nl", &w).unwrap();
        assert_eq!((packed.scale(0, 0), dequantize(&packed)), (0.25, w));
        for (x, code) in [(-200.0, 0), (-115.5, 1), (0.0, 8), (-4.5, 8), (-4.6, 7), (101.0, 15)] {
            assert_eq!(nearest(table, x), code, "{x}");
        }
    }

    /// Weights that a scheme can represent come back, also where the last blocks of rows are short.
    #[test]
    fn k_quants_by_hand() {
        for (name, k, low, high) in [
            ("q4_k", 256, 0, 15),
            ("q5_k", 256, 0, 31),
            ("q6_k", 256, -32, 31),
            ("q4_k", 300, 0, 15),
        ] {
            let group = if name == "q6_k" { 16 } else { 32 };
            let w: Vec<f32> = (0..k)
                .map(|i| {
                    let code = low + (i * 7 % (high - low + 1) as usize) as i32;
                    let edge = if i % group == 0 { low } else { code };
                    let edge = if i % group == 1 { high } else { edge };
                    // The scales of groups are 1 to 4 times 1/16.
                    edge as f32 * (1 + i / group % 4) as f32 / 16.0
                })
                .collect();
            let packed = made(name, &w).unwrap();
            let error = relative_error(&w, &dequantize(&packed));
            assert!(error < 0.01, "{name}: {error}");
            // Negative minima, of about 1.
            let lower: Vec<f32> = w.iter().map(|w| w - 1.0).collect();
            let error = relative_error(&lower, &dequantize(&made(name, &lower).unwrap()));
            assert!(error < 0.03, "{name}: {error}");
        }
    }

    #[test]
    fn zeros_and_short_rows() {
        for format in WeightFormat::named().map(|(_, format)| format) {
            let Some(scheme) = Scheme::ggml(format).filter(|s| rule(&s.format()).is_ok()) else {
                continue;
            };
            for k in [1, 5, 31, 33, 256, 257, 300] {
                let packed = quantize_scheme(&vec![0.0; 2 * k], 2, k, &scheme).unwrap();
                assert!(dequantize(&packed).iter().all(|&w| w == 0.0), "{scheme} {k}");
                let w: Vec<f32> = (0..2 * k).map(|i| (i as f32 * 1.7).sin() + 0.1).collect();
                let packed = quantize_scheme(&w, 2, k, &scheme).unwrap();
                let error = relative_error(&w, &dequantize(&packed));
                assert!(error < 0.15, "{scheme} {k}: {error}");
                // A row is made as it is by itself.
                let alone = quantize_scheme(&w[k..], 1, k, &scheme).unwrap();
                assert_eq!(dequantize(&packed)[k..], dequantize(&alone)[..], "{scheme} {k}");
            }
            let empty = quantize_scheme(&[], 3, 0, &scheme).unwrap();
            assert_eq!(empty.geometry().sizes().total(), 0);
        }
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let mut w = vec![0.25; 2 * 512];
        for (name, group) in
            [("q4_0", 8), ("q4_1", 8), ("q8_0", 8), ("iq4_nl", 8), ("q4_k", 8), ("q6_k", 16)]
        {
            let scheme: Scheme = name.parse().unwrap();
            for bad in [1e-9, 1e9, f32::MAX, f32::MIN] {
                w[512 + 256..][..256].fill(bad);
                match quantize_scheme(&w, 2, 512, &scheme) {
                    Err(CompressError::ScaleRange { row, group: at, low, high, scale_type }) => {
                        assert_eq!((row, at, scale_type), (1, group, scheme.format().scale_type()));
                        assert_eq!((low, high), (bad.min(0.0), bad.max(0.0)));
                    }
                    other => panic!("{name} {bad}: {other:?}"),
                }
            }
            w[512 + 300] = f32::NAN;
            let refused = quantize_scheme(&w, 2, 512, &scheme);
            assert!(matches!(refused, Err(CompressError::NonFinite { row: 1, col: 300, .. })));
            w[512 + 300] = 0.25;
        }
        for name in ["q2_k", "q3_k", "iq4_xs"] {
            assert!(matches!(made(name, &[1.0; 256]), Err(CompressError::NoRule { .. })), "{name}");
        }
    }
}
