#!/usr/bin/env bash
# How small the agent is: the stripped binary, from start to ready, and resident memory when it has worked for a while
# (cgroup, filesystem and exec collectors and the submitter once a second against the sandbox: three minutes are the
# rounds of half a day). Prints a table; exit code 1 if a budget of the design is missed.
# Usage: benches/footprint.sh [seconds of work, default 180]
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset "${!WALDUR_@}"
seconds=${1:-180}
starts=20

cargo build --release --locked --bins
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d)
sandbox='' agent=''
clean_up() {
    for pid in $agent $sandbox; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

: >"$work/sandbox.out"
"$bin/waldur-sandbox" --listen 127.0.0.1:0 >"$work/sandbox.out" &
sandbox=$!
until grep -q '^listening on ' "$work/sandbox.out"; do
    kill -0 "$sandbox"
    sleep 0.05
done
url=$(sed -n 's/^listening on //p' "$work/sandbox.out")
# A port that was free a moment ago.
port=$((20000 + $$ % 20000))
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
mkdir "$work/homes"{,/alice,/bob}
echo sandbox-token >"$work/token"
cat >"$work/agent.yaml" <<YAML
waldur: { url: "$url", token_file: $work/token }
ledger: $work/ledger.db
listen: 127.0.0.1:$port
submit: { schedule: every 1s }
collectors:
  cgroup:
    plugin: cgroup
    slices: self
    schedule: every 1s
    resource: 5e2f0000-0000-4000-8000-000000000003
    meters:
      cpu_hours: { reading: cpu_seconds }
      ram_gb_hours: { reading: memory_bytes, aggregate: integral, factor: 1/1000000 }
  filesystem:
    plugin: filesystem
    directories: $work/homes/*
    schedule: every 1s
    resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: project-a }
    user: "{name}"
    meters:
      disk_gb_hours: { reading: directory_bytes, aggregate: integral, factor: 1/1000 }
  exec:
    plugin: exec
    command: [echo, '{"name":"gpu","kind":"gauge","value":3,"labels":{"user":"alice"}}']
    schedule: every 1s
    resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: project-b }
    user: "{user}"
    meters:
      gpu_hours: { reading: gpu, aggregate: integral }
YAML

# Ready is when /health can be asked: the port is bound last of all, right before systemd is told.
start() {
    local before=$EPOCHREALTIME
    "$bin/waldur-usage-agent" --config "$work/agent.yaml" --log warn run 2>>"$work/agent.log" &
    agent=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$agent" 2>/dev/null || { cat "$work/agent.log" >&2; exit 1; }
    done
    local after=$EPOCHREALTIME
    took=$((10#${after/./} - 10#${before/./}))
}
stop() {
    kill "$agent"
    wait "$agent"
    agent=
}

start
first=$took
stop
for _ in $(seq $starts); do
    start
    echo "$took"
    stop
done | sort -n >"$work/starts"
median=$(sed -n "$((starts / 2))p" "$work/starts")
slowest=$(tail -n 1 "$work/starts")

start
sleep "$seconds"
rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$agent/status")
peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$agent/status")
anonymous=$(awk '/^RssAnon/ { print $2 }' "/proc/$agent/status")
rounds=$( (exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n' >&3
    sed -n 's/^waldur_usage_agent_collector_runs_total //p' <&3))
stop
size=$(stat -c %s "$bin/waldur-usage-agent")

missed=0
line() { # what measured budget words
    local verdict=ok
    if [ "$2" -gt "$3" ]; then
        verdict=MISSED
        missed=1
    fi
    printf '%-28s %14s   %-18s %s\n' "$1" "$4" "$5" "$verdict"
}
ms() { printf '%d.%d ms' $(($1 / 1000)) $(($1 % 1000 / 100)); }
mb() { printf '%d.%02d MB' $(($1 / 1000000)) $(($1 % 1000000 / 10000)); }
echo
line "stripped binary" "$size" 20000000 "$(mb "$size")" "(at most 20 MB)"
line "start to ready, median of $starts" "$median" 10000 "$(ms "$median")" "(at most 10 ms)"
line "  the slowest" "$slowest" 999999999 "$(ms "$slowest")" ""
line "  with a new ledger" "$first" 999999999 "$(ms "$first")" ""
line "resident after ${rounds:-?} runs" "$((rss * 1024))" 16000000 "$(mb $((rss * 1024)))" "(at most 16 MB)"
line "  of it not shared" "$((anonymous * 1024))" 999999999 "$(mb $((anonymous * 1024)))" ""
line "  at its highest" "$((peak * 1024))" 999999999 "$(mb $((peak * 1024)))" ""
exit $missed
