"""Makes tiny random models of every architecture that lowbit reads, and what `transformers` makes of them.

    python make.py [NAME …]

writes folders to crates/lowbit-models/tests/fixtures/models. Each has a model (`model.safetensors` and
`config.json`, or `model.gguf`) and `expected.safetensors`: the tokens, and in f64 the logits of a decoder or
the last hidden states of an encoder. `hidden` of an encoder is for each sentence by itself.

pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 gguf==0.19.0 numpy==2.4.6

The sizes are chosen so that mistakes show: heads of keys are fewer than heads, windows are shorter than the
sequence, biases and the factors of normalizations are random. What a blueprint holds as f32 (1/√head_dim, ε,
the scale of embeddings) is a power of two, so that results can agree to the digits of f64.
"""

import os
import sys
import zlib
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers as hf
from safetensors.torch import save_file

import as_gguf
from wide import Wide

OUT = Path(__file__).resolve().parents[2] / "crates/lowbit-models/tests/fixtures/models"
VOCAB, TOKENS, EPSILON = 96, 14, 2.0**-17

CASES = {}


def case(make):
    CASES[make.__name__.replace("_", "-")] = make
    return make


def randomize(model, offset):
    """Gives every parameter random values: matrices so that rows keep their size, factors about 1."""
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape)
        if parameter.dim() == 1:
            factors = name.endswith("weight") and not offset
            value = 0.3 * value + (1.0 if factors else 0.0)
        elif "embed" not in name and "wte" not in name and "wpe" not in name:
            value *= 1.3 / parameter.shape[-1] ** 0.5
        # The files have f16.
        parameter.data = value.half().double()


def run(model, **inputs):
    with Wide(), torch.no_grad():
        wide = model(**inputs)
    return wide


def config_of(kind, **settings):
    return kind(**settings, attn_implementation="eager")


def decoder(name, model_class, config, variants=("hf",), offset=False, harmless=()):
    """Writes a decoder in each of the variants: `hf`, or `gguf` with f16 or `q8` with Q8_0 where it fits."""
    torch.manual_seed(zlib.crc32(name.encode()))
    with Wide():
        model = model_class(config).double().eval()
    randomize(model, offset)
    tokens = torch.randint(0, VOCAB, (1, TOKENS))
    for variant in variants:
        folder = OUT / (name if variant == "hf" else f"{name}-{variant}")
        folder.mkdir(parents=True, exist_ok=True)
        if variant == "hf":
            write_hf(model, folder)
        else:
            as_gguf.write(model, folder / "model.gguf", quantized=variant == "q8")
        logits = run(model, input_ids=tokens, use_cache=False).logits
        check_f32(model_class, config, model, logits, input_ids=tokens, use_cache=False)
        expected = {"tokens": tokens[0].int(), "logits": logits[0].double()}
        save_file(expected, folder / "expected.safetensors")


def check_f32(model_class, config, model, wide, **inputs):
    """The same model in f32, as everybody runs it, must give the same but for rounding."""
    plain = model_class(config).eval()
    plain.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    with torch.no_grad():
        output = plain(**inputs)
    output = getattr(output, "logits", None) if hasattr(output, "logits") else output.last_hidden_state
    difference = (output.double() - wide).abs().max().item()
    print(f"{type(model).__name__}: f32 differs from f64 by {difference:.1e} of {wide.abs().max():.1f}")
    assert difference < 1e-4 * wide.abs().max()


def write_hf(model, folder):
    halves = {name: value.half() for name, value in model.state_dict().items()}
    model.config.dtype = torch.float16
    model.save_pretrained(folder, state_dict=halves)
    (folder / "generation_config.json").unlink(missing_ok=True)


def rope(**settings):
    return {"rope_theta": 10000.0, "rope_type": "default", **settings}


def llama_config(**settings):
    sizes = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        head_dim=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=EPSILON,
        tie_word_embeddings=False,
    )
    return {**sizes, **settings}


SMALL = dict(num_hidden_layers=1, tie_word_embeddings=True)


@case
def llama():
    """Llama 2, also as GGUF with f16 and with Q8_0."""
    config = config_of(hf.LlamaConfig, **llama_config(rope_parameters=rope()))
    decoder("llama", hf.LlamaForCausalLM, config, ("hf", "gguf", "q8"))


@case
def llama3():
    """The scaling of Llama 3.1, tied, with biases everywhere."""
    scaling = rope(
        rope_theta=500.0,
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    settings = dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=scaling)
    settings.update(num_hidden_layers=1)
    config = config_of(hf.LlamaConfig, **llama_config(**settings))
    decoder("llama3", hf.LlamaForCausalLM, config, ("hf", "gguf"))


@case
def llama_yarn():
    """YaRN."""
    scaling = rope(rope_theta=1000.0, rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
    config = config_of(hf.LlamaConfig, **llama_config(rope_parameters=scaling, **SMALL))
    decoder("llama-yarn", hf.LlamaForCausalLM, config, ("hf", "gguf"))


@case
def llama_yarn_mscale():
    """YaRN with other bounds and an attention factor of its own; heads of another size."""
    scaling = rope(
        rope_theta=1000.0,
        rope_type="yarn",
        factor=8.0,
        original_max_position_embeddings=32,
        beta_fast=8.0,
        beta_slow=2.0,
        mscale=1.0,
        mscale_all_dim=0.5,
    )
    settings = dict(rope_parameters=scaling, **SMALL, head_dim=4)
    decoder("llama-yarn-mscale", hf.LlamaForCausalLM, config_of(hf.LlamaConfig, **llama_config(**settings)))


@case
def llama_linear():
    """Linear scaling."""
    scaling = rope(rope_type="linear", factor=2.5)
    config = config_of(hf.LlamaConfig, **llama_config(rope_parameters=scaling, **SMALL))
    decoder("llama-linear", hf.LlamaForCausalLM, config, ("hf", "gguf"))


@case
def qwen2():
    """Qwen2, tied."""
    settings = llama_config(rope_parameters=rope(rope_theta=1000000.0), tie_word_embeddings=True)
    settings.update(num_attention_heads=2, num_key_value_heads=1, intermediate_size=80)
    del settings["head_dim"]
    config = config_of(hf.Qwen2Config, **settings)
    decoder("qwen2", hf.Qwen2ForCausalLM, config, ("hf", "gguf", "q8"))


@case
def qwen2_window():
    """Qwen2 with a window from the second layer on."""
    settings = llama_config(rope_parameters=rope(), num_hidden_layers=3)
    settings.update(use_sliding_window=True, sliding_window=5, max_window_layers=1)
    decoder("qwen2-window", hf.Qwen2ForCausalLM, config_of(hf.Qwen2Config, **settings))


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        CASES[name]()
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in sorted(OUT.iterdir())
    }
    for name, size in sizes.items():
        print(f"{name}: {size // 1024} KiB")
        assert size < 120 * 1024
    assert sum(sizes.values()) < 2 * 1024 * 1024
