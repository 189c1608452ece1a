#!/bin/bash
# run.sh: the script of `make run`. XEN names the release, CMD a command for dom0; without CMD there is a shell in dom0.
# Progress is on stderr; stdout has only the command's output. The exit status is the command's.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

release=${XEN:-4.17}
suite_of "$release" >/dev/null
out=$project_dir/target/xen-run
if [ -n "${CMD:-}" ]; then
    status=0
    "$tests_dir/boot.sh" --out "$out" --command "$CMD" "$release" || status=$?
    say "==> exit status $status; the kernel's console and Xen's log are in ${out#"$project_dir"/}/"
    exit "$status"
fi
[ -t 0 ] || die "a shell in dom0 needs a terminal; to run one command: make run CMD='xenstore-ls -f'"
exec "$tests_dir/boot.sh" --out "$out" --interactive "$release"
