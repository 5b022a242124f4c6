//! What `QuantizeLinear` makes of a float tensor of the file.

use super::graph::Node;
use super::source::{Kind, Source};
use prost::bytes::Bytes;
use safetensors::Dtype;

/// Returns the codes `clamp(rne(x / scale) + zero)` of a tensor, or `None` if the node is not one whose
/// codes can be imported: with scales for the whole tensor, for an axis or for blocks, and codes of 4 or
/// 8 bits.
pub(super) fn quantized(
    sources: &[Source],
    node: &Node,
    from: usize,
    scale: usize,
    zero: Option<usize>,
) -> Option<Source> {
    let (x, scale, zero) = (&sources[from], &sources[scale], zero.map(|zero| &sources[zero]));
    // Without a zero point the codes are uint8, and the zero point is 0.
    let kind = zero.map_or(Kind::Plain(Dtype::U8), |zero| zero.kind);
    let (low, high) = match kind {
        Kind::Plain(Dtype::U8) => (0, 255),
        Kind::Plain(Dtype::I8) => (-128, 127),
        Kind::Uint4 => (0, 15),
        Kind::Int4 => (-8, 7),
        _ => return None,
    };
    if zero.is_some_and(|zero| zero.elements != scale.elements) {
        return None;
    }
    let (values, scales) = (x.floats()?, scale.floats()?);
    let at = places(&x.shape, scale, node.int("axis", 1), node.int("block_size", 0))?;
    let mut data = vec![0u8; (x.elements * kind.bits()).div_ceil(8)];
    for (index, &value) in values.iter().enumerate() {
        let at = at.of(index);
        let zero = zero.map_or(0, |zero| zero.integer(kind, at));
        let steps = (value / *scales.get(at)?).round_ties_even();
        // A NaN has no code; what the runtime makes of it is not defined.
        if steps.is_nan() {
            return None;
        }
        // The conversion saturates.
        let code = (steps as i64).saturating_add(zero).clamp(low, high);
        match kind.bits() {
            4 => *data.get_mut(index / 2)? |= (code as u8 & 0xf) << (index % 2 * 4),
            _ => *data.get_mut(index)? = code as u8,
        }
    }
    Some(Source {
        name: node.output.first().filter(|name| !name.is_empty())?.clone(),
        kind,
        shape: x.shape.clone(),
        elements: x.elements,
        data: Bytes::from(data),
        constant: false,
        origin: Some(from),
    })
}

/// Which scale an element has: element `index` of a row-major tensor is element
/// `index / inner % size` along the axis, and `run` of those share a scale.
struct Places {
    inner: usize,
    size: usize,
    run: usize,
}

impl Places {
    fn of(&self, index: usize) -> usize {
        let (outer, along) = (index / self.inner / self.size, index / self.inner % self.size);
        if self.run == 0 {
            return 0;
        }
        if self.run == 1 {
            return along;
        }
        let blocks = self.size.div_ceil(self.run);
        (outer * blocks + along / self.run) * self.inner + index % self.inner
    }
}

fn places(shape: &[usize], scale: &Source, axis: i64, block: i64) -> Option<Places> {
    if block == 0 && scale.elements == 1 {
        return Some(Places { inner: 1, size: 1, run: 0 });
    }
    let axis = if axis < 0 { axis.checked_add(shape.len() as i64)? } else { axis };
    let axis = usize::try_from(axis).ok()?;
    let &size = shape.get(axis)?;
    let inner: usize = shape[axis + 1..].iter().product();
    let run = usize::try_from(block).ok()?.max(1);
    let mut blocks = shape.to_vec();
    if block > 1 {
        *blocks.get_mut(axis)? = size.div_ceil(run);
    } else {
        blocks = vec![size];
    }
    // Only an empty tensor has an inner size of 0, and it has no elements to look up.
    let (inner, size) = (inner.max(1), size.max(1));
    (scale.shape == blocks).then_some(Places { inner, size, run })
}
