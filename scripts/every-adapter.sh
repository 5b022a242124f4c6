#!/bin/sh
# Runs a command that sees every available adapter: those of the system, and Mesa 25's lavapipe and
# SwiftShader if `make adapters` has unpacked them. usage: every-adapter.sh COMMAND…
set -eu
target=$(cd "$(dirname "$0")/.." && pwd)/target
more=
for manifest in "$target/mesa25/root/usr/share/vulkan/icd.d/lvp_icd.json" "$target/swiftshader/icd.json"; do
    if [ -e "$manifest" ]; then
        more="$more${more:+:}$manifest"
    else
        echo "SKIPPED: an adapter: there is no $manifest; make adapters gets it" >&2
    fi
done
export VK_ADD_DRIVER_FILES="$more${VK_ADD_DRIVER_FILES:+:$VK_ADD_DRIVER_FILES}"
exec "$@"
