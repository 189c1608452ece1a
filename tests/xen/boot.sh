#!/bin/bash
# boot.sh: boots Xen and dom0 in QEMU with a choice of Xenstores, runs a job in dom0, and returns its results.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat >&2 <<'END'
usage: boot.sh [options] RELEASE          RELEASE is 4.14, 4.17 or 4.20

  --store stubdom|c|none  the Xenstore: our kernel in its own domain (default), the C daemon in dom0, or none started
  --kernel FILE           the kernel for `stubdom` (default target/xenstore-stubdom), /job/kernel in dom0
  --memory MIB            its memory (default 8)          --param TEXT   its options (init-xenstore-domain --param)
  --ramdisk FILE          its boot module
  --xencommons FILE       start it by Xen's launch-xenstore with this configuration (the two above do not apply)
  --script FILE           the job: run by dom0's shell; `. /functions` gives helpers
  --command TEXT          the same, given as text         --interactive  a shell in dom0 instead of a job
  --file FILE[:NAME]      put a file into dom0's /job/ (may be given often)
  --always                run the job even when the store did not start
  --merge                 keep the job's stderr in order with its stdout
  --out DIR               where results go (default target/xen-run, emptied first)
  --timeout SECONDS       for the job (default 300)
  --host-memory MIB       of the emulated host (default 2048; dom0 has 896 of it)
  --live                  show the job's output on stderr as it comes
  --logs                  show the kernel's console and Xen's log on stderr at the end

The job's stdout is printed at the end, alone, on stdout; its stderr on stderr; its exit status is this script's.
Other exit statuses: 2 wrong use, 123 the store did not start, 124 time-out, 125 dom0 never finished.
DIR gets: stdout stderr status xen.log console/guest-*.log init-xenstore-domain.{log,ms,status} and /results of dom0.
END
    exit 2
}

store=stubdom kernel=$project_dir/target/xenstore-stubdom memory=8 param= ramdisk= xencommons= script= command= interactive= always=
merge= out=$project_dir/target/xen-run timeout=300 host_memory=2048 live= logs= files=()
while [ $# -gt 0 ]; do
    case $1 in
        --interactive) interactive=1 ;;
        --always) always=1 ;;
        --merge) merge=1 ;;
        --live) live=1 ;;
        --logs) logs=1 ;;
        --store | --kernel | --memory | --param | --ramdisk | --xencommons | --script | --command | --out | --timeout | --host-memory | --file)
            [ $# -ge 2 ] || usage
            case $1 in
                --file) files+=("$2") ;;
                --host-memory) host_memory=$2 ;;
                *) printf -v "${1#--}" %s "$2" ;;
            esac
            shift ;;
        -*) usage ;;
        *) break ;;
    esac
    shift
done
[ $# -eq 1 ] || usage
release=$1
suite_of "$release" >/dev/null
case $store in stubdom | c | none) ;; *) die "no store '$store': choose stubdom, c or none" ;; esac
[ "$store" != stubdom ] || [ -r "$kernel" ] || die "no kernel at $kernel: build it with 'make'"
[ -n "$script$command$interactive" ] || die "nothing to do: give --script, --command or --interactive"
[ -z "$script" ] || [ -r "$script" ] || die "no script at $script"
[ -z "$ramdisk" ] || [ -r "$ramdisk" ] || die "no boot module at $ramdisk"
[ -z "$xencommons" ] || [ -r "$xencommons" ] || die "no configuration at $xencommons"
[[ $memory =~ ^[0-9]+$ && $timeout =~ ^[0-9]+$ && $host_memory =~ ^[0-9]+$ ]] || die "--memory, --timeout and --host-memory take whole numbers"

need_tools qemu-system-x86_64:qemu-system-x86 cpio:cpio flock:util-linux base64:coreutils
initramfs=$("$tests_dir/initramfs.sh" "$release")
have=$cache_dir/$release

