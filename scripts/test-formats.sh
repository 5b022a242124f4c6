#!/usr/bin/env bash
# Compares lowbit's readers and writers of quantized checkpoints with the Python packages that define the
# formats: each writes small checkpoints, and the values must agree. Installs the packages into
# target/formats the first time, which takes 6 GB of disk.
# usage: test-formats.sh
#
#   LOWBIT_PYTHON=PROGRAM   takes a Python that has the packages already, and installs nothing
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${CARGO_TARGET_DIR:-target}/formats
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

python=${LOWBIT_PYTHON:-$folder/venv/bin/python}
if [ -z "${LOWBIT_PYTHON:-}" ] && ! cmp -s scripts/formats/requirements.txt "$folder/installed.txt"; then
    rm -rf "$folder/venv"
    python3 -m venv "$folder/venv"
    pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
    "${pip[@]}" torch==2.15.0
    BUILD_CUDA_EXT=0 "${pip[@]}" --no-deps -r scripts/formats/requirements.txt
    cp scripts/formats/requirements.txt "$folder/installed.txt"
fi

rm -rf "$folder/checkpoints" "$folder/written"
mkdir -p "$folder/checkpoints" "$folder/written"
export OMP_NUM_THREADS=1
"$python" scripts/formats/write.py "$folder/checkpoints" >"$folder/write.log" 2>&1 || {
    tail -20 "$folder/write.log" >&2
    exit 1
}
LOWBIT_FORMATS=$folder/checkpoints LOWBIT_WRITTEN=$folder/written \
    cargo test --profile ci --workspace --all-features --test main -- \
    --ignored --exact packages::values_are_those_of_the_packages packages::what_is_written_is_what_the_package_writes
"$python" scripts/formats/read.py "$folder/written" "$folder/checkpoints"
