//! Qwen3-MoE: Qwen3 with experts in some layers, or in all.

use super::decoder::Decoder;
use super::reader::{Defaults, Name, Reader, Sizes, name};
use super::tensors::Bias;
use super::{ArchitectureError, Blueprint, Feed, Gated, Linear, Matrix, qwen3};
use lowbit::format::ActivationFunction;

const ROUTER: Name = name("mlp.gate", "ffn_gate_inp");

/// The most experts of a layer. Real models have some hundreds.
const MOST_EXPERTS: usize = 1 << 16;

/// The experts of a layer.
struct Experts {
    count: usize,
    used: usize,
    /// The columns between the matrices of one.
    feed: usize,
    normalize: bool,
    function: ActivationFunction,
}

pub(super) fn read(reader: &Reader<'_>) -> Result<Blueprint, ArchitectureError> {
    let decoder = Decoder::new(reader, &Defaults::default())?;
    let function = decoder.silu()?;
    let experts = Experts::read(reader, &decoder.sizes, function)?;
    let dense = dense_layers(reader)?;
    let feed = |at| {
        if dense(at) {
            decoder.gated(at, function, Bias::Never)
        } else {
            experts.feed(&decoder, at)
        }
    };
    if !reader.is_gguf() {
        reader.config.expect_flag("use_sliding_window", false, false)?;
    }
    qwen3::kind("qwen3_moe", reader)?.read(&decoder, &[], feed)
}

/// Returns which layers have no experts.
fn dense_layers(reader: &Reader<'_>) -> Result<impl Fn(usize) -> bool, ArchitectureError> {
    let config = &reader.config;
    let (mut list, mut step) = (Vec::new(), 1);
    if !reader.is_gguf() {
        step = config.count_or("decoder_sparse_step", Some(1))?;
        if let Some(value) = config.get("mlp_only_layers") {
            let layers = value.as_array().and_then(|layers| {
                layers.iter().map(|layer| layer.as_u64()?.try_into().ok()).collect::<Option<_>>()
            });
            list = layers.ok_or_else(|| config.wrong("mlp_only_layers", "a list of layers"))?;
        }
    }
    Ok(move |at: usize| list.contains(&at) || !(at + 1).is_multiple_of(step))
}

impl Experts {
    fn read(
        reader: &Reader<'_>,
        sizes: &Sizes,
        function: ActivationFunction,
    ) -> Result<Self, ArchitectureError> {
        let config = &reader.config;
        let key = |hf, gguf| reader.pick(name(hf, gguf));
        // Two versions of `transformers` call it differently.
        let old = !reader.is_gguf() && config.has("num_experts");
        let count_key = if old { "num_experts" } else { key("num_local_experts", "expert_count") };
        let count = config.count(count_key)?;
        if count > MOST_EXPERTS {
            return Err(config.wrong(count_key, format_args!("at most {MOST_EXPERTS}")));
        }
        let used_key = key("num_experts_per_tok", "expert_used_count");
        let used = config.count(used_key)?;
        if used > count {
            return Err(config.wrong(used_key, format_args!("at most the {count} that there are")));
        }
        // As in llama.cpp, which always normalizes.
        let feed_default = reader.is_gguf().then_some(sizes.feed / used);
        let feed = config
            .count_or(key("moe_intermediate_size", "expert_feed_forward_length"), feed_default)?;
        let normalize = reader.is_gguf() || config.flag("norm_topk_prob", false)?;
        if reader.is_gguf() {
            let scale = config.optional_number("expert_weights_scale")?;
            if scale.is_some_and(|scale| scale != 1.0 && scale != 0.0) {
                return Err(config.unsupported("expert_weights_scale", 1));
            }
        }
        Ok(Self { count, used, feed, normalize, function })
    }

    fn feed(&self, decoder: &Decoder<'_>, at: usize) -> Result<Feed, ArchitectureError> {
        let hidden = decoder.sizes.hidden;
        Ok(Feed::Experts {
            router: decoder.linear(at, ROUTER, (self.count, hidden), Bias::Never)?,
            experts: self.experts(decoder, at)?,
            used: self.used,
            normalize: self.normalize,
        })
    }

    fn experts(&self, decoder: &Decoder<'_>, at: usize) -> Result<Vec<Gated>, ArchitectureError> {
        let &Self { count, feed, function, .. } = self;
        let (hidden, tensors) = (decoder.sizes.hidden, &decoder.reader.tensors);
        let linear = |matrix| Linear { matrix, bias: None };
        let gated = |gate: Matrix, up: Matrix, down: Matrix| Gated {
            gate: linear(gate),
            up: linear(up),
            down: linear(down),
            function,
        };
        let stacked = |tensor: &str, shape| tensors.stacked(tensor, count, shape, 1);
        if decoder.reader.is_gguf() {
            let of =
                |part: &str, shape| stacked(&format!("blk.{at}.ffn_{part}_exps.weight"), shape);
            let (gates, ups) = (of("gate", (feed, hidden))?, of("up", (feed, hidden))?);
            let downs = of("down", (hidden, feed))?;
            let experts = gates.into_iter().zip(ups).zip(downs);
            return Ok(experts.map(|((gate, up), down)| gated(gate, up, down)).collect());
        }
        let module = decoder.module(at, name("mlp.experts", ""));
        let both = format!("{module}.gate_up_proj");
        if tensors.has(&both) {
            // Each expert has its gate above what the gate multiplies.
            let halves = tensors.stacked(&both, count, (2 * feed, hidden), 2)?;
            let downs = stacked(&format!("{module}.down_proj"), (hidden, feed))?;
            let mut halves = halves.into_iter();
            let mut experts = Vec::new();
            for down in downs {
                if let (Some(gate), Some(up)) = (halves.next(), halves.next()) {
                    experts.push(gated(gate, up, down));
                }
            }
            return Ok(experts);
        }
        let expert = |e: usize| {
            let part =
                |part: &str, (n, k)| tensors.matrix(&format!("{module}.{e}.{part}.weight"), n, k);
            Ok(gated(
                part("gate_proj", (feed, hidden))?,
                part("up_proj", (feed, hidden))?,
                part("down_proj", (hidden, feed))?,
            ))
        };
        (0..count).map(expert).collect()
    }
}
