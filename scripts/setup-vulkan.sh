#!/bin/sh
# Installs Mesa's software Vulkan driver if this machine has no adapter that wgpu can use. Does not fail
# if it cannot; the program that needs an adapter then reports that there is none.
set -eu

. "$(dirname "$0")/lib.sh"

# macOS and Windows bring Metal and DX12.
[ "$(uname -s)" = Linux ] || exit 0

# Whether any of these paths exists. A pattern that matches nothing stays a pattern, which does not.
any() {
    for path in "$@"; do
        [ -e "$path" ] && return 0
    done
    return 1
}

loader() {
    PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' ||
        any /usr/lib/libvulkan.so.1 /usr/lib/*/libvulkan.so.1 /usr/lib64/libvulkan.so.1
}

# GPU drivers may be installed on a machine without a GPU. A manifest counts if there is a device node
# for it, or if it belongs to a software driver.
manifest() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}${VK_ADD_DRIVER_FILES:-}" ] && return 0
    pattern='lvp_icd|swiftshader'
    any /dev/dri/renderD* /dev/nvidia[0-9]* /dev/dxg && pattern='\.json$'
    ls /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d \
        "${XDG_DATA_HOME:-${HOME:-/}/.local/share}/vulkan/icd.d" 2>/dev/null |
        grep -Eq "$pattern"
}

loader && manifest && exit 0

wanted='mesa-vulkan-drivers libvulkan1'
if ! command -v apt-get >/dev/null 2>&1; then
    say "no Vulkan driver found, and no apt-get to install one with"
    say "install Mesa's Vulkan drivers (lavapipe) and the Vulkan loader from your system's packages"
    exit 0
fi
sudo=
[ "$(id -u)" -eq 0 ] || sudo='sudo -n'
say "no Vulkan driver found; installing $wanted"
$sudo apt-get update -qq || true
# shellcheck disable=SC2086 # words on purpose
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $wanted >/dev/null || {
    say "could not install them; as root: apt-get install $wanted"
    exit 0
}
loader && manifest && say "done" || say "installed, but still no driver is to be seen"
