//! Nodes that look rows up in codes, and fused integer operators.

use super::{Bias, Finder, Found, What};
use crate::checkpoint::onnx::graph::MICROSOFT;
use crate::checkpoint::onnx::plan::{Quantized, Spread};
use crate::checkpoint::onnx::source::Kind;
use safetensors::Dtype;

impl<'a> Finder<'a> {
    /// Notes `Gather` from a quantized table: rows of a dequantized one, or rows of codes that a
    /// `DequantizeLinear` follows.
    pub(super) fn gather(&mut self, node: usize) {
        let quantized =
            self.value_of(node, 0).is_some_and(|value| !matches!(value.what, What::Float(_)));
        let codes = self.source(node, 0).filter(|&codes| self.is_weight(codes));
        if !quantized && codes.is_none() {
            return;
        }
        let axis = self.graph.nodes[node].int("axis", 0);
        if axis != 0 {
            return self.refuse(
                node,
                format!("it looks up along axis {axis}, and only rows are understood"),
            );
        }
        match codes {
            None => self.rows(node, 0),
            Some(codes) => match self.gathered(node, codes) {
                Ok((from, after)) => {
                    if self.note(from, self.used(node, 0, 0, None)) {
                        self.understood.extend(after);
                    }
                }
                Err(why) => self.refuse(node, why),
            },
        }
    }

    /// Returns the table whose codes a node gathers, and the nodes that dequantize its rows.
    fn gathered(&self, node: usize, codes: usize) -> Result<(Quantized, Vec<usize>), String> {
        let after = self.graph.output(node).map_or(&[][..], |output| self.graph.takers(output));
        let Some(&first) = after.first() else {
            return Err("nothing dequantizes the rows of codes that it looks up".to_owned());
        };
        let mut found: Option<Quantized> = None;
        for &next in after {
            let dequantizes = matches!(self.op(next), ("" | MICROSOFT, "DequantizeLinear"))
                && self.graph.input(next, 0) == self.graph.output(node);
            if !dequantizes {
                let next = self.title(next);
                return Err(format!("it looks up rows of codes, which {next} takes"));
            }
            let (scale, zero) = self.parameters(next, 1, 2)?;
            if self.graph.sources[scale].elements != 1 {
                // Scales along the rows would be those of input channels.
                let next = self.title(first);
                return Err(format!(
                    "it looks up rows of codes, for which {next} has several scales"
                ));
            }
            let from = Quantized { codes, scale, zero, spread: Spread::Tensor, also: None };
            if found.is_some_and(|found| found != from) {
                return Err("it looks up rows of codes that have several scales".to_owned());
            }
            found = Some(from);
        }
        found.map(|from| (from, after.to_vec())).ok_or_else(String::new)
    }

    /// Notes `GatherBlockQuantized`, whose inputs are codes, indices, scales and zero points.
    pub(super) fn gather_blocks(&mut self, node: usize) {
        match self.stated_blocks(node) {
            Ok(from) => {
                self.note(from, self.used(node, 0, 0, None));
            }
            Err(why) => self.refuse(node, why),
        }
    }

    fn stated_blocks(&self, node: usize) -> Result<Quantized, String> {
        let attributes = &self.graph.nodes[node];
        let codes = self.reshaped(node, 0).ok_or("its table is computed by the graph")?;
        let table = &self.graph.sources[codes];
        let scale = self
            .reshaped(node, 2)
            .filter(|&scale| self.graph.sources[scale].kind.is_float())
            .ok_or("its scales are not floats of the file")?;
        let zero = match self.graph.input(node, 3) {
            None => None,
            Some(_) => {
                Some(self.reshaped(node, 3).ok_or("its zero points are computed by the graph")?)
            }
        };
        let (gather, quantize) =
            (attributes.int("gather_axis", 0), attributes.int("quantize_axis", 1));
        if gather != 0 || !matches!(quantize, 1 | -1) {
            return Err(format!(
                "it looks up along axis {gather} and has blocks along axis {quantize}; \
                 only rows with blocks along axis 1 are understood"
            ));
        }
        let size = attributes.int("block_size", 128);
        let size = usize::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two())
            .ok_or_else(|| format!("its block_size of {size} is not valid"))?;
        let spread = match (table.kind, attributes.int("bits", 4)) {
            // uint8 holds packed codes, and their zero point is the middle one if none is stored, both
            // as for MatMulNBits. The table may have been reshaped from one of MatMulNBits.
            (Kind::Plain(Dtype::U8), bits @ (4 | 8)) => {
                let &n = table.shape.first().filter(|&&n| n > 0).ok_or("its table is empty")?;
                // A Reshape of the table might have changed its rows.
                if let [rows, _, ..] = self.graph.sources[scale].shape[..]
                    && rows != n
                {
                    return Err(format!("its scales have {rows} rows, and its table {n}"));
                }
                let k = table.elements / n * (8 / bits as usize);
                if !k.is_multiple_of(size) {
                    return Err(format!("its rows of {k} are not whole blocks of {size}"));
                }
                Spread::Bits { n, k, size, bits: bits as usize }
            }
            (Kind::Int4 | Kind::Uint4, 4) => Spread::Blocks { axis: 1, size },
            (kind, bits) => return Err(format!("{bits} bits in {kind} are not understood")),
        };
        Ok(Quantized { codes, scale, zero, spread, also: None })
    }

    /// Returns the tensor of the file that an input of a node is, perhaps in another shape.
    fn reshaped(&self, node: usize, input: usize) -> Option<usize> {
        let name = self.graph.input(node, input)?;
        self.graph.source(name).or_else(|| {
            let maker = self.graph.maker(name)?;
            (self.op(maker) == ("", "Reshape")).then(|| self.source(maker, 0)).flatten()
        })
    }

    /// Notes `QGemm`, whose inputs are A, B and C with their scales and zero points: A 0–2, B 3–5, C 6.
    pub(super) fn integer_gemm(&mut self, node: usize) {
        let attributes = &self.graph.nodes[node];
        if attributes.factor("alpha") != 1.0 || attributes.int("transA", 0) != 0 {
            return self.refuse(node, "alpha or transA are not the defaults");
        }
        let n_axis = usize::from(attributes.int("transB", 0) == 0);
        match self.stated_codes(node, [3, 4, 5]) {
            Ok(mut from) => {
                if from.spread != Spread::Tensor {
                    from.spread = Spread::Axis(n_axis);
                }
                let bias = self.integer_bias(node, from.scale);
                self.note(from, self.used(node, 3, n_axis, bias));
            }
            Err(why) => self.refuse(node, why),
        }
    }

    /// Returns the int32 bias of `QGemm`, whose scales are those of A times those of B.
    fn integer_bias(&self, node: usize, scale: usize) -> Found<'a> {
        let name = self.graph.input(node, 6)?;
        let codes = self.source(node, 6)?;
        let also = self.float(node, 1).filter(|&also| self.graph.sources[also].elements == 1)?;
        if self.graph.sources[codes].kind != Kind::Plain(Dtype::I32) {
            return None;
        }
        let spread = match self.graph.sources[scale].elements {
            1 => Spread::Tensor,
            _ => Spread::Axis(0),
        };
        let from = Quantized { codes, scale, zero: None, spread, also: Some(also) };
        Some((Bias::Quantized(from), name))
    }
}
