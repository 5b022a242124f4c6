#!/bin/sh
# Unpacks Mesa 25's Vulkan drivers into a folder, from the backports of Debian 12, and leaves
# the system as it is. Nothing happens where they are already there.
# usage: setup-mesa25.sh [DIR]    (default: target/mesa25)
# then:  . DIR/env.sh             which puts its software driver, lavapipe, in force;
#                                 radeon_icd.json lies beside it
set -eu

suite=bookworm-backports
packages='mesa-vulkan-drivers libdrm2 libdrm-amdgpu1'

. "$(dirname "$0")/lib.sh"

case $# in
0) dir=$(cd "$(dirname "$0")/.." && pwd)/target/mesa25 ;;
1) dir=$(whole_path "$1") ;;
*) fail "usage: setup-mesa25.sh [DIR]" ;;
esac

# The last thing written, and with the folder's name in it: a folder that moved is no use.
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

# The manifests name a bare library, which would silently be the system's.
lib=$dir/root/usr/lib/x86_64-linux-gnu
sed -i "s|\"library_path\": \"lib|\"library_path\": \"$lib/lib|" root/usr/share/vulkan/icd.d/*.json

cat >env.sh.new <<END
export VK_DRIVER_FILES=$dir/root/usr/share/vulkan/icd.d/lvp_icd.json
export LD_LIBRARY_PATH=$lib
END
mv env.sh.new env.sh
say "done: . $dir/env.sh"
