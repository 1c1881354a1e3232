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
# Of 100: 20 is an exposure of 2.0, and "OK" begins at 4.9. With the drop-in that may read all directories.
for unit in *.service; do
    if ! systemd-analyze security --offline=true --no-pager --threshold=20 "./$unit" >"$unit.security"; then
        cat "$unit.security" >&2
        exit 1
    fi
    grep 'Overall exposure level' "$unit.security" | sed 's/^[^O]*//'
done

cd "$OLDPWD"
# From the user on, down to [Install], but for what only a daemon has.
shut_in() { sed -n '/^DynamicUser=/,/^\[Install\]/p' "$1" | grep -vE '^(#.*|Environment=.*|\[.*|)$'; }
if ! diff <(shut_in systemd/waldur-usage-agent.service) <(shut_in systemd/waldur-usage-agent-flush.service); then
    echo "units.sh: the two services are not shut in alike" >&2
    exit 1
fi
