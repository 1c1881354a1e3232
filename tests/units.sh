#!/usr/bin/env bash
# What systemd itself thinks of the units: that they are right (systemd-analyze verify), and how well the services are
# shut in (systemd-analyze security). Then that both services are shut in alike.
# Usage: tests/units.sh [path of waldur-usage-agent]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
need systemd-analyze "It comes with systemd."
agent=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug/waldur-usage-agent}")
[ -x "$agent" ] || { echo "units.sh: $agent is not there; cargo build makes it" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/waldur-usage-agent.service.d" "$work/waldur-usage-agent-flush.service.d"
cp systemd/*.timer "$work"
cp systemd/directories.conf "$work/waldur-usage-agent.service.d"
cp systemd/directories.conf "$work/waldur-usage-agent-flush.service.d"
for unit in systemd/*.service; do
    # The binary need not be installed here.
    sed "s|^ExecStart=waldur-usage-agent|ExecStart=$agent|" "$unit" >"$work/$(basename "$unit")"
done

cd "$work"
for unit in *.service *.timer; do
    # An unknown key is an error, too, and what other units of this machine do wrong is none of ours.
    systemd-analyze verify --man=no --recursive-errors=no "./$unit"
    echo "$unit: right"
done
shut() { # unit, most exposure of 100, what is said of it
    if ! systemd-analyze security --offline=true --threshold="$2" "./$1" >"$1.security"; then
        grep -vE '^(✓|\+)' "$1.security" >&2
        exit 1
    fi
    grep 'Overall exposure level' "$1.security" | sed "s/^[^O]*//; s/\$/ ($3)/"
}
for unit in *.service; do
    # With what reading other people's directories takes: 2.0 is well within what systemd calls OK.
    shut "$unit" 20 "with directories.conf"
    rm -r "$unit.d"
    # And by itself.
    shut "$unit" 15 "by itself"
done

cd "$OLDPWD"
# From the user on, down to [Install], but for what only a daemon has: its memory, and the page's socket.
shut_in() { sed -n '/^DynamicUser=/,/^\[Install\]/p' "$1" | grep -vE '^(#.*|Environment=.*|RuntimeDirectory.*|\[.*|)$'; }
if ! diff <(shut_in systemd/waldur-usage-agent.service) <(shut_in systemd/waldur-usage-agent-flush.service); then
    echo "units.sh: the two services are not shut in alike" >&2
    exit 1
fi
