#!/usr/bin/env python3
"""Prints weights and what they become by each rule, as the packages that define the rules make them.

usage: rules.py small          the few that tests/rules.txt holds
       rules.py ROWS [SEED]    ROWS rows of random and adversarial weights

pip install numpy==2.4.6 ml_dtypes==0.6.0 gguf==0.19.0 libgguf==0.2.2 torch==2.15.0 bitsandbytes==0.50.2

tests/rules.rs reads the output and compares bit for bit. A line starts with what it holds:

    x        the bits of the weights of one row, in hexadecimal
    case     a scheme, for the row above
    codes, scales, zeros, upper, minima, upper_minima
             the parts of the matrix, as numbers in hexadecimal: floats as their bits, signed
             integers in two's complement
    refused  instead of the parts: the rule cannot store this row, for a scale is beyond its type

The sources: ggml's block types are made by libgguf, and by gguf too where it quantizes. nf4 and fp4 are
made by bitsandbytes on the CPU. e2m1, e4m3 and e5m2 are rounded by ml_dtypes; their scales, and
integers, are computed here with numpy's f32, one operation at a time.
"""

import sys

import gguf
import libgguf
import ml_dtypes
import numpy as np
import torch
from bitsandbytes import functional as bnb

f32, f16, u8 = np.float32, np.float16, np.uint8
K = 256
TINY = np.finfo(f32).tiny


class Refused(Exception):
    pass


# --- ggml -------------------------------------------------------------------------------------------


def fields(blocks, *sizes):
    """Splits blocks of bytes, [n, size], into fields of these sizes."""
    return np.split(blocks, np.cumsum(sizes)[:-1], axis=1)


def halves(q):
    """The nibbles of bytes: all low ones come first."""
    return np.concatenate([q & 15, q >> 4], axis=1)


def as_f16(field):
    return np.ascontiguousarray(field).view(np.uint16)[:, 0]


def fifth_bit(field):
    word = np.ascontiguousarray(field).view(np.uint32)
    return ((word >> np.arange(32, dtype=np.uint32)) & 1).astype(u8) << 4


def q4_0(blocks):
    d, q = fields(blocks, 2, 16)
    return {"codes": halves(q), "scales": as_f16(d)}


def q4_1(blocks):
    d, m, q = fields(blocks, 2, 2, 16)
    return {"codes": halves(q), "scales": as_f16(d), "minima": as_f16(m)}


def q5_0(blocks):
    d, h, q = fields(blocks, 2, 4, 16)
    return {"codes": halves(q) | fifth_bit(h), "scales": as_f16(d)}


def q5_1(blocks):
    d, m, h, q = fields(blocks, 2, 2, 4, 16)
    return {"codes": halves(q) | fifth_bit(h), "scales": as_f16(d), "minima": as_f16(m)}


def q8_0(blocks):
    d, q = fields(blocks, 2, 32)
    return {"codes": q, "scales": as_f16(d)}


def six_bits(s):
    """The scales and minima of q4_k and q5_k: twelve bytes for eight of each."""
    scales = np.concatenate([s[:, :4] & 63, s[:, 8:] & 15 | s[:, :4] >> 6 << 4], axis=1)
    minima = np.concatenate([s[:, 4:8] & 63, s[:, 8:] >> 4 | s[:, 4:8] >> 6 << 4], axis=1)
    return scales, minima


def negative(bits):
    """A minimum is added here and subtracted there."""
    return bits ^ 0x8000


def pairs(q):
    """32 bytes hold a group in their low nibbles and the next one in their high nibbles."""
    return np.concatenate([halves(q[:, at : at + 32]) for at in range(0, q.shape[1], 32)], axis=1)


def q4_k(blocks):
    d, dmin, s, q = fields(blocks, 2, 2, 12, 128)
    scales, minima = six_bits(s)
    return {
        "codes": pairs(q),
        "scales": scales,
        "upper": as_f16(d),
        "minima": minima,
        "upper_minima": negative(as_f16(dmin)),
    }


def q5_k(blocks):
    d, dmin, s, h, q = fields(blocks, 2, 2, 12, 32, 128)
    scales, minima = six_bits(s)
    high = np.concatenate([(h >> bit & 1) << 4 for bit in range(8)], axis=1)
    return {
        "codes": pairs(q) | high,
        "scales": scales,
        "upper": as_f16(d),
        "minima": minima,
        "upper_minima": negative(as_f16(dmin)),
    }


