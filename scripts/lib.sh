# What the other scripts share; sourced by them: . "$(dirname "$0")/lib.sh"
# shellcheck shell=sh

# Under the script's own name.
say() { echo "$(basename "$0" .sh): $*" >&2; }

# Ends with the first word, and lines below it that say what to do.
fail() {
    say "$1"
    shift
    for line in "$@"; do echo "  $line" >&2; done
    exit 1
}

# Packages of a suite of Debian, which need not be this system's, unpacked into ./root by an apt
# whose state is in the working folder: the system stays as it is. On failure says why.
# usage: unpack_debian SUITE PACKAGE…
unpack_debian() {
    suite=$1
    shift
    # The archive that this system uses, and its key. Other distributions have neither.
    sources=$(ls /etc/apt/sources.list.d/*.sources 2>/dev/null) || sources=/dev/null
    # shellcheck disable=SC2086 # file names of apt have no blanks
    uri=$(sed -n 's/^URIs: *//p' $sources | grep debian | grep -v security | head -n 1) || uri=
    # shellcheck disable=SC2086
    key=$(sed -n 's/^Signed-By: *//p' $sources | head -n 1)
    if [ -z "$uri" ] || [ -z "$key" ]; then
        say "no *.sources file in /etc/apt/sources.list.d names Debian's archive with its key"
        return 1
    fi
    say "unpacking $* of $suite into $PWD"
    rm -rf root
    mkdir -p lists/partial cache/archives/partial root
    echo "deb [signed-by=$key] $uri $suite main" >sources.list
    apt() {
        apt-get -qq -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null \
            -o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD/cache" \
            -o APT::Sandbox::User="$(id -un)" "$@"
    }
    apt update || {
        say "the list of $suite could not be had: check the network, then run this again"
        return 1
    }
    for package in "$@"; do
        apt download "$package/$suite" >&2 || {
            say "$package of $suite could not be downloaded"
            return 1
        }
    done
    for file in *.deb; do dpkg -x "$file" root || return 1; done
    rm -rf lists cache ./*.deb
}
