#!/usr/bin/env bash
# What `make test` and `make test-all` run. docs/testing.md says what each step is for.
#
# usage: test.sh          all Rust tests, and samples of the rest: at most 15 minutes on two cores
#        test.sh --all    whole tables, browsers, fuzzing and the rest: about two hours
#
#   LOWBIT_SAMPLE=K            takes sample K of the case table; without it, the commit says which
#   LOWBIT_REQUIRE_GPU=0       lets tests pass that were skipped because there is no adapter
#   LOWBIT_REQUIRE_MODEL=1     fails where the model is missing;          default: skips
#   LOWBIT_REQUIRE_ISA=1       fails where Mesa 25 for AMD is missing;    default: skips
#   LOWBIT_REQUIRE_TOOLS=1     fails where a shader checker is missing;   default: skips
#   LOWBIT_REQUIRE_ADAPTERS=N  fails where fewer than N adapters run;     default: 0
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh

all=false
case ${1-} in
'') ;;
--all) all=true ;;
*)
    echo "usage: test.sh [--all]" >&2
    exit 2
    ;;
esac

# A software driver asks for a runtime folder; any will do.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
export LOWBIT_REQUIRE_GPU="${LOWBIT_REQUIRE_GPU:-1}"
[ "$LOWBIT_REQUIRE_GPU" != 0 ] || unset LOWBIT_REQUIRE_GPU
target=${CARGO_TARGET_DIR:-target}
lowbit=$target/ci/lowbit
# The same for every call of cargo, so that all of them share what was built first.
cargo=(--profile ci --workspace --all-features)
# One case in so many is run of the whole table, of the quick one at other vector widths, and of the
# quick one on adapters that compile slowly. The table's loops have 2, 3, 4, 7 and 8 turns: a number
# with few of these factors samples them evenly.
every=9
every_quick=11
every_slow=29
if $all; then
    every=1
    every_quick=1
    every_slow=5
fi

# The number of the sample: the commit's number on its branch, so that consecutive commits take
# consecutive samples and the last nine commits together have run the whole table.
sample() {
    if [ -n "${LOWBIT_SAMPLE:-}" ]; then
        echo "$LOWBIT_SAMPLE"
    elif [ "$(git rev-parse --is-shallow-repository 2>/dev/null)" = true ]; then
        # The number of commits is unknown; the commit's name picks a sample all the same.
        echo $((0x$(git rev-parse --short=6 HEAD)))
    else
        git rev-list --count --first-parent HEAD 2>/dev/null || echo 0
    fi
}
number=$(sample)
case $number in
'' | *[!0-9]*)
    echo "LOWBIT_SAMPLE must be a whole number, not $number" >&2
    exit 2
    ;;
esac
export LOWBIT_SAMPLE=$number

setup() {
    make --no-print-directory setup model adapters tools
}

build() {
    cargo test "${cargo[@]}" --lib --bins --tests --examples --no-run
    # The command is a part of that, since its tests start it.
    [ -x "$lowbit" ]
}

apart=(faults_device faults_memory recording soak)
unit() { cargo test "${cargo[@]}" --lib --bins --examples --no-fail-fast; }
integration() { cargo test "${cargo[@]}" --test main --no-fail-fast; }
alone() { cargo test "${cargo[@]}" "${apart[@]/#/--test=}" --no-fail-fast; }
doctests() { cargo test "${cargo[@]}" --doc; }

# The options of `lowbit verify` that take one case of each N. usage: sampled N
sampled() { [ "$1" -eq 1 ] || echo "--every $1 --offset $((number % $1))"; }
# The same in words. usage: share TABLE N
share() {
    if [ "$2" -eq 1 ]; then
        echo "the whole $1"
    else
        echo "case $((number % $2)) of each $2 of the $1"
    fi
}

# usage: verify N ARGUMENT…    with the command line in the log
verify() {
    # shellcheck disable=SC2046 # words on purpose
    set -- verify $(sampled "$1") "${@:2}"
    echo "lowbit $*"
    "$lowbit" "$@"
}

table() {
    "$lowbit" adapters
    verify $every --json "$target/verify.json"
}

