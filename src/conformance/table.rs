use super::attention_table::attending;
use super::covering::triples;
use super::epilogue::epilogues;
use super::experts::mixtures;
use super::gram::gram;
use super::hadamard::transforming;
use super::normalizing::{gating, normalizing, sampling, softmaxes};
use super::reading::{permuting, positions, reading};
use super::rotary::rotating;
use super::{Case, FakeScales, Op, Quantized, Values};
use crate::compress::calibrate::Axis;
use crate::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, CodeType, Granularity, ScaleType,
    WeightFormat, other_formats,
};
use crate::ops::matmul::Decoder;
use crate::ops::{FloatType, FormatUse, Output, Schedule};
use std::collections::HashSet;
use std::num::{NonZeroU32, NonZeroUsize};

/// The part of the table to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// The whole table, which takes minutes on a software adapter.
    Full,
    /// Every decoder, schedule and type once or a few times, which takes less than a minute.
    Quick,
}

pub(super) const FLOATS: [FloatType; 2] = [FloatType::F32, FloatType::F16];

/// One m for each row range.
const SMALL_M: [usize; 4] = [1, 7, 16, 65];

/// Shapes that are empty, single, tiny and odd, whole blocks, and more than two blocks with a
/// remainder.
pub(super) const SMALL_SHAPES: [(usize, usize); 7] =
    [(0, 8), (8, 0), (1, 1), (5, 7), (64, 64), (33, 72), (72, 35)];

const LARGE_M: [usize; 6] = [1, 2, 7, 16, 33, 128];
const LARGE: [usize; 8] = [192, 384, 385, 575, 576, 1536, 4095, 4096];

pub(super) fn group(g: u32) -> Granularity {
    Granularity::Group(NonZeroU32::new(g).unwrap_or(NonZeroU32::MIN))
}

/// Returns every format with these group sizes: all combinations of code type, granularity,
/// symmetry, scale type and sparsity that exist.
pub fn formats(groups: [u32; 2]) -> Vec<WeightFormat> {
    WeightFormat::all(groups)
}

/// Returns the format whose sparsity, symmetry and scale type are the bits of `index`, or `None` if
/// it does not exist.
fn format(element: CodeType, granularity: Granularity, index: usize) -> Option<WeightFormat> {
    WeightFormat::of_bits(element, granularity, index)
}

/// Returns the case table. It consists of:
///
/// - matmuls whose codes are in textures, for every decoder and row range;
/// - small matmuls: the full product of formats, types of X and Y, row ranges of m and shapes up to
///   72, with alternating value patterns and scale types;
/// - pinned matmuls: every schedule with every decoder and way of scaling;
/// - matmuls of all other formats: each with some schedules in turn, so that every code type meets every
///   schedule;
/// - large matmuls: a covering array of strength 3 over code types, granularities, symmetry, scale
///   types and sparsity, types, m, N, K and value patterns;
/// - the kernels that quantize and dequantize weights, and those that have only X;
/// - matmuls of weights with permuted columns;
/// - matmuls with epilogues, and what a mixture of experts needs;
/// - attention.
pub fn table(extent: Extent) -> Vec<Case> {
    let mut cases = Vec::new();
    small(extent, &mut cases);
    pinned(extent, &mut cases);
    textures(extent, &mut cases);
    integers(extent, &mut cases);
    others(extent, &mut cases);
    if extent == Extent::Full {
        large(&mut cases);
    }
    making(extent, &mut cases);
    reading(extent, &mut cases);
    quantizing(extent, &mut cases);
    observing(extent, &mut cases);
    gram(extent, &mut cases);
    fake_quantizing(extent, &mut cases);
    permuting(extent, &mut cases);
    positions(&mut cases);
    rotating(extent, &mut cases);
    epilogues(extent, &mut cases);
    normalizing(extent, &mut cases);
    transforming(extent, &mut cases);
    gating(extent, &mut cases);
    sampling(extent, &mut cases);
    softmaxes(extent, &mut cases);
    mixtures(extent, &mut cases);
    attending(extent, &mut cases);
    // Parts of the table meet in a few cases, which are run once.
    let mut seen = HashSet::new();
    cases.retain(|case| seen.insert(case.clone()));
    cases
}

