#!/bin/bash
# fetch.sh RELEASE: brings Debian's hypervisor, dom0 kernel and Xen tools of one release into the cache.
#
# Nothing is installed: `apt-get download` fetches the packages with a private configuration, which is the machine's own
# with the suite's name replaced. They are unpacked. The result is CACHE/RELEASE/ with
#   xen       the hypervisor, unpacked            vmlinux   the dom0 kernel (and the guests'), unpacked
#   root/     tools and libraries                 modules/  dom0's Xen modules
#   scripts/  how a host starts its Xenstore      packages  the fetched package files, one a line
# The folder appears by one rename: it is either absent or whole. Run again, the script does nothing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# -eq 1 ] || die "usage: fetch.sh 4.14|4.17|4.20"
release=$1
suite=$(suite_of "$release")
final=$cache_dir/$release

# Raise this when the contents or the layout change: older caches are then made again.
layout=3
if [ "$(cat "$final/layout" 2>/dev/null)" = "$layout" ]; then exit 0; fi

need_tools dpkg-deb:dpkg apt-get:apt xz:xz-utils gzip:gzip cpio:cpio flock:util-linux tar:tar
mkdir -p "$cache_dir"
exec 8>"$cache_dir/.$release.lock"
flock -n 8 || { say "==> Waiting for another fetch of Xen $release"; flock 8; }
if [ "$(cat "$final/layout" 2>/dev/null)" = "$layout" ]; then exit 0; fi

work=$(mktemp -d "$cache_dir/.$release.XXXXXX")
trap 'rm -rf "$work"' EXIT

# --- The private apt configuration ---
. /etc/os-release
codename=${VERSION_CODENAME:-}
[ "${ID:-}" = debian ] && [ -n "$codename" ] || die "this needs a Debian machine: its package sources are used with the suite's name replaced"
mkdir -p "$work"/{sources,lists/partial,cache/archives/partial,debs,root}
: >"$work/status"
# Base and security suites only: kernels and Xen come from there. Backports would bring other versions.
shopt -s nullglob
for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$f" ] || continue
    grep -E "^deb .*[[:space:]]$codename(-security|/updates)?[[:space:]]" "$f" | sed "s/\b$codename\b/$suite/g" \
        >"$work/sources/$(basename "$f" .list).list" || true
done
for f in /etc/apt/sources.list.d/*.sources; do
    awk -v RS= -v from="$codename" -v to="$suite" '
        {
            n = split($0, lines, "\n"); out = ""; keep = 0
            for (i = 1; i <= n; i++) {
                if (lines[i] ~ /^Suites:/) {
                    m = split(lines[i], word, /[ \t]+/); lines[i] = "Suites:"
                    for (j = 2; j <= m; j++)
                        if (word[j] == from || word[j] == from "-security") { sub(from, to, word[j]); lines[i] = lines[i] " " word[j]; keep = 1 }
                }
                out = out lines[i] "\n"
            }
            if (keep) print out
        }' "$f" >"$work/sources/$(basename "$f")"
done
find "$work/sources" -type f -empty -delete
[ -n "$(ls "$work/sources")" ] || die "found no package source for Debian $codename in /etc/apt to make one for $suite from"

apt_options=(
    -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources"
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
    -o APT::Architecture=amd64 -o APT::Sandbox::User= -o Acquire::Languages=none -o APT::Update::Error-Mode=any
    -o Acquire::Retries=3 -o APT::Update::Post-Invoke= -o APT::Update::Post-Invoke-Success=
    # Old suites' index files carry a date that has passed; their signatures are still checked.
    -o Acquire::Check-Valid-Until=false
)
say "==> Xen $release (Debian $suite): reading package lists"
apt-get "${apt_options[@]}" update >"$work/update.log" 2>&1 || { cat "$work/update.log" >&2; die "could not read the package lists of $suite"; }

depends_of() { apt-cache "${apt_options[@]}" depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances --important "$1" | sed -n 's/^ *|*Depends: \([^<]*\)$/\1/p'; }

# The kernel's metapackage names the suite's own version.
kernel=$(depends_of linux-image-amd64 | grep '^linux-image-[0-9]' | head -1) || true
[ -n "$kernel" ] || die "found no kernel in $suite"

# Follow dependencies, but only into libraries: the tools' Python and init scripts are of no use in the initramfs.
wanted=("xen-hypervisor-$release-amd64" "$kernel" busybox-static "xen-utils-$release" xen-utils-common xenstore-utils libgcc-s1)
for ((i = 0; i < ${#wanted[@]}; i++)); do
    case ${wanted[i]} in xen-hypervisor-* | linux-image-* | busybox-static) continue ;; esac
    for p in $(depends_of "${wanted[i]}" | grep '^lib' || true); do
        [[ $p == *perl* || $p == *python* || " ${wanted[*]} " == *" $p "* ]] || wanted+=("$p")
    done
done

say "==> Xen $release: downloading ${#wanted[@]} packages ($kernel is the large one)"
(cd "$work/debs" && apt-get "${apt_options[@]}" download "${wanted[@]}" >"$work/download.log" 2>&1) ||
    { cat "$work/download.log" >&2; die "could not download the packages of Xen $release"; }
ls "$work/debs" >"$work/packages"

say "==> Xen $release: unpacking"
mkdir "$work/kernel"
for deb in "$work"/debs/*.deb; do
    case ${deb##*/} in
        linux-image-*) # All of it is 500 MB: take the kernel and the Xen modules.
            dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/kernel" --wildcards './boot/vmlinuz-*' '*/modules/*/kernel/drivers/xen/*' ;;
        *) dpkg-deb -x "$deb" "$work/root" ;;
    esac
