"""ggml's Vulkan backend, through ctypes on the libraries of node-llama-cpp's package.

usage: ggml_peer.py FOLDER_OF_LIBRARIES"""

import ctypes
import glob
import os
import re
import sys
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p

import numpy as np

from protocol import check, serve

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "q4_K": 12}
LOG = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class InitParams(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("buffer", c_void_p), ("no_alloc", c_bool)]


class TypeTraits(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("block", c_int64),
        ("block_interleave", c_int64),
        ("bytes", c_size_t),
        ("quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
    ]


def load(pattern):
    found = glob.glob(os.path.join(sys.argv[1], pattern))
    if not found:
        raise FileNotFoundError(f"no {pattern} in {sys.argv[1]}; run scripts/setup-peers.sh")
    return ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)


BASE = load("libggml-base.so")
REGISTRY = load("libggml.*.so")


def function(library, name, result, *arguments):
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


backend_load = function(REGISTRY, "ggml_backend_load", c_void_p, c_char_p)
device_count = function(REGISTRY, "ggml_backend_dev_count", c_size_t)
device_get = function(REGISTRY, "ggml_backend_dev_get", c_void_p, c_size_t)
device_description = function(BASE, "ggml_backend_dev_description", c_char_p, c_void_p)
device_init = function(BASE, "ggml_backend_dev_init", c_void_p, c_void_p, c_char_p)
log_set = function(BASE, "ggml_log_set", None, LOG, c_void_p)
version = function(BASE, "ggml_version", c_char_p)
init = function(BASE, "ggml_init", c_void_p, InitParams)
new_tensor = function(BASE, "ggml_new_tensor_2d", c_void_p, c_void_p, c_int, c_int64, c_int64)
mul_mat = function(BASE, "ggml_mul_mat", c_void_p, c_void_p, c_void_p, c_void_p)
new_graph = function(BASE, "ggml_new_graph_custom", c_void_p, c_void_p, c_size_t, c_bool)
expand = function(BASE, "ggml_build_forward_expand", None, c_void_p, c_void_p)
allocate = function(BASE, "ggml_backend_alloc_ctx_tensors", c_void_p, c_void_p, c_void_p)
compute = function(BASE, "ggml_backend_graph_compute", c_int, c_void_p, c_void_p)
copy = [c_void_p, c_void_p, c_size_t, c_size_t]
tensor_set = function(BASE, "ggml_backend_tensor_set", None, *copy)
tensor_get = function(BASE, "ggml_backend_tensor_get", None, *copy)
tensor_bytes = function(BASE, "ggml_nbytes", c_size_t, c_void_p)
traits = function(BASE, "ggml_get_type_traits", POINTER(TypeTraits), c_int)
rows = [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]
quantize = function(BASE, "ggml_quantize_chunk", c_size_t, *rows)

messages = []


@LOG
def log(_level, text, _data):
    messages.append(text.decode(errors="replace"))
    sys.stderr.write(messages[-1])


log_set(log, None)
random = np.random.default_rng(0)


def backend():
    if not backend_load(os.path.join(sys.argv[1], "libggml-vulkan.so").encode()):
        raise RuntimeError("libggml-vulkan.so does not load")
    if not device_count():
        raise RuntimeError("ggml found no Vulkan device")
    device = device_get(0)
    return device_init(device, None), device_description(device).decode()


def has(feature):
    """What the backend logs of its device, as in `fp16: 1 | … | int dot: 0`."""
    found = re.search(rf"{feature}: ([0-9]+)", "".join(messages))
    if not found:
        raise RuntimeError(f"ggml does not log whether its device has `{feature}`")
    return found[1] != "0"


def products(case, x, w, y):
    """How it made the products. It does not say which kernel it takes, by rows of X, sizes
    and adapter; how exact the result is does."""
    kinds = ["f32"]
    # Where it could be either it counts as f16, which competes with lowbit's f32.
    if has("fp16"):
        kinds.append("f16")
    elif has("int dot") and case["format"] not in ("f32", "f16"):
        kinds.append("int8")
    for kind in kinds[:-1]:
        try:
            check(case, kind, x, w, y)
            return kind
        except ValueError:
            pass
    check(case, kinds[-1], x, w, y)
    return kinds[-1]


def prepare(case):
    m, n, k, kind = case["m"], case["n"], case["k"], TYPES[case["format"]]
    context = init(InitParams(1 << 20, None, True))
    w, x = new_tensor(context, kind, k, n), new_tensor(context, TYPES["f32"], k, m)
    y, graph = mul_mat(context, w, x), new_graph(context, 64, False)
    expand(graph, y)
    if not allocate(context, BACKEND):
        raise MemoryError("ggml allocates no buffer of this size")

    plain = random.uniform(-1, 1, (n, k)).astype(np.float32)
    codes = np.empty(tensor_bytes(w), np.uint8)
    quantize(kind, plain.ctypes.data, codes.ctypes.data, 0, n, k, None)
    if kind != TYPES["f32"]:
        traits(kind).contents.to_float(codes.ctypes.data, plain.ctypes.data, n * k)
    tensor_set(w, codes.ctypes.data, 0, codes.nbytes)
    values = random.uniform(-1, 1, (m, k)).astype(np.float32)
    tensor_set(x, values.ctypes.data, 0, values.nbytes)

    def run():
        status = compute(BACKEND, graph)
        if status:
            raise RuntimeError(f"ggml_backend_graph_compute gives {status}")

    run()
    result = np.empty((m, n), np.float32)
    tensor_get(y, result.ctypes.data, 0, result.nbytes)
    return "mul_mat", products(case, values, plain, result), run


BACKEND, ADAPTER = backend()
serve({"version": version().decode(), "adapter": ADAPTER, "driver": None}, prepare)
