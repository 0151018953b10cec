#!/bin/sh
# A small Debian sid in a folder, with the CPython versions that a stable Debian does not have, their own tests, and what
# the compiled step hook is built with.
#
#   newer_pythons.sh build DIR           make it, or complete it (root, on Debian)
#   newer_pythons.sh enter DIR COMMAND   run COMMAND in it
#
# The archive is the one this machine already uses.
set -eu

versions="3.14 3.15"

archive() {
    {
        awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources
        awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }' /etc/apt/sources.list
    } 2>/dev/null | head -n 1
}

ensure_debootstrap() {
    command -v debootstrap >/dev/null && return
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends debootstrap
}

bootstrap() {
    # A bootstrap that was cut short cannot be continued. Nothing is ever mounted below this folder (see enter), still
    # the removal stays on one file system.
    [ -e "$dir/.bootstrapped" ] && return
    rm -rf --one-file-system "$dir"
    ensure_debootstrap
    debootstrap --variant=minbase --include=ca-certificates sid "$dir" "$(archive)"
    touch "$dir/.bootstrapped"
}

share_network_settings() {
    cp /etc/resolv.conf /etc/hosts "$dir/etc/"
    for file in /etc/pip.conf; do [ ! -e "$file" ] || cp "$file" "$dir$file"; done
    # An organisation's own certificate authorities, or pip in there trusts nothing that pip out here trusts.
    cp /usr/local/share/ca-certificates/*.crt "$dir/usr/local/share/ca-certificates/" 2>/dev/null || true
    chroot "$dir" update-ca-certificates >/dev/null
}

install_pythons() {
    # A mirror's index of sid may be weeks old; its signature still holds.
    printf 'Acquire::Check-Valid-Until "false";\nAPT::Install-Recommends "false";\n' > "$dir/etc/apt/apt.conf.d/99local"
    packages='' compiler="gcc libc6-dev"
    for version in $versions; do
        packages="$packages python$version-venv libpython$version-testsuite"
        compiler="$compiler python$version-dev"
    done
    # One that is complete but for the compiler stays of use without it, and without the archive.
    # shellcheck disable=SC2086 # lists of words
    {
        installed $packages || fetch $packages
        installed $compiler || fetch $compiler || echo "without a compiler: the Python flavour of the step hook runs there" >&2
    }
}

installed() { chroot "$dir" dpkg -s "$@" >/dev/null 2>&1; }

fetch() {
    chroot "$dir" apt-get update -q &&
        chroot "$dir" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@"
}

enter() {
    # /proc and /dev (terminals, shared memory) are mounted in a namespace of their own, which ends with the command:
    # nothing stays mounted. A container that may not mount does without; a few tests of CPython's then fail, bare too.
    if unshare --mount true 2>/dev/null; then
        exec unshare --mount --propagation private sh -eu -c '
            mount -t proc proc "$0/proc"
            mount --rbind /dev "$0/dev"
            exec chroot "$0" "$@"' "$dir" "$@"
    fi
    exec chroot "$dir" "$@"
}

action=${1:?build or enter}
dir=${2:?the folder}
shift 2
case $action in
    build)
        bootstrap
        share_network_settings
        install_pythons
        ;;
    enter) enter "$@" ;;
    *) echo "build or enter, not $action" >&2; exit 2 ;;
esac
