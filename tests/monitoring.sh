#!/usr/bin/env bash
# Alert rules and dashboard against Prometheus' own tool: the rules are valid, each fires when it should and not before
# (monitoring/alerts_test.yaml), and each expression of the dashboard is PromQL. tests/metrics.rs compares their names with
# what the program serves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
need promtool "apt-get install prometheus"
need python3 "apt-get install python3"

promtool check rules monitoring/alerts.yaml
promtool test rules monitoring/alerts_test.yaml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# An expression of the dashboard as a rule of its own: promtool parses no others by themselves.
python3 - >"$work/dashboard.yaml" <<'PYTHON'
import json
dashboard = json.load(open("monitoring/dashboard.json"))
rules = []
for panel in dashboard["panels"]:
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
        rules.append({"record": f"panel:{panel['id']}:{target['refId']}", "expr": expression})
assert len(rules) >= 10
print(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
PYTHON
promtool check rules "$work/dashboard.yaml"