/// Returns every `every`th case, starting at case number `offset` modulo `every`. The offsets from 0
/// to `every - 1` divide the table into samples that share no case and together hold all of them,
/// so that tests which take the next offset at each commit cover the whole table over time.
pub fn sample(cases: Vec<Case>, every: NonZeroUsize, offset: usize) -> Vec<Case> {
    cases.into_iter().skip(offset % every).step_by(every.get()).collect()
}

fn small(extent: Extent, cases: &mut Vec<Case>) {
    // Scale types alternate over the rest of the product, so that both occur with every decoder.
    let formats = formats([32, 6]).into_iter().filter(|f| f.scale_type() == ScaleType::F32);
    for (i, format) in formats.enumerate() {
        for (j, activations) in FLOATS.into_iter().enumerate() {
            for (l, output) in FLOATS.into_iter().enumerate() {
                for (a, m) in SMALL_M.into_iter().enumerate() {
                    // Quick: each format gets one of the sixteen pairs of types and m, in turn.
                    let turn = (i + 4 * (2 * j + l) + a) % 16;
                    if extent == Extent::Quick && turn != 0 {
                        continue;
                    }
                    let other = format.with_scales(ScaleType::F16);
                    let f16_scales = (i / 2 + j + l + a) % 2 == 1 && other.check().is_ok();
                    let format = if f16_scales { other } else { format };
                    for (b, (n, k)) in SMALL_SHAPES.into_iter().enumerate() {
                        if extent == Extent::Quick && !k.is_multiple_of(4) {
                            continue;
                        }
                        let values = Values::ALL[(i + a + b + j + l) % Values::ALL.len()];
                        cases.push(Case::matmul(format, (activations, output), (m, n, k), values));
                    }
                }
            }
        }
    }
}

/// Adds cases for schedules that this adapter may not choose by itself. Each is combined with every
/// decoder and way of scaling, and with values of K that give each number of lanes and both ways to
/// load X. Symmetry, scale type, types, bias and strides do not change the loop of a schedule, so
/// they alternate.
fn pinned(extent: Extent, cases: &mut Vec<Case>) {
    let mut kinds = 0;
    for element in CodeType::WIDE {
        for sparse in [0, 1] {
            for granularity in [group(64), group(24)] {
                if !element.is_integer() && granularity == group(24) {
                    continue;
                }
                kinds += 1;
                for (shape, k) in PINNED_K.into_iter().enumerate() {
                    // Quick: one K per kind, in turn.
                    if extent == Extent::Quick && kinds % PINNED_K.len() != shape {
                        continue;
                    }
                    for (j, schedule) in Schedule::all(k as u32).into_iter().enumerate() {
                        // Quick: the largest tiles of rows, which compile slowest, in turn.
                        let largest = matches!(schedule, Schedule::Rows { m_tile: 8.., .. });
                        if extent == Extent::Quick && largest && (kinds + j) % 4 != 0 {
                            continue;
                        }
                        // Symmetry and scale type alternate if the code type has both.
                        let turn = kinds + j + shape;
                        let format = format(element, granularity, sparse | ((turn % 4) << 1))
                            .or_else(|| format(element, granularity, sparse));
                        let Some(format) = format else { continue };
                        let values = Values::ALL[turn % Values::ALL.len()];
                        // One tile and part of another, or one or two rows for kernels that compute
                        // one row.
                        let tile = schedule.tile().0 as usize;
                        let m = if tile == 1 { 1 + turn % 2 } else { tile + 1 + turn % (tile - 1) };
                        let types = (FLOATS[turn / 2 % 2], FLOATS[turn / 3 % 2]);
                        let mut case = Case::matmul(format, types, (m, 70, k), values);
                        case.schedule = Some(schedule);
                        (case.bias, case.strided) = (turn % 5 < 2, turn.is_multiple_of(3));
                        if turn % 4 == 3 {
                            let functions = ActivationFunction::ALL;
                            case.function = functions[turn / 4 % functions.len()];
                        }
                        cases.push(case);
                    }
                }
            }
        }
    }
}

