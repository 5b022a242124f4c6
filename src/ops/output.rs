//! The outputs of ops that see whole rows of floats: floats, or 8-bit codes.

use super::{BindError, FloatType, Output, PlanError, Role};
use crate::format::{ActivationFormat, ActivationGranularity, StaticScale};
use crate::gpu::Const;

/// Returns every output of these ops.
pub(crate) fn outputs() -> impl Iterator<Item = Output> {
    let int8 = [ActivationGranularity::Token, ActivationGranularity::Tensor]
        .map(ActivationFormat::int8)
        .map(|format| [format, format.asymmetric()].map(Output::Int8));
    let floats = [FloatType::F32, FloatType::F16].map(Output::Float);
    floats.into_iter().chain(int8.into_iter().flatten())
}

/// What a kernel of such an op needs to write its output.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    /// Whether it writes codes (`activations/row`) or floats (`lib/put_floats`).
    pub codes: bool,
    pub consts: Vec<(&'static str, Const)>,
    /// A part of the kernel id.
    pub suffix: String,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// The contents of the binding of the output.
    pub holds: &'static str,
}

impl Stores {
    /// Chooses how `workgroup` lanes write an output.
    pub fn new(output: Output, workgroup: u32) -> Self {
        if let Output::Int8(format) = output {
            let given = format.granularity() == ActivationGranularity::Tensor;
            let asymmetric = !format.is_symmetric();
            let mut suffix = if given { ".given" } else { ".token" }.to_string();
            suffix.push_str(if asymmetric { ".asym" } else { "" });
            return Self {
                codes: true,
                consts: vec![
                    ("ASYMMETRIC", Const::Bool(asymmetric)),
                    ("SCOPE", Const::U32(if given { 3 } else { 0 })),
                ],
                suffix,
                // Three words a lane, for ranges.
                workgroup_memory: 12 * workgroup,
                holds: "rows of codes, scales, zero points and sums of blocks",
            };
        }
        let half = output == Output::Float(FloatType::F16);
        Self {
            codes: false,
            consts: vec![("Y_F16", Const::Bool(half))],
            suffix: if half { ".yf16" } else { "" }.to_string(),
            workgroup_memory: 0,
            holds: "Y, row-major from element y_at on; f16 in pairs",
        }
    }
}

/// Refuses outputs of `columns` columns that ops which see whole rows of floats do not write.
pub(crate) fn check_output(
    op: &'static str,
    columns: u32,
    output: Output,
) -> Result<(), PlanError> {
    let refused = |why| Err(PlanError::UnsupportedOutput { op, output, why });
    match output {
        Output::Float(_) => Ok(()),
        Output::Accumulators => refused("there are no sums of codes; ask for f32, f16 or int8"),
        Output::Int8(format) => match format.granularity() {
            ActivationGranularity::Group(_) => {
                refused("it has a scale for each group; ask for int8-token or int8-tensor")
            }
            _ => Ok(format.layout(columns as usize).map(drop)?),
        },
    }
}

/// Refuses a static scale that the output does not have, the lack of one that it has, and one that is
/// invalid.
pub(crate) fn check_scale(output: Output, scale: Option<StaticScale>) -> Result<(), BindError> {
    let format = match output {
        Output::Int8(format) => Some(format),
        _ => None,
    };
    let tensor = |granularity| granularity == ActivationGranularity::Tensor;
    let planned = format.is_some_and(|format| tensor(format.granularity()));
    if planned != scale.is_some() {
        return Err(BindError::Argument { role: Role::Scales, planned });
    }
    match (scale, format) {
        (Some(scale), Some(format)) => Ok(scale.check(format)?),
        _ => Ok(()),
    }
}

/// One invocation owns both halves of the last word.
pub(crate) fn whole_words(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(4).unwrap_or(u64::MAX)
}
