#!/bin/sh
# Unpacks SwiftShader, a software Vulkan driver with little more than WebGPU requires, from Debian's
# chromium into a folder, without changing the system. Does nothing if it is there.
# usage: setup-swiftshader.sh [DIR]    (default: target/swiftshader)
# then:  VK_ADD_DRIVER_FILES=DIR/icd.json, or VK_DRIVER_FILES for it alone
set -eu

. "$(dirname "$0")/lib.sh"

case $# in
0) dir=$(cd "$(dirname "$0")/.." && pwd)/target/swiftshader ;;
1) dir=$(whole_path "$1") ;;
*) fail "usage: setup-swiftshader.sh [DIR]" ;;
esac

# icd.json is written last and holds the folder's path, so a folder that was moved is unpacked again.
if grep -qF "\"$dir/" "$dir/icd.json" 2>/dev/null; then
    say "$dir is there"
    exit 0
fi

work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
library=usr/lib/chromium/libvk_swiftshader.so
mkdir -p "$dir"
if [ -e "/$library" ]; then
    cp "/$library" "$dir/"
else
    command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 ||
        fail "SwiftShader comes out of Debian's chromium-common, and this is another system" \
            "give a driver of your own: VK_ADD_DRIVER_FILES=…/vk_swiftshader_icd.json"
    say "unpacking $library of Debian's chromium-common into $dir"
    work=$(mktemp -d "$dir/.fetch.XXXXXX")
    # Debian's user for downloads may not write here.
    download() (cd "$work" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download chromium-common)
    # A fresh system has no lists of packages yet.
    download || { apt-get -qq update && download; } ||
        fail "chromium-common could not be downloaded" "as root: apt-get update; then run this again"
    dpkg-deb --fsys-tarfile "$work"/chromium-common_*.deb | tar -x -C "$work" "./$library" ||
        fail "chromium-common_*.deb holds no $library" "give a driver of your own: VK_ADD_DRIVER_FILES=…"
    mv "$work/$library" "$dir/"
fi
printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' \
    "$dir/libvk_swiftshader.so" >"$dir/icd.json.new"
mv "$dir/icd.json.new" "$dir/icd.json"
say "done: $dir/icd.json"