/// Adds matmuls of the formats that [`formats`] does not have: one as an adapter chooses it, and two with
/// a schedule that it may not choose by itself. Everything alternates; types that have three formats or
/// more meet every schedule.
fn others(extent: Extent, cases: &mut Vec<Case>) {
    for (i, format) in other_formats().into_iter().enumerate() {
        for j in 0..3 {
            let turn = 3 * i + j;
            // Quick: one case of every third format.
            if extent == Extent::Quick && turn % 9 != 0 {
                continue;
            }
            let (n, k) = [(70, 544), (33, 301), (5, 2080), (70, 96)][(i + j) % 4];
            let schedules = Schedule::all(k as u32);
            let schedule = (j > 0).then(|| schedules[(2 * i + j) % schedules.len()]);
            let m = schedule.map_or(SMALL_M[turn % 4], |schedule| {
                let tile = schedule.tile().0 as usize;
                if tile == 1 { 1 + turn % 2 } else { tile + 1 + turn % (tile - 1) }
            });
            let types = (FLOATS[turn / 2 % 2], FLOATS[turn / 3 % 2]);
            let mut case = Case::matmul(format, types, (m, n, k), Values::Normal);
            case.schedule = schedule;
            (case.bias, case.strided) = (turn % 5 < 2, turn.is_multiple_of(3));
            case.textures = turn % 4 == 1;
            cases.push(case);
        }
    }
}

/// Adds cases whose codes are in textures, for every decoder that loads 16 bytes or more. Their
/// rows take less than one row of a texture, or several with a remainder.
fn textures(extent: Extent, cases: &mut Vec<Case>) {
    let decoders = CodeType::WIDE.into_iter().flat_map(|element| [(element, 0), (element, 1)]);
    for (i, (element, sparse)) in decoders.enumerate() {
        for (j, m) in LARGE_M.into_iter().enumerate() {
            // Quick: one m per decoder, in turn.
            if extent == Extent::Quick && i % LARGE_M.len() != j {
                continue;
            }
            let turn = i + j;
            let format = format(element, group(64), sparse | ((turn % 4) << 1))
                .or_else(|| format(element, group(64), sparse));
            let Some(format) = format.filter(|f| Decoder::of(f).block_bytes() >= 16) else {
                continue;
            };
            let k = if turn % 2 == 0 { 2080 } else { 201 };
            let types = (FLOATS[turn / 2 % 2], FLOATS[turn / 3 % 2]);
            let values = Values::ALL[turn % Values::ALL.len()];
            let mut case = Case::matmul(format, types, (m, 70, k), values);
            case.textures = true;
            cases.push(case);
        }
    }
}

