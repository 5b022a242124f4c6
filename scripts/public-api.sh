#!/usr/bin/env bash
# Compares the public interface of `lowbit` with the listing docs/public-api.txt, and prints the
# difference. A change of the interface is then seen in review.
#
# usage: public-api.sh            compare; fails if they differ
#        public-api.sh --update   rewrite the listing
#
# The items come from rustdoc's JSON, which is an unstable output of every toolchain, and the crate
# `public-api` (tools/public-api) reads it. PROFILE is the cargo profile whose checked dependencies
# are reused (default: dev).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."

listing=docs/public-api.txt
target=$(target_folder)
work=$target/public-api
mkdir -p "$work"

case "${1:-}" in
'' | --update) ;;
*) fail "unknown argument $1" "usage: $0 [--update]" ;;
esac

# Only rustdoc may see RUSTC_BOOTSTRAP: build scripts that see it build their crates anew.
cat >"$work/rustdoc" <<'SH'
#!/bin/sh
RUSTC_BOOTSTRAP=1 exec "${LOWBIT_RUSTDOC:-rustdoc}" "$@"
SH
chmod +x "$work/rustdoc"
LOWBIT_RUSTDOC=${RUSTDOC:-rustdoc} RUSTDOC=$work/rustdoc \
    cargo rustdoc --quiet --locked -p lowbit --lib --all-features --profile "${PROFILE:-dev}" \
    -- -Z unstable-options --output-format json --cap-lints allow
cargo build --quiet --release --locked --manifest-path tools/public-api/Cargo.toml \
    --target-dir "$work/build"
"$work/build/release/lowbit-public-api" "$target/doc/lowbit.json" >"$work/now.txt" || fail \
    "the items of rustdoc's JSON cannot be listed" \
    "after a change of the toolchain, tools/public-api needs the matching version of public-api"
[ "$(wc -l <"$work/now.txt")" -gt 100 ] || fail "only $(wc -l <"$work/now.txt") items were found"

if [ "${1:-}" = --update ]; then
    cp "$work/now.txt" "$listing"
    say "wrote $listing: $(wc -l <"$listing") items"
elif ! diff -u "$listing" "$work/now.txt"; then
    fail "the public interface differs from $listing" \
        "if the change is meant, run scripts/public-api.sh --update and commit the listing"
else
    say "the public interface is that of $listing: $(wc -l <"$listing") items"
fi
