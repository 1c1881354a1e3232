#!/usr/bin/env bash
# Alert rules and dashboard against Prometheus itself: the rules are valid, each fires when it should and not before
# (monitoring/alerts_test.yaml), and each expression of the dashboard is PromQL. A real server scrapes a real agent, all
# panels have data, and the alerts fire when the sandbox is stopped, and then the agent. tests/metrics.rs compares their
# names with what the program serves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
# shellcheck source=tests/wait_for.sh
. tests/wait_for.sh
need promtool "apt-get install prometheus"
need prometheus "apt-get install prometheus"
need curl "apt-get install curl"
need python3 "apt-get install python3"

promtool check rules monitoring/alerts.yaml
promtool test rules monitoring/alerts_test.yaml
work=$(mktemp -d)
sandbox='' agent='' server=''
clean_up() {
    for pid in $agent $sandbox $server; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
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

# The same rules in seconds instead of minutes and hours, so that a test sees them fire.
sed -E 's/for: [0-9]+[mh]/for: 1s/; s/\[(15m|30m|1h)\]/[20s]/g; s/> 21600/> 2/' monitoring/alerts.yaml >"$work/alerts.yaml"
cargo build --quiet --locked --bins
bin=$(realpath "${CARGO_TARGET_DIR:-target}/debug")
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
listen=127.0.0.1:$(port) prometheus=127.0.0.1:$(port)
"$bin/waldur-sandbox" --listen 127.0.0.1:0 >"$work/sandbox.log" &
sandbox=$!
wait_for "the sandbox listens" grep -q '^listening on ' "$work/sandbox.log"
echo sandbox-token >"$work/token"
cat >"$work/agent.yaml" <<YAML
waldur: { url: "$(sed -n 's/^listening on //p' "$work/sandbox.log")", token_file: $work/token }
ledger: $work/ledger.db
listen: $listen
submit: { schedule: every 1s }
collectors:
  load:
    plugin: exec
    # Grows with each look, so that there is always something to report.
    command: [sh, -c, 'date "+{\"name\":\"load\",\"kind\":\"gauge\",\"value\":%s}"']
    schedule: every 1s
    resource: 5e2f0000-0000-4000-8000-000000000001
    meters: { gpu_hours: { reading: load, aggregate: last, factor: 1/1000 } }
YAML
"$bin/waldur-usage-agent" --config "$work/agent.yaml" run >"$work/agent.log" 2>&1 &
agent=$!
cat >"$work/prometheus.yml" <<YAML
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [$work/alerts.yaml]
scrape_configs:
  - job_name: waldur-usage-agent
    static_configs: [{ targets: ["$listen"] }]
YAML
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address="$prometheus" \
    --log.level=warn >"$work/prometheus.log" 2>&1 &
server=$!
ask() { curl -sf --get "http://$prometheus/api/v1/query" --data-urlencode "query=$1"; }
holds() { ask "$1" | grep -q '"value"'; }
fires() { holds "ALERTS{alertname=\"$1\",alertstate=\"firing\"}"; }
wait_for "Prometheus scrapes the agent" holds 'waldur_usage_agent_amounts_reported_total > 2'
# Every panel that need not be empty has data.
python3 - "$prometheus" <<'PYTHON'
import json, sys, time, urllib.parse, urllib.request
dashboard = json.load(open("monitoring/dashboard.json"))
for panel in dashboard["panels"]:
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
        for _ in range(100):
            query = urllib.parse.urlencode({"query": expression})
            answer = json.load(urllib.request.urlopen(f"http://{sys.argv[1]}/api/v1/query?{query}"))
            if answer["data"]["result"]:
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"monitoring.sh: the panel {panel['title']} has no data: {expression}")
PYTHON
echo "ok: every panel of the dashboard has data"
for alert in WaldurUsageAgentDown WaldurUnreachable WaldurTokenRefused WaldurUsageHeld WaldurUsageReloadRefused; do
    ! fires "$alert" || fail "$alert fires although nothing is wrong"
done
echo "waldur: {}" >"$work/wrong.yaml"
cp "$work/agent.yaml" "$work/right.yaml"
cp "$work/wrong.yaml" "$work/agent.yaml"
kill -HUP "$agent"
wait_for "WaldurUsageReloadRefused fires after a mistake in the configuration" fires WaldurUsageReloadRefused
cp "$work/right.yaml" "$work/agent.yaml"
kill -HUP "$agent"
wait_for "and ends with it" holds 'waldur_usage_agent_config_last_reload_successful == 1'
kill "$sandbox"
wait "$sandbox" 2>/dev/null || true
sandbox=
wait_for "WaldurUnreachable fires when Waldur is gone" fires WaldurUnreachable
wait_for "WaldurUsageNotReported fires when nothing can be reported" fires WaldurUsageNotReported
kill "$agent"
wait "$agent" || fail "the agent did not end well"
agent=
wait_for "WaldurUsageAgentDown fires when the agent is gone" fires WaldurUsageAgentDown