def q6_k(blocks):
    low, high, s, d = fields(blocks, 128, 64, 16, 2)
    codes = []
    for half in range(2):
        ql, qh = low[:, 64 * half : 64 * half + 64], high[:, 32 * half : 32 * half + 32]
        nibbles = np.concatenate([ql & 15, ql >> 4], axis=1)
        top = np.concatenate([(qh >> 2 * part & 3) << 4 for part in range(4)], axis=1)
        codes.append(nibbles | top)
    return {"codes": np.concatenate(codes, axis=1), "scales": s, "upper": as_f16(d)}


GGML = {
    "q4_0": q4_0,
    "q4_1": q4_1,
    "q5_0": q5_0,
    "q5_1": q5_1,
    "q8_0": q8_0,
    "iq4_nl": q4_0,
    "q4_k": q4_k,
    "q5_k": q5_k,
    "q6_k": q6_k,
}


def ggml(name, x):
    kind = getattr(gguf.GGMLQuantizationType, name.upper())
    subnormal = (np.abs(x) < TINY) & (x != 0)
    x = np.where(subnormal, f32(0), x).reshape(1, -1)
    size, of = gguf.GGML_QUANT_SIZES[kind]
    raw = libgguf.quantize_rows(x, int(kind.value))
    back = libgguf.dequantize_rows(raw, int(kind.value))
    if name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"):
        with np.errstate(all="ignore"):
            other = gguf.quants.quantize(x, kind)
            if np.isfinite(back).all() and not same_but_zeros(raw, other, of):
                raise AssertionError(f"gguf and libgguf differ: {name}")
    blocks = raw.reshape(-1, of)
    parts = GGML[name](blocks)
    # What would be lost or infinite without a word is refused.
    stored = ["upper", "upper_minima"] if "upper" in parts else ["scales", "minima"]
    bits = np.stack([parts[part] for part in stored if part in parts])
    infinite = (bits & 0x7C00) == 0x7C00
    lost = ((bits & 0x7FFF) == 0).all(axis=0) & (x.reshape(-1, size) != 0).any(axis=1)
    # Beyond the greatest product of two levels, ggml's sums overflow and what it stores means nothing.
    beyond = np.abs(x).max() > 65504 * 128 * 32
    if beyond or infinite.any() or lost.any() or not np.isfinite(back).all():
        raise Refused
    return parts


def same_but_zeros(a, b, of):
    """Whether blocks are equal, where the sign of a zero scale does not matter."""
    a, b = a.reshape(-1, of).copy(), b.reshape(-1, of).copy()
    for blocks in (a, b):
        for at in (0, 2):
            half = np.ascontiguousarray(blocks[:, at : at + 2]).view(np.uint16)
            half[half == 0x8000] = 0
            blocks[:, at : at + 2] = half.view(u8)
    return (a == b).all()


# --- rules of this project, and those of bitsandbytes ------------------------------------------------


def grouped(x, group):
    x = np.where(np.abs(x) < TINY, f32(0), x).astype(f32)
    return x.reshape(-1, x.size if group is None else group)


def finite_quotient(extent, steps):
    """A scale that is rounded up must not make the greatest weight infinite."""
    with np.errstate(over="ignore"):
        s = (extent / f32(steps)).astype(f32)
        over = np.isfinite(extent) & ~np.isfinite(s * f32(steps))
    return np.where(over, np.nextafter(s, f32(0), dtype=f32), s)


def stored(s, kind):
    with np.errstate(over="ignore"):
        kept = s.astype(kind)
    normal = np.isfinite(kept) & (np.abs(kept) >= np.finfo(kind).tiny)
    if not normal.all():
        raise Refused
    return kept


def bits_of(a):
    return a.view({2: np.uint16, 4: np.uint32}[a.itemsize]).ravel()


def integers(x, group, bits, offset, kind):
    g = grouped(x, group)
    low, high = (-128, 127) if bits == 8 else (0, 2**bits - 1)
    if bits in (8, 16) and offset == "":
        low, high = -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1
    zero = 0 if bits in (8, 16) else 2 ** (bits - 1)
    if offset == "min":
        least, most = g.min(axis=1, keepdims=True), g.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            extent = most - least
    else:
        below = np.maximum(-g.min(axis=1, keepdims=True), f32(0))
        above = np.maximum(g.max(axis=1, keepdims=True), f32(0))
        with np.errstate(over="ignore"):
            extent = below + above if offset else np.maximum(below, above)
    steps = high - low if offset else high - zero
    dead = extent == 0
    s = stored(np.where(dead, f32(1), finite_quotient(extent, steps)), kind)
    scale = s.astype(f32)
    parts = {"scales": bits_of(s)}
    if offset == "min":
        with np.errstate(over="ignore"):
            m = (least - f32(low) * scale).astype(kind)
            ends = [f32(c) * scale + m.astype(f32) for c in (low, high)]
        if not np.isfinite(ends).all():
            raise Refused
        parts["minima"] = bits_of(m)
        codes = np.rint((g - m.astype(f32)) / scale)
    elif offset:
        z = np.clip(np.rint(below / scale), 0, high - low) + low
        z = np.where(dead, low, z)
        parts["zeros"] = z
        codes = np.rint(g / scale) + z
    else:
        codes = np.rint(g / scale) + zero
    parts["codes"] = np.clip(codes, low, high).astype(np.int64) & (2**bits - 1)
    return parts