# lavapipe has subgroups of another size at another vector width. usage: width BITS
width() {
    export WGPU_BACKEND=vulkan LP_NATIVE_VECTOR_WIDTH=$1
    verify $every_quick --quick --adapter llvmpipe --json "$target/verify-$1.json"
    grep -q "\"name\": \"llvmpipe.*, $1 bits)\"" "$target/verify-$1.json" || {
        echo "LP_NATIVE_VECTOR_WIDTH=$1 had no effect" >&2
        exit 1
    }
}

adapters() {
    local out=$target/verify-all.json wanted=${LOWBIT_REQUIRE_ADAPTERS:-0} found
    # shellcheck disable=SC2046 # words on purpose
    scripts/every-adapter.sh "$lowbit" verify $(sampled $every_slow) --quick --adapter all \
        --json "$out"
    found=$(grep -c '"backend":' "$out" || true)
    [ "$found" -ge "$wanted" ] || {
        echo "LOWBIT_REQUIRE_ADAPTERS asks for $wanted adapters, and $found ran" >&2
        exit 1
    }
}

step "downloads: drivers, models, checkers" setup
step "build: libraries, command, tests, examples" build
if $all; then
    # One failure must not hide the next one for two hours.
    keep_going=true
    # More shaders through every translator, every kernel for every AMD family, and longer runs. All
    # shaders, LOWBIT_TARGETS=all, take hours more.
    export LOWBIT_TARGETS=${LOWBIT_TARGETS:-41} LOWBIT_ISA=all LOWBIT_SOAK=long
    export LOWBIT_ORDERINGS=all
fi
step "unit tests" unit
step "integration tests" integration
step "tests in processes of their own" alone
step "documentation tests" doctests
echo "sample $number of what is not run whole; LOWBIT_SAMPLE=$number takes it again"
step "$(share "case table" $every)" table
if WGPU_BACKEND=vulkan "$lowbit" adapters 2>/dev/null | grep -q llvmpipe; then
    for bits in 128 256 512; do
        if grep -q "\"name\": \"llvmpipe.*, $bits bits)\"" "$target/verify.json"; then
            skip "lavapipe at $bits bits" "the case table has just run at this width"
        else
            step "lavapipe at $bits bits, $(share "quick table" $every_quick)" width "$bits"
        fi
    done
else
    skip "lavapipe at other vector widths" "there is no lavapipe here"
fi
step "every adapter, $(share "quick table" $every_slow)" adapters
for less in '--without f16' '--without subgroups' '--without dot' '--without int64,textures' \
    '--limits webgpu' '--limits downlevel' '--binding-limit 524288'; do
    # shellcheck disable=SC2086 # words on purpose
    step "$less, $(share "quick table" $every_slow)" verify $every_slow --quick $less
done

# What takes too long for each commit: name, then the command.
web() {
    make --no-print-directory web
    LOWBIT=$lowbit scripts/web-test.sh
}
fuzz() { RUNS="${RUNS:-100000}" SECONDS_EACH="${SECONDS_EACH:-90}" JOBS="${JOBS:-2}" scripts/fuzz.sh; }
candle() { make --no-print-directory candle; }
train() { make --no-print-directory test-train; }
peers() {
    cargo test --release --locked --manifest-path tools/peers/Cargo.toml \
        --target-dir "$target/peers/build" -p protocol -p lowbit-peers
}
benches() { cargo bench "${cargo[@]}" --bench kernels --bench host --bench recording -- --test; }
while IFS='|' read -r name command; do
    if ! $all; then
        skip "$name" "only make test-all runs this"
    else
        # shellcheck disable=SC2086 # words on purpose
        step "$name" $command </dev/null
    fi
done <<'STEPS'
the pages in a browser|web
fuzzing every reader, spec, plan and bind|fuzz
candle's custom op|candle
the training crate|train
the rules that make weights, against the packages that define them|scripts/rules.sh
the runner of the peers|peers
quantized checkpoints, by the packages that define them|scripts/test-formats.sh
logits of a language model, against transformers|scripts/test-logits.sh
perplexity of two language models, against another engine|scripts/test-perplexity.sh
a crate without default features, for each backend|scripts/test-features.sh
the oldest Rust that is supported|scripts/check-msrv.sh
benches, one iteration each|benches
STEPS
finish_steps
