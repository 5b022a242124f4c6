#!/bin/sh
# Drives the page of target/web in headless Chromium, with WebGPU on SwiftShader: each 13th case of
# the quick table (LOWBIT_WEB_EVERY: each Nth; LOWBIT_WEB_EXCEPT: none whose id starts so), since it
# compiles kernels slowly. Compared case by case with a native run on the same SwiftShader, or else
# on the best adapter.
# Writes target/web-test.json and target/web-report.json; fails where it could not run.
# usage: web-test.sh [SHOTS]    (after build-web.sh; SHOTS: a folder for pictures of the page)
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

playwright=playwright-core@1.56.1
every=${LOWBIT_WEB_EVERY:-13}
except=${LOWBIT_WEB_EXCEPT-}
target=$(target_folder)
lowbit=$target/release/lowbit

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

# The browser has no subgroups: without them the native run takes the same kernels.
icd=$(dirname "$(realpath "$chromium")")/vk_swiftshader_icd.json
[ -e "$icd" ] || icd=/usr/lib/chromium/vk_swiftshader_icd.json
if [ -e "$icd" ]; then
    say "the native run, on SwiftShader"
    export VK_DRIVER_FILES="$icd"
else
    say "no SwiftShader beside $chromium: the native run is on the best adapter there is"
fi
# What an earlier run said is not to stand for this one.
rm -f "$target/web-test.json" "$target/web-report.json"
code=0
XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp} "$lowbit" verify --quick --every "$every" \
    ${except:+--except "$except"} --without subgroups --json "$target/web-native.json" >&2 || code=$?
# 1: a case failed, which is compared like others.
[ "$code" -le 1 ] || fail "$lowbit verify did not run" "cargo build --release"
unset VK_DRIVER_FILES

PLAYWRIGHT=$npm/node_modules node tools/web/test/drive.mjs "$target/web" "$chromium" \
    "$target/web-native.json" "$target/web-test.json" "$every" "$except" ${1+"$1"}
