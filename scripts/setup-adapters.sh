#!/bin/sh
# Gets everything that scripts/every-adapter.sh runs on: Mesa 25's drivers and SwiftShader, unpacked
# into target/, and the libraries that OpenGL ES needs. Prints a SKIPPED line for what it cannot get.
set -u
here=$(dirname "$0")
. "$here/lib.sh"
skipped() { echo "SKIPPED: $*" >&2; }

"$here/setup-mesa25.sh" || skipped "no Mesa 25: nothing runs on it, nothing is compiled for AMD GPUs"
[ "$(uname -s)" = Linux ] || exit 0
"$here/setup-swiftshader.sh" || skipped "no SwiftShader: nothing runs on the least of adapters"

PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q 'libEGL\.so\.1' && exit 0
sudo=
[ "$(id -u)" -eq 0 ] || sudo='sudo -n'
say "no libEGL; installing Mesa's"
$sudo apt-get update -qq || true
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    libegl1 libgles2 libegl-mesa0 libgbm1 >/dev/null || skipped "no libEGL: nothing runs through OpenGL ES"
exit 0
