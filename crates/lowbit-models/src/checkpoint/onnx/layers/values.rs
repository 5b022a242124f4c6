//! What the values of a graph are, as far as they follow from tensors of the file.

use super::{Finder, Value, What};
use crate::checkpoint::onnx::plan::{Quantized, Spread};
use crate::checkpoint::onnx::source::Kind;
use safetensors::Dtype;

impl Finder<'_> {
    /// Returns the value that a node makes from tensors of the file.
    pub(super) fn value(&self, node: usize) -> Option<Value> {
        let attributes = &self.graph.nodes[node];
        match self.op(node) {
            ("", "Identity") => self.value_of(node, 0),
            ("", "Transpose") if attributes.ints("perm") == [1, 0] => {
                let value = self.value_of(node, 0)?;
                Some(Value { transposed: !value.transposed, ..value })
            }
            ("", "Cast") if matches!(attributes.int("to", 0), 1 | 10 | 16) => {
                let source = self.source(node, 0)?;
                let kind = self.graph.sources[source].kind;
                let codes = matches!(kind, Kind::Plain(Dtype::I8 | Dtype::U8));
                codes.then_some(Value { what: What::Codes(source), transposed: false })
            }
            ("", "Mul") => self.scaled(node, 0, 1).or_else(|| self.scaled(node, 1, 0)),
            ("", "DequantizeLinear") => {
                let what = What::Quantized(self.dequantized(node)?);
                Some(Value { what, transposed: false })
            }
            _ => None,
        }
    }

    /// Returns the value of `Mul` if it multiplies codes with scales.
    fn scaled(&self, node: usize, codes: usize, scale: usize) -> Option<Value> {
        let Value { what: What::Codes(codes), transposed: false } = self.value_of(node, codes)?
        else {
            return None;
        };
        let scale = self.float(node, scale)?;
        let (shape, scales) = (&self.graph.sources[codes].shape, &self.graph.sources[scale].shape);
        let spread = broadcast(scales, shape)?;
        let what = What::Quantized(Quantized { codes, scale, zero: None, spread });
        Some(Value { what, transposed: false })
    }

    /// Returns the value of `DequantizeLinear`, with scales per tensor, axis or block.
    fn dequantized(&self, node: usize) -> Option<Quantized> {
        let attributes = &self.graph.nodes[node];
        let codes = self.source(node, 0)?;
        let scale = self.float(node, 1)?;
        let zero = match self.graph.input(node, 2) {
            None => None,
            Some(_) => Some(self.source(node, 2)?),
        };
        let (shape, scales) = (&self.graph.sources[codes].shape, &self.graph.sources[scale]);
        let axis = attributes.int("axis", 1);
        let axis = if axis < 0 { axis.checked_add(shape.len() as i64)? } else { axis };
        let axis = usize::try_from(axis).ok();
        let spread = match attributes.int("block_size", 0) {
            0 if scales.elements == 1 => Spread::Tensor,
            0 => {
                let axis = axis.filter(|&axis| axis < shape.len())?;
                (scales.shape == [shape[axis]]).then_some(Spread::Axis(axis))?
            }
            size => {
                let (axis, size) = (axis?, usize::try_from(size).ok()?);
                let mut blocks = shape.clone();
                let along = blocks.get_mut(axis)?;
                *along = along.div_ceil(size);
                (scales.shape == blocks).then_some(Spread::Blocks { axis, size })?
            }
        };
        let same = |zero: usize| self.graph.sources[zero].elements == scales.elements;
        zero.is_none_or(same).then_some(Quantized { codes, scale, zero, spread })
    }
}

/// Returns what each scale covers if scales multiply codes of a shape, by the rules of broadcasting.
fn broadcast(scales: &[usize], codes: &[usize]) -> Option<Spread> {
    let leading = codes.len().checked_sub(scales.len())?;
    let mut spread = Spread::Tensor;
    for (axis, (&scale, &code)) in scales.iter().zip(&codes[leading..]).enumerate() {
        match (scale, spread) {
            (1, _) => {}
            (size, Spread::Tensor) if size == code => spread = Spread::Axis(leading + axis),
            _ => return None,
        }
    }
    Some(spread)
}