mkdir -p "$out"
out=$(cd "$out" && pwd)
# Removes only the results of an earlier run: the folder may have been named by mistake.
rm -rf "$out"/{*.out,*.status,*.txt,xl-*.log,domain-1.txt,console-page.err,init-xenstore-domain.*,stdout,stderr,status,live,xen.log,console,xl-list,xenstored.log}
work=$(mktemp -d)
qemu_pid=
trap 'if [ -n "$qemu_pid" ]; then kill "$qemu_pid" 2>/dev/null || true; fi; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# --- The job: a second archive behind the cached one ---
mkdir -p "$work/over/job"
job=$work/over/job
[ -r "$kernel" ] && [ -f "$kernel" ] && cp "$kernel" "$job/kernel"
[ -z "$ramdisk" ] || cp "$ramdisk" "$job/ramdisk"
[ -z "$xencommons" ] || cp "$xencommons" "$job/xencommons"
if [ -n "$script" ]; then cp "$script" "$job/script"; else printf '%s\n' "$command" >"$job/script"; fi
for f in ${files[@]+"${files[@]}"}; do
    name=${f##*:}
    cp "${f%%:*}" "$job/${name##*/}"
done
if [ -n "$interactive" ]; then cp "$tests_dir/dom0/welcome" "$job/welcome"; fi
quote() { printf "'%s'" "${1//\'/\'\\\'\'}"; }
cat >"$job/config" <<END
STORE=$store
STORE_MEMORY=$memory
STORE_PARAM=$(quote "$param")
INTERACTIVE=$interactive
ALWAYS=$always
MERGE=$merge
LIVE=$live
TIMEOUT=$timeout
TERM=$(quote "${TERM:-vt100}")
COLUMNS=$(tput cols 2>/dev/null || echo 80)
LINES=$(tput lines 2>/dev/null || echo 24)
END
cp "$initramfs" "$work/initrd"
(cd "$work/over" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >>"$work/initrd"

# --- Run ---
lock_qemu
say "==> Booting Xen $release and dom0 in QEMU (store: $store)"
qemu=(
    qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64,+svm,+npt -smp 2 -m "$host_memory"
    -display none -no-reboot -nodefaults -monitor none
    -kernel "$have/xen" -append "com1=115200,8n1 console=com1 loglvl=all guest_loglvl=all conring_size=256k dom0_mem=896M,max:896M dom0_max_vcpus=1"
    -initrd "$have/vmlinux console=hvc0 quiet loglevel=4 rdinit=/init,$work/initrd"
    -chardev "file,id=xen,path=$out/xen.log" -serial chardev:xen
)
# dom0 reports every 15 s that it is alive. On a very busy machine, QEMU 7.2 sometimes loses its timer for good.
SILENCE_S=120
# The job's time, and the same time again for start and stop on a busy machine.
limit=$((timeout + ${BOOT_LIMIT:-120}))
status=125
if [ -n "$interactive" ]; then
    say "==> ctrl-a x leaves at once; 'exit' or ctrl-d powers dom0 off"
    "${qemu[@]}" -serial mon:stdio 9>&- || die "QEMU failed"
    exit 0
fi
mkfifo "$work/channel"
timeout -k 5 "$limit" "${qemu[@]}" -chardev "file,id=channel,path=$work/channel" -serial chardev:channel </dev/null 9>&- &
qemu_pid=$!
results=
while :; do
    IFS= read -r -t $SILENCE_S line && read_status=0 || read_status=$?
    if [ $read_status -gt 128 ]; then
        say "==> nothing was heard of dom0 for $SILENCE_S s: it stands still, and is stopped"
        kill "$qemu_pid" 2>/dev/null || true
        break
    fi
    [ $read_status -eq 0 ] || [ -n "$line" ] || break
    case $line in
        "@@alive"*) ;;
        "@@results"*) results=1 ;;
        "@@end"*) results=2 ;;
        *"@@stage "*) say "--> ${line##*@@stage }" ;;
        *) if [ "$results" = 1 ]; then printf '%s\n' "$line" >>"$work/results"
           else printf '%s\n' "$line" >>"$out/live"; [ -z "$live" ] || printf '%s\n' "$line" >&2; fi ;;
    esac
done <"$work/channel"
wait "$qemu_pid" && qemu_status=0 || qemu_status=$?
qemu_pid=
if [ "$results" = 2 ]; then
    sed '/^begin-base64 /d; /^====/d' "$work/results" | base64 -d | tar -xz -C "$out"
    status=$(cat "$out/status")
elif [ "$qemu_status" -eq 124 ]; then
    say "==> the whole run took longer than $limit s and was stopped: see $out/xen.log"
    status=124
else
    say "==> dom0 ended without sending results (QEMU's status $qemu_status); the end of Xen's log ($out/xen.log):"
    tail -25 "$out/xen.log" >&2
fi
if [ -n "$logs" ]; then
    for f in "$out"/console/*.log; do
        [ -e "$f" ] && { say "--- console: ${f##*/} ---"; cat "$f" >&2; }
    done
    say "--- Xen's log ---"
    cat "$out/xen.log" >&2
fi
[ -z "$live" ] && [ -s "$out/stderr" ] && cat "$out/stderr" >&2
[ -e "$out/stdout" ] && cat "$out/stdout"
exit "$status"
