#!/usr/bin/env bash
# Compares every rule that makes weights with the packages that define it, bit for bit, on random and
# adversarial rows (tests/rules.rs). It needs Python, and about 6 GB for torch, on which bitsandbytes
# depends.
#
# usage: rules.sh [ROWS [SEED]]        ROWS defaults to 400
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
venv=$target/rules-venv
packages=(numpy==2.4.6 ml_dtypes==0.6.0 gguf==0.19.0 libgguf==0.2.2 torch==2.15.0 bitsandbytes==0.50.2)
export OMP_NUM_THREADS=1

# LOWBIT_PYTHON names a Python that has the packages already.
python=${LOWBIT_PYTHON:-}
if [ -z "$python" ]; then
    python=$venv/bin/python
    if ! "$python" -c 'import bitsandbytes, gguf, libgguf, ml_dtypes' 2>/dev/null; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet "${packages[@]}"
    fi
fi

# The rows that are in the repository are what the packages make today.
"$python" scripts/rules.py small | cmp - tests/rules.txt
file=$(mktemp)
trap 'rm -f "$file"' EXIT
"$python" scripts/rules.py "${1:-400}" "${2:-14}" >"$file"
LOWBIT_RULES=$file cargo test --profile ci --workspace --all-features --test main \
    rules:: -- --nocapture
