#!/bin/bash
# peer.sh DIR c|c-4.20|ocaml [OPTION...]: run Debian's C xenstored of Xen 4.17 or 4.20, or oxenstored of 4.17, on this host,
# without Xen, in the foreground.
# DIR is an empty folder: it stands for Xen (see fakexen.c) and is the server's run directory (DIR/socket).
# The server replaces this shell, so that the caller's child is the server. FAKEXEN_CLOCK: see fakexen.c.
set -euo pipefail
dir=$(cd "$1" && pwd) kind=$2
shift 2
case $kind in
  c-4.20) release=4.20 ;;
  *) release=4.17 ;;
esac
cache=$("$(dirname "$0")/fetch.sh" $release)
root=$cache/root
bin=$root/usr/lib/xen-$release/bin

head -c 4096 /dev/zero > "$dir/ring.0"
printf 1 > "$dir/port"
export FAKEXEN=$dir XENSTORED_RUNDIR=$dir
libraries=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
if [ $kind = c-4.20 ]; then
  # The server needs its own loader and C library, which are newer than this host's. They are named here and not by variables,
  # which would affect this shell and other programs of the host, too.
  exec "$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$libraries" --preload "$cache/fakexen.so" \
    "$bin/xenstored" --no-fork "$@"
fi
export LD_LIBRARY_PATH=$libraries LD_PRELOAD=$cache/fakexen.so
case $kind in
  c) exec "$bin/xenstored" --no-fork "$@" ;;
  ocaml)
    unset LD_PRELOAD
    cat > "$dir/oxenstored.conf" <<CONF
xenstored-kva = /proc/xen/xsd_kva
xenstored-port = /proc/xen/xsd_port
test-eagain = false
quota-activate = false
conflict-burst-limit = 5.0
quota-maxwatch = 100000
xenstored-log-file = $dir/log
access-log-file = $dir/access-log
xenstored-log-level = error
access-log-nb-files = 1
CONF
    # oxenstored's socket has a fixed place.
    mkdir -p /run/xenstored
    ln -sfn /run/xenstored/socket "$dir/socket"
    LD_PRELOAD=$cache/fakexen.so exec "$bin/oxenstored" --no-fork --config-file "$dir/oxenstored.conf" "$@" ;;
  *) echo "peer.sh: there is no server '$kind'" >&2; exit 2 ;;
esac
