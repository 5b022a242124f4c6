"""Writes small checkpoints with the packages that define their formats, and the weights that they stand for.

    python write.py FOLDER

Each case is a folder with `model.safetensors`, `config.json` and `expected.safetensors`: for each quantized
weight the values that the package itself dequantizes it to. `expected.json` says how many times the package
rounds a value that lowbit does not round, or rounds differently; with 0, values must be equal.
`scripts/test-formats.sh` runs this and compares lowbit's values with those of the packages.
"""

import json
import os
import sys
from pathlib import Path

os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import save_file

OUT = Path(sys.argv[1])
torch.manual_seed(14)


def case(name, method, tensors, expected, roundings=0, inputs=None):
    """Writes one case. `expected` has a value for each weight, `inputs` the format of its input's codes, and the scale
    and zero point if they are fixed."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    # A plain tensor, which must come through as it is.
    tensors = {**tensors, "norm.weight": torch.arange(8, dtype=torch.float32)}
    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({k: v.detach().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    config = {"architectures": ["Test"], "quantization_config": method}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "expected.json").write_text(json.dumps({"roundings": roundings, "inputs": inputs or {}}))


def prefixed(module, tensors):
    return {f"{module}.{key}": value for key, value in tensors.items() if value is not None}


def gptq():
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import (
        convert_gptq_v1_to_v2_format_module,
        convert_gptq_v2_to_v1_format_module,
    )
    from gptqmodel.quantization.config import QuantizeConfig

    def layer(bits, sym, act_order, n=64, k=128, g=32):
        groups = -(-k // g)
        linear = torch.nn.Linear(k, n, bias=False)
        scales = torch.rand(n, groups).half().float() * 0.02 + 0.001
        scales = scales.half().float()
        top = 2**bits
        # Zero points from 1 on: 0 has no safe form in version 1.
        zeros = torch.full((n, groups), top // 2) if sym else torch.randint(1, top, (n, groups))
        index = torch.arange(k, dtype=torch.int32) // g
        if act_order:
            index = index[torch.randperm(k)]
        codes = torch.randint(0, top, (n, k))
        column = index.long()
        linear.weight.data = (codes - zeros[:, column]) * scales[:, column]
        module = TorchLinear(
            bits=bits, group_size=g, sym=sym, desc_act=act_order, in_features=k, out_features=n
        )
        module.pack_block(linear, scales, zeros.float(), index)
        module.qzero_format(format=2)
        module._init_wf_unsqueeze_buffers()
        return module

    def names(module):
        keys = ["qweight", "qzeros", "scales", "g_idx"]
        return {key: getattr(module, key).clone() for key in keys}

    for bits in [2, 3, 4, 8]:
        for sym in [True, False]:
            for version in [1, 2]:
                for act_order in [False, True]:
                    module = layer(bits, sym, act_order, k=160 if act_order else 128, g=64 if act_order else 32)
                    expected = module.dequantize_weight().T
                    quantizer = QuantizeConfig(bits=bits, group_size=32, sym=sym, desc_act=act_order)
                    if version == 1:
                        convert_gptq_v2_to_v1_format_module(module, quantizer)
                    method = {
                        "quant_method": "gptq",
                        "bits": bits,
                        "group_size": 64 if act_order else 32,
                        "sym": sym,
                        "desc_act": act_order,
                        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
                        "meta": {"quantizer": ["gptqmodel:7.7.0"]},
                    }
                    name = f"gptq-v{version}-{bits}-{'sym' if sym else 'asym'}" + ("-order" if act_order else "")
                    case(name, method, prefixed("l", names(module)), {"l.weight": expected})
    # Zero points of 0 in version 1, as GPTQModel writes them: the subtraction borrows.
    from gptqmodel.nn_modules.qlinear import torch as module_file  # noqa: F401

    module = layer(4, False, False)
    zeros = torch.randint(0, 16, (4, 64))
    zeros[:, ::3] = 0
    packed = torch.zeros(4, 8, dtype=torch.int64)
    for i in range(8):
        packed |= zeros[:, i::8].long() << (4 * i)
    module.qzeros = torch.where(packed >= 2**31, packed - 2**32, packed).int()
    expected = module.dequantize_weight().T
    convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=4, group_size=32, sym=False))
    method = {
        "quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False,
        "checkpoint_format": "gptq", "meta": {"quantizer": ["gptqmodel:7.7.0"]},
    }
    case("gptq-v1-4-asym-zero", method, prefixed("l", names(module)), {"l.weight": expected})
    convert_gptq_v1_to_v2_format_module(module, 4, torch.int32)
    assert torch.equal(module.dequantize_weight().T, expected)
    # Claims version 1 and stores version 2.
    module = layer(4, True, False)
    method = {**method, "sym": True}
    case("gptq-mislabeled", method, prefixed("l", names(module)), {"l.weight": module.dequantize_weight().T})


def awq():
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    n, k, g = 64, 128, 32
    linear = torch.nn.Linear(k, n, bias=False)
    scales = (torch.rand(n, k // g) * 0.02 + 0.001).half()
    zeros = torch.randint(0, 16, (n, k // g))
    codes = torch.randint(0, 16, (n, k))
    column = torch.arange(k) // g
    linear.weight.data = ((codes - zeros[:, column]) * scales.float()[:, column])
    module = AwqTorchLinear(bits=4, group_size=g, sym=False, desc_act=False, in_features=k, out_features=n)
    module.pack(linear, scales.float(), zeros.float())
    module.scales = module.scales.half()
    expected = dequantize_gemm(module.qweight, module.qzeros, module.scales, 4, g).T
    tensors = {key: getattr(module, key) for key in ["qweight", "qzeros", "scales"]}
    method = {"quant_method": "awq", "bits": 4, "group_size": g, "zero_point": True, "version": "gemm"}
    case("awq", method, prefixed("l", tensors), {"l.weight": expected})


def compressed_tensors():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
    from compressed_tensors.quantization.utils import calculate_qparams

    def scheme_of(weights, inputs=None):
        args = QuantizationArgs(**inputs) if inputs else None
        return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights), input_activations=args)

    def write(name, format, weights, state, roundings=0, inputs=None, says=None):
        compressor = BaseCompressor.load_from_registry(format)
        scheme = scheme_of(weights, inputs)
        packed = compressor.compress(dict(state), scheme)
        expected = compressor.decompress(dict(packed), scheme)["weight"]
        group = {"targets": ["Linear"], "weights": json.loads(scheme.weights.model_dump_json()), "format": format}
        if inputs:
            group["input_activations"] = json.loads(scheme.input_activations.model_dump_json())
        method = {
            "quant_method": "compressed-tensors",
            "format": format,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
        }
        inputs = {"l.weight": says} if says else None
        case(name, method, prefixed("l", packed), {"l.weight": expected}, roundings, inputs)

    n, k = 24, 96

    def state(weights, groups, dtype=torch.float32, n=n, k=k):
        weight = torch.randn(n, k).to(dtype)
        blocks = weight.float().reshape(n, groups, -1)
        args = QuantizationArgs(**weights)
        scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
        found = {"weight": weight, "weight_scale": scale.to(dtype)}
        if not weights["symmetric"]:
            found["weight_zero_point"] = zero.round().to(torch.int8)
        return found

    for bits in [2, 3, 4, 5, 6, 8]:
        for symmetric in [True, False]:
            weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 32}
            name = f"ct-pack-{bits}-{'sym' if symmetric else 'asym'}"
            write(name, "pack-quantized", weights, state(weights, 3))
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "channel"}
    for dtype in [torch.float16, torch.bfloat16]:
        # 92 columns fill no whole number of words, 21 rows no whole word of zero points.
        found = state(weights, 1, dtype, 21, 92)
        write(f"ct-pack-channel-{str(dtype)[6:]}", "pack-quantized", weights, found)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    found = state(weights, 3)
    index = (torch.arange(k) // 32)[torch.randperm(k)].int()
    compressor = BaseCompressor.load_from_registry("pack-quantized")
    scheme = scheme_of(weights)
    # The package no longer writes `weight_g_idx`: codes that it packed in the order of groups are put back
    # into the order of columns, as its earlier versions stored them.
    order = torch.argsort(index, stable=True)
    sorted_state = {**found, "weight": found["weight"][:, order]}
    packed = compressor.compress(dict(sorted_state), scheme)
    values = compressor.decompress(dict(packed), scheme)["weight"]
    expected = torch.empty_like(values)
    expected[:, order] = values
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
    codes = unpack_from_int32(packed["weight_packed"], 4, torch.Size([n, k]))
    restored = torch.empty_like(codes)
    restored[:, order] = codes
    packed["weight_packed"] = pack_to_int32(restored, 4)
    packed["weight_g_idx"] = index
    method = {"quant_method": "compressed-tensors", "format": "pack-quantized",
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": json.loads(scheme.weights.model_dump_json())}}}
    case("ct-pack-order", method, prefixed("l", packed), {"l.weight": expected})

    for symmetric in [True, False]:
        weights = {"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": "channel"}
        write(f"ct-int-{'sym' if symmetric else 'asym'}", "int-quantized", weights, state(weights, 1))
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    for name, inputs, tensors, says in [
        ("ct-int-token", {"strategy": "token", "dynamic": True}, [], ["int8-token"]),
        ("ct-int-token-asym", {"strategy": "token", "dynamic": True, "symmetric": False}, [], ["int8-token-asym"]),
        ("ct-int-input-groups", {"strategy": "group", "group_size": 32, "dynamic": True}, [], ["int8-g32"]),
        ("ct-int-static", {"strategy": "tensor"}, [("input_scale", 0)], ["int8-tensor", 0.0625, 0]),
        # The package keeps a tensor of zero points of 0 in memory, and earlier versions stored it.
        (
            "ct-static-zeros",
            {"strategy": "tensor"},
            [("input_scale", 0), ("input_zero_point", 0)],
            ["int8-tensor", 0.0625, 0],
        ),
        (
            "ct-int-static-asym",
            {"strategy": "tensor", "symmetric": False},
            [("input_scale", 0), ("input_zero_point", -3)],
            ["int8-tensor-asym", 0.0625, -3],
        ),
    ]:
        inputs = {"num_bits": 8, "type": "int", "symmetric": True, **inputs}
        module = torch.nn.Linear(k, n, bias=False)
        initialize_module_for_quantization(module, scheme_of(weights, inputs))
        found = state(weights, 1)
        for tensor, value in tensors:
            own = getattr(module, tensor)
            found[tensor] = torch.full_like(own, 0.0625 if tensor == "input_scale" else value)
        write(name, "int-quantized", weights, found, inputs=inputs, says=says)
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
    write("ct-float-channel", "float-quantized", weights, state(weights, 1))
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
    found = {"weight": torch.randn(n, k), "weight_scale": torch.tensor([0.01])}
    write("ct-float-tensor", "float-quantized", weights, found)
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [8, 32]}
    found = {"weight": torch.randn(n, k), "weight_scale": torch.rand(3, 3) * 0.01 + 0.005}
    write("ct-float-block", "float-quantized", weights, found)

    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    weight = torch.randn(n, k)
    most = weight.abs().reshape(n, k // 16, 16).amax(-1)
    whole = torch.tensor([448.0 * 6.0]) / weight.abs().max()
    scale = (most / 6.0 * whole).to(torch.float8_e4m3fn).float()
    found = {"weight": weight, "weight_scale": scale, "weight_global_scale": whole}
    # The package divides the scale by the global one and multiplies; lowbit rounds 1/g.
    write("ct-nvfp4", "nvfp4-pack-quantized", weights, found, 3)
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32}
    scale = 2.0 ** torch.randint(-6, 2, (n, k // 32)).float()
    found = {"weight": weight, "weight_scale": scale}
    write("ct-mxfp4", "mxfp4-pack-quantized", weights, found)


def sparse():
    """The package no longer writes this format: synthesized from its documented layout."""
    n, k = 12, 72
    weight = torch.randn(n, k).reshape(-1, 4)
    mask = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, weight.abs().topk(2, dim=1).indices, True)
    weight, mask = weight.reshape(n, k), mask.reshape(n, k)
    bits = torch.nn.functional.pad(mask, (0, -k % 8)).reshape(n, -1, 8).int()
    bitmask = (bits << torch.arange(8)).sum(-1).to(torch.uint8)
    for dtype in [torch.float32, torch.float16, torch.bfloat16]:
        values = weight.to(dtype)
        tensors = {
            "compressed": values[mask].reshape(n, k // 2),
            "bitmask": bitmask,
            "shape": torch.tensor([n, k]).reshape(-1, 1),
        }
        method = {"quant_method": "compressed-tensors", "format": "dense",
                  "sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"}}
        case(f"ct-sparse-{str(dtype)[6:]}", method, prefixed("l", tensors), {"l.weight": values * mask})


def bitsandbytes():
    from bitsandbytes import functional as F
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    for kind in ["nf4", "fp4"]:
        for nested in [False, True]:
            # 96 columns: blocks of 64 go on from one row to the next.
            for n, k, block in [(64, 128, 64), (32, 96, 64)]:
                weight = torch.randn(n, k)
                packed, state = F.quantize_4bit(weight, blocksize=block, compress_statistics=nested, quant_type=kind)
                tensors = {"weight": packed, **{f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}}
                if k % block == 0:
                    expected = F.dequantize_4bit(packed, state)
                else:
                    # The kernel for CPUs takes rows for whole blocks, which its own quantizer does not; the
                    # generic implementation of the package is right.
                    absmax = state.absmax
                    if nested:
                        absmax = F.dequantize_blockwise(absmax, state.state2) + state.offset
                    expected = _dequantize_4bit_compute(
                        packed.reshape(-1), absmax, state.code, block, weight.shape, torch.float32
                    )
                method = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
                          "bnb_4bit_use_double_quant": nested}
                name = f"bnb-{kind}{'-nested' if nested else ''}-{k}"
                case(name, method, prefixed("l", tensors), {"l.weight": expected})
    weight = torch.randn(48, 96)
    codes, scb, _ = F.int8_vectorwise_quant(weight.half())
    expected = F.int8_vectorwise_dequant(codes, scb)
    tensors = {"weight": codes, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    method = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    # c · SCB · fl(1/127) and c · fl(SCB / 127).
    case("bnb-int8", method, prefixed("l", tensors), {"l.weight": expected.float()}, 4)


def hqq():
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    for bits in [8, 6, 5, 4, 3, 2]:
        for group in [32, None] if bits == 4 else [32]:
            linear = torch.nn.Linear(96, 40, bias=False)
            quant = BaseQuantizeConfig(nbits=bits, group_size=group or 96, axis=1)
            layer = HQQLinear(linear, quant, compute_dtype=torch.float32, device="cpu")
            tensors = {key: value for key, value in layer.state_dict().items() if value is not None}
            method = {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": bits, "group_size": group, "axis": 1}}}
            # c − z, the product; 8-bit zero points are moved by 128.
            expected = layer.dequantize()
            case(f"hqq-{bits}{'' if group else '-row'}", method, prefixed("l", tensors), {"l.weight": expected}, 2)


def fp8():
    from types import SimpleNamespace

    from gptqmodel.nn_modules.qlinear.fp8 import TorchFP8Linear
    from transformers.integrations.finegrained_fp8 import Fp8Quantize, _dequantize_fp8_weight

    for scale_fmt in [None, "ue8m0"]:
        config = SimpleNamespace(weight_block_size=(16, 32), scale_fmt=scale_fmt)
        quantizer = Fp8Quantize(SimpleNamespace(quantization_config=config))
        tensors = quantizer.convert({"l.weight": torch.randn(48, 96)})
        expected = _dequantize_fp8_weight(tensors["l.weight"], tensors["l.weight_scale_inv"], [16, 32], torch.float32)
        method = {"quant_method": "fp8", "weight_block_size": [16, 32], "activation_scheme": "dynamic"}
        case(f"fp8-block{'-ue8m0' if scale_fmt else ''}", method, tensors, {"l.weight": expected})
    linear = torch.nn.Linear(96, 48, bias=False)
    for scales in ["tensor", "row", "block"]:
        layer = TorchFP8Linear(bits=8, group_size=-1, sym=True, desc_act=False, in_features=96, out_features=48,
                               weight_scale_method=scales, weight_block_size=(16, 32) if scales == "block" else None)
        layer.pack_original(linear, None, None)
        tensors = {"weight": layer.weight, "weight_scale_inv": layer.weight_scale_inv}
        method = {"quant_method": "fp8", "weight_scale_semantics": "inverse", "weight_scale_method": scales,
                  "weight_block_size": [16, 32] if scales == "block" else None}
        # GPTQModel divides by the scale; lowbit multiplies by its rounded reciprocal.
        expected = layer.dequantize_weight().T
        case(f"fp8-divisor-{scales}", method, prefixed("l", tensors), {"l.weight": expected}, 3)


for write in [gptq, awq, compressed_tensors, sparse, bitsandbytes, hqq, fp8]:
    write()
    print(write.__name__, "written", flush=True)
