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
    # The other implementations are for f32 and less.
    config = kind(**settings, attn_implementation="eager")
    config._experts_implementation = "eager"
    return config


def decoder(name, model_class, config, variants=("hf",), offset=False):
    """Writes a decoder in each of the variants: `hf`, `stacked` with the parameters as the program holds them, or
    `gguf` with f16 or `q8` with Q8_0 where it fits."""
    torch.manual_seed(zlib.crc32(name.encode()))
    with Wide():
        model = model_class(config).double().eval()
    randomize(model, offset)
    tokens = torch.randint(0, VOCAB, (1, TOKENS))
    for variant in variants:
        folder = OUT / (name if variant == "hf" else f"{name}-{variant}")
        folder.mkdir(parents=True, exist_ok=True)
        write(model, folder, variant)
        logits = run(model, input_ids=tokens, use_cache=False).logits
        check_f32(model_class, config, model, logits, input_ids=tokens, use_cache=False)
        expected = {"tokens": tokens[0].int(), "logits": logits[0].double()}
        save_file(expected, folder / "expected.safetensors")


def write(model, folder, variant):
    if variant in ("gguf", "q8"):
        as_gguf.write(model, folder / "model.gguf", quantized=variant == "q8")
        return
    halves = {name: value.half() for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if variant == "stacked":
        save_file(halves, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"float64"', '"float16"'))


def encoder(name, model_class, config, variants=("hf",), **arguments):
    """Writes an encoder, with what it makes of two sentences of which one is padded."""
    torch.manual_seed(zlib.crc32(name.encode()))
    make = lambda config: model_class(config, **arguments)
    with Wide():
        model = make(config).double().eval()
    randomize(model, offset=False)
    tokens = torch.randint(3, VOCAB, (2, TOKENS))
    mask = torch.ones_like(tokens)
    tokens[0, 9:], mask[0, 9:] = config.pad_token_id, 0
    inputs = dict(input_ids=tokens, attention_mask=mask)
    for variant in variants:
        folder = OUT / (name if variant == "hf" else f"{name}-{variant}")
        folder.mkdir(parents=True, exist_ok=True)
        write(model, folder, variant)
        hidden = run(model.base_model, **inputs).last_hidden_state
        check_f32(lambda config: make(config).base_model, config, model.base_model, hidden, **inputs)
        expected = {"tokens": tokens.int(), "mask": mask.int(), "hidden": hidden.double()}
        if name == "mpnet":
            distances = torch.arange(-300, 301)
            expected["buckets"] = model.encoder.relative_position_bucket(distances).int()
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
    """YaRN with other bounds and an attention factor of its own."""
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
    settings = dict(rope_parameters=scaling, **SMALL)
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
    settings = llama_config(rope_parameters=rope())
    settings.update(use_sliding_window=True, sliding_window=5, max_window_layers=1)
    decoder("qwen2-window", hf.Qwen2ForCausalLM, config_of(hf.Qwen2Config, **settings))


@case
def mistral():
    """Mistral, with a window."""
    config = config_of(hf.MistralConfig, **llama_config(rope_parameters=rope(), sliding_window=5))
    decoder("mistral", hf.MistralForCausalLM, config)


@case
def qwen3():
    """Qwen3."""
    config = config_of(hf.Qwen3Config, **llama_config(rope_parameters=rope(rope_theta=1000000.0)))
    decoder("qwen3", hf.Qwen3ForCausalLM, config, ("hf", "gguf"))


@case
def qwen3_bias():
    """Qwen3 with biases, YaRN and a window in the second layer."""
    scaling = rope(rope_type="yarn", factor=2.0, original_max_position_embeddings=64, attention_factor=1.25)
    settings = llama_config(rope_parameters=scaling, attention_bias=True, tie_word_embeddings=True)
    settings.update(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    decoder("qwen3-bias", hf.Qwen3ForCausalLM, config_of(hf.Qwen3Config, **settings))


def gemma3_config(**settings):
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=7, num_attention_heads=2)
    sizes.update(num_key_value_heads=1, sliding_window=4, tie_word_embeddings=True)
    rotary = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
    }
    return config_of(hf.Gemma3TextConfig, **llama_config(**sizes, rope_parameters=rotary, **settings))


@case
def gemma3():
    """Gemma 3 with a scale of its own, capped logits and biases."""
    config = gemma3_config(query_pre_attn_scalar=64, final_logit_softcapping=20.0, attention_bias=True)
    decoder("gemma3", hf.Gemma3ForCausalLM, config, offset=True)


@case
def gemma3_plain():
    """Gemma 3 as its files are."""
    config = gemma3_config(query_pre_attn_scalar=16)
    decoder("gemma3-plain", hf.Gemma3ForCausalLM, config, ("gguf",), offset=True)


@case
def gpt2():
    """GPT-2."""
    sizes = dict(vocab_size=VOCAB, n_positions=40, n_embd=32, n_layer=2, n_head=2, n_inner=80)
    config = config_of(hf.GPT2Config, **sizes, layer_norm_epsilon=EPSILON)
    decoder("gpt2", hf.GPT2LMHeadModel, config, ("hf", "gguf"))


@case
def gpt2_layers():
    """GPT-2 whose scores are divided by the number of the layer."""
    sizes = dict(vocab_size=VOCAB, n_positions=40, n_embd=16, n_layer=2, n_head=1)
    settings = dict(scale_attn_by_inverse_layer_idx=True, activation_function="relu")
    config = config_of(hf.GPT2Config, **sizes, **settings, layer_norm_epsilon=EPSILON)
    decoder("gpt2-layers", hf.GPT2LMHeadModel, config)


@case
def qwen3_moe():
    """Qwen3-MoE, normalized, in each way to store experts."""
    settings = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True)
    settings = llama_config(rope_parameters=rope(), num_hidden_layers=1, **settings)
    config = config_of(hf.Qwen3MoeConfig, **settings)
    decoder("qwen3-moe", hf.Qwen3MoeForCausalLM, config, ("hf", "stacked", "gguf", "q8"))


