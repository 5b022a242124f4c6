#!/bin/sh
# Unpacks Mesa 25's Vulkan drivers into a folder, from the backports of Debian 12, and leaves
# the system as it is. Nothing happens where they are already there.
# usage: setup-mesa25.sh [DIR]    (default: target/mesa25)
# then:  . DIR/env.sh             which puts its software driver, lavapipe, in force;
#                                 radeon_icd.json lies beside it
set -eu

suite=bookworm-backports
packages='mesa-vulkan-drivers libdrm2 libdrm-amdgpu1'

say() { echo "setup-mesa25: $*" >&2; }
fail() {
    say "$1"
    shift
    for line in "$@"; do echo "  $line" >&2; done
    exit 1
}

case $# in
0) dir=$(cd "$(dirname "$0")/.." && pwd)/target/mesa25 ;;
1) dir=$(realpath -m "$1") ;;
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

# The archive that this system uses, and its key.
sources=$(ls /etc/apt/sources.list.d/*.sources 2>/dev/null) ||
    fail "no *.sources file in /etc/apt/sources.list.d names Debian's archive"
# shellcheck disable=SC2086 # file names of apt have no blanks
uri=$(sed -n 's/^URIs: *//p' $sources | grep -v security | head -n 1)
# shellcheck disable=SC2086
key=$(sed -n 's/^Signed-By: *//p' $sources | head -n 1)
[ -n "$uri" ] && [ -n "$key" ] ||
    fail "the files of /etc/apt/sources.list.d name no archive with its key" "found: $sources"

say "unpacking $packages of $suite into $dir"
rm -rf "$dir/root"
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/root"
cd "$dir"
echo "deb [signed-by=$key] $uri $suite main" >sources.list
apt() {
    apt-get -qq -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}
apt update || fail "the list of $suite could not be had" "check the network, then run this again"
for package in $packages; do
    apt download "$package/$suite" >&2 || fail "$package of $suite could not be downloaded"
done
for file in *.deb; do dpkg -x "$file" root; done
rm -rf lists cache ./*.deb

# The manifests name a bare library, which would silently be the system's.
lib=$dir/root/usr/lib/x86_64-linux-gnu
sed -i "s|\"library_path\": \"lib|\"library_path\": \"$lib/lib|" root/usr/share/vulkan/icd.d/*.json

cat >env.sh.new <<END
export VK_DRIVER_FILES=$dir/root/usr/share/vulkan/icd.d/lvp_icd.json
export LD_LIBRARY_PATH=$lib
END
mv env.sh.new env.sh
say "done: . $dir/env.sh"
