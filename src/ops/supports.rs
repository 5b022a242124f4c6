//! Which op takes which weight formats: the one place that says so.

use super::PlanError;
use crate::format::{BLOCK_K, CodeKind, CodeType, Granularity, Offset, ScaleType, WeightFormat};

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
            Self::Matmul | Self::Dequantize => None,
            Self::Repack => Self::repack_refusal(format),
            Self::IntegerMatmul if format.is_permuted() => Some(
                "quantized activations are not gathered into the order of permuted columns; \
                 use float activations",
            ),
            _ if format.is_permuted() => {
                Some("the order of columns comes from second-order methods, which run on the host")
            }
            Self::IntegerMatmul => integer_refusal(format),
            _ if plain => None,
            Self::QuantizeWeights if one_level && format.code_type().is_integer() => {
                if format.has_minima() { Some("minima are made on the host only") } else { None }
            }
            Self::QuantizeWeights => Some("such weights are made on the host only"),
        }
    }

    /// Returns why no kernel repacks a format. `DeviceWeights::upload` packs these on the host, and
    /// `Host::repack` does so by itself; `ops/repack.rs` says why a kernel would not be worth it.
    fn repack_refusal(format: &WeightFormat) -> Option<&'static str> {
        if format.code_type().plane_bits() > 0 {
            Some(
                "codes of 3, 5 and 6 bits cross words; DeviceWeights::upload packs them on the host",
            )
        } else if format.scale_type().is_two_level() || format.has_minima() {
            Some("there are several parts of scales; DeviceWeights::upload packs them on the host")
        } else if format.code_type() == CodeType::Codebook {
            Some("each matrix has a codebook; DeviceWeights::upload packs it on the host")
        } else {
            None
        }
    }
}

/// Returns why int8 activations do not multiply weights of a format, or `None` if they do.
fn integer_refusal(format: &WeightFormat) -> Option<&'static str> {
    match format.code_type().kind() {
        CodeKind::Integer { .. } => {}
        CodeKind::Table(_) => {
            return Some(
                "the numbers of a codebook are floats, and int8 activations need integers",
            );
        }
        CodeKind::Float | CodeKind::Fp8 { .. } => {
            return Some("the weights are floats, and int8 activations need integers");
        }
    }
    if format.code_type().bits() > 8 {
        return Some("int8 activations need codes of at most 8 bits, which fit a byte");
    }
    match format.granularity() {
        Granularity::Group(g) if g.get().is_multiple_of(BLOCK_K as u32) => None,
        Granularity::Group(g) if g.get() == BLOCK_K as u32 / 2 => {
            if format.is_sparse() {
                Some(
                    "2:4 codes of two groups of 16 columns are in one word, which int8 activations \
                     take whole",
                )
            } else if format.offset() != Offset::Fixed {
                Some(
                    "zero points and minima of groups of 16 columns need sums of the codes of 16 \
                     activations, and these are kept for blocks of 32",
                )
            } else {
                None
            }
        }
        Granularity::Group(_) => {
            Some("int8 activations need groups of 16 columns, or of a multiple of 32")
        }
        _ => None,
    }
}
