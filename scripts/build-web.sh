#!/bin/sh
# Builds the pages for browsers into target/web, from where any server of static files can serve it.
# usage: build-web.sh    (after setup-web.sh)
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."
target=$(target_folder)
out=$target/web

build() { "$1" build --locked --manifest-path tools/web/Cargo.toml --target-dir "$target/web-build" $2; }
build cargo '-p bindgen'
(
    # shellcheck disable=SC1091 # made by setup-web.sh
    . "$target/web-tools/env.sh"
    build "$WASM_CARGO" "--release $WASM_ARGS"
)
rm -rf "$out.new"
mkdir -p "$out.new"
"$target/web-build/debug/bindgen" \
    "$target/web-build/wasm32-unknown-unknown/release/lowbit_web.wasm" "$out.new"
cp tools/web/page/* "$out.new"
rm -rf "$out"
mv "$out.new" "$out"

wasm=$out/lowbit_web_bg.wasm
bytes=$(wc -c <"$wasm")
packed=$(gzip -9 -c "$wasm" | wc -c)
say "$out: $((bytes / 1024)) KiB of wasm, $((packed / 1024)) KiB by gzip"
say "serve it, say by: python3 -m http.server --directory $out 8000"
