"""Prints what transformers computes for rotary embeddings, for tests/rotary_table.rs.

usage: rotary.py > tests/rotary_table.txt
needs torch and transformers (5.24.0 printed the file that is checked in)

For each case: its name, the factor of cosines and sines, the frequencies of the pairs, and the cosines and
sines at position 3. All of it is f32 arithmetic.
"""

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LONG = [1.0 + 0.37 * i + 0.011 * i * i for i in range(48)]

CASES = {
    "plain": dict(dim=64, rope_type="default", rope_theta=10000.0),
    "linear": dict(dim=256, rope_type="linear", rope_theta=1e6, factor=8.0),
    "llama3": dict(
        dim=128, rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=8192,
    ),
    "llama3-small": dict(
        dim=64, rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
        high_freq_factor=4.0, original_max_position_embeddings=8192,
    ),
    "yarn": dict(
        dim=128, rope_type="yarn", rope_theta=1e6, factor=4.0,
        original_max_position_embeddings=32768,
    ),
    "yarn-whole": dict(
        dim=64, rope_type="yarn", rope_theta=150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0,
        truncate=False, original_max_position_embeddings=4096,
    ),
    "yarn-factor": dict(
        dim=64, rope_type="yarn", rope_theta=10000.0, factor=40.0, attention_factor=1.0,
        original_max_position_embeddings=4096,
    ),
    "longrope": dict(
        dim=96, rope_type="longrope", rope_theta=10000.0, factor=32.0, short_factor=LONG,
        long_factor=LONG, original_max_position_embeddings=4096,
    ),
}


def numbers(values):
    return " ".join(f"{float(value):.9g}" for value in values)


for name, rope in CASES.items():
    rope = dict(rope)
    dim = rope.pop("dim")
    config = LlamaConfig(
        hidden_size=dim, num_attention_heads=1, head_dim=dim, max_position_embeddings=131072,
        rope_parameters=rope,
    )
    module = LlamaRotaryEmbedding(config)
    cosines, sines = module(torch.zeros(1, 4, dim), torch.arange(4)[None])
    print("case", name)
    print("factor", numbers([module.attention_scaling]))
    print("frequencies", numbers(module.inv_freq))
    print("cosines", numbers(cosines[0, 3, : dim // 2]))
    print("sines", numbers(sines[0, 3, : dim // 2]))
