//! What the values of a graph are, as far as they follow from tensors of the file.

use super::{Finder, Value, What};
use crate::checkpoint::onnx::graph::MICROSOFT;
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
                if let Some(value) = self.value_of(node, 0) {
                    return self.widened(value, attributes.int("to", 0));
                }
                let source = self.source(node, 0)?;
                let kind = self.graph.sources[source].kind;
                let codes = matches!(kind, Kind::Plain(Dtype::I8 | Dtype::U8));
                codes.then_some(Value { what: What::Codes(source), transposed: false })
            }
            ("", "Mul") => self.scaled(node, 0, 1).or_else(|| self.scaled(node, 1, 0)),
            ("" | MICROSOFT, "DequantizeLinear") => {
                let what = What::Quantized(self.dequantized(node).ok()?);
                Some(Value { what, transposed: false })
            }
            _ => None,
        }
    }

    /// Returns a float tensor of the file behind a cast that keeps every value, by the number of the
    /// element type that it is cast to.
    fn widened(&self, value: Value, to: i64) -> Option<Value> {
        let What::Float(source) = value.what else { return None };
        let exact = match self.graph.sources[source].kind {
            Kind::Plain(Dtype::F32) => to == 1,
            Kind::Plain(Dtype::F16) => matches!(to, 1 | 10),
            Kind::Plain(Dtype::BF16) => matches!(to, 1 | 16),
            _ => false,
        };
        exact.then_some(value)
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
        let what = What::Quantized(Quantized { codes, scale, zero: None, spread, also: None });
        Some(Value { what, transposed: false })
    }

    /// Returns the value of `DequantizeLinear`, with scales per tensor, axis or block.
    ///
    /// # Errors
    /// Returns the reason why it is not the value of a weight.
    pub(super) fn dequantized(&self, node: usize) -> Result<Quantized, String> {
        let attributes = &self.graph.nodes[node];
        let codes = self.source(node, 0).ok_or_else(|| self.not_stored(node))?;
        let (scale, zero) = self.parameters(node, 1, 2)?;
        let (shape, scales) = (&self.graph.sources[codes].shape, &self.graph.sources[scale]);
        let no_axis = || format!("its axis {} is none of {shape:?}", attributes.int("axis", 1));
        let axis = || {
            let axis = attributes.int("axis", 1);
            let axis = if axis < 0 { axis.checked_add(shape.len() as i64)? } else { axis };
            usize::try_from(axis).ok().filter(|&axis| axis < shape.len())
        };
        let misfit = |axis: usize| {
            format!(
                "its scales of shape {:?} do not fit axis {axis} of the shape {shape:?}",
                scales.shape
            )
        };
        let spread = match attributes.int("block_size", 0) {
            0 if scales.elements == 1 => Spread::Tensor,
            0 => {
                let axis = axis().ok_or_else(no_axis)?;
                let fits = scales.shape == [shape[axis]];
                fits.then_some(Spread::Axis(axis)).ok_or_else(|| misfit(axis))?
            }
            size => {
                let axis = axis().ok_or_else(no_axis)?;
                let size = usize::try_from(size)
                    .map_err(|_| format!("its block_size of {size} is not valid"))?;
                let mut blocks = shape.clone();
                blocks[axis] = shape[axis].div_ceil(size);
                let fits = scales.shape == blocks;
                fits.then_some(Spread::Blocks { axis, size }).ok_or_else(|| misfit(axis))?
            }
        };
        if let Some(zero) = zero
            && self.graph.sources[zero].elements != scales.elements
        {
            let zeros = self.graph.sources[zero].elements;
            return Err(format!("it has {zeros} zero points for {} scales", scales.elements));
        }
        Ok(Quantized { codes, scale, zero, spread, also: None })
    }

    /// Returns the scales and the zero points that a node takes as inputs.
    ///
    /// # Errors
    /// Returns which of them is not a tensor of the file that can be read.
    pub(super) fn parameters(
        &self,
        node: usize,
        scale: usize,
        zero: usize,
    ) -> Result<(usize, Option<usize>), String> {
        let scale = match (self.float(node, scale), self.source(node, scale)) {
            (Some(scale), _) => scale,
            (None, Some(source)) => {
                let kind = self.graph.sources[source].kind;
                return Err(format!("its scales are {kind}, which is not understood"));
            }
            (None, None) => return Err("its scales are computed by the graph".to_owned()),
        };
        match (self.graph.input(node, zero), self.source(node, zero)) {
            (None, _) => Ok((scale, None)),
            (Some(_), Some(zero)) => Ok((scale, Some(zero))),
            (Some(_), None) => Err("its zero points are computed by the graph".to_owned()),
        }
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
