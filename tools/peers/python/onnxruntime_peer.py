"""ONNX Runtime: MatMulNBits, MatMul and, on the CPU, DynamicQuantizeMatMul.

usage: onnxruntime_peer.py webgpu|cpu

X comes from and Y goes to the CPU's memory, within the timing: this package's Python API
binds no WebGPU memory. That is 2 MB each at M = 128, K = 4096."""

import sys

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from protocol import check, serve

PROVIDER = {"webgpu": "WebGpuExecutionProvider", "cpu": "CPUExecutionProvider"}[sys.argv[1]]
# MatMulNBits' accuracy_level: 1 multiplies in f32, 4 quantizes X to int8.
LEVEL = {"f32": 1, "int8": 4}
random = np.random.default_rng(0)


def prepare(case):
    half = case["activations"] == "f16"
    dtype, proto = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    x = random.uniform(-1, 1, (case["m"], case["k"])).astype(dtype)
    op, attributes, constants, w = operator(case, dtype)
    node = helper.make_node(op, ["X", *constants], ["Y"], **attributes)
    graph = helper.make_graph(
        [node],
        "matmul",
        [helper.make_tensor_value_info("X", proto, [case["m"], case["k"]])],
        [helper.make_tensor_value_info("Y", proto, [case["m"], case["n"]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)

    session = start(model)
    binding = session.io_binding()
    binding.bind_cpu_input("X", x)
    binding.bind_output("Y", "cpu")

    def run():
        session.run_with_iobinding(binding)

    run()
    check(case, case["activations"], x, w, binding.copy_outputs_to_cpu()[0])
    return op, case["activations"], run


def start(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    # With no adapter it runs on the CPU and does not say so.
    got = session.get_providers()[0]
    if got != PROVIDER:
        raise RuntimeError(f"{PROVIDER} found no adapter and fell back to {got}")
    return session


def operator(case, dtype):
    """The operator, its attributes, its constant inputs, and the weights they stand for."""
    name, n, k = case["format"], case["n"], case["k"]
    if name == "MatMul":
        w = random.uniform(-1, 1, (n, k)).astype(dtype)
        return name, {}, {"W": np.ascontiguousarray(w.T)}, w
    if name == "DynamicQuantizeMatMul":
        # Without VNNI its products of u8 and i8 saturate: seven bits, as its makers advise.
        codes = random.integers(-63, 64, (n, k), dtype=np.int8)
        scales = random.uniform(0.5, 1, n).astype(np.float32)
        constants = {"W": np.ascontiguousarray(codes.T), "S": scales}
        return name, {"domain": "com.microsoft"}, constants, codes * scales[:, None]
    return n_bits(name, n, k, LEVEL[case["activations"]])


def n_bits(name, n, k, level):
    """`MatMulNBits BITS GROUP [zp]`; the group `row` is one of a whole row."""
    bits, group, *zero_points = name.split()[1:]
    bits, group = int(bits), k if group == "row" else int(group)
    top = 1 << bits
    codes = random.integers(0, top, (n, k // group, group), dtype=np.uint8)
    scales = random.uniform(0.5, 1, (n, k // group)).astype(np.float32)
    constants = {"W": packed(codes, bits), "S": scales}
    zeros = np.full((n, k // group), top // 2, np.uint8)
    if zero_points:
        zeros = random.integers(0, top, (n, k // group), dtype=np.uint8)
        constants["Z"] = packed(zeros, bits)
    w = (codes.astype(np.float32) - zeros[..., None]) * scales[..., None]
    attributes = dict(K=k, N=n, bits=bits, block_size=group, accuracy_level=level)
    attributes["domain"] = "com.microsoft"
    return "MatMulNBits", attributes, constants, w.reshape(n, k)


def packed(codes, bits):
    return codes if bits == 8 else codes[..., 0::2] | codes[..., 1::2] << 4


serve({"version": ort.__version__, "adapter": None, "driver": None}, prepare)
