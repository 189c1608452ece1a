#!/bin/bash
# soak.sh SECONDS [RELEASE]: runs everything together on real Xen (4.17) for SECONDS: see jobs/soak.sh. Prints the
# counts. The exit status is 1 if anything was lost, left or grew. Needs the images of `make test-kernels`.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "error: usage: soak.sh SECONDS [RELEASE]: '$seconds' is no number of seconds" >&2; exit 2; }
out=target/xen-soak
files=()
for job in tests/xen/jobs/*; do files+=(--file "$job"); done
limit=$((seconds + 600))
tests/xen/boot.sh --live --out $out --timeout $((limit + 60)) --kernel target/xenstore-stubdom-boot-test "${files[@]}" \
    --file target/xenstore-stubdom-hostile-guest:hostile \
    --command ". /functions; section soak $limit env SOAK_SECONDS=$seconds sh -l /job/soak.sh" "${2:-4.17}" >&2
cat $out/soak.out
# used= may differ by pending output; rings and ports must not.
awk '
    /FAILED/ { bad = 1 }
    /^(before|after) / { for (i = 2; i <= NF; i++) if (split($i, part, "=") == 2) is[$1, part[1]] = part[2] }
    /^soak: / { ended = 1 }
    END {
        grown = is["after", "used"] - is["before", "used"]
        if (!ended) { print "FAILED: it did not come to its end"; bad = 1 }
        if (is["before", "rings"] != is["after", "rings"] || is["before", "ports"] != is["after", "ports"]) { print "FAILED: rings or ports differ"; bad = 1 }
        if (grown > 16384) { print "FAILED: " grown " bytes more are in use"; bad = 1 }
        exit bad
    }' $out/soak.out
echo "soak of $seconds s: passed"
