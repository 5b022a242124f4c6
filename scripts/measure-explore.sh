#!/usr/bin/env bash
# Explores MiniLM and SmolLM2, prints the tables of docs/explore.md, and fails unless a mixed recipe beats every uniform
# recipe of its size. Takes an hour or more on two cores; an interrupted run goes on.
#
# usage: measure-explore.sh [minilm] [smollm2]        needs make model; results are in target/explore
#
#   LOWBIT=PATH    the command; default: target/release/lowbit
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
lowbit=${LOWBIT:-$target/release/lowbit}
out=$target/explore
text=data/pride/pride.txt
for file in "$lowbit" "$text"; do
    [ -e "$file" ] || {
        echo "there is no $file; make model fetches the text, cargo build --release builds the command" >&2
        exit 2
    }
done
mkdir -p "$out"

# The calibration text is 96 paragraphs. Recipes are measured on the ten sentences of the demo and the 54 paragraphs
# after 32 that the exploration takes for probing.
minilm() {
    local fixture=crates/lowbit-models/tests/fixtures/minilm_reference.json
    scripts/accuracy/calibration.py --count 182 "$text" "$out/all.txt"
    head -n 128 "$out/all.txt" >"$out/cal.txt"
    python3 -c 'import json, sys
for sentence in json.load(open(sys.argv[1]))["sentences"]:
    print(sentence["text"])' "$fixture" >"$out/eval.txt"
    tail -n 54 "$out/all.txt" >>"$out/eval.txt"
    "$lowbit" explore data/minilm --text "$out/cal.txt" --eval "$out/eval.txt" --samples 96 --sample-tokens 128 \
        --eval-tokens 128 --points 0 -o "$out/minilm.html"
}

smollm2() {
    local lines
    lines=$(wc -l <"$text")
    head -n $((lines / 2)) "$text" >"$out/first-half.txt"
    tail -n +$((lines / 2 + 1)) "$text" >"$out/second-half.txt"
    "$lowbit" explore data/smollm2 --text "$out/second-half.txt" --eval "$out/first-half.txt" --samples 8 \
        --sample-tokens 256 --eval-samples 4 --eval-tokens 256 --points 2 --max-size 85 -o "$out/smollm2.html" \
        --candidates keep,gptq:int4-g64-asym,gptq:int3-g32-asym,gptq:int3-g64-asym,gptq:int2-g64-asym
}

# Prints the table of a report. A uniform recipe that is the best of its size is no mixture's worse: of the smallest
# candidate and the largest there is no mixture.
judge() {
    python3 - "$1" <<'PYTHON'
import json, sys

found = json.load(open(sys.argv[1]))
failed = False
sizes = [recipe["bytes"] for recipe in found["uniform"]]
print("| uniform recipe | bits a weight | loss in % | mixed recipe of no more bytes, loss in % |")
print("|---|---:|---:|---:|")
for uniform in sorted(found["uniform"], key=lambda recipe: -recipe["bytes"]):
    ends = uniform["bytes"] in (min(sizes), max(sizes))
    mixed = [recipe for recipe in found["mixed"] if recipe["bytes"] <= uniform["bytes"]]
    best = min((recipe["loss"] for recipe in mixed), default=None)
    verdict = "–" if best is None or ends else f"{best:.4g}"
    if not ends and (best is None or best >= uniform["loss"]):
        verdict += " FAILED"
        failed = True
    print(f"| `{uniform['recipe']}` | {uniform['bits_per_weight']:.2f} | {uniform['loss']:.4g} | {verdict} |")
chosen = found["chosen"]
print(f"chosen: {chosen['bits_per_weight']:.2f} bits a weight, {chosen['loss']:.4g} % "
      f"({chosen['loss_put_together']:.4g} % put together)")
sys.exit(failed)
PYTHON
}

failed=0
for model in "${@:-minilm smollm2}"; do
    for name in $model; do
        [ "$name" = minilm ] || [ "$name" = smollm2 ] || {
            echo "usage: measure-explore.sh [minilm] [smollm2]" >&2
            exit 2
        }
        [ -e "$out/$name.json" ] || "$name"
        judge "$out/$name.json" || failed=1
    done
done
exit "$failed"
