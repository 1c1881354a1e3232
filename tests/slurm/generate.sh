#!/usr/bin/env bash
# What sacct would print of so many finished jobs: 40 users in 20 accounts, four partitions, some with GPUs, some that
# failed, were cancelled or waited only. The same number gives the same lines.
# Usage: tests/slurm/generate.sh JOBS
set -euo pipefail
exec awk -v jobs="$1" 'BEGIN {
    print "JobIDRaw|Submit|Start|End|ElapsedRaw|State|Account|User|Partition|QOS|Cluster|Reservation|AllocTRES"
    split("main main main long gpu gpu-long main main", partitions, " ")
    split("COMPLETED COMPLETED COMPLETED FAILED COMPLETED TIMEOUT CANCELLED_by_1001 COMPLETED OUT_OF_MEMORY", states, " ")
    for (n = 1; n <= jobs; n++) {
        # A month from 2026-10-01 on, evenly.
        start = 1790812800 + int(n * 2500000 / jobs)
        elapsed = 60 + n * 7919 % 80000
        cpus = 1 + n * 31 % 64
        partition = partitions[1 + n % 8]
        state = states[1 + n % 9]
        gsub("_by_", " by ", state)
        user = n * 17 % 40
        tres = "billing=" cpus ",cpu=" cpus
        if (partition ~ /gpu/) tres = tres ",gres/gpu:a100=" (1 + n % 4) ",gres/gpu=" (1 + n % 4)
        tres = tres ",mem=" (1024 * cpus) "M,node=" (1 + int(cpus / 33))
        if (n % 97 == 0) {
            printf "%d|%d|None|%d|0|CANCELLED|acct%02d|user%02d|%s|normal|alpha||\n", n, start - 60, start, user % 20, user, partition
            continue
        }
        printf "%d|%d|%d|%d|%d|%s|acct%02d|user%02d|%s|normal|alpha||%s\n", n, start - 60, start, start + elapsed, elapsed, state, user % 20, user, partition, tres
    }
}'
