#!/bin/sh
# The quick case table on what the full one did not run on: lavapipe at its other vector widths
# (other subgroup sizes) and of another version; parts of it on every adapter, and on the first with
# less than it has.
# usage: verify-others.sh LOWBIT
set -eu
lowbit=$1
here=$(dirname "$0")
mkdir -p target

if WGPU_BACKEND=vulkan "$lowbit" adapters 2>/dev/null | grep -q llvmpipe; then
    for width in 128 256 512; do
        # The width the CPU has by itself was the full table's.
        if grep -q "\"name\": \"llvmpipe.*, $width bits)\"" target/verify.json 2>/dev/null; then continue; fi
        echo "== lavapipe at $width bits"
        WGPU_BACKEND=vulkan LP_NATIVE_VECTOR_WIDTH=$width \
            "$lowbit" verify --quick --adapter llvmpipe --json target/verify-$width.json
        grep -q "\"name\": \"llvmpipe.*, $width bits)\"" target/verify-$width.json || {
            echo "LP_NATIVE_VECTOR_WIDTH=$width had no effect" >&2
            exit 1
        }
    done
else
    echo "SKIPPED: vector widths: no lavapipe here"
fi

if [ -e target/mesa25/env.sh ]; then
    echo "== lavapipe of Mesa 25"
    (. target/mesa25/env.sh && WGPU_BACKEND=vulkan "$lowbit" verify --quick --adapter llvmpipe)
else
    echo "SKIPPED: lavapipe of Mesa 25 is not here"
fi

# SwiftShader takes ten minutes for the whole quick table (`make everywhere`), and as many more to
# compile the kernels that make int8 weights.
echo "== every adapter"
"$here/every-adapter.sh" "$lowbit" verify --quick --every 8 --adapter all \
    --except compress/int8,compress/2:4+int8 \
    --json target/verify-all.json
if [ "${LOWBIT_REQUIRE_ADAPTERS:-0}" -gt "$(grep -c '"backend":' target/verify-all.json)" ]; then
    echo "LOWBIT_REQUIRE_ADAPTERS asks for $LOWBIT_REQUIRE_ADAPTERS adapters; there were fewer" >&2
    exit 1
fi

for less in '--without f16' '--without subgroups' '--without dot' '--without int64,textures' \
    '--limits webgpu' '--limits downlevel' '--binding-limit 524288'; do
    echo "== $less"
    # shellcheck disable=SC2086 # words on purpose
    "$lowbit" verify --quick --every 3 $less
done
