//! AWQ checkpoints in the layout GEMM.
//!
//! | tensor | type | shape | |
//! |---|---|---|---|
//! | `M.qweight` | I32 | `[K, N/8]` | codes along N: 4-bit slot i of a word holds column 0, 2, 4, 6, 1, 3, 5, 7 of eight |
//! | `M.qzeros` | I32 | `[G, N/8]` | zero points in the same order |
//! | `M.scales` | F16, BF16, F32 | `[G, N]` | |

use super::HfError;
use super::layer::{AWQ_PLACES, Codes, Layer, field};
use super::tensors::{Context, floats, granularity, pack_zeros, shaped, transposed};
use lowbit::format::{Offset, Parts, WeightFormat};

/// Finds a weight.
pub(super) fn layer<'a>(context: &Context<'a>) -> Result<Layer<'a>, HfError> {
    if let Some(bits) = context.config.bits().filter(|bits| *bits != 4) {
        let what = format!("its AWQ codes have {bits} bits");
        return Err(HfError::unsupported(what, "AWQ files of 4 bits are read"));
    }
    let (codes, k, words) = context.words("qweight")?;
    let (zeros, groups, _) = context.words("qzeros")?;
    let scales = context.need("scales")?;
    let n = words.checked_mul(8).filter(|n| *n > 0 && k > 0 && (1..=k).contains(&groups));
    let n = n.ok_or_else(|| HfError::shape(codes.name, codes.shape, "[K, N/8]"))?;
    shaped(&zeros, &[groups, words])?;
    shaped(&scales, &[groups, n])?;
    let granularity = granularity(&scales, groups, k, &context.config.group_sizes())?;
    let zeros = pack_zeros(n, groups, |row, group| {
        let at = (group * words + row / 8) * 32 + 4 * AWQ_PLACES[row % 8];
        field(zeros.bytes, at, 4) as u8
    });
    let scales = transposed(&floats(&scales)?, n, groups);
    let format = WeightFormat::int4(granularity)
        .with_offset(Offset::ZeroPoint4)
        .with_scales(scales.scale_type());
    let parts = Parts { scales, zeros, ..Parts::default() };
    Layer::new(context, format, vec![n, k], parts, Codes::Awq(codes.bytes), "AWQ GEMM, 4 bits")
}
