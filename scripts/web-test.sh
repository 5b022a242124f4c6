#!/bin/sh
# Runs the pages of target/web in headless Chromium, with WebGPU on SwiftShader, and compares them with
# native runs. The case table is compared case by case, with a run on the same SwiftShader or, without one,
# on the best adapter; what SmolLM2 says is compared token by token, with a run on the best adapter.
# SwiftShader compiles kernels slowly, so each 13th case of the quick table is run, and eight tokens are
# generated.
# Writes target/web-test.json, target/web-report.json and target/web-generate.json, and fails if a page
# cannot run.
# usage: web-test.sh [SHOTS]    (after build-web.sh; SHOTS: a folder for pictures of the page)
#   LOWBIT_WEB_EVERY=N     runs each Nth case instead
#   LOWBIT_WEB_EXCEPT=ID   leaves out the cases whose id starts so
#   LOWBIT_WEB_PARTS=PART  only that part: table or generate
#   LOWBIT_REQUIRE_MODEL=1 fails where the model is missing; default: skips
#   LOWBIT=PATH            the command for the native run; default: target/release/lowbit
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

playwright=playwright-core@1.56.1
every=${LOWBIT_WEB_EVERY:-13}
except=${LOWBIT_WEB_EXCEPT-}
parts=${LOWBIT_WEB_PARTS:-table generate}
model=data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
prompt='The capital of France is'
target=$(target_folder)
lowbit=${LOWBIT:-$target/release/lowbit}

for part in $parts; do
    case $part in table | generate) ;; *) fail "LOWBIT_WEB_PARTS is table or generate, not $part" ;; esac
done
[ -e "$target/web/lowbit_web_bg.wasm" ] || fail "there is no $target/web" "make web"
for tool in node npm; do
    command -v "$tool" >/dev/null || install_packages nodejs npm ||
        fail "$tool is missing" "on Debian: apt-get install nodejs npm"
done
find_chromium() {
    chromium=${CHROMIUM:-}
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        [ -n "$chromium" ] || chromium=$(command -v "$name" || true)
    done
    [ -n "$chromium" ]
}
find_chromium || install_packages chromium && find_chromium || true
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
native() { XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp} "$lowbit" "$@" --without subgroups >&2; }
# usage: drive SCRIPT ARGUMENT…
drive() {
    script=$1
    shift
    PLAYWRIGHT=$npm/node_modules node "tools/web/test/$script" "$target/web" "$chromium" "$@"
}

# The results of an earlier run must not be taken for those of this one.
rm -f "$target/web-test.json" "$target/web-report.json" "$target/web-generate.json"
table() {
    icd=$(dirname "$(realpath "$chromium")")/vk_swiftshader_icd.json
    [ -e "$icd" ] || icd=/usr/lib/chromium/vk_swiftshader_icd.json
    if [ -e "$icd" ]; then
        say "the native run of the table, on SwiftShader"
        export VK_DRIVER_FILES="$icd"
    else
        say "no SwiftShader beside $chromium: the native run is on the best adapter there is"
    fi
    code=0
    native verify --quick --every "$every" ${except:+--except "$except"} \
        --json "$target/web-native.json" || code=$?
    # Status 1 means that a case failed; it is compared like the others.
    [ "$code" -le 1 ] || fail "$lowbit verify did not run" "cargo build --release"
    unset VK_DRIVER_FILES
    drive drive.mjs "$target/web-native.json" "$target/web-test.json" "$every" "$except" ${1+"$1"}
}
generate() {
    if [ ! -e "$model" ]; then
        [ "${LOWBIT_REQUIRE_MODEL:-0}" != 1 ] || fail "there is no $model" "make model"
        echo "SKIPPED: a language model in a browser: data/smollm2 holds no model: run \`make model\`"
        return 0
    fi
    say "the native run of the model, on the best adapter"
    # A short context, because the warm-up reads a whole chunk of a prompt.
    native generate "$model" --prompt "$prompt" --max-tokens 8 --context 32 \
        --json "$target/web-generate-native.json" ||
        fail "$lowbit generate did not run" "cargo build --release"
    drive generate.mjs "$model" "$prompt" "$target/web-generate-native.json" \
        "$target/web-generate.json" ${1+"$1"}
}

failed=
for part in $parts; do
    # A fault in one part does not keep the other from being looked at.
    ("$part" ${1+"$1"}) || failed="$failed $part"
done
[ -z "$failed" ] || fail "these parts failed:$failed"
