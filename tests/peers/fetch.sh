#!/bin/bash
# fetch.sh [4.17|4.20]: get Debian's Xenstore servers, to compare with and to measure against. Needs no root and installs
# nothing.
#
# Fetches the packages below with apt (Xen 4.17: bookworm's, Xen 4.20: trixie's), unpacks them into a cache, and builds the
# stand-in for the Xen libraries (fakexen.c) there. Prints the release's folder in the cache. Done once; later calls only
# check that it is complete.
# trixie's programs need a newer C library than this host has. The script fetches it, too, with its dynamic loader (see peer.sh).
# PEERS_CACHE: the cache's folder (default: target/peers of this project).
set -euo pipefail

say() { echo "fetch.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

release=${1:-4.17}
packages=("xen-utils-$release" "libxenmisc$release" libxenevtchn1 libxengnttab1 libxencall1 libxenforeignmemory1
          libxendevicemodel1 libxentoollog1 libxentoolcore1 libxenhypfs1 libxenstore4 libyajl2 libxen-dev)
here=$(cd "$(dirname "$0")" && pwd)
cache=${PEERS_CACHE:-$here/../../target/peers}
case $release in
  4.17) suite=bookworm ;;
  4.20) suite=trixie cache=$cache/$release packages+=(libc6 zlib1g) ;;
  *) fail "no Xen $release here: choose 4.17 or 4.20" ;;
esac
version=$(cat "$here/fetch.sh" "$here/fakexen.c" | cksum | tr -d ' ')

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

# Another suite needs a private configuration of apt: the machine's own sources with the suite's name replaced.
apt=(apt-get)
other_suite() {
  local codename f
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ "$codename" != "$suite" ] || return 0
  mkdir -p "$new"/apt/{sources,lists/partial,cache/archives/partial}
  : > "$new/apt/status"
  for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -f "$f" ] && grep -q "\b$codename\b" "$f" || continue
    # Base and security suites only.
    sed -E "/^#/d; s/\b$codename-(updates|backports|proposed-updates)\b//g; s/\b$codename\b/$suite/g" "$f" \
      > "$new/apt/sources/$(basename "${f/%sources.list/sources.list.list}")"
  done
  [ -n "$(ls "$new/apt/sources")" ] || fail "found no package source for Debian $codename to make one for $suite from"
  apt=(apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$new/apt/sources"
       -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
       -o Dir::State::lists="$new/apt/lists" -o Dir::State::status="$new/apt/status" -o Dir::Cache="$new/apt/cache"
       -o APT::Architecture=amd64 -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=3
       -o APT::Update::Post-Invoke= -o APT::Update::Post-Invoke-Success= -o Acquire::Check-Valid-Until=false)
  "${apt[@]}" update > "$new/log" 2>&1 || { cat "$new/log" >&2; fail "can't read the package lists of Debian $suite"; }
}
other_suite

say "fetching ${#packages[@]} packages of Xen $release into $cache"
(cd "$new/packages" && "${apt[@]}" download "${packages[@]}" > ../log 2>&1) ||
  { cat "$new/log" >&2; fail "apt-get can't download Debian $suite's packages ('apt-get update' may be needed)"; }
for package in "$new"/packages/*.deb; do
  dpkg -x "$package" "$new/root"
done
rm -rf "$new/packages" "$new/apt"
[ -x "$new/root/usr/lib/xen-$release/bin/xenstored" ] || fail "the packages have no usr/lib/xen-$release/bin/xenstored"
# The stand-in is built with this host's C library: it is the older one, and the program's own may be newer.
cc -shared -fPIC -O2 -Wall -Wextra -Werror -DXEN_RELEASE="${release/./}" -I "$new/root/usr/include" \
  -o "$new/fakexen.so" "$here/fakexen.c" -ldl

rm -rf "$cache/root" "$cache/fakexen.so"
mv "$new/root" "$new/fakexen.so" "$cache/"
rm -rf "$new"
echo "$version" > "$cache/complete"
say "ready"
echo "$cache"