@case
def qwen3_moe_dense():
    """Qwen3-MoE, not normalized, of which some layers are dense."""
    settings = dict(num_experts=4, num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=False)
    settings.update(decoder_sparse_step=2, num_hidden_layers=4, mlp_only_layers=[3], hidden_size=16)
    settings.update(tie_word_embeddings=True, num_attention_heads=2, num_key_value_heads=1)
    config = config_of(hf.Qwen3MoeConfig, **llama_config(rope_parameters=rope(), **settings))
    decoder("qwen3-moe-dense", hf.Qwen3MoeForCausalLM, config)


def bert_config(**settings):
    sizes = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
        layer_norm_eps=EPSILON,
    )
    return {**sizes, **settings}


@case
def bert():
    """BERT."""
    config = config_of(hf.BertConfig, **bert_config())
    encoder("bert", hf.BertModel, config, ("hf", "gguf"), add_pooling_layer=False)


@case
def roberta():
    """RoBERTa, as a part of a larger model."""
    config = config_of(hf.RobertaConfig, **bert_config(type_vocab_size=1, hidden_act="gelu_new"))
    encoder("roberta", hf.RobertaForMaskedLM, config)


@case
def roberta_plain():
    """RoBERTa by itself."""
    config = config_of(hf.RobertaConfig, **bert_config(type_vocab_size=1, num_hidden_layers=1))
    encoder("roberta-plain", hf.RobertaModel, config, ("gguf",), add_pooling_layer=False)


@case
def mpnet():
    """MPNet."""
    config = config_of(hf.MPNetConfig, **bert_config())
    encoder("mpnet", hf.MPNetModel, config, add_pooling_layer=False)


@case
def distilbert():
    """DistilBERT."""
    sizes = dict(vocab_size=VOCAB, dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=20)
    encoder("distilbert", hf.DistilBertModel, config_of(hf.DistilBertConfig, **sizes))


@case
def electra():
    """ELECTRA, whose embedding has fewer columns."""
    config = config_of(hf.ElectraConfig, **bert_config(embedding_size=24))
    encoder("electra", hf.ElectraModel, config)


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
