#!/bin/sh
# Installs into target/peers what `make peers` measures lowbit against: a virtual environment with ONNX
# Runtime, a package with ggml's libraries, and the peers' programs, built from their crates. Prints what
# it cannot install; `make peers` then prints a row with the error. Does nothing twice.
# usage: setup-peers.sh
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

onnxruntime=onnxruntime-webgpu==1.27.0
python_packages="$onnxruntime onnx==1.23.2 numpy==2.4.6"
ggml=@node-llama-cpp/linux-x64-vulkan@3.22.1
# Their versions are in tools/peers/Cargo.lock.
crates='peer-web-rwkv peer-boostr peer-candle'

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

node() {
    stands npm "$ggml" && return
    say "installing $ggml"
    mkdir -p "$folder/npm"
    # Its install script would look for compilers; the libraries are in the package.
    npm install --prefix "$folder/npm" --ignore-scripts --no-audit --no-fund --silent "$ggml" &&
        done_with npm "$ggml"
}

build() {
    cargo build --release --locked --manifest-path tools/peers/Cargo.toml \
        --target-dir "$folder/build" -p "$1"
}

mkdir -p "$folder"
python || say "no ONNX Runtime, and no Python for ggml: needed are python3 with venv, and the network"
node || say "no ggml: needed are npm, and the network"
for crate in $crates; do
    build "$crate" || say "no $crate: cargo says above why"
done
# Without these there is nothing to measure.
build lowbit-peers
build peer-lowbit
