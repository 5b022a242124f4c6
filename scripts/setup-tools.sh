#!/bin/sh
# Puts the checkers of translated shaders into target/tools, without changing the system: spirv-val and
# glslangValidator from Debian 13, with the C library that they need, and Tint from npm's `webgpu`. Keeps
# what is there. Fails if it cannot get one of them, after trying all; tests that need it are SKIPPED.
# usage: setup-tools.sh
set -eu

suite=trixie
# These versions accept what they should; an older spirv-val does not know cooperative matrices.
packages='spirv-tools glslang-tools libc6 libstdc++6 libgcc-s1'
webgpu=0.6

. "$(dirname "$0")/lib.sh"

dir=$(cd "$(dirname "$0")/.." && pwd)/target/tools
mkdir -p "$dir"
cd "$dir"

# Runs in a subshell, so that `exit` ends only this function.
khronos() (
    # The wrappers hold the folder's path, so a folder that was moved is unpacked again.
    if grep -qF "$dir/" bin/glslangValidator 2>/dev/null && bin/spirv-val --version >/dev/null; then
        exit 0
    fi
    if [ "$(dpkg --print-architecture 2>/dev/null)" != amd64 ]; then
        say "spirv-val and glslangValidator are unpacked from Debian's packages for amd64 only;"
        say "elsewhere those of the system serve: spirv-tools of 2024 or later, glslang-tools"
        exit 1
    fi
    rm -rf bin bin.new
    # shellcheck disable=SC2086 # a word a package
    if ! unpack_debian $suite $packages; then
        say "spirv-val and glslangValidator of the system serve too: spirv-tools of 2024 or later,"
        say "glslang-tools"
        exit 1
    fi
    rm -rf root/usr/share root/etc
    lib=$dir/root/usr/lib/x86_64-linux-gnu
    mkdir bin.new
    for tool in spirv-val glslangValidator; do
        printf '#!/bin/sh\nexec "%s/ld-linux-x86-64.so.2" --library-path "%s" "%s" "$@"\n' \
            "$lib" "$lib" "$dir/root/usr/bin/$tool" >"bin.new/$tool"
        chmod +x "bin.new/$tool"
        "bin.new/$tool" --version >/dev/null || exit 1
    done
    mv bin.new bin
)

tint() (
    grep -q "\"version\": \"$webgpu" npm/node_modules/webgpu/package.json 2>/dev/null && exit 0
    if ! command -v npm >/dev/null 2>&1; then
        say "Tint comes with npm, and there is none: install Node.js 20 or later"
        exit 1
    fi
    say "installing npm's webgpu $webgpu into $dir/npm"
    npm install --silent --no-audit --no-fund --prefix npm "webgpu@$webgpu" >&2
)

wanting=
khronos || wanting="$wanting spirv-val glslangValidator"
tint || wanting="$wanting webgpu"
[ -z "$wanting" ] || {
    say "could not be had:$wanting; check the network, then run this again"
    exit 1
}
say "$dir is there"
