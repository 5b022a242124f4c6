#!/bin/sh
# Installs into target/peers what `make peers` measures lowbit against: a virtual environment with ONNX
# Runtime, a package with the libraries of ggml and llama.cpp, and the peers' programs, built from their
# crates. With --model it installs only what `make peers-model` needs. Prints what it cannot install; the
# peers then print the error. Does nothing twice.
# usage: setup-peers.sh [--model]
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

onnxruntime=onnxruntime-webgpu==1.27.0
python_packages="$onnxruntime onnx==1.23.2 numpy==2.4.6"
ggml=@node-llama-cpp/linux-x64-vulkan@3.22.1
ggml_sum=e10577190fc4bd1649d3b655588e5c7a85fc6b6dbf7136fee596cbe9e25521e7
# Their versions are in tools/peers/Cargo.lock.
crates='peer-web-rwkv peer-boostr peer-candle' own='lowbit-peers peer-lowbit'

target=${CARGO_TARGET_DIR:-target}
folder=$target/peers

# What is installed is named in a file beside it, which is written last.
stands() { [ "$(cat "$folder/$1.is" 2>/dev/null)" = "$2" ]; }
done_with() { echo "$2" >"$folder/$1.is"; }

python() {
    stands venv "$python_packages" && return
    say "installing $python_packages"
    rm -rf "$folder/venv"
    python3 -m venv "$folder/venv" &&
        # shellcheck disable=SC2086 # words on purpose
        "$folder/venv/bin/pip" install --quiet --disable-pip-version-check $python_packages &&
        done_with venv "$python_packages"
}

# Only the libraries are of use: the package's install script would look for compilers.
libraries() {
    stands ggml "$ggml" && return
    say "downloading $ggml (24 MB)"
    rm -rf "$folder/ggml" && mkdir -p "$folder/ggml" || return
    (
        cd "$folder/ggml" && npm pack --silent "$ggml" >/dev/null || exit
        echo "$ggml_sum  $(ls ./*.tgz)" | sha256sum -c --quiet - >&2 || {
            say "$ggml is not the package that is pinned here"
            exit 1
        }
        tar -xzf ./*.tgz && rm ./*.tgz
    ) && done_with ggml "$ggml"
}

build() {
    cargo build --release --locked --manifest-path tools/peers/Cargo.toml \
        --target-dir "$folder/build" -p "$1"
}

mkdir -p "$folder"
if [ "${1-}" = --model ]; then
    crates=peer-candle-model own=lowbit-peers
else
    python || say "no ONNX Runtime, and no Python for ggml: needed are python3 with venv, and the network"
fi
libraries || say "no ggml and no llama.cpp: needed are npm, and the network"
for crate in $crates; do
    build "$crate" || say "no $crate: cargo says above why"
done
# Without these there is nothing to measure.
for crate in $own; do build "$crate"; done
