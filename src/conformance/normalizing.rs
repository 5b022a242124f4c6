//! Cases of the ops between matmuls that see whole rows.

use super::table::{FLOATS, X_SHAPES, x_values};
use super::{Case, Extent, Normalized, Op};
use crate::format::{ActivationFormat, ActivationGranularity, WeightFormat};
use crate::ops::{NormKind, Output};

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
