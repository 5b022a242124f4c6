#!/usr/bin/env bash
# Builds and runs tests/bare, a crate that depends on lowbit with `default-features = false`:
#
# - with no backend, `Host::new` returns `NoAdapter` and names the features;
# - with `vulkan`, and with a backend that only the caller's own wgpu enables, it multiplies a
#   small matrix;
# - `metal`, `dx12` and `gles` are only checked by the compiler.
#
# A wgpu of its own is compiled for each of them (unoptimized, into target/bare).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"

target=$(target_folder)/bare
# The versions of the dependencies are those of this workspace.
cp Cargo.lock tests/bare/Cargo.lock
bare() {
    local command=$1
    shift
    cargo "$command" --quiet --offline --manifest-path tests/bare/Cargo.toml \
        --target-dir "$target" "$@"
}
expect() {
    local wanted=$1 features=$2 printed
    say "features '$features': '$wanted' is expected"
    printed=$(bare run --features "$features") || fail "with features '$features': $printed"
    case $printed in
    *"$wanted"*) ;;
    *) fail "with features '$features' it printed: $printed" ;;
    esac
}

expect 'NoAdapter: no GPU adapter found: this program was built without a wgpu backend' ''
for feature in '`vulkan`' '`metal`' '`dx12`' '`gles`'; do expect "$feature" ''; done
expect 'multiplied by Vulkan' vulkan
expect 'multiplied by Vulkan' own
for feature in metal dx12 gles; do
    say "features '$feature': compiling is expected"
    bare check --features "$feature"
done
say "lowbit works with each choice of features"