done
# The kernel proper, out of its bzImage: under emulation, unpacking it would take longer than the rest of a guest's
# creation. The offsets are those of Linux's Documentation/arch/x86/boot.rst: setup_sects, payload_offset,
# payload_length.
bzimage=$(echo "$work"/kernel/boot/vmlinuz-*)
number() { od -An "-tu$2" -j "$1" -N "$2" "$bzimage" | tr -d ' '; }
tail -c "+$((($(number 497 1) + 1) * 512 + $(number 584 4) + 1))" "$bzimage" | head -c "$(number 588 4)" >"$work/payload" || true
case $(head -c 4 "$work/payload" | od -An -tx1 | tr -d ' ') in
    fd377a58) xz -dc --single-stream "$work/payload" >"$work/vmlinux" 2>/dev/null || true ;;
    28b52ffd) need_tools zstd:zstd; zstd -dcq "$work/payload" >"$work/vmlinux" 2>/dev/null || true ;;
    *) die "the kernel of $suite is packed in a way that is not known here" ;;
esac
# Both tools complain about bytes after the compressed data. The ELF magic shows whether the kernel was unpacked.
[ "$(head -c 4 "$work/vmlinux" | tail -c 3)" = ELF ] || die "could not unpack the kernel of $suite"
rm "$work/payload"
gzip -dc "$work"/root/boot/xen-*-amd64.gz >"$work/xen"
mkdir "$work/modules"
find "$work/kernel" -name '*.ko*' -exec mv -t "$work/modules" {} +
find "$work/modules" -name '*.ko.xz' -exec xz -d {} +
mkdir "$work/scripts"
cp "$work"/root/etc/xen/scripts/{launch-xenstore,hotplugpath.sh} "$work/scripts/"
rm -rf "$work"/root/{boot,usr/share,etc} "$work"/{debs,kernel,lists,cache,sources,status,update.log,download.log}
for f in xen vmlinux "root/usr/lib/xen-$release/bin/xl" "root/usr/lib/xen-$release/bin/init-xenstore-domain" modules/xen-privcmd.ko; do
    [ -e "$work/$f" ] || die "the packages of Xen $release do not hold ${f##*/} where it is expected"
done
echo "$layout" >"$work/layout"
rm -rf "$final"
chmod 755 "$work"
mv "$work" "$final"
say "==> Xen $release is in $final"
