#!/usr/bin/env bash
# Takes all figures of docs/performance.md again: what cycles, SLURM, the ledger and a host cost, at several sizes, and how
# small the release is. It takes long (10,000 resources are 50,000 calls), and wants a machine that does nothing else.
# Usage: benches/all.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset "${!WALDUR_@}"

for bench in collectors ledger slurm cycle; do
    printf '\n== %s\n' "$bench"
    cargo bench --locked --bench "$bench"
done
printf '\n== cycle of 10,000 resources\n'
cargo bench --locked --bench cycle -- 10000 3 10 8
printf '\n== footprint\n'
benches/footprint.sh