/// Adds matmuls of quantized X: every decoder of int8 and int4 and every combination of groups of W
/// and of X, with every schedule, and all other formats. Outputs and functions alternate. Some K are
/// next to the limit at which sums would wrap.
fn integers(extent: Extent, cases: &mut Vec<Case>) {
    let granularities = [Granularity::Channel, group(64), group(96), group(160), group(16)];
    let mut kind = 0usize;
    for element in [CodeType::Int8, CodeType::Int4] {
        for index in 0..8 {
            for (a, granularity) in granularities.into_iter().enumerate() {
                let Some(format) = format(element, granularity, index) else { continue };
                if FormatUse::IntegerMatmul.check(&format).is_err() {
                    continue;
                }
                for (b, x) in int8_formats().into_iter().enumerate() {
                    kind += 1;
                    // Half of the product, or one in eleven if quick: 11 is coprime to the length
                    // of everything that alternates.
                    let one_in = if extent == Extent::Quick { 11 } else { 2 };
                    if !(index + a + b + kind / 7).is_multiple_of(one_in) {
                        continue;
                    }
                    let case = integer_case(format, x, kind);
                    cases.push(case.clone());
                    if extent == Extent::Full && kind.is_multiple_of(3) {
                        cases.push(Case { schedule: None, ..case });
                    }
                }
            }
        }
    }
    let others = other_formats().into_iter().filter(|f| FormatUse::IntegerMatmul.check(f).is_ok());
    for (a, format) in others.enumerate() {
        for b in 0..INTEGER_TURNS {
            kind = INTEGER_TURNS * a + b;
            // Quick: one in thirteen, which is coprime to the length of everything that alternates.
            if extent == Extent::Quick && !kind.is_multiple_of(13) {
                continue;
            }
            let x = int8_formats()[(a + 2 * b) % int8_formats().len()];
            cases.push(integer_case(format, x, kind));
        }
    }
    // K for sums of 2¹⁵ products of 255 · 255, for one block more, and for twice as many.
    for (i, k) in [32_768, 32_800, 65_536].into_iter().enumerate() {
        for (j, x) in int8_formats().into_iter().enumerate() {
            for schedule in Schedule::integer(k as u32) {
                if (i + j) % (if extent == Extent::Quick { 6 } else { 3 }) != 0 {
                    continue;
                }
                let Some(format) = format(CodeType::Int8, Granularity::Channel, 2) else {
                    continue;
                };
                let quantized = Quantized { format: x, output: Output::Float(FloatType::F32) };
                let mut case = Case::integer(format, quantized, (3, 5, k), Values::Constant);
                case.schedule = Some(schedule);
                cases.push(case);
            }
        }
    }
}

/// How often each of the other formats occurs with integer products.
const INTEGER_TURNS: usize = 3;

/// Returns a case of a number: shape, schedule, values, output and the rest follow from it.
fn integer_case(format: WeightFormat, x: ActivationFormat, number: usize) -> Case {
    let (n, k) = INTEGER_SHAPES[number % INTEGER_SHAPES.len()];
    let all = Schedule::integer(k as u32);
    let schedule = all[number % all.len()];
    let tile = schedule.tile().0 as usize;
    let m = if tile == 1 { 1 + number % 2 } else { tile + 1 + number % (tile - 1) };
    let values = Values::ALL[number % Values::ALL.len()];
    let turn = number + number / 7;
    let quantized = Quantized { format: x, output: integer_output(turn) };
    let mut case = Case::integer(format, quantized, (m, n, k), values);
    case.schedule = Some(schedule);
    (case.bias, case.strided) = (turn % 5 < 2, turn.is_multiple_of(3));
    case.function = ActivationFunction::ALL[turn / 2 % ActivationFunction::ALL.len()];
    case.textures = turn % 4 == 1;
    case
}

/// Rows and columns of W.
const INTEGER_SHAPES: [(usize, usize); 9] = [
    (70, 1),
    (5, 200),
    (33, 320),
    (70, 385),
    (0, 8),
    (130, 2080),
    (8, 0),
    // The last half of a block of 32 columns, and no second half.
    (9, 24),
    (70, 48),
];

fn activation_group(g: u32) -> ActivationGranularity {
    ActivationGranularity::Group(NonZeroU32::new(g).unwrap_or(NonZeroU32::MIN))
}

fn int8_formats() -> [ActivationFormat; 7] {
    let token = ActivationFormat::int8(ActivationGranularity::Token);
    let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
    let grouped = ActivationFormat::int8(activation_group(64));
    [
        token,
        token.asymmetric(),
        tensor.asymmetric(),
        grouped,
        grouped.asymmetric(),
        ActivationFormat::int8(activation_group(96)).asymmetric(),
        ActivationFormat::int8(activation_group(32)),
    ]
}

fn integer_output(turn: usize) -> Output {
    let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
    match turn % 4 {
        0 => Output::Float(FloatType::F32),
        1 => Output::Float(FloatType::F16),
        2 => Output::Int8(tensor),
        _ => Output::Int8(tensor.asymmetric()),
    }
}

/// They give 8, 8 and 2 lanes, and the last one 32 and 128. 201 is not a multiple of any block or
/// vector size.
const PINNED_K: [usize; 4] = [200, 201, 36, 2080];

