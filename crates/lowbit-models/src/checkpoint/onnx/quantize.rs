//! What `QuantizeLinear` makes of a float tensor of the file.

use super::graph::Node;
use super::source::{Kind, Source};
use prost::bytes::Bytes;
use safetensors::Dtype;

/// Returns the codes `clamp(rne(x / scale) + zero)` of a tensor, with scales for the whole tensor, for an axis
/// or for blocks, and codes of 4 or 8 bits.
///
/// # Errors
/// Returns the reason why the codes cannot be imported.
pub(super) fn quantized(
    sources: &[Source],
    node: &Node,
    from: usize,
    scale: usize,
    zero: Option<usize>,
) -> Result<Source, String> {
    let (x, scale, zero) = (&sources[from], &sources[scale], zero.map(|zero| &sources[zero]));
    // Without a zero point the codes are of the type that is stated, or uint8, and the zero point is 0.
    let stated = match node.int("output_dtype", 0) {
        0 => Kind::Plain(Dtype::U8),
        number => Kind::new(i32::try_from(number).unwrap_or_default()),
    };
    let kind = zero.map_or(stated, |zero| zero.kind);
    let (low, high) = match kind {
        Kind::Plain(Dtype::U8) => (0, 255),
        Kind::Plain(Dtype::I8) => (-128, 127),
        Kind::Uint4 => (0, 15),
        Kind::Int4 => (-8, 7),
        _ => {
            return Err(format!(
                "its codes are {kind}, and only those of 4 and 8 bits are understood"
            ));
        }
    };
    if let Some(zero) = zero.filter(|zero| zero.elements != scale.elements) {
        return Err(format!("it has {} zero points for {} scales", zero.elements, scale.elements));
    }
    let floats = |what: &str, source: &Source| {
        let not = || format!("its {what} {}, which is not understood", source.kind);
        source.floats().ok_or_else(not)
    };
    let (values, scales) = (floats("input is", x)?, floats("scales are", scale)?);
    let at = places(&x.shape, scale, node.int("axis", 1), node.int("block_size", 0))?;
    let name =
        node.output.first().filter(|name| !name.is_empty()).ok_or("its output has no name")?;
    let mut data = vec![0u8; (x.elements * kind.bits()).div_ceil(8)];
    for (index, &value) in values.iter().enumerate() {
        let at = at.of(index);
        let zero = zero.map_or(0, |zero| zero.integer(kind, at));
        let scale = scales.get(at).copied().unwrap_or_default();
        // A channel of zeros may have the scale 0, and any code of it stands for 0.
        let steps = if value == 0.0 { 0.0 } else { (value / scale).round_ties_even() };
        // A NaN has no code; what the runtime makes of it is not defined.
        if steps.is_nan() || scale.is_nan() {
            return Err(format!(
                "element {index} of the weight is {value}, with the scale {scale}"
            ));
        }
        // The conversion saturates.
        let code = (steps as i64).saturating_add(zero).clamp(low, high);
        match kind.bits() {
            4 => data[index / 2] |= (code as u8 & 0xf) << (index % 2 * 4),
            _ => data[index] = code as u8,
        }
    }
    Ok(Source {
        name: name.clone(),
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

fn places(shape: &[usize], scale: &Source, axis: i64, block: i64) -> Result<Places, String> {
    if block == 0 && scale.elements == 1 {
        return Ok(Places { inner: 1, size: 1, run: 0 });
    }
    let own = if axis < 0 { axis.saturating_add(shape.len() as i64) } else { axis };
    let own = usize::try_from(own).ok().filter(|&own| own < shape.len());
    let own = own.ok_or_else(|| format!("its axis {axis} is none of {shape:?}"))?;
    let size = shape[own];
    let inner: usize = shape[own + 1..].iter().product();
    let run =
        usize::try_from(block).map_err(|_| format!("its block_size of {block} is not valid"))?;
    let run = run.max(1);
    let mut blocks = shape.to_vec();
    if block > 1 {
        blocks[own] = size.div_ceil(run);
    } else {
        blocks = vec![size];
    }
    if scale.shape != blocks {
        let have = &scale.shape;
        return Err(format!(
            "its scales of shape {have:?} do not fit axis {own} of the shape {shape:?}"
        ));
    }
    // Only an empty tensor has an inner size of 0, and it has no elements to look up.
    Ok(Places { inner: inner.max(1), size: size.max(1), run })
}
