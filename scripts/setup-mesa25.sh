#!/bin/sh
# Mesa 25 from the backports of Debian bookworm into a folder, without touching the system.
# Usage: setup-mesa25.sh [DIR], by default target/mesa25; then `. DIR/env.sh` puts its
# lavapipe in force; radeon_icd.json lies beside its manifest. Skips what is already there.
# Exit code 1 where it cannot be had; what needs it says so again.
set -eu

say() { echo "setup-mesa25: $*" >&2; }

mkdir -p "${1:-target/mesa25}"
dir=$(cd "${1:-target/mesa25}" && pwd)
[ -f "$dir/env.sh" ] && exit 0

if [ "$(uname -s)" != Linux ] || [ "$(dpkg --print-architecture 2>/dev/null)" != amd64 ]; then
    say "packages are for Debian on amd64 only"
    exit 1
fi
# The system's own archive, and the key that it trusts for it.
archive=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null |
    grep -v security | head -n1)
key=$(sed -n 's/^Signed-By: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n1)
archive=${archive:-http://deb.debian.org/debian}
key=${key:-/usr/share/keyrings/debian-archive-keyring.gpg}

mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/root"
echo "deb [signed-by=$key] $archive bookworm-backports main" >"$dir/sources.list"
apt() {
    apt-get -qq -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}
say "unpacking Mesa 25 into $dir"
cd "$dir"
apt update && apt download mesa-vulkan-drivers/bookworm-backports \
    libdrm2/bookworm-backports libdrm-amdgpu1/bookworm-backports || {
    say "cannot download it from $archive (bookworm-backports)"
    exit 1
}
for package in ./*.deb; do
    dpkg -x "$package" root
    rm "$package"
done
rm -rf lists cache
# Manifests name a bare library, which would silently find the system's.
lib=$dir/root/usr/lib/x86_64-linux-gnu
sed -i "s|\"library_path\": \"lib|\"library_path\": \"$lib/lib|" root/usr/share/vulkan/icd.d/*.json
# Last, so that an interrupted run is repeated.
cat >env.sh <<END
export VK_DRIVER_FILES=$dir/root/usr/share/vulkan/icd.d/lvp_icd.json
export LD_LIBRARY_PATH=$lib
END
say "done"