def blockwise(x, group, name):
    """nf4 and fp4: bitsandbytes, with the differences that are meant."""
    g = grouped(x, group)
    packed, state = bnb.quantize_4bit(
        torch.from_numpy(g.ravel().copy()), blocksize=group, quant_type=name
    )
    codes = packed.numpy().ravel()
    codes = np.stack([codes >> 4, codes & 15], axis=1).reshape(g.shape)
    absmax = state.absmax.numpy().reshape(-1, 1)
    if name == "fp4":
        # On CUDA, rounding does not depend on the sign. On the CPU a tie goes to the lower number, and
        # which of the two zeros is taken depends on the order in which they were sorted.
        scaled = g * (f32(1) / np.maximum(absmax, f32(1e-38)))
        table = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], f32) / f32(12)
        order = np.argsort(table)
        bounds = (table[order][:-1] + table[order][1:]) / f32(2)
        tie = (-scaled[..., None] == bounds).any(axis=-1)
        near_zero = np.abs(scaled) <= bounds[0]
        down = order[np.searchsorted(bounds, -scaled)] | 8
        codes = np.where(tie, down, codes)
        codes = np.where(near_zero, np.where(scaled < 0, 8, 0), codes)
    dead = absmax == 0
    return {"codes": codes, "scales": bits_of(np.where(dead, f32(1), absmax).astype(f32))}


SMALL = {
    "e2m1": (ml_dtypes.float4_e2m1fn, 6.0, 2, 1),
    "e4m3": (ml_dtypes.float8_e4m3fn, 448.0, 8, 3),
    "e5m2": (ml_dtypes.float8_e5m2, 57344.0, 15, 2),
}


def round_to(x, name):
    kind, most, _, _ = SMALL[name]
    return np.clip(x, -f32(most), f32(most)).astype(kind).view(u8)


def small_floats(x, group, name, scales):
    g = grouped(x, group)
    _, most, exponent, _ = SMALL[name]
    absmax = np.abs(g).max(axis=1, keepdims=True)
    dead = absmax == 0
    if scales == "e8m0":
        power = np.floor(np.log2(np.where(dead, 1, absmax).astype(np.float64))) - exponent
        power = np.where(dead, 0, power)
        if (power < -126).any():
            raise Refused
        scale = np.exp2(power).astype(f32)
        parts = {"scales": scale.astype(ml_dtypes.float8_e8m0fnu).view(u8)}
    elif scales == "e4m3":
        whole = absmax.max()
        tensor = f32(1) if whole == 0 else whole / f32(448 * most)
        if tensor < TINY:
            raise Refused
        lower = (absmax / f32(most) / tensor).clip(0, 448).astype(ml_dtypes.float8_e4m3fn)
        lower = np.where(lower.view(u8) == 0, 1, lower.view(u8)).astype(u8)
        lower = np.where(dead, 0x38, lower)
        scale = lower.view(ml_dtypes.float8_e4m3fn).astype(f32) * tensor
        if (scale < TINY).any():
            raise Refused
        parts = {"scales": lower, "upper": bits_of(np.array([tensor], f32))}
    else:
        kind = {"f32": f32, "f16": f16}[scales]
        s = stored(np.where(dead, f32(1), finite_quotient(absmax, most)), kind)
        scale, parts = s.astype(f32), {"scales": bits_of(s)}
    parts["codes"] = round_to(g / scale, name)
    return parts


