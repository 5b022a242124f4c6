# Functions that the other scripts share. They source it: . "$(dirname "$0")/lib.sh"
# shellcheck shell=sh

# Prints a line on stderr, after the name of the script.
say() { echo "$(basename "$0" .sh): $*" >&2; }

# Prints the first argument as the reason, and the others below it as what to do; then ends the script.
fail() {
    say "$1"
    shift
    for line in "$@"; do echo "  $line" >&2; done
    exit 1
}

# Installs packages of Debian or Ubuntu, as root or by sudo without a password. Returns an error if it cannot.
# usage: install_packages PACKAGE…
install_packages() {
    command -v apt-get >/dev/null 2>&1 || return 1
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo='sudo -n'
    say "installing $*"
    $sudo apt-get update -qq || true
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Prints the absolute path of the folder that cargo builds in, after creating it if it is missing.
target_folder() (
    mkdir -p "${CARGO_TARGET_DIR:-target}"
    CDPATH='' cd -- "${CARGO_TARGET_DIR:-target}"
    pwd
)

# Prints the absolute path of a folder that need not exist.
whole_path() {
    case $1 in
    /*) echo "$1" ;;
    *) echo "$PWD/$1" ;;
    esac
}

# Unpacks packages of a Debian suite, which need not be this system's, into ./root. Its apt keeps its
# state in the working folder and does not change the system. Prints the reason if it fails.
# usage: unpack_debian SUITE PACKAGE…
unpack_debian() {
    suite=$1
    shift
    # The archive that this system uses and its key, from the same file. Other distributions have none.
    uri=
    for source in /etc/apt/sources.list.d/*.sources; do
        # Third-party archives for Debian do not have its components.
        grep -q '^Components:.*main' "$source" 2>/dev/null || continue
        uri=$(sed -n 's/^URIs: *//p' "$source" | grep debian | grep -v security | head -n 1) || uri=
        key=$(sed -n 's/^Signed-By: *//p' "$source" | head -n 1)
        [ -z "$uri" ] || [ -z "$key" ] || break
        uri=
    done
    if [ -z "$uri" ]; then
        say "no *.sources file in /etc/apt/sources.list.d names Debian's archive with its key"
        return 1
    fi
    say "unpacking $* of $suite into $PWD"
    rm -rf root ./*.deb && mkdir -p lists/partial cache/archives/partial root &&
        echo "deb [signed-by=$key] $uri $suite main" >sources.list || {
        say "cannot write to $PWD"
        return 1
    }
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
    for file in *.deb; do
        dpkg -x "$file" root || {
            say "$file could not be unpacked"
            return 1
        }
    done
    rm -rf lists cache ./*.deb
}
