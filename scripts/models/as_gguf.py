"""Writes a model of `transformers` as GGUF, with the names, the metadata and the order of rows that the
converter of llama.cpp gives it."""

import gguf
import numpy as np
import torch

ROPE_TYPES = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}


def adjacent(weights, heads):
    """The rows of each head, of which pair j was rows j and j + n/2, with the two beside each other."""
    rows = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return rows.swapaxes(1, 2).reshape(weights.shape)


def divisors(rope, dim):
    """What Llama 3 divides the frequencies by."""
    wavelengths = 2 * torch.pi * rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    turns = rope["original_max_position_embeddings"] / wavelengths
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - kept) / rope["factor"] + kept)


def write(model, path, quantized):
    """Writes the model, and gives its parameters the values that the file has."""
    config = model.config
    arch = {"gemma3_text": "gemma3", "qwen3_moe": "qwen3moe", "roberta": "bert"}.get(
        config.model_type, config.model_type
    )
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, 8)
    writer = gguf.GGUFWriter(path, arch)
    {"gpt2": of_gpt2, "bert": of_bert}.get(arch, of_decoder)(writer, config)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        rounded = divisors(rope, config.head_dim).float()
        writer.add_tensor("rope_freqs.weight", rounded.numpy())
        plain = rope["rope_theta"] ** (-torch.arange(0, config.head_dim, 2).double() / config.head_dim)
        model.model.rotary_emb.inv_freq = plain / rounded.double()

    def add(name, stored):
        """Writes a tensor, and returns the values that the file has."""
        if quantized and stored.dim() > 1 and stored.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quantize(stored.float().numpy(), kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
            return torch.from_numpy(gguf.dequantize(blocks, kind)).double()
        numbers = stored.float().numpy()
        writer.add_tensor(name, numbers.astype(np.float16) if stored.dim() > 1 else numbers)
        return stored

    for name, parameter in list(model.named_parameters()):
        value = parameter.data
        stem, _, end = name.rpartition(".")
        if name.endswith("experts.gate_up_proj"):
            gate, up = value.chunk(2, dim=1)
            gate = add(f"{names.get_name(stem + '.gate_proj')}.weight", gate.contiguous())
            up = add(f"{names.get_name(stem + '.up_proj')}.weight", up.contiguous())
            parameter.data = torch.cat([gate, up], dim=1)
            continue
        if name.endswith("experts.down_proj"):
            parameter.data = add(f"{names.get_name(name)}.weight", value)
            continue
        new = f"{names.get_name(stem)}.{end}"
        assert names.get_name(stem), name
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            order = adjacent(torch.arange(len(value)), heads)
            parameter.data[order] = add(new, value[order])
        elif arch == "gemma3" and name.endswith("norm.weight"):
            add(new, value + 1)
        elif arch == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            parameter.data = add(new, value.T.contiguous()).T
        elif arch == "bert" and config.model_type == "roberta" and "position_embeddings" in name:
            # Those before the first position are left out.
            add(new, value[config.pad_token_id + 1 :])
        else:
            parameter.data = add(new, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_decoder(writer, config):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
        writer.add_float32("gemma3.rope.freq_base_swa", config.rope_parameters["sliding_attention"]["rope_theta"])
    if config.model_type == "qwen3_moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if rope["rope_type"] in ROPE_TYPES:
        writer.add_rope_scaling_type(ROPE_TYPES[rope["rope_type"]])
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def of_gpt2(writer, config):
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def of_bert(writer, config):
    before = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    writer.add_context_length(config.max_position_embeddings - before)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_token_type_count(config.type_vocab_size)