def schemes():
    for name in GGML:
        yield name, lambda x, name=name: ggml(name, x)
    for name in ("nf4", "fp4"):
        yield name, lambda x, name=name: blockwise(x, 64, name)
        yield f"{name}-g32", lambda x, name=name: blockwise(x, 32, name)
    yield "mxfp4", lambda x: small_floats(x, 32, "e2m1", "e8m0")
    yield "nvfp4", lambda x: small_floats(x, 16, "e2m1", "e4m3")
    yield "e2m1-channel-f16s", lambda x: small_floats(x, None, "e2m1", "f16")
    for name in ("e4m3", "e5m2"):
        yield f"{name}-tensor", lambda x, name=name: small_floats(x, None, name, "f32")
        yield f"{name}-channel-f16s", lambda x, name=name: small_floats(x, None, name, "f16")
        yield f"{name}-g64", lambda x, name=name: small_floats(x, 64, name, "f32")
        yield f"{name}-g32-e8m0s", lambda x, name=name: small_floats(x, 32, name, "e8m0")
    for bits in (2, 3, 4, 5, 6, 8, 16):
        offsets = ["", "asym", "asym4", "min"]
        offsets = offsets[:1] if bits == 16 else offsets if bits <= 4 else ["", "asym", "min"]
        for offset in offsets:
            for group, granularity in ((None, "channel"), (32, "g32"), (None, "tensor")):
                for kind, suffix in ((f32, ""), (f16, "f16s")):
                    if bits == 16 and suffix:
                        continue
                    name = "-".join(p for p in (f"int{bits}", granularity, offset, suffix) if p)
                    yield name, lambda x, a=(group, bits, offset, kind): integers(x, *a)


# --- weights ----------------------------------------------------------------------------------------


def rows(count, rng):
    """Rows of every kind, in turn."""
    for i in range(count):
        yield row(i, rng)


def row(i, rng):
    normal = rng.standard_normal(K).astype(f32)
    sign = np.where(rng.random(K) < 0.5, f32(-1), f32(1))
    match i % 20:
        case 0:
            return normal * f32(0.02)
        case 1:
            return rng.standard_t(2, K).astype(f32) * f32(0.01)
        case 2:
            return rng.uniform(-1, 1, K).astype(f32)
        case 3:  # ties everywhere: small integers over powers of two
            return (rng.integers(-64, 65, K) / 8).astype(f32)
        case 4:  # dead and constant groups
            return np.repeat(np.where(rng.random(16) < 0.5, 0, rng.standard_normal(16)), 16).astype(f32)
        case 5:  # one weight of each group
            return np.where(np.arange(K) % 32 == rng.integers(32), normal, f32(0))
        case 6:  # near or below the normal f16 numbers
            return normal * f32(2.0 ** rng.integers(-24, -8))
        case 7:  # near the end of f16
            return normal * f32(2.0 ** rng.integers(10, 20))
        case 8:  # one sign
            return np.abs(normal) * f32(rng.choice([-1, 1]))
        case 9:  # far from zero
            return normal * f32(0.01) + f32(rng.choice([-3, 3]))
        case 10:  # magnitudes of all sizes
            return sign * np.exp2(rng.uniform(-30, 4, K)).astype(f32)
        case 11:  # every group of another size
            return normal * np.repeat(np.exp2(rng.uniform(-12, 4, 16)), 16).astype(f32)
        case 12:  # both ends
            return sign * f32(rng.uniform(0.1, 2))
        case 13:  # zeros of both signs, subnormals
            return np.where(rng.random(K) < 0.5, sign * f32(0), sign * f32(1e-40)).astype(f32)
        case 14:  # subnormals among others
            return np.where(rng.random(K) < 0.5, normal, sign * f32(1e-39)).astype(f32)
        case 15:  # the greatest numbers
            return np.where(rng.random(K) < 0.9, normal, sign * np.finfo(f32).max).astype(f32)
        case 16:  # the greatest numbers of one sign
            return np.where(rng.random(K) < 0.5, f32(0), f32(rng.choice([-1, 1])) * np.finfo(f32).max)
        case 17:  # tiny groups
            return normal * f32(2.0 ** rng.integers(-126, -24))
        case 18:  # huge groups
            return normal * f32(2.0 ** rng.integers(20, 120))
        case _:  # bf16, as checkpoints have them
            return (normal * f32(0.05)).astype(ml_dtypes.bfloat16).astype(f32)


FEW_INTEGERS = ("int3-g32-asym4", "int5-g32-f16s", "int6-g32-min-f16s")


def hexadecimal(numbers):
    numbers = np.asarray(numbers).ravel()
    if numbers.dtype.kind == "f":
        numbers = numbers.astype(np.int64)
    return " ".join(f"{int(n) & 0xFFFFFFFF:x}" for n in numbers)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    small = sys.argv[1] == "small"
    rng = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) == 3 else 14)
    chosen = [row(i, rng) for i in (1, 3)] if small else rows(int(sys.argv[1]), rng)
    for x in chosen:
        print("x", hexadecimal(bits_of(x.astype(f32))))
        for name, make in schemes():
            # Of the integers, three stand for all in the small file: tests count through them by hand.
            if small and name.startswith("int") and name not in FEW_INTEGERS:
                continue
            print("case", name)
            try:
                parts = make(x)
            except Refused:
                print("refused")
                continue
            for part, numbers in parts.items():
                print(part, hexadecimal(numbers))


torch.set_num_threads(1)
main()
