#!/bin/sh
# The quick case table: all of it on lavapipe at its vector widths (other subgroup sizes); parts of it
# on every adapter, and on the first with less than it has.
# usage: verify-others.sh LOWBIT
set -eu
lowbit=$1
here=$(dirname "$0")
mkdir -p target

if WGPU_BACKEND=vulkan "$lowbit" adapters 2>/dev/null | grep -q llvmpipe; then
    for width in 128 256 512; do
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

# SwiftShader and lavapipe of Mesa 25 compile slowly; `make everywhere` has the whole table. Each seventh
# case, and no even share: the table's loops are mostly over two, three and four things.
echo "== every adapter"
"$here/every-adapter.sh" "$lowbit" verify --quick --every 7 --adapter all \
    --json target/verify-all.json
if [ "${LOWBIT_REQUIRE_ADAPTERS:-0}" -gt "$(grep -c '"backend":' target/verify-all.json)" ]; then
    echo "LOWBIT_REQUIRE_ADAPTERS asks for $LOWBIT_REQUIRE_ADAPTERS adapters; there were fewer" >&2
    exit 1
fi

for less in '--without f16' '--without subgroups' '--without dot' '--without int64,textures' \
    '--limits webgpu' '--limits downlevel' '--binding-limit 524288'; do
    echo "== $less"
    # shellcheck disable=SC2086 # words on purpose
    "$lowbit" verify --quick --every 5 $less
done
