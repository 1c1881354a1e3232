#!/usr/bin/env bash
# All tests again and again beside a load on every processor, as on a machine that others use: what passes once may still
# fail one time in ten. It stops at the first failure, says which run it was, and leaves what that said.
# Usage: tests/again.sh [how often, 10 if left out]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
times=${1:-10}
log=${CARGO_TARGET_DIR:-target}/again.log

load=()
clean_up() { for pid in "${load[@]}"; do kill "$pid" 2>/dev/null || true; done; }
trap clean_up EXIT
trap 'exit 130' INT TERM
mkdir -p "$(dirname "$log")"
for ((processor = 0; processor < $(nproc); processor++)); do
    while :; do :; done &
    load+=("$!")
done

for ((run = 1; run <= times; run++)); do
    began=$SECONDS
    if ! ./test >"$log" 2>&1 </dev/null; then
        grep -E '^test .* FAILED$|^\S+\.sh: |panicked at' "$log" || tail -n 40 "$log"
        echo "again.sh: run $run of $times failed after $((SECONDS - began)) s; all that it said is in $log" >&2
        exit 1
    fi
    echo "again.sh: run $run of $times passed in $((SECONDS - began)) s"
    # What was left out is left out each time.
    sed -n '/Left out for what is missing/,$p' "$log"
done
