#!/bin/sh
# Unpacks Mesa 25's Vulkan drivers from the backports of Debian 12 into a folder, without changing the
# system. Does nothing if they are there.
# usage: setup-mesa25.sh [DIR]    (default: target/mesa25)
# then:  . DIR/env.sh             selects its software driver, lavapipe
set -eu

suite=bookworm-backports
packages='mesa-vulkan-drivers libdrm2 libdrm-amdgpu1'

. "$(dirname "$0")/lib.sh"

case $# in
0) dir=$(cd "$(dirname "$0")/.." && pwd)/target/mesa25 ;;
1) dir=$(whole_path "$1") ;;
*) fail "usage: setup-mesa25.sh [DIR]" ;;
esac

# env.sh is written last and holds the folder's path, so a folder that was moved is unpacked again.
if grep -qF "=$dir/root/" "$dir/env.sh" 2>/dev/null; then
    say "$dir is there"
    exit 0
fi

[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] ||
    fail "Mesa 25 comes from Debian's packages for amd64, and this is another system" \
        "use a driver of Mesa 25 or later that is installed here"

mkdir -p "$dir"
cd "$dir"
# shellcheck disable=SC2086 # a word a package
unpack_debian $suite $packages || fail "there is no Mesa 25 in $dir"

# The manifests name a library without a path, which would silently load the system's.
lib=$dir/root/usr/lib/x86_64-linux-gnu
sed -i "s|\"library_path\": \"lib|\"library_path\": \"$lib/lib|" root/usr/share/vulkan/icd.d/*.json

cat >env.sh.new <<END
export VK_DRIVER_FILES=$dir/root/usr/share/vulkan/icd.d/lvp_icd.json
export LD_LIBRARY_PATH=$lib
END
mv env.sh.new env.sh
say "done: . $dir/env.sh"
