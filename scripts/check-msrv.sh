#!/bin/sh
# Checks the rust-version of Cargo.toml as well as this machine can:
#
# - If rustup has that toolchain or can get it, it compiles the bare library and every feature. This
#   shows all there is to show.
# - Otherwise three weaker checks run. No dependency states that it needs a later version. Clippy's
#   lint incompatible_msrv, which must not be allowed anywhere, finds no item of the standard library
#   that is younger. And Debian's Rust 1.85, unpacked into target/msrv, compiles the bare library with
#   the language and library features listed below, which became stable by the stated version.
#
# Prints at the end what it did not show. usage: check-msrv.sh [--without-toolchain]
#   --without-toolchain   runs the weaker checks, as on a machine without the network
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

command -v python3 >/dev/null || fail "python3 is missing" "on Debian: apt-get install python3"
msrv=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$msrv" ] || fail "Cargo.toml has no rust-version"
target=$(target_folder)/msrv
mkdir -p "$target"
# What a user builds: the library, the library of model files, and everything.
bare='-p lowbit --no-default-features --lib'
files='-p lowbit-models --no-default-features --features onnx --lib'
all='--workspace --all-features --lib --bins'

with_toolchain() {
    say "rust $msrv is here: it compiles the bare library and every feature"
    for features in "$bare" "$files" "$all"; do
        # shellcheck disable=SC2086 # words on purpose
        cargo "+$msrv" check --locked --target-dir "$target/$msrv" $features
    done
    say "done: rust $msrv compiles it"
}

if [ "${1:-}" != --without-toolchain ]; then
    if ! rustup toolchain list 2>/dev/null | grep -q "^$msrv[.-]"; then
        timeout 120 rustup toolchain install "$msrv" --profile minimal >"$target/rustup.log" 2>&1 ||
            say "no rust $msrv here, and rustup gets none ($target/rustup.log)"
    fi
    if rustup toolchain list 2>/dev/null | grep -q "^$msrv[.-]"; then
        with_toolchain
        exit 0
    fi
fi

# Compares the rust-version that each dependency states; counts those that state none.
dependencies() {
    cargo metadata --format-version 1 --locked --all-features >"$target/metadata.json"
    # shellcheck disable=SC2016
    cargo tree --locked --workspace --all-features --edges normal,build --prefix none --target all \
        --format '{p}' | sed 's/ (.*//; s/ v/ /' | sort -u >"$target/tree.txt"
    python3 - "$target" "$msrv" <<'END'
import json, sys

folder, msrv = sys.argv[1:]
number = lambda version: [int(part) for part in version.split(".")][:2]
packages = json.load(open(f"{folder}/metadata.json"))["packages"]
says = {(p["name"], p["version"]): p["rust_version"] for p in packages}
tree = [tuple(line.split()[:2]) for line in open(f"{folder}/tree.txt")]
missing = [p for p in tree if p not in says]
later = [p for p in tree if says.get(p) and number(says[p]) > number(msrv)]
silent = [p for p in tree if p in says and not says[p]]
for name, version in later:
    print(f"  {name} {version} needs rust {says[name, version]}", file=sys.stderr)
if missing or later or not tree:
    sys.exit(f"check-msrv: {len(later)} packages need more than rust {msrv}; unknown: {missing}")
youngest = max((p for p in tree if says[p] and not p[0].startswith("lowbit")), key=lambda p: number(says[p]))
print(
    f"check-msrv: {len(tree)} packages, of which {len(silent)} say no rust-version; the latest "
    f"that one asks for is {says[youngest]} ({youngest[0]})",
    file=sys.stderr,
)
END
}

# The lint knows since when each item of the standard library is stable.
lint() {
    if grep -rn 'allow.*incompatible_msrv' src crates examples benches tests; then
        fail "incompatible_msrv is allowed somewhere, see above"
    fi
    cargo clippy --profile ci --locked --workspace --all-features --lib --bins -- \
        -D clippy::incompatible_msrv
}

# Features that the code may use because they are stable by the version, and that 1.85 knows as
# unstable: NAME:STABLE-SINCE.
debian=1.85
gates='let_chains:1.88 unsigned_is_multiple_of:1.87 const_vec_string_slice:1.87'
gates="$gates trait_upcasting:1.86"

unpack() {
    [ -x "$target/root/usr/bin/rustc" ] && return
    [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || return 1
    rm -rf "$target/root" "$target/deb"
    mkdir -p "$target/deb" "$target/root"
    version=$(apt-cache madison rustc-web 2>/dev/null |
        sed -n "s/^ *rustc-web | \($debian\.[^ ]*\) .*/\1/p" | head -n 1)
    [ -n "$version" ] || return 1
    (
        cd "$target/deb"
        apt-get -qq -o APT::Sandbox::User="$(id -un)" download "rustc-web=$version" \
            "libstd-rust-web-dev=$version" "libstd-rust-web-$debian=$version" libllvm19 >&2
    ) || return 1
    for file in "$target"/deb/*.deb; do dpkg -x "$file" "$target/root"; done
    rm -rf "$target/deb"
}

older() {
    list=
    for gate in $gates; do
        since=${gate#*:}
        [ "${since#*.}" -le "${msrv#*.}" ] || fail "$gate is not stable in $msrv"
        list=$list,${gate%:*}
    done
    # Cargo runs this in place of rustc. Only packages that say they need more than 1.85 get the
    # features: others must not notice that there is a bootstrap key.
    later=$(python3 -c '
import json, sys
number = lambda version: [int(part) for part in version.split(".")][:2]
packages = json.load(open(sys.argv[1]))["packages"]
names = {p["name"] for p in packages if number(p["rust_version"] or "1.0") > number(sys.argv[2])}
print(" ".join(sorted(names)))' "$target/metadata.json" "$debian")
    cat >"$target/rustc.sh" <<END
#!/bin/sh
export LD_LIBRARY_PATH=$target/root/usr/lib/x86_64-linux-gnu
for name in $later; do
    [ "\${CARGO_PKG_NAME:-}" = "\$name" ] || continue
    RUSTC_BOOTSTRAP=1 exec $target/root/usr/bin/rustc "\$@" "-Zcrate-attr=feature(${list#,})"
done
exec $target/root/usr/bin/rustc "\$@"
END
    chmod +x "$target/rustc.sh"
    # Other features of the crate use more of the language than `gates` lists.
    # shellcheck disable=SC2086 # words on purpose
    RUSTC=$target/rustc.sh RUSTFLAGS='--cap-lints allow' cargo check --locked \
        --ignore-rust-version --target-dir "$target/$debian" $bare
}

dependencies
lint
if unpack; then
    older
    say "done: rust $debian compiles the bare library with $gates"
    say "not shown: that $msrv itself does; other features, tests and examples were not compiled"
else
    say "SKIPPED: no rust $debian of Debian's here: nothing older than $(rustc -V) was run"
    say "not shown: that the language used is that of $msrv; only its standard library"
fi
