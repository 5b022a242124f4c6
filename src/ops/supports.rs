//! Which op takes which weight formats: the one place that says so.

use super::PlanError;
use crate::format::{CodeType, Offset, ScaleType, WeightFormat};

/// What a plan does with weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatUse {
    /// A matmul with f32 or f16 activations.
    Matmul,
    /// A matmul with int8 activations.
    IntegerMatmul,
    /// Dequantizing and gathering rows.
    Dequantize,
    /// Converting the canonical layout to the device layout.
    Repack,
    /// Quantizing weights on the device.
    QuantizeWeights,
}

impl FormatUse {
    /// Every use.
    pub const ALL: [FormatUse; 5] =
        [Self::Matmul, Self::IntegerMatmul, Self::Dequantize, Self::Repack, Self::QuantizeWeights];

    /// Returns the name of the op, for errors and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::IntegerMatmul => "matmul with int8 activations",
            Self::Dequantize => "dequantize",
            Self::Repack => "repack",
            Self::QuantizeWeights => "quantize_weights",
        }
    }

    /// Returns `Ok` if the op takes weights of this format, otherwise the reason why not. Whether a
    /// format exists at all, [`WeightFormat::check`] says.
    ///
    /// # Errors
    /// Returns [`PlanError::Unsupported`].
    pub fn check(self, format: &WeightFormat) -> Result<(), PlanError> {
        match self.refusal(format) {
            None => Ok(()),
            Some(why) => Err(PlanError::Unsupported { op: self.name(), format: *format, why }),
        }
    }

    fn refusal(self, format: &WeightFormat) -> Option<&'static str> {
        let one_level = matches!(format.scale_type(), ScaleType::F32 | ScaleType::F16);
        let plain = CodeType::WIDE.contains(&format.code_type())
            && matches!(format.offset(), Offset::Fixed | Offset::ZeroPoint)
            && one_level;
        match self {
            _ if format.is_permuted() => Some("there is no kernel for permuted columns yet"),
            Self::Matmul => None,
            _ if plain => None,
            Self::QuantizeWeights if one_level && format.code_type().is_integer() => {
                if format.has_minima() { Some("minima are made on the host only") } else { None }
            }
            Self::QuantizeWeights => Some("such weights are made on the host only"),
            _ => Some("there is no kernel for this format yet"),
        }
    }
}
