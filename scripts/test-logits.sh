#!/usr/bin/env bash
# Compares the logits of SmolLM2's first 512 tokens of a novel with those of transformers in f32. It needs
# the model and the text (make language-models), Python, and about 6 GB for torch.
#
# usage: test-logits.sh [MODEL.gguf]        LOWBIT_PYTHON names a Python that has the packages already
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
lowbit=${LOWBIT:-$target/ci/lowbit}
model=${1:-data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
text=data/pride/pride.txt
for file in "$lowbit" "$model" "$text"; do
    [ -e "$file" ] || {
        echo "there is no $file; make language-models and make test fetch and build what is needed" >&2
        exit 2
    }
done

venv=$target/logits-venv
python=${LOWBIT_PYTHON:-}
if [ -z "$python" ]; then
    python=$venv/bin/python
    if ! "$python" -c 'import accelerate, gguf, torch, transformers' 2>/dev/null; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
    fi
fi

export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$lowbit" perplexity "$model" --text "$text" --windows 1 --activations f32 --logits "$folder/logits.npy"
"$python" scripts/models/logits.py "$model" "$text" "$folder/logits.npy"
