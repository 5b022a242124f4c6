#!/bin/sh
# The quick case table on what the full one did not run on: lavapipe at its other vector
# widths (other subgroup sizes), and every further adapter. Usage: verify-others.sh LOWBIT
set -eu
lowbit=$1
mkdir -p target

"$lowbit" adapters --json target/adapters.json >/dev/null
adapters=$(grep -c '"backend":' target/adapters.json)

if WGPU_BACKEND=vulkan "$lowbit" adapters 2>/dev/null | grep -q llvmpipe; then
    for width in 128 256 512; do
        # The width the CPU has by itself was the full table's.
        if grep -q "\"name\": \"llvmpipe.*, $width bits)\"" target/adapters.json; then continue; fi
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

index=1
while [ "$index" -lt "$adapters" ]; do
    echo "== adapter $index"
    "$lowbit" verify --quick --adapter "$index"
    index=$((index + 1))
done
