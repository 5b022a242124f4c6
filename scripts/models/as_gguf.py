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
    arch = {"mistral": "llama", "gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}.get(
        config.model_type, config.model_type
    )
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, 8)
    writer = gguf.GGUFWriter(path, arch)
    METADATA.get(arch, of_decoder)(writer, config)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        rounded = divisors(rope, config.head_dim).float()
        writer.add_tensor("rope_freqs.weight", rounded.numpy())
        plain = rope["rope_theta"] ** (-torch.arange(0, config.head_dim, 2).double() / config.head_dim)
        model.model.rotary_emb.inv_freq = plain / rounded.double()

    for name, parameter in list(model.named_parameters()):
        value = parameter.data
        stem, _, end = name.rpartition(".")
        new = names.get_name(stem) or names.get_name(name)
        assert new, name
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            stored = adjacent(value, heads)
        elif arch == "gemma3" and name.endswith("norm.weight"):
            stored = value + 1
        elif arch == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            stored = value.T
        else:
            stored = value
        as_quantized = quantized and value.dim() > 1 and value.shape[-1] % 32 == 0
        if as_quantized:
            blocks = gguf.quantize(stored.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{new}.{end}", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            read = torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)).double()
            # Back to the order of rows that the model has.
            if stored is value:
                parameter.data = read
            elif arch == "llama":
                order = adjacent(torch.arange(len(value)), heads)
                parameter.data[order] = read
            else:
                raise NotImplementedError(name)
        else:
            numbers = stored.float().numpy()
            writer.add_tensor(f"{new}.{end}", numbers.astype(np.float16) if value.dim() > 1 else numbers)
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
    if rope["rope_type"] in ROPE_TYPES:
        writer.add_rope_scaling_type(ROPE_TYPES[rope["rope_type"]])
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


METADATA = {}