fn large(cases: &mut Vec<Case>) {
    let granularities = [Granularity::Tensor, Granularity::Channel, group(64), group(40)];
    // The factors are code type, granularity, sparsity/symmetry/scales, types, m, n, k and values.
    let levels = [5, 4, 2, 2, 2, 2, 2, LARGE_M.len(), LARGE.len(), LARGE.len(), 6];
    for row in triples(&levels) {
        let element = CodeType::WIDE[row[0]];
        // Bits that do not apply to a format are ignored. The rest still covers the triple.
        let index = match element {
            CodeType::Int8 | CodeType::Int4 => row[2] | row[3] << 1 | row[4] << 2,
            _ => row[2],
        };
        let Some(format) = format(element, granularities[row[1]], index) else { continue };
        let shape = (LARGE_M[row[7]], LARGE[row[8]], LARGE[row[9]]);
        let types = (FLOATS[row[5]], FLOATS[row[6]]);
        cases.push(Case::matmul(format, types, shape, Values::ALL[row[10]]));
    }
}

/// Adds cases of compress, dequantize and gather: every format, shape and value pattern.
fn making(extent: Extent, cases: &mut Vec<Case>) {
    for (i, format) in formats([32, 6]).into_iter().enumerate() {
        for (a, (n, k)) in SMALL_SHAPES.into_iter().chain([READ_SHAPE]).enumerate() {
            for (b, values) in Values::ALL.into_iter().enumerate() {
                for (c, op) in [Op::Compress, Op::Dequantize, Op::Gather].into_iter().enumerate() {
                    // How rows are read back depends on their contents, not on the pattern they
                    // came from, so one pattern is enough. It is also enough for the quick table.
                    let one = extent == Extent::Quick || op != Op::Compress;
                    if one && (i + a + c) % Values::ALL.len() != b {
                        continue;
                    }
                    let types = (FloatType::F32, FLOATS[(a + b) % 2]);
                    let m = if op == Op::Gather { 9 } else { n };
                    let mut case = Case::matmul(format, types, (m, n, k), values);
                    (case.op, case.bias, case.strided) = (op, false, (a + b) % 3 == 0);
                    case.textures = op != Op::Compress && (a + c) % 2 == 1;
                    cases.push(case);
                }
            }
        }
    }
}

/// A shape with two super-blocks in a row.
pub(super) const READ_SHAPE: (usize, usize) = (130, 300);

/// Rows and columns of X: empty, single, less than a block, whole blocks with and without a
/// remainder, multiples of four, of two and of neither, and several iterations of a workgroup.
pub(super) const X_SHAPES: [(usize, usize); 9] =
    [(0, 8), (3, 0), (1, 1), (2, 31), (4, 64), (5, 33), (7, 100), (4, 386), (2, 2080)];

/// Returns the patterns of X.
pub(super) fn x_values() -> impl Iterator<Item = Values> + Clone {
    Values::ALL.into_iter().chain(Values::ODD)
}

/// Adds cases that quantize X: every format, type and shape, with scales computed from X and with a
/// static scale, in every pattern.
fn quantizing(extent: Extent, cases: &mut Vec<Case>) {
    let tensor = ActivationFormat::int8(ActivationGranularity::Tensor);
    let block = ActivationFormat::int8(activation_group(32));
    let dynamic = int8_formats().into_iter().chain([tensor, block, block.asymmetric()]);
    let given = [tensor, tensor.asymmetric()].into_iter().map(|format| (format, true));
    let kinds = dynamic.map(|format| (format, false)).chain(given);
    for (i, (format, given)) in kinds.enumerate() {
        for (j, activations) in FLOATS.into_iter().enumerate() {
            for (a, shape) in X_SHAPES.into_iter().enumerate() {
                for (b, values) in x_values().enumerate() {
                    // Quick: one shape and one pattern each, in turn.
                    let turn = i + 4 * j;
                    if extent == Extent::Quick && ((2 + turn) % 9 != a || turn % 8 != b) {
                        continue;
                    }
                    let (op, types) = (Op::Quantize { format, given }, (activations, FLOATS[0]));
                    cases.push(Case::of_x(op, WeightFormat::f32(), types, shape, values));
                }
            }
        }
    }
}

