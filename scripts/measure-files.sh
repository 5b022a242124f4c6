#!/usr/bin/env bash
# Measures how long `inspect` and `import` take with a GGUF file of 268 million parameters, and how much memory
# `import` needs beside the mapped file. The file has the shapes of Gemma 3 270M and random blocks. Nothing is
# downloaded; it needs Python 3 and 1 GB in the folder. A copy of the file, written to disk like the import, is
# timed beside it. docs/formats.md has the figures.
#
# usage: measure-files.sh [RUNS [FOLDER]]      RUNS defaults to 5, FOLDER to one in the target folder
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
runs=${1:-5}
folder=${2:-$target/measure-files}
lowbit=${LOWBIT:-$target/ci/lowbit}
if [ ! -x "$lowbit" ]; then
    cargo build --profile ci --workspace --all-features --bin lowbit
fi
mkdir -p "$folder"
trap 'rm -rf "$folder"' EXIT

python3 - "$lowbit" "$folder" "$runs" <<'PYTHON'
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

lowbit, folder, runs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

# A type of blocks: its number, columns and bytes of a block, and where the f16 scales have their upper bytes.
TYPES = {"Q8_0": (8, 32, 34, [1]), "Q6_K": (14, 256, 210, [209]), "Q4_K": (12, 256, 144, [1, 3])}


def blocks(kind, count):
    """Returns random blocks with scales of about 0.01."""
    _, _, size, scales = TYPES[kind]
    some = min(count, 1 << 14)
    data = bytearray(os.urandom(some * size))
    for at in scales:
        data[at::size] = b"\x20" * some
    whole, rest = divmod(count, some)
    return bytes(data) * whole + bytes(data[: rest * size])


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def make(path):
    tensors = [("token_embd.weight", 262_144, 640, "Q8_0")]
    for layer in range(18):
        for name, n, k, kind in [
            ("attn_q", 1024, 640, "Q8_0"),
            ("attn_k", 256, 640, "Q8_0"),
            ("attn_v", 256, 640, "Q8_0"),
            ("attn_output", 640, 1024, "Q6_K"),
            ("ffn_gate", 2048, 640, "Q8_0"),
            ("ffn_up", 2048, 640, "Q8_0"),
            ("ffn_down", 640, 2048, "Q4_K"),
        ]:
            tensors.append((f"blk.{layer}.{name}.weight", n, k, kind))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    header += string("general.architecture") + struct.pack("<I", 8) + string("none")
    at, data = 0, []
    for name, n, k, kind in tensors:
        number, columns, size, _ = TYPES[kind]
        count = n * k // columns
        header += string(name) + struct.pack("<IQQIQ", 2, k, n, number, at)
        data.append((kind, count))
        at += -(-count * size // 32) * 32
    with open(path, "wb") as file:
        file.write(header)
        for kind, count in data:
            file.write(b"\0" * (-file.tell() % 32))
            file.write(blocks(kind, count))
        file.write(b"\0" * (-file.tell() % 32))
        file.flush()
        os.fsync(file.fileno())
    largest = max(count * TYPES[kind][2] for kind, count in data)
    return sum(n * k for _, n, k, _ in tensors), largest


def run(*args):
    """Runs the command, and returns its time and the most anonymous memory that it had, sampled."""
    start = time.perf_counter()
    child = subprocess.Popen([lowbit, *map(str, args)], stdout=subprocess.DEVNULL)
    most = 0
    while child.poll() is None:
        try:
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            most = max([most, *(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))])
        except OSError:
            pass
        time.sleep(0.001)
    if child.returncode:
        sys.exit(f"lowbit {args[0]} failed")
    return time.perf_counter() - start, most


def copy(source, to):
    """Writes a copy to disk, as a file that is to be whole after a crash."""
    start = time.perf_counter()
    with open(source, "rb") as old, open(to, "wb") as new:
        while piece := old.read(1 << 20):
            new.write(piece)
        new.flush()
        os.fsync(new.fileno())
    seconds = time.perf_counter() - start
    os.unlink(to)
    return seconds


source, target = folder / "model.gguf", folder / "out.safetensors"
parameters, largest = make(source)
size = source.stat().st_size
inspect, imports, memory, copies = [], [], 0, []
for _ in range(runs):
    inspect.append(run("inspect", source)[0])
    seconds, most = run("import", source, "-o", target)
    imports.append(seconds)
    memory = max(memory, most)
    written = target.stat().st_size
    target.unlink()
    copies.append(copy(source, folder / "copy"))
MB = 1e6
print(f"{parameters / MB:.0f} million parameters, {size / MB:.0f} MB, of which the largest tensor has {largest / MB:.0f} MB")
print(f"inspect         {min(inspect):.3f} s")
seconds = min(imports)
print(f"import          {seconds:.2f} s, {written / MB:.0f} MB written: {written / seconds / MB:.0f} MB/s")
seconds = min(copies)
print(f"copy of FILE    {seconds:.2f} s: {size / seconds / MB:.0f} MB/s")
print(f"import, memory  {memory / MB:.0f} MB beside the mapped file")
print(f"(the fastest of {runs} runs, with the file in the system's cache)")
PYTHON
