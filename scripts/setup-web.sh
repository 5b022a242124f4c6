#!/bin/sh
# Finds or fetches a Rust compiler for wasm32-unknown-unknown, for `make web`: rustup's target if it is
# installed or can be installed, otherwise Debian 12's compiler for browsers, unpacked into
# target/web-tools. LOWBIT_WEB_TOOLCHAIN=rustup or =debian allows only that one. Does nothing twice.
# usage: setup-web.sh
# then:  . target/web-tools/env.sh in a subshell; it sets WASM_CARGO and WASM_ARGS
set -eu
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."
target=wasm32-unknown-unknown
tools=$(target_folder)/web-tools

has_target() { rustup target list --installed 2>/dev/null | grep -qx "$target"; }

write_env() {
    mkdir -p "$tools"
    cat >"$tools/env.sh.new"
    mv "$tools/env.sh.new" "$tools/env.sh"
}

by_rustup() {
    command -v rustup >/dev/null || return 1
    if ! has_target; then
        say "adding rustup's target $target"
        rustup --quiet target add "$target" >&2 && has_target || return 1
    fi
    write_env <<END
WASM_CARGO=cargo
WASM_ARGS='--target $target'
END
}

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'; }

# Prints the libraries that packages depend on and that this system does not have.
missing() {
    LC_ALL=C apt-cache depends "$@" | sed -n 's/^ *Depends: *\(lib[^ <]*\)$/\1/p' | sort -u |
        while read -r name; do installed "$name" || echo "$name"; done
}

# Prints the compiler's packages and all libraries that they depend on, directly or not.
packages() {
    all='rustc-web cargo-web rust-web-src libstd-rust-web-dev rust-web-llvm'
    more=$all
    while [ -n "$more" ]; do
        # shellcheck disable=SC2086 # words on purpose
        found=$(missing $more)
        more=
        for name in $found; do
            case " $all " in *" $name "*) ;; *) more="$more $name" all="$all $name" ;; esac
        done
    done
    echo "$all"
}

# Debian 12's compiler for browsers does not come with a wasm target, so std is built from source.
by_debian() {
    [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || return 1
    debian=$tools/debian
    sysroot=$(rustc --print sysroot 2>/dev/null || true)
    lld=$(find "$sysroot/lib/rustlib" -name rust-lld -type f 2>/dev/null | head -n 1)
    [ -n "$lld" ] || lld=$(command -v rust-lld || command -v lld-19 || command -v lld) || return 1
    if [ ! -e "$debian/unpacked" ]; then
        say "unpacking Debian's compiler for the web into $debian"
        rm -rf "$debian"
        mkdir -p "$debian/deb" "$debian/bin"
        packages=$(packages)
        # shellcheck disable=SC2086 # words on purpose
        (cd "$debian/deb" && apt-get download -qq $packages >&2) || return 1
        for file in "$debian"/deb/*.deb; do dpkg -x "$file" "$debian" || return 1; done
        rm -rf "$debian/deb"
        touch "$debian/unpacked"
    fi
    ln -sf "$lld" "$debian/bin/rust-lld"
    write_env <<END
WASM_CARGO=$debian/usr/bin/cargo
WASM_ARGS='-Z build-std=std,panic_abort --target $target'
export RUSTC=$debian/usr/bin/rustc RUSTC_BOOTSTRAP=1
export PATH="$debian/bin:\$PATH"
export LD_LIBRARY_PATH="$debian/usr/lib/x86_64-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
END
}

how=${LOWBIT_WEB_TOOLCHAIN:-any}
case $how in
rustup) by_rustup || fail "rustup has no $target" ;;
debian) by_debian || fail "Debian's compiler for the web cannot be had" ;;
any)
    by_rustup || by_debian || fail "no compiler for $target can be had" \
        "rustup target add $target" "or Debian 12 for amd64, with apt and the network"
    ;;
*) fail "LOWBIT_WEB_TOOLCHAIN is rustup or debian, not $how" ;;
esac