/// Adds observations: both axes with many bins, few and none, for every type, shape and pattern,
/// and rows of more than one tile.
fn observing(extent: Extent, cases: &mut Vec<Case>) {
    let kinds = [(Axis::Tensor, 2048), (Axis::Channel, 16), (Axis::Tensor, 0), (Axis::Channel, 1)];
    for (i, (axis, bins)) in kinds.into_iter().enumerate() {
        for (j, activations) in FLOATS.into_iter().enumerate() {
            for (a, shape) in X_SHAPES.into_iter().chain([(300, 66)]).enumerate() {
                for (b, values) in x_values().enumerate() {
                    // Quick: two shapes and patterns each, in turn.
                    let turn = 2 * i + j;
                    let quick = a % 5 == turn % 5 && (turn + a) % 8 == b;
                    if extent == Extent::Quick && !quick {
                        continue;
                    }
                    let (op, types) = (Op::Observe { axis, bins }, (activations, FLOATS[0]));
                    cases.push(Case::of_x(op, WeightFormat::f32(), types, shape, values));
                }
            }
        }
    }
}

/// Adds fake quantizations: every format of dense integers, origin of scales, pair of types and
/// shape, and rows longer than one workgroup sums, in every pattern. Scale types alternate.
fn fake_quantizing(extent: Extent, cases: &mut Vec<Case>) {
    let integers = |f: &WeightFormat| f.code_type().is_integer() && !f.is_sparse();
    let formats = formats([32, 6]).into_iter().filter(integers);
    let formats = formats.filter(|format| format.scale_type() == ScaleType::F32);
    for (i, format) in formats.enumerate() {
        for (j, from) in FakeScales::ALL.into_iter().enumerate() {
            for (l, types) in FLOATS.into_iter().flat_map(|x| FLOATS.map(|y| (x, y))).enumerate() {
                for (a, shape) in X_SHAPES.into_iter().chain([(2, 8193)]).enumerate() {
                    for (b, values) in x_values().enumerate() {
                        // Quick: types, a shape and a pattern each, in turn.
                        let turn = i + j + l;
                        let quick = (i / 3 + j) % 4 == l && (2 + turn) % 10 == a;
                        if extent == Extent::Quick && !(quick && (turn / 2 + a) % 8 == b) {
                            continue;
                        }
                        // Long rows have only one pattern, because the reference is slow.
                        if shape.1 > 8192 && b != turn % 8 {
                            continue;
                        }
                        let other = format.with_scales(ScaleType::F16);
                        let f16_scales = (turn + a + b) % 2 == 1 && other.check().is_ok();
                        let format = if f16_scales { other } else { format };
                        cases.push(Case::of_x(Op::FakeQuant(from), format, types, shape, values));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Rotary;
    use crate::format::CacheFormat;
    use crate::ops::RotaryPairs;

    /// `make test` takes the next offset at each commit: none is skipped and none is taken twice.
    #[test]
    fn offsets_divide_the_table() {
        for extent in [Extent::Full, Extent::Quick] {
            let cases = table(extent);
            for every in [1, 5, 9, 10, 31] {
                let every = NonZeroUsize::new(every).unwrap();
                let samples: Vec<_> =
                    (0..every.get()).map(|offset| sample(cases.clone(), every, offset)).collect();
                for (index, case) in cases.iter().enumerate() {
                    let taken = &samples[index % every][index / every];
                    assert_eq!(taken, case, "{} of each {every}", case.id());
                }
                assert_eq!(samples.iter().map(Vec::len).sum::<usize>(), cases.len());
                // A later commit's offset is a larger number.
                let again = sample(cases.clone(), every, 7 * every.get() + 3 % every);
                assert_eq!(again, samples[3 % every]);
            }
        }
    }

    #[test]
    fn cases_differ_and_cover() {
        for extent in [Extent::Full, Extent::Quick] {
            let cases = table(extent);
            let ids: HashSet<_> = cases.iter().map(Case::id).collect();
            assert_eq!(ids.len(), cases.len());
            let formats: HashSet<_> = cases.iter().map(|c| c.format).collect();
            assert!(formats.len() >= 76, "{} formats", formats.len());
        }
        let full = table(Extent::Full);
        for format in formats([32, 6]) {
            let f32_scales = format.with_scales(ScaleType::F32);
            for m in SMALL_M {
                for x in FLOATS {
                    for y in FLOATS {
                        let found = |c: &&Case| {
                            let scales = c.format.with_scales(ScaleType::F32);
                            (scales, c.m, c.activations, c.output) == (f32_scales, m, x, y)
                        };
                        assert!(full.iter().filter(found).count() >= SMALL_SHAPES.len());
                    }
                }
            }
        }
        for extent in [Extent::Full, Extent::Quick] {
            let cases = table(extent);
            let of_x: Vec<_> = cases.iter().filter(|c| !c.op.has_weights()).collect();
            for pattern in x_values() {
                let quantizes = |c: &&&Case| matches!(c.op, Op::Quantize { .. });
                let observes = |c: &&&Case| matches!(c.op, Op::Observe { .. });
                let fakes = |c: &&&Case| matches!(c.op, Op::FakeQuant(_));
                let rotates = |c: &&&Case| matches!(c.op, Op::Rotary(_));
                let transforms = |c: &&&Case| matches!(c.op, Op::Hadamard { .. });
                let ops: [&dyn Fn(&&&Case) -> bool; 5] =
                    [&quantizes, &observes, &fakes, &rotates, &transforms];
                for op in ops {
                    assert!(of_x.iter().filter(op).any(|c| c.values == pattern), "{pattern:?}");
                }
            }
            let heads: Vec<_> = of_x
                .iter()
                .filter_map(
                    |c| if let Op::Rotary(rotary) = c.op { Some((rotary, c)) } else { None },
                )
                .collect();
            // Each cache meets each type, and each of the rest occurs with each of them.
            for cache in CacheFormat::ALL {
                for float in FLOATS {
                    let of = |holds: fn(&Rotary) -> bool| {
                        let fits = |(rotary, c): &&(Rotary, &&Case)| {
                            rotary.cache == cache && c.activations == float && holds(rotary)
                        };
                        heads.iter().any(|head| fits(&head))
                    };
                    let rest: [fn(&Rotary) -> bool; 5] = [
                        |r| r.norm,
                        |r| r.hadamard,
                        |r| r.pairs == RotaryPairs::Adjacent && r.rotary_dim > 0,
                        |r| r.pairs == RotaryPairs::HalfSplit && r.rotary_dim > 0,
                        |r| !r.norm && !r.hadamard,
                    ];
                    assert!(rest.into_iter().all(of), "{cache} {float:?} {extent:?}");
                }
            }
            let others = |c: &&&Case| {
                let own =
                    matches!(c.op, Op::Rotary(_) | Op::Hadamard { .. } | Op::Positions { .. });
                !own && !matches!(c.op, Op::Route { .. } | Op::Combine { .. } | Op::Attention(_))
            };
            let of_x = of_x.iter().filter(others);
            let kinds: HashSet<_> = of_x.map(|c| (c.op, c.activations)).collect();
            let (norms, gates) = (2 * 3 * 6, 2 * 6);
            assert_eq!(kinds.len(), 2 * (11 + 4 + 3 + 1 + 1 + norms + gates + 6 + 2));
        }
        let pinned: HashSet<_> = full.iter().filter_map(|c| c.schedule).collect();
        let lanes = |wanted| {
            pinned.iter().any(|s| matches!(s, Schedule::Gemv { lanes, .. } if *lanes == wanted))
        };
        assert!([2, 8, 32, 128].into_iter().all(lanes));
        assert!([32, 64].iter().all(|&m_tile| pinned.contains(&Schedule::Tiled { m_tile })));
        eprintln!("{} cases, quick {}", full.len(), table(Extent::Quick).len());
    }
}
