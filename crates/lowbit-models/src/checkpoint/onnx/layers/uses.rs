//! Which nodes use values as weights and biases.

use super::{Bias, Finder, Found, Use, Value, What};
use crate::checkpoint::onnx::graph::MICROSOFT;
use crate::checkpoint::onnx::plan::{Quantized, Spread};
use crate::checkpoint::onnx::source::Kind;
use safetensors::Dtype;

impl<'a> Finder<'a> {
    /// Notes a node that multiplies with a weight or looks up its rows.
    pub(super) fn use_of(&mut self, node: usize) {
        match self.op(node) {
            ("", "MatMul") => self.multiply(node),
            ("", "Gemm") => self.gemm(node),
            ("", "Gather") => self.gather(node),
            ("", "Conv") => self.rows(node, 1),
            ("", "MatMulInteger") => self.integer(node),
            ("", "QLinearMatMul") => self.stated(node, [3, 4, 5], None),
            (MICROSOFT, "DynamicQuantizeMatMul") => self.stated(node, [1, 2, 3], Some(4)),
            (MICROSOFT, "MatMulIntegerToFloat") => self.stated(node, [1, 3, 5], Some(6)),
            (MICROSOFT, "QAttention") => self.stated(node, [1, 4, 7], Some(2)),
            (MICROSOFT, "QGemm") => self.integer_gemm(node),
            (MICROSOFT, "MatMulNBits") => self.bits(node),
            (MICROSOFT, "GatherBlockQuantized") => self.gather_blocks(node),
            _ => {}
        }
    }

    /// Notes the reason why a node is not understood.
    pub(super) fn refuse(&mut self, node: usize, why: impl Into<String>) {
        self.why.insert(node, why.into());
    }

    /// Returns what each scale of a `[K, N]` covers if there is one, or one for each column.
    pub(super) fn columns(&self, scale: usize) -> Spread {
        if self.graph.sources[scale].elements == 1 { Spread::Tensor } else { Spread::Axis(1) }
    }

    fn multiply(&mut self, node: usize) {
        let Some(value) = self.value_of(node, 1) else { return };
        let n_axis = usize::from(!value.transposed);
        match value.what {
            What::Float(source) => {
                let bias = self.added(node);
                let used = self.used(node, 1, n_axis, bias);
                self.floats.entry(source).or_default().push(used);
            }
            What::Quantized(from) => {
                let bias = self.added(node);
                self.note(from, self.used(node, 1, n_axis, bias));
            }
            // The scales come after the product, one for each output channel.
            What::Codes(codes) => {
                let after = self.graph.only_taker(node, "Mul");
                let scale = after.and_then(|mul| self.float(mul, 0).or_else(|| self.float(mul, 1)));
                let (Some(mul), Some(scale)) = (after, scale) else {
                    return self.refuse(node, "its integer weight has no scales");
                };
                let scales = &self.graph.sources[scale];
                let spread = match (scales.elements, scales.shape.last()) {
                    (1, _) => Spread::Tensor,
                    (count, Some(&last)) if count == last => Spread::Axis(n_axis),
                    _ => {
                        let why = "the scales after it are not per output channel";
                        return self.refuse(node, why);
                    }
                };
                let from = Quantized { codes, scale, zero: None, spread, also: None };
                let bias = self.added(mul);
                if self.note(from, self.used(node, 1, n_axis, bias)) {
                    self.understood.insert(mul);
                }
            }
        }
    }

    fn gemm(&mut self, node: usize) {
        let attributes = &self.graph.nodes[node];
        let kn = attributes.int("transB", 0) == 0;
        let has_bias = self.graph.input(node, 2).is_some();
        let scaled = attributes.factor("alpha") != 1.0
            || (has_bias && attributes.factor("beta") != 1.0)
            || attributes.int("transA", 0) != 0;
        let Some(value) = self.value_of(node, 1) else { return };
        let n_axis = usize::from(kn != value.transposed);
        let bias = if has_bias { self.bias(node, 2) } else { self.added(node) };
        match value.what {
            What::Quantized(_) | What::Codes(_) if scaled => {
                self.refuse(node, "alpha, beta or transA are not the defaults");
            }
            What::Quantized(from) => {
                self.note(from, self.used(node, 1, n_axis, bias));
            }
            What::Float(source) => {
                let bias = if scaled { None } else { bias };
                let used = self.used(node, 1, n_axis, bias);
                self.floats.entry(source).or_default().push(used);
            }
            What::Codes(_) => {}
        }
    }

    /// Notes a weight whose rows are output channels or are looked up.
    pub(super) fn rows(&mut self, node: usize, input: usize) {
        if let Some(Value { what: What::Quantized(from), transposed }) = self.value_of(node, input)
        {
            let bias = if self.op(node).1 == "Conv" { self.bias(node, 2) } else { None };
            self.note(from, self.used(node, input, usize::from(transposed), bias));
        }
    }

    /// Notes `MatMulInteger` → `Cast` → `Mul` by the product of the scales of X and W.
    fn integer(&mut self, node: usize) {
        let Some(codes) = self.source(node, 1) else { return };
        let zero = self.source(node, 3);
        if self.graph.input(node, 3).is_some() && zero.is_none() {
            return self.refuse(node, "its zero point is not a tensor of the file");
        }
        let cast = self.graph.only_taker(node, "Cast");
        let mul = cast.and_then(|cast| self.graph.only_taker(cast, "Mul"));
        let found = mul.zip(cast).and_then(|(mul, cast)| {
            let product = self.graph.output(cast)?;
            let side = (0..2).find(|&side| self.graph.input(mul, side) != Some(product))?;
            let scales = self.graph.maker(self.graph.input(mul, side)?)?;
            let both = [self.float(scales, 0), self.float(scales, 1)];
            match (self.op(scales), both) {
                (("", "Mul"), [Some(scale), None] | [None, Some(scale)]) => {
                    Some((mul, scales, scale))
                }
                _ => None,
            }
        });
        let Some((mul, scales, scale)) = found else {
            return self.refuse(node, "the scale of its weight is not found behind it");
        };
        let spread = self.columns(scale);
        let from = Quantized { codes, scale, zero, spread, also: None };
        let bias = self.added(mul);
        if self.note(from, self.used(node, 1, 1, bias)) {
            self.understood.insert(scales);
        }
    }

