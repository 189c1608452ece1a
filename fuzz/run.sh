#!/bin/bash
# run.sh SECONDS [TARGET…]: builds the fuzz targets, and runs each on its corpus for the number of seconds. Without
# names, it runs all targets. They use libFuzzer with the coverage instrumentation of the stable compiler, and need g++
# or clang++.
#
# Each target is a program of Cargo.toml, whose first lines describe its checks:
#   connections  requests of several domains over rings, with cheats, deaths and live updates
#   cost         histories within the quotas, whose work stays within its bounds
#   image        any file as an uploaded kernel
#   options      any text as the boot command line
#   ring         a ring page that a domain changes at will
#   stream       any bytes as a migration stream
#   wire         any bytes as messages and their arguments
#
# corpus/TARGET has the seeds. The grown corpus, the logs and the inputs that failed are in target/fuzz:
# corpus-TARGET/, TARGET.log and TARGET-crash-*. To repeat one:
#   target/fuzz/<host>/release/TARGET target/fuzz/TARGET-crash-…
#
# The last lines have for each target: executions, executions per second, covered code (edges, and libFuzzer's
# features), inputs in the corpus, and findings. The exit status is 1 if a target has a finding.
set -euo pipefail
cd "$(dirname "$0")"
all=$(sed -n 's/^name = "\([a-z]*\)"$/\1/p' Cargo.toml)
seconds=${1:-}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "error: usage: fuzz/run.sh SECONDS [TARGET…]: '$seconds' is not a number of seconds" >&2; exit 2; }
shift
for target in "$@"; do
    grep -qx -- "$target" <<<"$all" || { echo "error: unknown fuzz target '$target'. The targets:" $all >&2; exit 2; }
done
command -v g++ >/dev/null || command -v clang++ >/dev/null || { echo "error: no C++ compiler on this machine: install g++" >&2; exit 1; }

export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
built=../target/fuzz
cargo build --release --target "$host" --target-dir "$built" $(for target in ${@:-$all}; do echo --bin "$target"; done) >&2

summary() { # of a target's log
    awk -v target="$1" '
        / cov: /                       { for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "ft:") ft = $(i + 1)
                                         if ($i == "corp:") { corp = $(i + 1); sub("/.*", "", corp) } } }
        /^stat::number_of_executed/    { runs = $2 }
        /^stat::average_exec_per_sec/  { rate = $2 }
        END { printf "%-12s %10d runs %7d/s   cov %5d   ft %6d   corpus %5d inputs   ", target, runs, rate, cov, ft, corp }
    ' "$built/$1.log"
}

# Only long histories reach deep states; libFuzzer would lengthen them slowly.
options_of() { case $1 in connections) echo -len_control=0 -max_len=2048 ;; cost) echo -len_control=0 -max_len=128 ;; *) echo -max_len=65536 ;; esac; }

failed=()
for target in ${@:-$all}; do
    mkdir -p "$built/corpus-$target"
    echo "==> fuzzing $target for $seconds s; log: target/fuzz/$target.log" >&2
    if ! "$built/$host/release/$target" "$built/corpus-$target" "corpus/$target" -max_total_time="$seconds" \
        -artifact_prefix="$built/$target-" $(options_of "$target") -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        >"$built/$target.log" 2>&1; then
        failed+=("$target")
        grep -m1 -A3 "panicked at" "$built/$target.log" >&2 || true
        tail -n 3 "$built/$target.log" >&2
    fi
done
for target in ${@:-$all}; do
    summary "$target"
    if [[ " ${failed[*]-} " == *" $target "* ]]; then echo "FAILED: see target/fuzz/$target.log"; else echo "no findings"; fi
done
[ ${#failed[@]} -eq 0 ]
