"""llama.cpp on one model, through ctypes on the libraries of node-llama-cpp's package.

usage: llama_peer.py FOLDER_OF_LIBRARIES vulkan|cpu

The structures are those of VERSION; libraries that have their defaults elsewhere are refused."""

import ctypes
import glob
import math
import os
import re
import sys
import time
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_int8, c_size_t, c_uint32, c_void_p

from conversation import converse

FOLDER, BACKEND = sys.argv[1:]
LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
F16 = 1
# Decoded tokens of the run that is not timed.
WARM = 4
VERSION = "node-llama-cpp 3.22.1"


class ModelParams(ctypes.Structure):
    _fields_ = [
        ("devices", POINTER(c_void_p)),
        ("buffer_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress", c_void_p),
        ("progress_data", c_void_p),
        ("overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_buffers", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class ContextParams(ctypes.Structure):
    _fields_ = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("context_type", c_int32),
        ("rope_scaling", c_int32),
        ("pooling", c_int32),
        ("attention", c_int32),
        ("flash_attention", c_int32),
        ("rope_base", c_float),
        ("rope_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag", c_float),
        ("eval", c_void_p),
        ("eval_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("abort", c_void_p),
        ("abort_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("other", c_void_p),
    ]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", POINTER(c_int8)),
    ]


def load(pattern):
    found = glob.glob(os.path.join(FOLDER, pattern))
    if not found:
        raise FileNotFoundError(f"no {pattern} in {FOLDER}; run scripts/setup-peers.sh --model")
    return ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)


BASE = load("libggml-base.so")
REGISTRY = load("libggml.*.so")
LLAMA = load("libllama.*.so")


def function(library, name, result, *arguments):
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


load_all = function(REGISTRY, "ggml_backend_load_all_from_path", None, c_char_p)
device_count = function(REGISTRY, "ggml_backend_dev_count", c_size_t)
device_get = function(REGISTRY, "ggml_backend_dev_get", c_void_p, c_size_t)
device_name = function(BASE, "ggml_backend_dev_name", c_char_p, c_void_p)
device_description = function(BASE, "ggml_backend_dev_description", c_char_p, c_void_p)
log_set = function(LLAMA, "llama_log_set", None, LOG, c_void_p)
model_defaults = function(LLAMA, "llama_model_default_params", ModelParams)
context_defaults = function(LLAMA, "llama_context_default_params", ContextParams)
load_model = function(LLAMA, "llama_model_load_from_file", c_void_p, c_char_p, ModelParams)
new_context = function(LLAMA, "llama_init_from_model", c_void_p, c_void_p, ContextParams)
vocab_of = function(LLAMA, "llama_model_get_vocab", c_void_p, c_void_p)
vocab_size = function(LLAMA, "llama_vocab_n_tokens", c_int32, c_void_p)
memory_of = function(LLAMA, "llama_get_memory", c_void_p, c_void_p)
clear = function(LLAMA, "llama_memory_clear", None, c_void_p, c_bool)
batch_of = function(LLAMA, "llama_batch_get_one", Batch, POINTER(c_int32), c_int32)
decode = function(LLAMA, "llama_decode", c_int32, c_void_p, Batch)
greedy = function(LLAMA, "llama_sampler_init_greedy", c_void_p)
sample = function(LLAMA, "llama_sampler_sample", c_int32, c_void_p, c_void_p, c_int32)
logits_of = function(LLAMA, "llama_get_logits_ith", POINTER(c_float), c_void_p, c_int32)

messages = []


@LOG
def log(_level, text, _data):
    messages.append(text.decode(errors="replace"))
    sys.stderr.write(messages[-1])


def logged(pattern, what):
    found = re.search(pattern, "".join(messages))
    if not found:
        raise RuntimeError(f"llama.cpp does not log {what}")
    return found


def defaults():
    """llama.cpp's own parameters, which show whether the structures fit."""
    model, context = model_defaults(), context_defaults()
    found = [model.n_gpu_layers, model.split_mode, model.use_extra_buffers, model.load_mtp]
    found += [context.n_ctx, context.n_batch, context.n_ubatch, context.flash_attention]
    found += [context.type_k, context.type_v, context.offload_kqv, context.n_samplers]
    if found != [-1, 1, True, False, 512, 2048, 512, -1, F16, F16, True, 0]:
        raise RuntimeError(f"these libraries have other structures than {VERSION}: {found}")
    return model, context


def devices():
    """The list of devices that layers go to, which ends in NULL, and the adapter's name."""
    load_all(FOLDER.encode())
    if BACKEND == "cpu":
        return (c_void_p * 1)(None), None
    every = [device_get(at) for at in range(device_count())]
    for device in every:
        if device_name(device) == b"Vulkan0":
            return (c_void_p * 2)(device, None), device_description(device).decode()
    names = ", ".join(device_name(device).decode() for device in every)
    raise RuntimeError(f"ggml found no Vulkan device, but {names or 'none at all'}")


def open_model(case):
    model_params, params = defaults()
    model_params.devices = ctypes.cast(DEVICES, POINTER(c_void_p))
    model = load_model(case["model"].encode(), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {case['model']}")
    prompt_tokens, decode_tokens = case["prompt_tokens"], case["decode_tokens"]
    params.n_ctx = prompt_tokens + decode_tokens
    params.n_threads = params.n_threads_batch = case["threads"]
    context = new_context(model, params)
    if not context:
        raise RuntimeError("llama.cpp makes no context")
    verify()
    vocab, sampler = vocab_size(vocab_of(model)), greedy()

    def step(tokens):
        """Reads tokens, waits, and gives the one that is most likely to follow."""
        # The batch points to it.
        held = (c_int32 * len(tokens))(*tokens)
        status = decode(context, batch_of(held, len(tokens)))
        if status:
            raise RuntimeError(f"llama_decode gives {status}")
        token = sample(sampler, context, -1)
        if not math.isfinite(logits_of(context, -1)[token]):
            raise RuntimeError("logits are not finite")
        return token

    def run(decode_tokens):
        clear(memory_of(context), True)
        start = time.perf_counter()
        # Pseudo-random tokens, the same as lowbit's.
        token = step([at * 2654435761 % 2**32 % vocab for at in range(prompt_tokens)])
        read = time.perf_counter()
        # The first token came with the prompt.
        for _ in range(1, decode_tokens):
            token = step([token])
        end = time.perf_counter()
        return {
            "prompt_tokens_per_s": prompt_tokens / (read - start),
            "decode_tokens_per_s": (decode_tokens - 1) / (end - read),
        }

    # Drivers compile at the first use.
    run(WARM)
    return lambda: run(decode_tokens)


def verify():
    """Refuses a model that is not where it should be: llama.cpp would use the CPU silently."""
    if BACKEND == "cpu":
        if re.search(r"Vulkan0 \w+ buffer", "".join(messages)):
            raise RuntimeError("llama.cpp took the Vulkan device, not the CPU")
        return
    on_device = logged(r"offloaded (\d+)/(\d+) layers to GPU", "how many layers the device has")
    if on_device[1] != on_device[2]:
        raise RuntimeError(f"llama.cpp left layers on the CPU: the device has {on_device[0]}")
    for buffer in ["model", "KV", "compute"]:
        logged(rf"Vulkan0 {buffer} buffer size = +[1-9]", f"that the {buffer} buffer is on Vulkan0")


def answer(request):
    global RUN
    if "open" in request:
        RUN = open_model(request["open"])
        return "opened"
    return {"rates": RUN()}


RUN = None
log_set(log, None)
DEVICES, ADAPTER = devices()
converse({"version": VERSION, "adapter": ADAPTER, "driver": None}, answer)
