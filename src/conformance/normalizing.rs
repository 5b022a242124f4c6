//! Cases of the ops between matmuls that see whole rows.

use super::table::{FLOATS, X_SHAPES, x_values};
use super::{Case, Extent, Normalized, Op, Sampled};
use crate::format::{ActivationFormat, ActivationFunction, ActivationGranularity, WeightFormat};
use crate::ops::{FloatType, GateLayout, NormKind, Output};

/// The outputs of ops that see whole rows.
pub(super) fn outputs() -> impl Iterator<Item = Output> + Clone {
    let int8 = [ActivationGranularity::Token, ActivationGranularity::Tensor]
        .map(ActivationFormat::int8)
        .into_iter()
        .flat_map(|format| [format, format.asymmetric()].map(Output::Int8));
    FLOATS.map(Output::Float).into_iter().chain(int8)
}

/// Adds normalizations: both kinds, every type of X, residual and output, each in every shape and
/// pattern in turn.
pub(super) fn normalizing(extent: Extent, cases: &mut Vec<Case>) {
    let residuals = [None, Some(FLOATS[0]), Some(FLOATS[1])];
    let mut number = 0;
    for kind in NormKind::ALL {
        for residual in residuals {
            for (i, output) in outputs().enumerate() {
                for (j, activations) in FLOATS.into_iter().enumerate() {
                    number += 1;
                    for (a, shape) in X_SHAPES.into_iter().enumerate() {
                        for (b, values) in x_values().enumerate() {
                            // A third of the product; quick: one shape and pattern each, in turn.
                            let turn = number + number / 9;
                            let taken = match extent {
                                Extent::Full => (turn + a + b) % 3 == 0,
                                Extent::Quick => turn % 9 == a && turn % 8 == b,
                            };
                            if !taken {
                                continue;
                            }
                            let op = Op::Norm(Normalized { kind, residual, output });
                            let types = (activations, FLOATS[0]);
                            let mut case =
                                Case::of_x(op, WeightFormat::f32(), types, shape, values);
                            case.bias = (kind == NormKind::Layer) ^ ((i + j + a + b) % 4 == 0);
                            cases.push(case);
                        }
                    }
                }
            }
        }
    }
}

/// Adds gated activations: every function, output and type of X, each in every shape and pattern in turn.
/// Layouts alternate.
pub(super) fn gating(extent: Extent, cases: &mut Vec<Case>) {
    let mut number = 0;
    for (i, function) in ActivationFunction::ALL.into_iter().enumerate() {
        for output in outputs() {
            for activations in FLOATS {
                number += 1;
                for (a, shape) in X_SHAPES.into_iter().enumerate() {
                    for (b, values) in x_values().enumerate() {
                        let turn = number + number / 9;
                        let taken = match extent {
                            Extent::Full => (turn + a + b) % 3 == 0,
                            Extent::Quick => turn % 9 == a && (turn + number / 5) % 8 == b,
                        };
                        if !taken {
                            continue;
                        }
                        // Halves of an odd number of f16 are refused.
                        let odd = activations == FloatType::F16 && shape.1 % 2 == 1;
                        let alternate = match extent {
                            Extent::Full => number / 2 + a / 3 + b,
                            // Each output and type meets both layouts.
                            Extent::Quick => i,
                        };
                        let interleaved = odd || alternate % 2 == 1;
                        let layout = GateLayout::ALL[usize::from(interleaved)];
                        let op = Op::Gate { layout, output };
                        let types = (activations, FLOATS[0]);
                        let mut case = Case::of_x(op, WeightFormat::f32(), types, shape, values);
                        case.function = function;
                        cases.push(case);
                    }
                }
            }
        }
    }
}

/// Adds choices of tokens: every way and type of logits, in every shape and pattern, and in rows of many
/// columns and many rows.
pub(super) fn sampling(extent: Extent, cases: &mut Vec<Case>) {
    let shapes = X_SHAPES.into_iter().chain([(90, 66), (3, 20_001), (2, 49_152)]);
    // There is no token where there are no columns.
    let shapes: Vec<_> = shapes.filter(|(_, columns)| *columns > 0).collect();
    for (i, how) in Sampled::ALL.into_iter().enumerate() {
        for (j, activations) in FLOATS.into_iter().enumerate() {
            for (a, &shape) in shapes.iter().enumerate() {
                for (b, values) in x_values().enumerate() {
                    // Long rows have two patterns; quick: two shapes and patterns, in turn.
                    let turn = 2 * i + j;
                    let long = shape.1 > 20_000 && (turn + a) % 4 != b / 2;
                    let quick = a % 6 == turn % 6 && (turn + a / 2) % 8 == b;
                    if long || extent == Extent::Quick && !quick {
                        continue;
                    }
                    let types = (activations, FLOATS[0]);
                    cases.push(Case::of_x(
                        Op::Sample(how),
                        WeightFormat::f32(),
                        types,
                        shape,
                        values,
                    ));
                }
            }
        }
    }
}

/// Adds softmaxes: with a soft cap and without one, both types of X and Y, in every shape and pattern.
pub(super) fn softmaxes(extent: Extent, cases: &mut Vec<Case>) {
    for (i, capped) in [false, true].into_iter().enumerate() {
        for (j, types) in FLOATS.into_iter().flat_map(|x| FLOATS.map(|y| (x, y))).enumerate() {
            for (a, shape) in X_SHAPES.into_iter().enumerate() {
                for (b, values) in x_values().enumerate() {
                    // Quick: two shapes and patterns, in turn.
                    let turn = 4 * i + j;
                    if extent == Extent::Quick && (a % 5 != turn % 5 || (turn + a) % 8 != b) {
                        continue;
                    }
                    let op = Op::Softmax { capped };
                    cases.push(Case::of_x(op, WeightFormat::f32(), types, shape, values));
                }
            }
        }
    }
}
