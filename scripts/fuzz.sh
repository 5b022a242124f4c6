#!/bin/sh
# Fuzzes every target of tools/fuzz/ for a bounded time and prints a table. Fails if an input makes a
# target crash, hang or take too much memory, and prints where that input is.
#
#   RUNS=1000000       inputs for each target
#   SECONDS_EACH=1800  seconds for each target at most; 0 sets no limit
#   JOBS=1             how many targets run at a time
#   TARGETS="a b"      which targets; default: all
#   SANITIZER=none     or `address`, which takes twice as long; both work with a stable compiler
#
# Installs cargo-fuzz into target/fuzz-tool. Corpora grow in target/fuzz/corpus, and failing inputs go
# into target/fuzz/artifacts. When a failure is fixed, its input, minimized by `cargo fuzz tmin`, belongs
# in tools/fuzz/regressions/TARGET, which `make test` runs.
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

runs=${RUNS:-1000000}
seconds=${SECONDS_EACH:-1800}
jobs=${JOBS:-1}
sanitizer=${SANITIZER:-none}
tool="$PWD/target/fuzz-tool"
out="$PWD/target/fuzz"
version=0.13.2

# The script calls itself with --one to run one target and to write its line of the table.
if [ "${1:-}" = --one ]; then
    target=$2
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    log="$out/log/$target"
    state=ok
    "$FUZZ_BINARIES/$target" "$out/corpus/$target" "tools/fuzz/regressions/$target" \
        -runs="$runs" -max_total_time="$seconds" -max_len=16384 -timeout=20 -rss_limit_mb=3072 \
        -print_final_stats=1 -artifact_prefix="$out/artifacts/$target/" \
        >"$log" 2>&1 || state=FAILED
    # The numbers are those of the last line of libFuzzer's table: #N EVENT cov: C ft: F corp: U/B …
    awk -v target="$target" -v state="$state" '
        /^#[0-9]/ && /cov:/ {
            for (i = 2; i < NF; i++) {
                if ($i == "cov:") cov = $(i + 1)
                if ($i == "ft:") ft = $(i + 1)
                if ($i == "corp:") corpus = $(i + 1)
            }
        }
        /^stat::number_of_executed_units:/ { inputs = $2 }
        /^stat::peak_rss_mb:/ { peak = $2 }
        /^Done [0-9]+ runs in/ { inputs = $2; seconds = $5 }
        /Test unit written to/ { file = $NF }
        END {
            split(corpus, size, "/")
            printf "%-10s %9s %7s %8s %7s %7s %6s  %s %s\n",
                target, inputs, cov, ft, size[1], seconds, peak, state, file
        }' "$log" >"$out/table/$target"
    say "$(cat "$out/table/$target")"
    exit 0
fi

command -v c++ >/dev/null || command -v g++ >/dev/null || fail "libFuzzer needs a C++ compiler"
if ! [ -x "$tool/bin/cargo-fuzz" ]; then
    say "installing cargo-fuzz $version into target/fuzz-tool"
    cargo install cargo-fuzz --version "$version" --locked --root "$tool" ||
        fail "cargo-fuzz $version could not be installed" "check the network, then run this again"
fi
PATH="$tool/bin:$PATH"

say "building, with -s $sanitizer"
# A sanitizer is an unstable option of the compiler; RUSTC_BOOTSTRAP allows it in a stable one.
[ "$sanitizer" = none ] || export RUSTC_BOOTSTRAP=1
cargo fuzz build --fuzz-dir tools/fuzz -s "$sanitizer" --target-dir "$out/build-$sanitizer"
host=$(rustc -vV | sed -n 's/^host: //p')
FUZZ_BINARIES="$out/build-$sanitizer/$host/release"
LOWBIT_FUZZ_FOLDER=$(mktemp -d /dev/shm/lowbit-fuzz.XXXXXX 2>/dev/null || mktemp -d)
export FUZZ_BINARIES LOWBIT_FUZZ_FOLDER
trap 'rm -rf "$LOWBIT_FUZZ_FOLDER"' EXIT
trap 'exit 130' INT TERM

say "seeds, of real files and of what the library writes"
rm -rf "$out/table"
mkdir -p "$out/corpus" "$out/log" "$out/table"
LOWBIT_FUZZ_SEEDS="$out/corpus" "$FUZZ_BINARIES/names" -runs=0 >"$out/log/seeds" 2>&1 ||
    fail "no seeds could be made: $out/log/seeds"

targets=${TARGETS:-$(ls tools/fuzz/fuzz_targets | sed 's/\.rs$//')}
for target in $targets; do
    [ -x "$FUZZ_BINARIES/$target" ] || fail "there is no target $target"
    mkdir -p "tools/fuzz/regressions/$target"
done
say "up to $runs inputs a target"
# shellcheck disable=SC2086 # a word a target
printf '%s\n' $targets | RUNS=$runs SECONDS_EACH=$seconds xargs -P "$jobs" -n 1 "$PWD/scripts/fuzz.sh" --one

echo "target        inputs   edges features  corpus seconds MB      crashes"
cat "$out"/table/*
if grep -l FAILED "$out"/table/* >/dev/null; then
    fail "inputs that fail are named above; each target's log is in $out/log"
fi
