#!/usr/bin/env bash
# run.sh SECONDS [TARGET…]: runs each fuzz target that long, two side by side, from its kept corpus.
#
# What a run finds on the way goes to target/fuzz/corpus; what is worth keeping is copied to tests/fuzz/corpus by hand.
# An input that breaks a target is left in target/fuzz/broken, and the run fails. README beside this file says how to go on.
set -euo pipefail
seconds=${1:?run.sh SECONDS [TARGET…]}
shift
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
targets=("$@")
if [ "${#targets[@]}" = 0 ]; then
    for source in "$here"/fuzz_targets/*.rs; do targets+=("$(basename "$source" .rs)"); done
fi
export RUSTC_WORKSPACE_WRAPPER=$here/instrumented-rustc
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
cargo build -j2 --quiet --package keyhatch-fuzz "${bins[@]}"
built=${CARGO_TARGET_DIR:-target}/debug
mkdir -p target/fuzz/broken target/fuzz/log

fuzz() {
    local target=$1 found=target/fuzz/corpus/$1 kept=tests/fuzz/corpus/$1
    mkdir -p "$found"
    local corpora=("$found")
    [ ! -d "$kept" ] || corpora+=("$kept")
    if "$built/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="target/fuzz/broken/$target-" \
        -print_final_stats=1 "${corpora[@]}" >"target/fuzz/log/$target" 2>&1; then
        echo "fuzz $target: $(grep -o 'number_of_executed_units: .*' "target/fuzz/log/$target" | grep -o '[0-9]*') inputs"
    else
        tail -n 40 "target/fuzz/log/$target" >&2
        echo "fuzz $target: broken; the input is in target/fuzz/broken" >&2
        return 1
    fi
}
failed=0
running=()
for target in "${targets[@]}"; do
    fuzz "$target" &
    running+=($!)
    if [ "${#running[@]}" = 2 ]; then
        for job in "${running[@]}"; do wait "$job" || failed=1; done
        running=()
    fi
done
for job in "${running[@]}"; do wait "$job" || failed=1; done
exit "$failed"
