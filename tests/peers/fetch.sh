#!/bin/bash
# fetch.sh: get Debian's Xenstore servers, to compare with and to measure against. Needs no root and installs nothing.
#
# Fetches the packages below with apt (Debian bookworm's, Xen 4.17), unpacks them into a cache, and builds the stand-in
# for the Xen libraries (fakexen.c) there. Prints the cache's folder. Done once; later calls only look.
# PEERS_CACHE: the cache's folder (default: target/peers of this project).
set -euo pipefail

packages=(xen-utils-4.17 libxenmisc4.17 libxenevtchn1 libxengnttab1 libxencall1 libxenforeignmemory1
          libxendevicemodel1 libxentoollog1 libxentoolcore1 libxenhypfs1 libxenstore4 libyajl2 libxen-dev)

here=$(cd "$(dirname "$0")" && pwd)
cache=${PEERS_CACHE:-$here/../../target/peers}
version=$(cat "$here/fetch.sh" "$here/fakexen.c" | cksum | tr -d ' ')

say() { echo "fetch.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
for tool in apt-get dpkg cc flock; do
  command -v "$tool" > /dev/null || fail "'$tool' is needed and is not there"
done

# One at a time; what is complete has the stamp of this script and of fakexen.c.
exec 9> "$cache/lock"
flock 9
if [ "$(cat "$cache/complete" 2> /dev/null)" = "$version" ]; then
  echo "$cache"
  exit 0
fi

new=$cache/new
rm -rf "$new" "$cache/complete"
mkdir -p "$new/packages" "$new/root"
say "fetching ${#packages[@]} packages of Xen 4.17 into $cache"
(cd "$new/packages" && apt-get download "${packages[@]}" > ../log 2>&1) ||
  { cat "$new/log" >&2; fail "apt-get can't download Debian bookworm's packages ('apt-get update' may be needed)"; }
for package in "$new"/packages/*.deb; do
  dpkg -x "$package" "$new/root"
done
rm -r "$new/packages"
[ -x "$new/root/usr/lib/xen-4.17/bin/xenstored" ] || fail "the packages have no usr/lib/xen-4.17/bin/xenstored"
cc -shared -fPIC -O2 -Wall -Wextra -Werror -I "$new/root/usr/include" -o "$new/fakexen.so" "$here/fakexen.c" -ldl

rm -rf "$cache/root" "$cache/fakexen.so"
mv "$new/root" "$new/fakexen.so" "$cache/"
rm -rf "$new"
echo "$version" > "$cache/complete"
say "ready"
echo "$cache"
