#!/usr/bin/env python3
"""Writes crates/lowbit-models/tests/fixtures/layerwise/layers.safetensors: slices of two linear layers of MiniLM with
their inputs, and how far the outputs of what llm-compressor makes of them are from the layers' own.

    OMP_NUM_THREADS=1 python make.py

needs data/minilm and data/pride (make model, make language-models) and the Python packages

    torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 numpy==2.4.6
    llmcompressor==0.14.0.1 compressed-tensors==0.20.1        (--no-deps; with loguru, accelerate, datasets)

`LAYER.x` are rows of inputs, [rows, K], rounded to f16, and `LAYER.w` is [N, K]. `LAYER.error.METHOD.FORMAT` is
‖X(W − Ŵ)ᵀ‖² in f64, and `LAYER.mask.METHOD.PATTERN` has a bit for each weight that is kept, the lowest column in the
lowest bit. Methods are llm-compressor's functions, with a damping of 0.01 and blocks of 128 columns:

- `round`: scales of its observer of minima and maxima.
- `gptq`: the same scales, which it finds before the loop, columns as they are. `gptq-actorder`: columns by falling
  diagonal of XᵀX (`weight`; `static` is another name for it, and this version refuses `group`). `gptq-sorted`: as
  `gptq`, with the columns of X and W sorted like that before, so that groups are of sorted columns.
- `awq`: factors of inputs, mean|X| to the power of 0, 0.05 … 1, without those of weights.
- `magnitude`: fractions by its mask for unstructured sparsity. It has no N:M by magnitude; this is `wanda` with inputs
  that all have the norm 1.
- `wanda`, `sparsegpt`. Its fraction of SparseGPT prunes one weight of each block more than it says.
"""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
import transformers
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationScheme,
    fake_quantize,
    initialize_module_for_quantization,
)
from llmcompressor.core import create_session
from llmcompressor.modifiers.gptq import gptq_quantize
from llmcompressor.modifiers.pruning.sparsegpt import sgpt_sparsify
from llmcompressor.modifiers.pruning.utils.pytorch.mask_factory import PruningMaskCreatorArgs, PruningMaskFactory
from llmcompressor.modifiers.pruning.wanda import wanda_sparsify
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.awq.base import ResolvedMapping
from llmcompressor.observers import Observer
from safetensors.torch import save_file
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/accuracy"))
import calibration

OUT = ROOT / "crates/lowbit-models/tests/fixtures/layerwise/layers.safetensors"
PACKAGES = ["llmcompressor", "compressed-tensors", "torch", "transformers"]

# The rows and columns of W and the rows of X that are kept.
LAYERS = {
    "query": ("encoder.layer.1.attention.self.query", 64, 384, 400),
    "down": ("encoder.layer.3.output.dense", 32, 512, 160),
}
FORMATS = {f"int{bits}-g64-asym": bits for bits in (4, 3)}
# How many of each M weights are pruned; or the fraction of all.
PATTERNS = {"2:4": (2, 4), "6:8": (2, 8), "0.5": 0.5}
DAMPING, BLOCK = 0.01, 128


def inputs(model, names, rows):
    """The first rows of the inputs of linear layers for the calibration text."""
    tokenizer = Tokenizer.from_file(str(ROOT / "data/minilm/tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(calibration.TOKENS)
    seen = {name: [] for name in names}
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0][0]))
    read = 0
    for paragraph in calibration.paragraphs((ROOT / "data/pride/pride.txt").read_text()):
        ids = tokenizer.encode(paragraph).ids
        model(input_ids=torch.tensor([ids]))
        read += len(ids)
        if read >= rows:
            break
    return {name: torch.cat(parts) for name, parts in seen.items()}


def arguments(bits, actorder=None):
    return QuantizationArgs(
        num_bits=bits, symmetric=False, strategy="group", group_size=64, observer="memoryless_minmax", actorder=actorder
    )


def observed(w, args):
    """Scales and zero points."""
    observer = Observer.load_from_registry("memoryless_minmax", base_name="weight", args=args)
    found = observer(w).get_qparams()
    return found["scale"], found["zero_point"]


def rounded(w, bits):
    args = arguments(bits)
    return fake_quantize(w, *observed(w, args), args)


def gptq(w, x, bits, actorder=None):
    args = arguments(bits, actorder)
    scale, zero = observed(w, args)
    hessian = 2 / len(x) * x.T @ x
    made, _, failed = gptq_quantize.quantize_weight(
        w.clone()[None], hessian[None], scale[None], zero[None], None, args, BLOCK, DAMPING
    )
    assert not failed.any()
    return made[0]


