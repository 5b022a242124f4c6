//! What the inputs of linear layers are: floats, or codes with scales that the file states or that follow from
//! each input.

use super::graph::{Graph, MatrixId, Op, Rows, Shape, Tensor, VectorId};
use super::layers::{Size, build};
use super::weights::{Part, Weights};
use super::{Model, RunError};
use lowbit::format::{
    ActivationFormat, ActivationFunction, ActivationGranularity, CacheFormat, Quantization,
};
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
    let format = codes.how.format();
    parts.iter().all(|part| takes(weights, part.matrix, format)).then_some(codes)
}

/// Whether a matmul with a matrix takes such codes.
fn takes(weights: &Weights, matrix: MatrixId, format: ActivationFormat) -> bool {
    let matrix = weights.store.matrices.get(matrix.0);
    let spec = matrix.map(|matrix| MatmulSpec::of(1, matrix));
    spec.is_some_and(|spec| spec.with_activations(Activations::Int8(format)).check().is_ok())
}

/// How many linear layers of a model take codes, and how many take floats. Each is counted by itself, also where several
/// are one matrix on the device: queries, keys and values, gate and up, and every expert of a mixture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinearInputs {
    /// The layers whose inputs become int8 codes.
    pub int8: usize,
    /// The layers whose inputs stay floats.
    pub floats: usize,
    /// Why inputs stay floats that the options or the file say to be int8, each reason once.
    pub reasons: Vec<String>,
}

impl Model {
    /// Returns how many linear layers take int8 inputs, how many take floats, and why the latter do if they were to take
    /// int8.
    ///
    /// # Errors
    /// Returns [`RunError::Unsupported`] if the model asks for what is not built.
    pub fn linear_inputs(&self) -> Result<LinearInputs, RunError> {
        let counted = self.blueprint.head.is_some();
        let size = Size { rows: 1, slots: 1, cache: CacheFormat::F32, logit_rows: 1, counted };
        let graph = build(&self.blueprint, &self.weights, &self.options, size)?.body;
        let parts = self.weights.parts();
        let mut found = LinearInputs::default();
        for op in &graph.ops {
            let (matrix, input, experts) = match *op {
                Op::Matmul { weights, input, .. } => (weights, input, None),
                Op::ExpertMatmul { weights, input, experts, listed, .. } => {
                    // The rows of gate and up are in one matrix.
                    let layers = experts.count as usize * if listed { 1 } else { 2 };
                    (weights, input, Some(layers))
                }
                _ => continue,
            };
            let part = parts.iter().find(|part| part.matrix == matrix);
            let layers = experts.or(part.map(|part| part.layers)).unwrap_or(1);
            if matches!(graph.shapes[input.0].stored, Rows::Int8(_)) {
                found.int8 += layers;
                continue;
            }
            found.floats += layers;
            let format = match self.options.activations {
                Activations::Int8(format) => Some(format),
                Activations::Float(_) => part.and_then(|part| part.codes).map(|c| c.how.format()),
            };
            let reason = match format {
                Some(_) if experts.is_some() => "experts take floats".to_owned(),
                Some(format) if !takes(&self.weights, matrix, format) => {
                    let weights = self.weights.store.matrices.get(matrix.0);
                    let weights = weights.map_or(String::new(), |w| w.format().to_string());
                    format!("{weights} weights take no {format} inputs")
                }
                Some(_) => {
                    "layers that share their input take it as floats if one of them does".to_owned()
                }
                None if part.is_some_and(|part| part.unlike) => {
                    "the file says different things about the input that layers share".to_owned()
                }
                None => continue,
            };
            if !found.reasons.contains(&reason) {
                found.reasons.push(reason);
            }
        }
        Ok(found)
    }
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
