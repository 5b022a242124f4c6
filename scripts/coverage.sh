#!/bin/sh
# Measures which lines of src/ the Rust tests run, with cargo-llvm-cov, and prints the totals of the
# crate and of each folder. Installs cargo-llvm-cov into target/coverage-tool, and rustup's llvm-tools.
#
# usage: coverage.sh [OPTION…]    options of `cargo llvm-cov`, for example --html or --json
#   TESTS="a b"   only the tests whose names hold one of these; without, all of them
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."
version=0.9.1
target=$(target_folder)
tool=$target/coverage-tool

if ! [ -x "$tool/bin/cargo-llvm-cov" ]; then
    say "installing cargo-llvm-cov $version into $tool"
    cargo install cargo-llvm-cov --version "$version" --locked --root "$tool" ||
        fail "cargo-llvm-cov $version could not be installed" "check the network, then run this again"
fi
if [ -z "$(find "$(rustc --print sysroot)/lib/rustlib" -name llvm-profdata -type f)" ]; then
    rustup component add llvm-tools ||
        fail "rustup could not add llvm-tools, which read the counters" \
            "set LLVM_COV and LLVM_PROFDATA to those of LLVM $(rustc -vV | sed -n 's/LLVM version: //p')"
fi

XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
LOWBIT_REQUIRE_GPU=${LOWBIT_REQUIRE_GPU:-1}
# Counters and the processes they slow down are no ground for a time limit to be missed.
export XDG_RUNTIME_DIR LOWBIT_REQUIRE_GPU
PATH=$tool/bin:$PATH
# shellcheck disable=SC2086 # words on purpose
cargo llvm-cov --profile ci --workspace --all-features --lib --bins --tests \
    --ignore-run-fail --no-report \
    ${TESTS:+-- $TESTS}
cargo llvm-cov report --profile ci --json --summary-only \
    --output-path "$target/coverage.json"
[ $# -eq 0 ] || cargo llvm-cov report --profile ci "$@"
python3 - "$target/coverage.json" "$PWD" <<'END_OF_PYTHON'
import collections, json, os, sys

report, root = sys.argv[1:]
folders = collections.defaultdict(lambda: [0, 0])
for file in json.load(open(report))["data"][0]["files"]:
    path = os.path.relpath(file["filename"], root)
    if not (path.startswith("src/") or path.startswith("crates/")) or "/tests/" in path:
        continue
    lines = file["summary"]["lines"]
    parts = path.split("/")
    crate = "src" if parts[0] == "src" else "/".join(parts[:2])
    names = {crate + " in all"}
    if parts[0] == "src" and len(parts) > 2:
        names.add("src/" + parts[1])
    for name in names:
        folders[name][0] += lines["covered"]
        folders[name][1] += lines["count"]
print("covered  lines  where")
for name, (covered, count) in sorted(folders.items()):
    print(f"{100 * covered / max(count, 1):6.1f}% {count:6}  {name}")
END_OF_PYTHON
