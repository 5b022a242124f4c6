# Runs the steps of `make test`, `make test-all` and `.ci/run`, and records how long each one takes.
# Sourced by bash scripts:  . scripts/steps.sh
#
# The script that sources this file first owns the list of steps. When it ends, whether it passed or
# failed, it prints the list and writes it to test-times.json in the target folder. A script that it
# starts adds its own steps to the same list.
# shellcheck shell=bash

if [ -z "${LOWBIT_STEPS:-}" ]; then
    mkdir -p "${CARGO_TARGET_DIR:-target}"
    export LOWBIT_STEPS="${CARGO_TARGET_DIR:-target}/test-steps.txt"
    : >"$LOWBIT_STEPS"
    trap 'report_steps "$?"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
fi

keep_going=false

# Runs a command and records its name and time. Ends the script if the command fails; after
# `keep_going=true` the script goes on, and `finish_steps` fails it at its end.
# usage: step NAME COMMAND…
step() {
    local name=$1 start=$SECONDS code=0
    shift
    printf '\n== %s\n' "$name"
    # A failure inside a function must end that function, so it must not stand before `||`.
    set +e
    (
        set -e
        "$@"
    )
    code=$?
    set -e
    local result=ok
    [ "$code" -eq 0 ] || result=FAILED
    printf '%s\t%s\t%s\n' "$((SECONDS - start))" "$result" "$name" >>"$LOWBIT_STEPS"
    [ "$code" -eq 0 ] || $keep_going || exit "$code"
}

# Ends the script with an error if a step failed. The last line of a script that keeps going.
finish_steps() {
    ! grep -q $'\tFAILED\t' "$LOWBIT_STEPS" || exit 1
}

# Records a step that does not run, with the reason.
# usage: skip NAME REASON
skip() {
    echo "SKIPPED: $1: $2"
    printf '0\tSKIPPED: %s\t%s\n' "$2" "$1" >>"$LOWBIT_STEPS"
}

# Prints the steps and writes test-times.json. usage: report_steps STATUS
report_steps() {
    local json="${LOWBIT_STEPS%/*}/test-times.json" seconds result name comma='' total=0
    printf '\nseconds  step\n'
    printf '[' >"$json"
    while IFS=$'\t' read -r seconds result name; do
        [ "$result" = ok ] && result='' || result="  ($result)"
        printf '%7d  %s%s\n' "$seconds" "$name" "$result"
        name=${name//\\/\\\\}
        printf '%s\n  {"step": "%s", "seconds": %d}' "$comma" "${name//\"/\\\"}" "$seconds" >>"$json"
        comma=,
        total=$((total + seconds))
    done <"$LOWBIT_STEPS"
    printf '\n]\n' >>"$json"
    printf '%7d  in total; %s has these times\n' "$total" "$json"
    if [ "$1" -eq 0 ]; then
        echo passed
    else
        echo "FAILED: exit status $1"
    fi
}