class OneLayer(AWQModifier):
    """The search for factors, of a layer that is its own parent."""

    def _run_samples(self, module):
        return [torch.nn.functional.linear(self._x, module.weight)]


def awq(w, x, bits):
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data = w.clone()
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments(bits))
    initialize_module_for_quantization(linear, scheme)
    search = OneLayer(mappings=[], duo_scaling=False, n_grid=21)
    object.__setattr__(search, "_x", x)
    search._smooth_activation_stats["x"] = [x.abs().sum(0), torch.tensor(len(x))]
    mapping = ResolvedMapping("x", torch.nn.Identity(), [linear], ["w"], linear, "w")
    factors = search._compute_best_scale(mapping, [x @ w.T], {linear: w.clone()})
    return rounded(w * factors, bits) / factors


def magnitude(w, _, pattern):
    if isinstance(pattern, tuple):
        return wanda_of(w, torch.ones(w.shape[1]), pattern)
    create = PruningMaskFactory.create_mask_creator("unstructured")
    return w * create(PruningMaskCreatorArgs(parameter=torch.nn.Parameter(w), sparsity=pattern, scores=w.abs()))


def wanda_of(w, norms, pattern):
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data = w.clone()
    n, m = pattern if isinstance(pattern, tuple) else (0, 0)
    return wanda_sparsify.sparsify_weight(linear, {linear: norms}, 0 if n else pattern, n, m)


def wanda(w, x, pattern):
    return wanda_of(w, (x**2).sum(0) / len(x), pattern)


def sparsegpt(w, x, pattern):
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data = w.clone()
    n, m = pattern if isinstance(pattern, tuple) else (0, 0)
    hessian = {linear: 2 / len(x) * x.T @ x}
    fraction = 0 if n else pattern
    return sgpt_sparsify.sparsify_weight(linear, hessian, fraction, n, m, BLOCK, DAMPING, False)[1]


def error(w, made, x):
    return ((x.double() @ (w.double() - made.double()).T) ** 2).sum().reshape(1)


def bits(kept):
    return torch.from_numpy(np.packbits(kept.numpy(), axis=1, bitorder="little"))


def of_layer(w, x):
    """Yields names and tensors of a layer."""
    order = torch.argsort((x**2).sum(0), descending=True, stable=True)
    for name, width in FORMATS.items():
        made = {
            "round": rounded(w, width),
            "gptq": gptq(w, x, width),
            "gptq-actorder": gptq(w, x, width, "weight"),
            "awq": awq(w, x, width),
        }
        assert torch.equal(made["gptq-actorder"], gptq(w, x, width, "static"))
        for method, made in made.items():
            yield f"error.{method}.{name}", error(w, made, x)
        sorted_w, sorted_x = w[:, order].contiguous(), x[:, order].contiguous()
        yield f"error.gptq-sorted.{name}", error(sorted_w, gptq(sorted_w, sorted_x, width), sorted_x)
    for name, pattern in PATTERNS.items():
        for method in (magnitude, wanda, sparsegpt):
            made = method(w, x, pattern)
            yield f"error.{method.__name__}.{name}", error(w, made, x)
            if method is not sparsegpt:
                assert torch.equal(made[made != 0], w[made != 0])
                yield f"mask.{method.__name__}.{name}", bits(made != 0)


@torch.no_grad()
def main():
    create_session()
    model = transformers.BertModel.from_pretrained(ROOT / "data/minilm", dtype=torch.float32).eval()
    seen = inputs(model, [name for name, *_ in LAYERS.values()], max(rows for *_, rows in LAYERS.values()))
    tensors = {}
    for layer, (name, n, k, rows) in LAYERS.items():
        w = model.get_submodule(name).weight[:n, :k].contiguous().clone()
        assert (w != 0).all()
        x = seen[name][:rows, :k].half()
        tensors |= {f"{layer}.x": x.contiguous(), f"{layer}.w": w}
        for name, tensor in of_layer(w, x.float()):
            tensors[f"{layer}.{name}"] = tensor
            if name.startswith("error"):
                print(f"{layer}.{name}: {tensor.item():.6}")
    metadata = {package: importlib.metadata.version(package) for package in PACKAGES}
    metadata |= {f"{layer}.layer": name for layer, (name, *_) in LAYERS.items()}
    metadata |= {"damping": str(DAMPING), "block": str(BLOCK)}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    # Several entries would be written in another order each time.
    save_file(tensors, OUT, {"made": json.dumps(metadata)})
    print(f"{OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
