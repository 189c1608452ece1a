#!/bin/bash
# initramfs.sh RELEASE: makes, from the cache of fetch.sh, what dom0 and the guests start from:
#   CACHE/RELEASE/dom0.cpio    busybox, Xen's tools and modules, dom0's init, and inside /guest the guests' kernel and
#                              initramfs. boot.sh appends a second archive with the job: Linux unpacks both.
# Made again only when one of the sources here has changed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# -eq 1 ] || die "usage: initramfs.sh 4.14|4.17|4.20"
release=$1
suite_of "$release" >/dev/null
have=$cache_dir/$release
"$tests_dir/fetch.sh" "$release"

command -v rustc >/dev/null || die "no Rust on this machine: install Rust 1.95 or newer (https://rustup.rs)"
need_tools cpio:cpio sha256sum:coreutils flock:util-linux
stamp=$(cat "$0" "$tests_dir"/dom0/* | sha256sum | cut -d' ' -f1)
out=$have/dom0-${stamp:0:16}.cpio
link=$have/dom0.cpio
if [ -e "$out" ]; then ln -sfn "${out##*/}" "$link"; echo "$out"; exit 0; fi

work=$(mktemp -d "$have/.initramfs.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "==> Xen $release: making dom0's initramfs"
from=$have/root
libdir=usr/lib/x86_64-linux-gnu
tools=usr/lib/xen-$release/bin
lib_path=$from/lib/x86_64-linux-gnu:$from/$libdir

# A root with /bin, /sbin and /lib inside /usr, whatever the suite did.
new_root() {
    mkdir -p "$1"/{dev,proc,sys,run,tmp,etc,var/log,usr/bin,usr/sbin,usr/lib64,"$libdir"}
    ln -s usr/bin "$1/bin"
    ln -s usr/sbin "$1/sbin"
    ln -s usr/lib "$1/lib"
    ln -s usr/lib64 "$1/lib64"
    ln -s /run "$1/var/run"
    cp "$from"/bin/busybox "$1/usr/bin/" 2>/dev/null || cp "$from"/usr/bin/busybox "$1/usr/bin/"
    # The suite's loader: its name in /lib64 may be a link to an absolute path, which would lead to the machine's.
    local loader
    loader=$(find "$from/lib/x86_64-linux-gnu" "$from/$libdir" -maxdepth 1 -type f \( -name 'ld-linux-x86-64.so.2' -o -name 'ld-2.*.so' \) 2>/dev/null | head -1) || true
    [ -n "$loader" ] || die "no program loader among the packages of Xen $release"
    cp "$loader" "$1/usr/lib64/ld-linux-x86-64.so.2"
    local applet # As links, which exist before any init has run.
    for applet in $("$1/usr/bin/busybox" --list); do [ -e "$1/usr/bin/$applet" ] || ln -s busybox "$1/usr/bin/$applet"; done
}

# compile NAME ROOT: compiles a program of this folder with rustc alone; static, as it must run with older C libraries.
compile() {
    rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols -o "$2/usr/bin/$1" "$tests_dir/dom0/$1.rs" ||
        die "could not compile $1.rs"
}

# Copies the libraries of the suite that programs need, as the suite's own loader lists them.
add_libraries() {
    local root=$1 program
    shift
    for program in "$@"; do
        "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$lib_path" --list "$program" 2>/dev/null | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p'
    done | sort -u | while read -r lib; do cp -L "$lib" "$root/$libdir/"; done
}

# xl and xenstore-watch end threads by pthread_cancel, which loads this one by name.
add_libgcc() { cp -L "$(find "$from/lib/x86_64-linux-gnu" "$from/$libdir" -name libgcc_s.so.1 2>/dev/null | head -1)" "$1/$libdir/"; }

# --- The guests' initramfs: busybox and the xenstore tools ---
guest=$work/guest
new_root "$guest"
cp -a "$from"/usr/bin/xenstore* "$guest/usr/bin/"
add_libraries "$guest" "$from"/usr/bin/xenstore
add_libgcc "$guest"
cp "$tests_dir/dom0/guest-init" "$guest/init"
compile store-client "$guest"
compile store-hammer "$guest"
# Linux runs this when the toolstack requests a shutdown; busybox's own would signal an init that is none.
rm -f "$guest/usr/bin/poweroff"
printf '#!/bin/sh\nexec /usr/bin/busybox poweroff -f\n' >"$guest/usr/sbin/poweroff"
chmod 755 "$guest/init" "$guest/usr/sbin/poweroff"

# --- dom0 ---
dom0=$work/dom0
new_root "$dom0"
mkdir -p "$dom0"/{guest,job,modules,etc/default,etc/xen/scripts,usr/lib/xen/boot,root,var/log/xen/console,var/lib/xen/xenstore,var/lib/xenstored,"$tools"}
for t in xl libxl-save-helper init-xenstore-domain xenstored xenconsoled xenconsole xen-init-dom0 test-xenstore xenstore-control xen-9pfsd lsevtchn xenctx xentop; do
    [ -e "$from/$tools/$t" ] && cp -L "$from/$tools/$t" "$dom0/$tools/"
done
cp -a "$from"/usr/bin/xenstore* "$dom0/usr/bin/"
# The packages wrap this one in a script that looks for the running release.
cp -L "$from/$tools/xenstore-control" "$dom0/usr/bin/xenstore-control" 2>/dev/null || true
add_libraries "$dom0" "$from"/usr/bin/xenstore "$dom0/$tools"/*
add_libgcc "$dom0"
cp "$have"/scripts/* "$dom0/etc/xen/scripts/"
cp "$have"/modules/{xen-privcmd,xen-evtchn,xen-gntdev,xen-gntalloc,xenfs}.ko "$dom0/modules/"
compile console-page "$dom0"
compile store-bench "$dom0"
compile store-witness "$dom0"
cp "$guest/usr/bin/store-client" "$guest/usr/bin/store-hammer" "$dom0/usr/bin/"
cp "$have/vmlinux" "$dom0/guest/vmlinux"
(cd "$guest" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -9) >"$dom0/guest/initrd"
cp "$tests_dir"/dom0/{init,profile,functions} "$dom0/"
cp "$tests_dir"/dom0/*.cfg "$dom0/root/"
mv "$dom0/profile" "$dom0/etc/profile"
echo "$release" >"$dom0/etc/xen-release"
: >"$dom0/etc/xen/xl.conf"
chmod 755 "$dom0/init"
# Not compressed: under emulation, unpacking costs more time than reading.
(cd "$dom0" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$work/dom0.cpio"
find "$have" -maxdepth 1 -name 'dom0-*.cpio' -delete
mv "$work/dom0.cpio" "$out"
ln -sfn "${out##*/}" "$link"
echo "$out"
