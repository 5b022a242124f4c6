//! What matmul cases expect after the sums, and the cases of epilogues.

use super::table::{FLOATS, group};
use super::{Case, Extent, Quantized, Values};
use crate::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, Granularity, WeightFormat,
};
use crate::ops::{Epilogue, Output, Schedule};
use crate::reference::{Expected, OutputType};

/// Returns what Y holds at a place before a matmul that adds to it. It is an integer, so that exact
/// sums stay exact, and neighbors differ.
pub(super) fn old_value(row: usize, column: usize) -> f32 {
    ((7 * row + 5 * column) % 23) as f32 - 11.0
}

/// Returns what Y must be, `[rows, columns of Y]`, from the sums with their bias, `[rows, N]`, which must
/// have been computed for [`OutputType::F32`].
pub(super) fn finished(case: &Case, sums: Vec<Expected>, output: OutputType) -> Vec<Expected> {
    let (function, columns) = (case.function, case.n.max(1));
    match case.epilogue {
        Epilogue::None => sums.into_iter().map(|sum| sum.after(function, output)).collect(),
        Epilogue::Accumulate => sums
            .into_iter()
            .enumerate()
            .map(|(at, sum)| {
                let old = old_value(at / columns, at % columns);
                sum.after(function, OutputType::F32).accumulated(old.into(), output)
            })
            .collect(),
        Epilogue::Gated => sums
            .chunks_exact(2)
            .map(|pair| Expected::gated(pair[0], pair[1], function, output))
            .collect(),
    }
}

/// Rows and columns of W: none, one pair, an odd number of pairs, several workgroups, and K of less than
/// a block, with a remainder, and of several trips.
const SHAPES: [(usize, usize); 7] =
    [(70, 201), (2, 36), (134, 2080), (0, 8), (66, 64), (6, 0), (34, 520)];

/// Adds matmuls with the epilogues that change what is stored, for floats and quantized X: every schedule with
/// both types of Y, and those that the adapter chooses. Formats, functions, shapes, biases and strides
/// alternate.
pub(super) fn epilogues(extent: Extent, cases: &mut Vec<Case>) {
    let formats = [
        WeightFormat::int8(Granularity::Channel),
        WeightFormat::int4(group(64)),
        WeightFormat::f16(),
        WeightFormat::int4(group(24)).asymmetric(),
    ];
    let token = ActivationFormat::int8(ActivationGranularity::Token);
    let functions = ActivationFunction::ALL;
    let mut turn = 0;
    for quantized in [false, true] {
        for epilogue in [Epilogue::Accumulate, Epilogue::Gated] {
            for output in FLOATS {
                for index in 0.. {
                    let shape = SHAPES[turn % SHAPES.len()];
                    let all = match quantized {
                        false => Schedule::all(shape.1 as u32),
                        true => Schedule::integer(shape.1 as u32),
                    };
                    // After the last of them come four numbers of rows, for the adapter's own.
                    if index >= all.len() + 4 {
                        break;
                    }
                    turn += 1;
                    // Quick: one in five, which is coprime to the length of what alternates.
                    if extent == Extent::Quick && turn % 5 != 0 {
                        continue;
                    }
                    let schedule = all.get(index).copied();
                    let tile = schedule.map_or(1, |schedule| schedule.tile().0 as usize);
                    let m = match schedule {
                        None => [1, 5, 16, 70][index % 4],
                        Some(_) if tile == 1 => 1 + turn % 2,
                        Some(_) => tile + 1 + turn % (tile - 1),
                    };
                    let (m, n, k) = (m, shape.0, shape.1);
                    // Not all formats have integer products.
                    let format = formats[turn % if quantized { 2 } else { formats.len() }];
                    let values = Values::ALL[turn % Values::ALL.len()];
                    let mut case = if quantized {
                        let quantized = Quantized { format: token, output: Output::Float(output) };
                        Case::integer(format, quantized, (m, n, k), values)
                    } else {
                        let types = (FLOATS[turn / 2 % 2], output);
                        Case::matmul(format, types, (m, n, k), values)
                    };
                    (case.epilogue, case.schedule) = (epilogue, schedule);
                    case.function = functions[turn / 3 % functions.len()];
                    (case.bias, case.strided) = (turn % 5 < 2, turn.is_multiple_of(3));
                    cases.push(case);
                }
            }
        }
    }
}
