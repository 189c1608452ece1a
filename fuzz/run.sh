#!/bin/bash
# run.sh TARGET SECONDS: builds a fuzz target and runs it on its corpus. libFuzzer with the coverage instrumentation of the
# stable compiler; needs g++ or clang++.
set -euo pipefail
cd "$(dirname "$0")"
target=$1 seconds=$2
command -v g++ >/dev/null || command -v clang++ >/dev/null || { echo "error: no C++ compiler on this machine: install g++" >&2; exit 1; }
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --target-dir ../target/fuzz --bin "$target"
mkdir -p "../target/fuzz/corpus-$target"
echo "==> fuzzing $target for $seconds s; findings and the grown corpus are in target/fuzz" >&2
exec "../target/fuzz/$host/release/$target" "../target/fuzz/corpus-$target" "corpus/$target" -max_total_time="$seconds" \
    -artifact_prefix=../target/fuzz/ -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
