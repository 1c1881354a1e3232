#!/usr/bin/env bash
# The units under a real systemd: this machine's own, booted in a container whose /etc and /var are empty and gone
# afterwards. Ready, the passing user, the token as a credential, reload, "report now", directories of others, the
# watchdog, the one-shot service, a clean stop. Wants root and systemd-nspawn (apt: systemd-container, dbus).
# Usage: tests/systemd.sh [directory of the binaries]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
need systemd-nspawn "apt-get install systemd-container dbus"
need dbus-daemon "apt-get install dbus"
need nsenter "It comes with util-linux."
[ "$(id -u)" = 0 ] || left_out "root" "Try sudo $0."
bin=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug}")

work=$(mktemp -d)
nspawn=
alive() { [ -e "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }
clean_up() {
    if [ -n "$nspawn" ]; then
        kill -TERM "$nspawn" 2>/dev/null || true
        for _ in {1..150}; do
            alive "$nspawn" || break
            sleep 0.1
        done
        kill -KILL "$nspawn" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

mkdir "$work/opt" "$work/etc" "$work/units"
cp "$bin/waldur-usage-agent" "$bin/waldur-sandbox" "$work/opt"
echo sandbox-token >"$work/etc/token"
chmod 0600 "$work/etc/token"
chmod 0755 "$work" "$work/opt" "$work/etc"
cat >"$work/etc/agent.yaml" <<'YAML'
waldur: { url: "http://127.0.0.1:8099" }
collectors:
  seven:
    plugin: exec
    command: [echo, '{"name":"seven","kind":"gauge","value":7}']
    schedule: every 1h
    resource: 5e2f0000-0000-4000-8000-000000000001
    meters: { gpu_hours: { reading: seven, aggregate: last } }
  homes:
    plugin: filesystem
    directories: /home/*
    schedule: every 1h
    resource: 5e2f0000-0000-4000-8000-000000000001
    user: "{name}"
    meters: { disk_gb_hours: { reading: directory_apparent_bytes, aggregate: last } }
  cpu:
    plugin: cgroup
    slices: self
    schedule: every 1h
    resource: 5e2f0000-0000-4000-8000-000000000002
    meters: { cpu_hours: { reading: cpu_seconds } }
YAML
for unit in systemd/*.service; do
    sed 's|^ExecStart=waldur-usage-agent|ExecStart=/opt/agent/waldur-usage-agent|' "$unit" >"$work/units/$(basename "$unit")"
done
# Its own target: /etc is empty there, and basic.target would start every socket that this machine happens to have.
printf '[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\n' >"$work/units/agenttest.target"
binds=()
for unit in "$work"/units/*; do binds+=("--bind-ro=$unit:/etc/systemd/system/$(basename "$unit")"); done
setsid systemd-nspawn -D / --volatile=yes --register=no --keep-unit --console=pipe --machine="agenttest$$" \
    --private-network --bind-ro="$work/opt:/opt/agent" --bind-ro="$work/etc:/etc/waldur-usage-agent" "${binds[@]}" \
    -b systemd.unit=agenttest.target systemd.mask=systemd-firstboot.service >"$work/nspawn.log" 2>&1 </dev/null &
nspawn=$!

leader=
inside() { nsenter -t "$leader" -a "$@"; }
up=
for _ in {1..600}; do
    alive "$nspawn" || break
    leader=$(awk '{ print $1; exit }' "/proc/$nspawn/task/$nspawn/children" 2>/dev/null || true)
    if [ -n "$leader" ]; then
        state=$(inside systemctl is-system-running 2>/dev/null || true)
        case $state in running | degraded) up=yes && break ;; esac
    fi
    sleep 0.1
done
if [ -z "$up" ]; then
    cat "$work/nspawn.log" >&2
    # Some machines (containers without the right to mount) can't; that is not the units' fault.
    left_out "a systemd that boots in a container" "Its words are above."
fi

fail() {
    echo "systemd.sh: $1" >&2
    inside journalctl --no-pager -n 60 >&2 || true
    exit 1
}
property() { inside systemctl show --property="$1" --value "${2:-waldur-usage-agent.service}"; }
expect() { # what we look at, what it is, what it should be
    # shellcheck disable=SC2053 # the right side is a pattern
    [[ $2 == $3 ]] || fail "$1 is \`$2\` and should be \`$3\`"
    echo "ok: $1: $2"
}
state() {
    inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/8099
        printf "GET /sandbox/state HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n" >&3; cat <&3'
}
wait_for() { # what, a command that tells it, a pattern
    local seen=
    for _ in {1..150}; do
        seen=$("${@:3}" 2>/dev/null | tr -d ' \n' || true)
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $seen == $2 ]] && echo "ok: $1" && return
        sleep 0.1
    done
    fail "$1: waited in vain, in the end for this to change: $seen"
}
capabilities() { inside sed -n 's/^CapEff:[[:space:]]*//p' "/proc/$pid/status"; }
drop_in() { # service, name; the content comes on stdin
    inside mkdir -p "/run/systemd/system/$1.service.d"
    inside tee "/run/systemd/system/$1.service.d/$2" >/dev/null
    inside systemctl daemon-reload
}

inside systemd-run --quiet --unit=sandbox /opt/agent/waldur-sandbox
wait_for "the sandbox answers" '*"resources"*' state
inside install -d -m 0700 -o 12345 /home/alice
inside bash -c 'head -c 3000 /dev/zero >/home/alice/file; chown 12345 /home/alice/file; chmod 0600 /home/alice/file'

inside systemctl start waldur-usage-agent.service || fail "it does not start"
expect "state" "$(property ActiveState)" active
expect "status" "$(property StatusText)" "3 collectors; reporting to http://127.0.0.1:8099/api/"
pid=$(property MainPID)
# The users that DynamicUser makes are 61184 to 65519; this container's /etc can't name them.
expect "user" "$(inside stat -c %u "/proc/$pid")" "6[1-5]???"
expect "capabilities" "$(capabilities)" 0000000000000000
expect "ledger" "$(inside stat -L -c '%u %a' /var/lib/waldur-usage-agent/ledger.db)" "6[1-5]??? 600"
# By hand, as the unit says; root must not leave anything behind that the service can't open.
inside env CREDENTIALS_DIRECTORY=/etc/waldur-usage-agent /opt/agent/waldur-usage-agent flush >/dev/null ||
    fail "root can't report by hand"
expect "lock" "$(inside stat -L -c '%u %a' /var/lib/waldur-usage-agent/ledger.db.lock)" "6[1-5]??? 600"
inside systemctl kill --signal=USR1 waldur-usage-agent.service
wait_for "SIGUSR1 reports" '*"usage":"7.00"*' state
[[ $(state) != *'"disk_gb_hours": "'* ]] || fail "a directory of others was measured without the right to"
echo "ok: a directory of others is not measured without the right to"
of_homes() { inside journalctl --no-pager -o json -u waldur-usage-agent.service COLLECTOR=homes PRIORITY=4; }
wait_for "the journal finds a line of the unit by what it is about" '*"MESSAGE":"Collectorhomes*' of_homes

inside systemctl reload waldur-usage-agent.service || fail "it does not reload"
# It says itself when it is done, which is after the command that asked for it.
wait_for "it is active after the reload" active property ActiveState
expect "process after the reload" "$(property MainPID)" "$pid"

drop_in waldur-usage-agent directories.conf <systemd/directories.conf
drop_in waldur-usage-agent-flush directories.conf <systemd/directories.conf
inside systemctl restart waldur-usage-agent.service || fail "it does not start with directories.conf"
pid=$(property MainPID)
# 1 << 2 is CAP_DAC_READ_SEARCH.
expect "capabilities" "$(capabilities)" 0000000000000004
sleep 1
inside systemctl kill --signal=USR1 waldur-usage-agent.service
wait_for "with directories.conf a directory of others is measured" '*"disk_gb_hours":"3000.00"*' state

inside systemctl stop waldur-usage-agent.service
expect "result of stopping" "$(property Result)" success
expect "state after stopping" "$(property ActiveState)" inactive
inside systemctl start waldur-usage-agent-flush.service || fail "the one-shot service failed"
expect "result of the one-shot service" "$(property Result waldur-usage-agent-flush.service)" success

drop_in waldur-usage-agent watchdog.conf <<<$'[Service]\nWatchdogSec=5\nRestartSec=0'
inside systemctl start waldur-usage-agent.service || fail "it does not start with a short watchdog"
pid=$(property MainPID)
inside kill -STOP "$pid"
wait_for "a process that hangs is ended and started again" "1" property NRestarts
expect "process after the watchdog" "$([ "$(property MainPID)" != "$pid" ] && echo another)" another
wait_for "and it is ready again" active property ActiveState
inside systemctl stop waldur-usage-agent.service
expect "result of stopping" "$(property Result)" success
