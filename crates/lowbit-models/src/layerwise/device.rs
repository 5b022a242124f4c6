//! GPTQ and SparseGPT on a device, for the formats that have kernels.

use super::{ColumnOrder, Method, Treatment};
use lowbit::compress::layerwise::{Gram, Mask, Pattern};
use lowbit::compress::{Rule, Scheme, quantize_masked, quantize_scheme};
use lowbit::format::{CodeType, PackedWeights, Sparsity};
use lowbit::host::{Gptq, Host, HostError};
use lowbit::ops::{self, ColumnsSpec};

/// A matrix, and the Gram matrix of its input.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub values: &'a [f32],
    pub n: usize,
    pub k: usize,
    pub gram: &'a Gram,
}

/// Compresses a matrix on a device. Returns the reason if there is no kernel for what is asked, or XᵀX cannot be
/// factored with this damping: the host does it then.
///
/// # Errors
/// Returns [`HostError`] if the device fails, or has no room.
pub(super) fn made(
    host: &Host,
    layer: Layer<'_>,
    method: Method,
    scheme: &Scheme,
    treatment: &Treatment,
) -> Result<Result<PackedWeights, String>, HostError> {
    let no = |why: &str| Ok(Err(why.to_owned()));
    let Layer { values, n, k, gram } = layer;
    let format = scheme.format();
    let pattern = match (method, treatment.sparsity) {
        (Method::Gptq, Pattern::Dense) => None,
        (Method::SparseGpt, Pattern::OfM { keep, of }) => {
            Some(ops::Pattern::OfM { kept: keep.into(), of: of.into() })
        }
        (Method::SparseGpt, Pattern::Fraction(part)) => Some(ops::Pattern::Fraction(part)),
        _ => return no("only gptq and sparsegpt have kernels"),
    };
    if treatment.clip {
        return no("no kernel clips ranges");
    }
    if scheme.rule() != Rule::Nearest {
        return no("no kernel has the rule by which the format's scales are found");
    }
    let floats = matches!(format.code_type(), CodeType::F32 | CodeType::F16);
    let (Ok(rows), Ok(columns)) = (u32::try_from(n), u32::try_from(k)) else {
        return no("the matrix is too large");
    };
    let spec = ColumnsSpec::new(rows, columns, (!floats).then_some(format));
    let spec = pattern.map_or(spec.clone(), |pattern| spec.with_pattern(pattern));
    if floats && pattern.is_none() {
        return no("floats are not rounded");
    }
    if let Err(error) = spec.check() {
        return Ok(Err(error.to_string()));
    }
    let mut order: Vec<u32> = (0..columns).collect();
    let diagonal = gram.diagonal();
    order.sort_by(|&a, &b| diagonal[b as usize].total_cmp(&diagonal[a as usize]));
    let by_diagonal =
        matches!(treatment.order, ColumnOrder::Activations | ColumnOrder::ActivationsStatic);
    let is_static =
        matches!(treatment.order, ColumnOrder::Columns | ColumnOrder::ActivationsStatic);
    let given = match is_static && !floats {
        false => None,
        true => match quantize_scheme(values, n, k, scheme) {
            Ok(plain) => Some(scales(&plain)),
            Err(error) => return Ok(Err(error.to_string())),
        },
    };
    let how = Gptq {
        damping: treatment.damping as f32,
        order: by_diagonal.then_some(&order),
        pattern,
        given: given.as_ref().map(|(scales, zeros)| (&scales[..], &zeros[..])),
    };
    let made = if floats {
        let kept = host.sparse_gpt(values, n, k, gram.sums(), &how);
        kept.map(|kept| {
            let packed = pack_floats(&kept, n, k, scheme);
            packed.ok_or_else(|| "what it kept is not of the format".to_owned())
        })
    } else {
        host.gptq(values, n, k, gram.sums(), &format, &how).map(Ok)
    };
    match made {
        // The host raises the damping, and warns of it.
        Err(HostError::Factor(error)) => Ok(Err(error.to_string())),
        made => made,
    }
}

/// Returns the scales and zero points of all groups.
fn scales(plain: &PackedWeights) -> (Vec<f32>, Vec<f32>) {
    let groups = plain.geometry().groups;
    let all = || (0..plain.n()).flat_map(move |row| (0..groups).map(move |group| (row, group)));
    let scales = all().map(|(row, group)| plain.scale(row, group)).collect();
    let zeros = all().map(|(row, group)| plain.zero(row, group) as f32).collect();
    (scales, zeros)
}

/// Packs floats of which some are pruned.
fn pack_floats(kept: &[f32], n: usize, k: usize, scheme: &Scheme) -> Option<PackedWeights> {
    if scheme.format().sparsity() != Sparsity::TwoFour {
        return quantize_scheme(kept, n, k, scheme).ok();
    }
    let mask = Mask::from_fn(n, k, |row, column| kept[row * k + column] != 0.0).ok()?;
    quantize_masked(kept, &mask.to_mask24().ok()?, &scheme.format()).ok()
}
