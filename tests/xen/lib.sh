# Shared by the scripts of this folder: releases, the cache, messages, the machine's tools. Sourced, never run. Messages
# go to stderr, so that stdout has only results.

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 2; }

# The folder of this checkout.
tests_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project_dir=$(cd "$tests_dir/../.." && pwd)

# Everything downloaded or made from downloads. XEN_CACHE lets several checkouts share one.
cache_dir=${XEN_CACHE:-$project_dir/target/xen}

# The Debian suite that ships a Xen release with its own dom0 kernel and tools.
suite_of() {
    case $1 in
        4.14) echo bullseye ;;
        4.17) echo bookworm ;;
        4.20) echo trixie ;;
        *) die "no Xen $1 here: choose 4.14, 4.17 or 4.20 (the releases that Debian packages)" ;;
    esac
}

# Makes sure that commands exist: `need_tools COMMAND:PACKAGE...`. Installs missing packages when run as root.
need_tools() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || die "missing on this machine: ${missing[*]}. Run 'apt-get install ${missing[*]}' as root, or run this as root once."
    command -v apt-get >/dev/null || die "missing on this machine: ${missing[*]}, and there is no apt-get to install them with"
    say "==> Installing ${missing[*]}"
    # The lists may be absent or too old to find the packages: this refreshes them once.
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2 ||
        { apt-get update >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2; } ||
        die "could not install ${missing[*]}"
}

# Only one emulated host at a time: two at once on few cores make time-outs fire. Descriptor 9 holds the lock.
lock_qemu() {
    exec 9>"${XEN_QEMU_LOCK:-/tmp/xenstore-stubdom-qemu.lock}" || die "cannot open the lock file of the emulated hosts"
    flock -n 9 && return
    say "==> Waiting for another emulated host to finish"
    flock 9
}
