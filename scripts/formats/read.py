"""Reads with compressed-tensors what lowbit has written, and compares it with what the package wrote itself.

    python read.py WRITTEN FOLDER

FOLDER is what `write.py` made; WRITTEN has checkpoints of the same names that lowbit wrote from it. The formats
that the package does not read any more (`sparse-24-bitmask`, act-order) are decoded here by their documented
layouts.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file

written, folder = map(Path, sys.argv[1:])


def module(tensors, name):
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}


def sparse(tensors):
    """Follows the text of the format: one bit for each weight, the kept ones row after row."""
    n, k = tensors["shape"].flatten().tolist()
    bits = tensors["bitmask"].int().unsqueeze(-1) >> torch.arange(8) & 1
    mask = bits.reshape(n, -1)[:, :k].bool()
    dense = torch.zeros(n, k, dtype=tensors["compressed"].dtype)
    dense[mask] = tensors["compressed"].flatten()
    return dense


def check(case):
    config = json.loads((case / "config.json").read_text())["quantization_config"]
    tensors = module(load_file(case / "model.safetensors"), "l")
    expected = load_file(folder / case.name / "expected.safetensors")["l.weight"]
    if "sparsity_config" in config:
        values = sparse(tensors)
    else:
        groups = config["config_groups"]
        for group in groups.values():
            # The package has removed this way to quantize; codes and scales say it all the same.
            if group["weights"].pop("actorder", None) == "group":
                index = tensors.pop("weight_g_idx")
                scale = tensors["weight_scale"][:, index.long()]
                tensors["weight_scale"] = scale
                group["weights"]["group_size"] = 1
        parsed = QuantizationConfig.model_validate(config)
        (scheme,) = parsed.config_groups.values()
        assert scheme.targets == ["l"], scheme.targets
        compressor = BaseCompressor.load_from_registry(scheme.format)
        values = compressor.decompress(tensors, scheme)["weight"]
    # Scales of bf16 have become f32, so that the package no longer rounds the products to bf16.
    assert torch.equal(values.to(expected.dtype), expected), case.name


cases = sorted(written.iterdir())
assert len(cases) >= 18, cases
for case in cases:
    check(case)
print(f"{len(cases)} checkpoints that lowbit wrote are what compressed-tensors reads")
