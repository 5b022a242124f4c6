#!/bin/sh
# The quick case table on what the full one did not run on: lavapipe at its other vector
# widths (other subgroup sizes), and every further adapter. Usage: verify-others.sh LOWBIT
set -eu
lowbit=$1

"$lowbit" adapters --json target/adapters.json >/dev/null
adapters=$(grep -c '"backend":' target/adapters.json)

if grep -q '"name": "llvmpipe.*' target/adapters.json; then
    for width in 128 256 512; do
        # The width the CPU has by itself was the full table's.
        if grep -q "\"name\": \"llvmpipe.*, $width bits)\"" target/adapters.json; then continue; fi
        echo "== lavapipe at $width bits"
        LP_NATIVE_VECTOR_WIDTH=$width "$lowbit" verify --quick --adapter 0
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