    /// Notes a node that takes codes, scale and zero point as its own inputs.
    fn stated(&mut self, node: usize, inputs: [usize; 3], bias: Option<usize>) {
        let codes = inputs[0];
        let bias = bias.and_then(|bias| self.bias(node, bias));
        let from = match self.stated_codes(node, inputs) {
            Ok(from) => from,
            Err(why) => return self.refuse(node, why),
        };
        self.note(from, self.used(node, codes, 1, bias));
    }

    /// Returns the `[K, N]` codes, scales and zero points that are the given inputs of a node.
    ///
    /// # Errors
    /// Returns which of them is not a tensor of the file that can be read.
    pub(super) fn stated_codes(
        &self,
        node: usize,
        [codes, scale, zero]: [usize; 3],
    ) -> Result<Quantized, String> {
        let codes = self.source(node, codes).ok_or("its weight is computed by the graph")?;
        let (scale, zero) = self.parameters(node, scale, zero)?;
        Ok(Quantized { codes, scale, zero, spread: self.columns(scale), also: None })
    }

    /// Notes `MatMulNBits`, whose inputs are A, B, scales, zero points, g_idx and bias.
    fn bits(&mut self, node: usize) {
        match self.stated_bits(node) {
            Ok(from) => {
                let bias = match self.graph.input(node, 5) {
                    Some(_) => self.bias(node, 5),
                    None => self.added(node),
                };
                self.note(from, self.used(node, 1, 0, bias));
            }
            Err(why) => self.refuse(node, why),
        }
    }

    fn stated_bits(&self, node: usize) -> Result<Quantized, String> {
        let attributes = &self.graph.nodes[node];
        let size = |name| usize::try_from(attributes.int(name, 0)).unwrap_or(0);
        let (n, k, block) = (size("N"), size("K"), size("block_size"));
        let bits = attributes.int("bits", 4);
        if !matches!(bits, 4 | 8) {
            return Err(format!("only 4 and 8 bits are understood, and it has {bits}"));
        }
        if n == 0 || k == 0 || !block.is_power_of_two() || block < 16 {
            return Err("its N, K or block_size is not valid".to_owned());
        }
        if self.graph.input(node, 4).is_some() {
            return Err("an order of input channels (g_idx) is not understood".to_owned());
        }
        let codes = self.source(node, 1).ok_or("its weight is computed by the graph")?;
        let (scale, zero) = self.parameters(node, 2, 3)?;
        let kind = self.graph.sources[codes].kind;
        if kind != Kind::Plain(Dtype::U8) {
            return Err(format!("its weight is not U8 but {kind}"));
        }
        let spread = Spread::Bits { n, k, size: block, bits: bits as usize };
        Ok(Quantized { codes, scale, zero, spread, also: None })
    }

    pub(super) fn used(&self, node: usize, input: usize, n_axis: usize, bias: Found<'_>) -> Use {
        let value = self.graph.input(node, input).unwrap_or_default().to_owned();
        let (bias, bias_value) = bias.unzip();
        Use { node, value, n_axis, bias, bias_value: bias_value.map(str::to_owned) }
    }

    /// Notes a use. Returns whether it agrees with earlier uses of the same codes.
    pub(super) fn note(&mut self, from: Quantized, used: Use) -> bool {
        let node = used.node;
        let (known, uses) = self.quantized.entry(from.codes).or_insert((from, Vec::new()));
        let other = uses.first().filter(|u| *known != from || u.n_axis != used.n_axis);
        if let Some(first) = other.map(|first| first.node) {
            // The name is stored for each use, so a long one would take much memory.
            let first: String = self.graph.nodes[first].name.chars().take(80).collect();
            let why = format!("its weight is used in another way by `{first}`");
            self.refuse(node, why);
            return false;
        }
        uses.push(used);
        self.understood.insert(node);
        true
    }

    /// Returns the bias that a node takes.
    pub(super) fn bias(&self, node: usize, input: usize) -> Found<'a> {
        let name = self.graph.input(node, input)?;
        let value = self.value_of(node, input)?;
        let vector = |source: usize| {
            let shape = &self.graph.sources[source].shape;
            let leading = shape.len().saturating_sub(1);
            !shape.is_empty() && shape[..leading].iter().all(|&size| size == 1)
        };
        match value.what {
            What::Float(source) if !value.transposed && vector(source) => {
                Some((Bias::Float(source), name))
            }
            What::Quantized(from) => {
                let source = &self.graph.sources[from.codes];
                let int32 = source.kind == Kind::Plain(Dtype::I32) && source.shape.len() == 1;
                let spread = matches!(from.spread, Spread::Tensor | Spread::Axis(0));
                (int32 && spread).then_some((Bias::Quantized(from), name))
            }
            _ => None,
        }
    }

    /// Returns the bias that is added to a node's output, if nothing else takes that output.
    fn added(&self, node: usize) -> Found<'a> {
        let add = self.graph.only_taker(node, "Add")?;
        self.bias(add, 0).or_else(|| self.bias(add, 1))
    }
}
