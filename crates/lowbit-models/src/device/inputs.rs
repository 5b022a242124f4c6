//! What the inputs of linear layers are: floats, or codes with scales that the file states or that follow from
//! each input.

use super::RunError;
use super::graph::{Graph, MatrixId, Op, Rows, Shape, Tensor, VectorId};
use super::weights::{Part, Weights};
use lowbit::format::{ActivationFunction, ActivationGranularity, Quantization};
use lowbit::ops::{Activations, Epilogue, FloatType, MatmulSpec};

/// How a file says that the input of a linear layer becomes codes, and the buffer of a scale that it fixes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Codes {
    pub how: Quantization,
    pub given: Option<VectorId>,
}

/// Returns how the input of layers becomes codes: only if all of them take such codes, and as the file says
/// unless `activations` are codes. Layers that share their input but not what the file says take floats.
pub(super) fn codes(weights: &Weights, activations: Activations, parts: &[Part]) -> Option<Codes> {
    let codes = match activations {
        Activations::Int8(format) => Codes { how: Quantization::Dynamic(format), given: None },
        Activations::Float(_) => {
            let first = parts.first()?.codes?;
            let same = |part: &Part| part.codes.is_some_and(|codes| codes.how == first.how);
            parts.iter().all(same).then_some(first)?
        }
    };
    let format = Activations::Int8(codes.how.format());
    let takes = |part: &Part| {
        let weights = weights.store.matrices.get(part.matrix.0);
        weights.is_some_and(|weights| {
            MatmulSpec::of(1, weights).with_activations(format).check().is_ok()
        })
    };
    parts.iter().all(takes).then_some(codes)
}

/// Returns the matrix of the reciprocals of the factors by which a file says that the input of layers is
/// divided, one for each column.
fn factors(parts: &[Part]) -> Option<MatrixId> {
    parts.iter().find_map(|part| part.factors)
}

/// Returns the rows that a normalization writes for layers that take such codes: these, if each row has a scale of
/// its own or all have a given one, or floats, of which the codes are made then.
pub(super) fn normalized(codes: Option<Codes>, parts: &[Part], float: FloatType) -> Rows {
    match codes.map(|codes| codes.how) {
        Some(how) if factors(parts).is_none() && is_of_rows(how) => Rows::Int8(how),
        _ => Rows::Float(float),
    }
}

/// Whether norms and gates write such codes: those with a scale for each row, or a given one.
fn is_of_rows(how: Quantization) -> bool {
    match how {
        Quantization::Dynamic(format) => format.granularity() == ActivationGranularity::Token,
        Quantization::Static(_) => true,
    }
}

/// Returns what layers take of a tensor of floats: divided by the factors, and as codes. `own` says that nothing else
/// takes the tensor; otherwise it has to be what the last op made.
///
/// # Errors
/// Returns [`RunError::Unsupported`] for other tensors.
pub(super) fn linear(
    graph: &mut Graph,
    codes: Option<Codes>,
    parts: &[Part],
    input: Tensor,
    own: bool,
) -> Result<Tensor, RunError> {
    let Shape { rows, columns, stored, .. } = graph.shapes[input.0];
    let coded = |graph: &mut Graph, input: Tensor| match codes {
        None => input,
        Some(Codes { how, given }) => {
            let output = graph.tensor(rows, columns, Rows::Int8(how));
            graph.ops.push(Op::Quantize { input, output, given });
            output
        }
    };
    let Some(table) = factors(parts) else { return Ok(coded(graph, input)) };
    // The rows go into the first halves of wider ones, the reciprocals of the factors into the others, and the gate
    // whose function is the identity multiplies them.
    let wide = graph.tensor(rows, 2 * columns, stored);
    widened(graph, input, wide, own)?;
    let indices = match graph.zeros {
        Some(zeros) => zeros,
        None => graph.kept(rows, 1, Rows::Words),
    };
    graph.zeros = Some(indices);
    graph.ops.push(Op::Gather { table, indices: (indices, 0), output: wide, column: columns });
    let direct = codes.map(|codes| codes.how).filter(|how| is_of_rows(*how));
    let output = graph.tensor(rows, columns, direct.map_or(stored, Rows::Int8));
    let function = ActivationFunction::Identity;
    graph.ops.push(Op::Gate { function, input: wide, output });
    Ok(if direct.is_some() { output } else { coded(graph, output) })
}

/// Lets the op that makes a tensor write to `wide`: instead, or if others take the tensor, once more.
fn widened(graph: &mut Graph, from: Tensor, wide: Tensor, own: bool) -> Result<(), RunError> {
    let what =
        "smoothing of an input that is no result of a normalization, attention or a linear layer";
    let refused = RunError::Unsupported { what: what.into(), next: "; compress without --smooth" };
    if own {
        let to = graph.ops.iter_mut().rev().find_map(|op| match op {
            Op::Norm { output, .. }
            | Op::Matmul { output, epilogue: Epilogue::None | Epilogue::Gated, .. }
            | Op::Gate { output, .. }
            | Op::Attention { output, .. } => (*output == from).then_some(output),
            _ => None,
        });
        *to.ok_or(refused)? = wide;
        return Ok(());
    }
    // What the last op took is still there.
    let mut again = graph.ops.last().cloned();
    match &mut again {
        Some(Op::Norm { input, residual, output, .. }) if *output == from => {
            // The sum with the residual is made already.
            *input = residual.take().map_or(*input, |(_, sum)| sum);
            *output = wide;
        }
        Some(Op::Matmul { output, epilogue: Epilogue::None, .. }) if *output == from => {
            *output = wide;
        }
        _ => return Err(refused),
    }
    graph.ops.extend(again);
    Ok(())
}
