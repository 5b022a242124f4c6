#!/bin/sh
# Runs the page of target/web in headless Chromium, with WebGPU on SwiftShader, and compares it case by
# case with a native run on the same SwiftShader or, without one, on the best adapter. SwiftShader
# compiles kernels slowly, so each 13th case of the quick table is run.
# Writes target/web-test.json and target/web-report.json, and fails if the page cannot run.
# usage: web-test.sh [SHOTS]    (after build-web.sh; SHOTS: a folder for pictures of the page)
#   LOWBIT_WEB_EVERY=N     runs each Nth case instead
#   LOWBIT_WEB_EXCEPT=ID   leaves out the cases whose id starts so
#   LOWBIT=PATH            the command for the native run; default: target/release/lowbit
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

playwright=playwright-core@1.56.1
every=${LOWBIT_WEB_EVERY:-13}
except=${LOWBIT_WEB_EXCEPT-}
target=$(target_folder)
lowbit=${LOWBIT:-$target/release/lowbit}

[ -e "$target/web/lowbit_web_bg.wasm" ] || fail "there is no $target/web" "make web"
for tool in node npm; do
    command -v "$tool" >/dev/null || fail "$tool is missing" "on Debian: apt-get install nodejs npm"
done
chromium=${CHROMIUM:-}
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    [ -n "$chromium" ] || chromium=$(command -v "$name" || true)
done
[ -n "$chromium" ] || fail "there is no Chromium" "on Debian: apt-get install chromium" \
    "elsewhere: CHROMIUM=PATH of a Chrome or Chromium"

npm=$target/web-tools/npm
if [ "$(cat "$npm/is" 2>/dev/null)" != "$playwright" ]; then
    say "installing $playwright"
    mkdir -p "$npm"
    npm install --prefix "$npm" --ignore-scripts --no-audit --no-fund --silent "$playwright" >&2 ||
        fail "$playwright could not be installed" "check the network"
    echo "$playwright" >"$npm/is"
fi

# The browser has no subgroups. Without them the native run takes the same kernels.
icd=$(dirname "$(realpath "$chromium")")/vk_swiftshader_icd.json
[ -e "$icd" ] || icd=/usr/lib/chromium/vk_swiftshader_icd.json
if [ -e "$icd" ]; then
    say "the native run, on SwiftShader"
    export VK_DRIVER_FILES="$icd"
else
    say "no SwiftShader beside $chromium: the native run is on the best adapter there is"
fi
# The results of an earlier run must not be taken for those of this one.
rm -f "$target/web-test.json" "$target/web-report.json"
code=0
XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp} "$lowbit" verify --quick --every "$every" \
    ${except:+--except "$except"} --without subgroups --json "$target/web-native.json" >&2 || code=$?
# Status 1 means that a case failed; it is compared like the others.
[ "$code" -le 1 ] || fail "$lowbit verify did not run" "cargo build --release"
unset VK_DRIVER_FILES

PLAYWRIGHT=$npm/node_modules node tools/web/test/drive.mjs "$target/web" "$chromium" \
    "$target/web-native.json" "$target/web-test.json" "$every" "$except" ${1+"$1"}
