use super::IoError;
use lowbit::format::{
    ActivationError, ActivationFormat, ActivationGranularity, Quantization, StaticScale,
};
use serde::{Deserialize, Serialize};

/// How the input X of a compressed weight becomes 8-bit codes.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerActivations {
    /// The codes, and where their scales come from.
    pub quantization: Quantization,
    /// The factor by which each column of X is divided before X is quantized. The columns of W were
    /// multiplied with the same factors ([`smooth`](lowbit::compress::smooth)). `None` if X needs no
    /// scaling, for example because the factors were folded into the previous layer.
    pub factors: Option<Vec<f32>>,
}

impl LayerActivations {
    /// Checks that kernels can quantize X in this way. `name` is the weight's name, for errors, and
    /// `k` its number of columns.
    ///
    /// # Errors
    /// Returns [`IoError::Activations`] for a bad format or scale, [`IoError::WrongShape`] for a wrong
    /// number of factors, and [`IoError::Factor`] for a factor that is not a positive normal number.
    pub fn check(&self, name: &str, k: usize) -> Result<(), IoError> {
        check_quantization(self.quantization, self.quantization.format(), k)
            .map_err(|source| IoError::Activations { name: name.to_owned(), source })?;
        match &self.factors {
            None => Ok(()),
            Some(factors) => check_factors(name, factors, k),
        }
    }
}

fn check_quantization(
    quantization: Quantization,
    format: ActivationFormat,
    k: usize,
) -> Result<(), ActivationError> {
    format.layout(k)?;
    match quantization {
        Quantization::Dynamic(_) => Ok(()),
        Quantization::Static(scale) => check_static(scale, format),
    }
}

fn check_static(scale: StaticScale, format: ActivationFormat) -> Result<(), ActivationError> {
    let StaticScale { scale: s, zero_point } = scale;
    match format.granularity() {
        ActivationGranularity::Tensor => scale.check(format),
        _ => Err(ActivationError::Static { scale: s, zero_point, format }),
    }
}

/// Checks that there is one factor for each column and that each is positive and normal.
fn check_factors(name: &str, factors: &[f32], k: usize) -> Result<(), IoError> {
    if factors.len() != k {
        let (need, have) = (vec![k], vec![factors.len()]);
        return Err(IoError::WrongShape { name: name.to_owned(), need, have });
    }
    match factors.iter().position(|factor| !factor.is_normal() || *factor < 0.0) {
        None => Ok(()),
        Some(column) => {
            Err(IoError::Factor { name: name.to_owned(), column, factor: factors[column] })
        }
    }
}

/// [`LayerActivations`] as the index stores them; the factors are a tensor of their own.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawActivations {
    format: String,
    #[serde(rename = "static", default, skip_serializing_if = "Option::is_none")]
    given: Option<RawStatic>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub smoothed: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStatic {
    scale: f32,
    zero_point: i32,
}

impl From<&LayerActivations> for RawActivations {
    fn from(from: &LayerActivations) -> Self {
        let given = match from.quantization {
            Quantization::Dynamic(_) => None,
            Quantization::Static(StaticScale { scale, zero_point }) => {
                Some(RawStatic { scale, zero_point })
            }
        };
        let format = from.quantization.format().to_string();
        Self { format, given, smoothed: from.factors.is_some() }
    }
}

impl RawActivations {
    /// Returns the quantization after checking all but the number of columns.
    pub fn quantization(&self) -> Result<Quantization, ActivationError> {
        let format: ActivationFormat = self.format.parse()?;
        match self.given {
            None => Ok(Quantization::Dynamic(format)),
            Some(RawStatic { scale, zero_point }) => {
                let scale = StaticScale { scale, zero_point };
                check_static(scale, format).map(|()| Quantization::Static(scale))
            }
        }
    }
}
