//! Cases of formats that the device does not quantize to, and of permuted columns.

use super::table::{FLOATS, READ_SHAPE, SMALL_SHAPES, X_SHAPES, formats, group};
use super::{Case, Extent, Op, Values};
use crate::format::{ScaleType, WeightFormat, sample_formats};
use crate::ops::FloatType;
use std::collections::HashSet;

/// Adds cases of dequantize and gather in the other formats: each code type, offset, type of scales and
/// granularity, with columns in order and permuted, in one shape each, and the formats of other
/// projects in every shape. Ops, types, textures and strides alternate.
pub(super) fn reading(extent: Extent, cases: &mut Vec<Case>) {
    let made: HashSet<_> = formats([32, 6]).into_iter().collect();
    let others = sample_formats().into_iter().filter(|format| !made.contains(format));
    for (i, format) in others.enumerate() {
        for (a, (n, k)) in SMALL_SHAPES.into_iter().chain([READ_SHAPE]).enumerate() {
            // Empty matrices have no values, so that one format in eight is enough for them.
            let turn = i / 2 + i % 2 * 3;
            let shape = if turn % 8 < 2 && turn / 8 % 4 > 0 { 7 } else { turn % 8 };
            let every = extent == Extent::Full && format.other_name().is_some();
            let quick = i % 11 == 0 || format.other_name().is_some() && a == 7;
            if !every && a != shape || extent == Extent::Quick && !quick {
                continue;
            }
            let types = (FloatType::F32, FLOATS[(turn / 3 + a) % 2]);
            let op = [Op::Dequantize, Op::Gather][(turn / 5 + a) % 2];
            let m = if op == Op::Gather { 9 } else { n };
            let mut case = Case::matmul(format, types, (m, n, k), Values::Normal);
            (case.op, case.bias, case.strided) = (op, false, turn % 3 == 1);
            case.textures = turn / 2 % 2 == 1;
            cases.push(case);
        }
    }
}

/// Adds descriptions of rows: steps of one and of many rows, after no tokens and after some, with windows
/// that reach back further than there are tokens, and not.
pub(super) fn positions(cases: &mut Vec<Case>) {
    for (m, before) in [(0, 5), (1, 0), (1, 1000), (5, 3), (64, 0), (65, 100), (300, 17)] {
        for window in [None, Some(1), Some(7), Some(u32::MAX)] {
            let (op, types) = (Op::Positions { window }, (FloatType::F32, FloatType::F32));
            let format = WeightFormat::f32();
            cases.push(Case::of_x(op, format, types, (m, before), Values::Normal));
        }
    }
}

/// Adds permutations of the columns of X in both types and every shape, with NaN and without, and
/// matmuls of weights with permuted columns: formats of every granularity, some of every code type, with
/// types, m and shapes in turn.
pub(super) fn permuting(extent: Extent, cases: &mut Vec<Case>) {
    for (j, activations) in FLOATS.into_iter().enumerate() {
        for (a, shape) in X_SHAPES.into_iter().chain([(300, 66)]).enumerate() {
            for (b, values) in [Values::Normal, Values::NotFinite].into_iter().enumerate() {
                // Quick: two shapes each, in turn.
                if extent == Extent::Quick && (a + j) % 5 != 2 + b {
                    continue;
                }
                let types = (activations, activations);
                let mut case =
                    Case::of_x(Op::PermuteColumns, WeightFormat::f32(), types, shape, values);
                case.strided = (a + j + b) % 2 == 0;
                cases.push(case);
            }
        }
    }
    let permuted = sample_formats().into_iter().filter(WeightFormat::is_permuted);
    for (i, format) in permuted.enumerate() {
        // GPTQ's formats in groups of 64, and one in seven of all.
        let gptq = format.code_type().is_integer() && format.granularity() == group(64);
        let gptq = gptq && format.scale_type() == ScaleType::F16;
        let taken = if extent == Extent::Full { gptq || i % 7 == 0 } else { i % 97 == 0 };
        if !taken {
            continue;
        }
        let turn = i / 7 + i;
        let shape = [(33, 72), (72, 35), (70, 200), (5, 7), (70, 385)][turn % 5];
        let m = [1, 3, 33, 65][turn / 2 % 4];
        let types = (FLOATS[turn / 3 % 2], FLOATS[turn / 5 % 2]);
        let mut case = Case::matmul(format, types, (m, shape.0, shape.1), Values::Normal);
        case.strided = turn % 3 == 0;
        cases.push(case);
    }
}
