#!/usr/bin/env bash
# What a real SLURM's accounting says and what Waldur then holds. A cluster with slurmdbd on this machine runs jobs of
# several users and accounts: arrays, GPUs, cancelled, failed, requeued, suspended and running ones. The amounts that
# the agent brings to the sandbox agree with sreport's own and with an independent sum of sacct's raw output. Then what
# the operator reads when the database is down, hangs or hides jobs. Wants root, SLURM and MariaDB.
# Usage: tests/slurm.sh [folder of the binaries]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/need.sh
. tests/need.sh
packages="apt-get install slurmctld slurmd slurmdbd slurm-client munge mariadb-server"
PATH=$PATH:/usr/sbin
for command in slurmctld slurmd slurmdbd sacct munged mariadbd; do need "$command" "$packages"; done
need python3 "The sums to compare with are made in Python."
[ "$(id -u)" = 0 ] || left_out "root" "Try sudo $0."
bin=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug}")
[ -x "$bin/waldur-usage-agent" ] || { echo "slurm.sh: there is no agent in $bin; cargo build makes it" >&2; exit 1; }

unset "${!WALDUR_@}" "${!SLURM_@}" "${!SACCT_@}"
export LC_ALL=C TZ=UTC
lab=$(mktemp -d)
sandbox=
# shellcheck source=tests/slurm/cluster.sh
. tests/slurm/cluster.sh
clean_up() {
    local code=$?
    [ -z "$sandbox" ] || kill "$sandbox" 2>/dev/null || true
    cluster_stop
    rm -rf "$lab"
    exit $code
}
trap clean_up EXIT
trap 'exit 130' INT TERM
say() { printf '%4ds  %s\n' "$SECONDS" "$*"; }

cluster_start
say "slurm $(sacct --version | sed 's/.* //') is up"

# Users that every Debian has.
sacctmgr -i add qos high set UsageFactor=2.0 >/dev/null
sacctmgr -i add account top >/dev/null
for account in proj-a proj-b 3f2504e04f8911d39a0c0305e82c3301; do
    sacctmgr -i add account "$account" Parent=top >/dev/null
done
sacctmgr -i add account sub-a Parent=proj-a >/dev/null
sacctmgr -i add user games Account=proj-a,proj-b,3f2504e04f8911d39a0c0305e82c3301 DefaultAccount=proj-a >/dev/null
sacctmgr -i add user mail Account=proj-a,sub-a DefaultAccount=proj-a >/dev/null
sacctmgr -i add user news Account=proj-b DefaultAccount=proj-b >/dev/null
sacctmgr -i modify user games,mail,news set qos+=high >/dev/null

as() { # user, arguments of sbatch
    local user=$1
    shift
    runuser -u "$user" -- sbatch --parsable --chdir=/tmp --output=/dev/null "$@"
}
job() { as "$@" >/dev/null; }
job games -n4 --mem=2G --wrap 'sleep 6'
job mail --wrap 'sleep 2; exit 3'
job mail --wrap 'sleep 1; kill -SEGV $$'
job mail -A sub-a -n2 --wrap 'sleep 3'
job games -p gpu -n2 --mem=1500M --gres=gpu:a100:2 --wrap 'sleep 5'
job news -p gpu --gres=gpu:1 --wrap 'sleep 4'
job news -p gpu --gpus=v100:1 --wrap 'sleep 3'
job news --array=1-5%2 --wrap 'sleep 2; [ $SLURM_ARRAY_TASK_ID != 3 ]'
job games -A proj-b --qos=high -n8 --wrap 'sleep 3'
job games -A 3f2504e04f8911d39a0c0305e82c3301 -J 'we|rd "n"' --comment='a|b' --wrap 'sleep 3'
job mail -n2 --wrap 'srun -n1 sleep 1; srun -n2 --exact sleep 1'
cancelled=$(as games -n2 --wrap 'sleep 600')
by_root=$(as mail -n2 --wrap 'sleep 600')
never=$(as mail --hold -n2 --wrap 'sleep 600')
requeued=$(as news --requeue -n3 --wrap 'sleep 4')
suspended=$(as news --wrap 'sleep 8')
running=$(as games -n4 --mem-per-cpu=1G -p gpu --gres=gpu:v100:1 --wrap 'sleep 86000')
for job in "$cancelled" "$by_root" "$requeued" "$suspended" "$running"; do
    wait_for "job $job to run" 60 sh -c "squeue -h -t R -j $job -o %A | grep -q ."
done
sleep 2 # so that they have used something
runuser -u games -- scancel "$cancelled"
scancel "$by_root"
runuser -u mail -- scancel "$never"
scontrol requeue "$requeued"
scontrol suspend "$suspended"
sleep 3 # which is not to be billed
scontrol resume "$suspended"
# It would wait for two minutes otherwise.
wait_for "the requeued job to wait" 30 sh -c "squeue -h -t PD -j $requeued -o %A | grep -q ."
scontrol update "JobId=$requeued" StartTime=now
wait_for "all jobs but one to end" 120 sh -c "[ \"\$(squeue -h -r -o %A)\" = $running ]"
columns=JobIDRaw,Submit,Start,End,ElapsedRaw,State,Account,User,Partition,QOS,Cluster,Reservation,AllocTRES
raw() { # from, to
    SLURM_TIME_FORMAT=%s sacct --parsable2 --noconvert --duplicates --allocations --allusers --format=$columns \
        --starttime="$1" --endtime="$2"
}
now() { date +%Y-%m-%dT%H:%M:%S; }
wait_for "the database to know" 60 sh -c "sacct -n -X -j $suspended -o state | grep -q COMPLETED"
say "jobs ran: $(raw "$(date +%Y-%m-%dT00:00:00 -d '1 day ago')" "$(now)" | tail -n +2 | cut -d'|' -f6 | cut -d' ' -f1 | sort | uniq -c | awk '{ printf "%s%s %s", sep, $1, $2; sep = ", " }')"
for state in COMPLETED FAILED CANCELLED REQUEUED RUNNING; do
    raw "$(date +%Y-%m-%dT00:00:00 -d '1 day ago')" "$(now)" | grep -q "|$state" || { echo "slurm.sh: no job is $state" >&2; exit 1; }
done

offering=91ab0000-0000-4000-8000-000000000001
cat >"$lab/marketplace.yaml" <<YAML
tokens: [{ token: sandbox-token, username: provider, offerings: ["*"] }]
offerings:
  - uuid: $offering
    name: Cluster
    components:
$(for component in cpu mem node billing gpu a100; do echo "      - { type: $component, measured_unit: s, billing_type: usage }"; done)
    users: [games, mail, news]
resources:
$(n=0; for id in proj-a proj-b sub-a 3f2504e04f8911d39a0c0305e82c3301; do
    n=$((n + 1))
    echo "  - { uuid: 5e2f0000-0000-4000-8000-00000000000$n, name: $id, backend_id: $id, offering: Cluster }"
done)
YAML
echo sandbox-token >"$lab/token"
agent() { "$bin/waldur-usage-agent" --config "$lab/agent.yaml" "$@"; }
configure() { # name of the ledger, more keys of the collector, the label that is the backend id
    cat >"$lab/agent.yaml" <<YAML
waldur: { url: "$url", token_file: $lab/token }
ledger: $lab/$1.db
collectors:
  cluster:
    plugin: slurm
    schedule: "*/10 * * * *"
    resource: { offering: $offering, backend_id: "{${3:-account}}" }
    user: "{user}"
    meters:
      cpu: { reading: cpu_seconds }
      mem: { reading: memory_byte_seconds, factor: 1/1048576 }
      node: { reading: node_seconds }
      billing: { reading: billing_seconds }
      gpu: { reading: gpu_seconds }
      a100: { reading: "gpu:a100_seconds" }
${2:-}
YAML
}
stop_sandbox() {
    [ -n "$sandbox" ] || return 0
    kill "$sandbox" 2>/dev/null || true
    wait "$sandbox" 2>/dev/null || true
    sandbox=
}
start_sandbox() { # more arguments
    stop_sandbox
    : >"$lab/sandbox.out"
    "$bin/waldur-sandbox" --marketplace "$lab/marketplace.yaml" --listen 127.0.0.1:0 "$@" >"$lab/sandbox.out" 2>"$lab/log/sandbox" &
    sandbox=$!
    wait_for "the sandbox" 10 grep -q '^listening on ' "$lab/sandbox.out"
    url=$(sed -n 's/^listening on //p' "$lab/sandbox.out")
}
state() { python3 -c "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen('$url/sandbox/state').read())" >"$lab/state.json"; }
refuse() { echo "slurm.sh: $1" >&2; [ -z "${2:-}" ] || cat "$2" >&2; exit 1; }

# 1. As it is now, with one job still running: a look while it runs, another when it has ended. Both are compared with a
#    sum of the raw records; the clock stands still, so that the running job's time is the one that both looked at.
start_sandbox
configure now
month=$(date +%Y-%m)
agent flush --collect --deadline 60s >"$lab/flush" 2>&1 || refuse "the agent could not report" "$lab/flush"
agent collect --json >"$lab/running.json"
python3 - "$lab/running.json" "$running" <<'PY'
import json, sys
readings = {r["name"]: r for r in json.load(open(sys.argv[1]))["collectors"][0]["readings"] if f"/{sys.argv[2]}/" in r["id"]}
assert readings["cpu_seconds"]["labels"]["state"] == "RUNNING", readings
seconds = int(readings["node_seconds"]["value"])
assert seconds > 0 and {name: int(r["value"]) for name, r in readings.items()} == {
    "cpu_seconds": 4 * seconds, "node_seconds": seconds, "gpu_seconds": seconds,
    "memory_byte_seconds": 4 * 2**30 * seconds, "billing_seconds": 15 * seconds,
}, readings
PY
scancel "$running"
wait_for "the last job to end" 60 sh -c "[ -z \"\$(squeue -h)\" ]"
wait_for "the database to know that it has" 60 sh -c "sacct -n -X -j $running -o state | grep -q CANCELLED"
agent flush --collect --deadline 60s >"$lab/flush" 2>&1 || refuse "the agent could not report" "$lab/flush"
state
first=$(date -d "$month-01" +%s)
last=$(date -d "$month-01 +1 month" +%s)
raw "$(date -d "$month-01" +%Y-%m-%dT00:00:00)" "$(now)" >"$lab/raw"
python3 tests/slurm/oracle.py sums "$(date +%s)" "$first" "$last" <"$lab/raw" |
    python3 tests/slurm/agree.py "$lab/state.json" "$month" oracle
agent recount >/dev/null || refuse "a recount differs"
say "what runs and what ran is billed"

# 2. A month that is over, and that sreport has summed up: copies of the jobs, on the tenth of last month. Agent and
#    sandbox live on the fifteenth of it.
tenth=$(date -d "$(date +%Y-%m-01) -1 month +9 days" +%s)
cluster_history $((($(date +%s) - tenth) / 86400 * 86400))
month=$(date -d "@$tenth" +%Y-%m)
start_sandbox --now "$month-15T12:00:00Z"
configure history
export WALDUR_USAGE_AGENT_CLOCK_FILE=$lab/clock
echo "$month-15T12:00:00Z" >"$lab/clock"
agent flush --collect --deadline 60s >"$lab/flush" 2>&1 || refuse "the agent could not report" "$lab/flush"
state
sreport -t Seconds -P -n cluster AccountUtilizationByUser --tres=cpu,mem,node,billing,gres/gpu,gres/gpu:a100 \
    start="$month-01" end="$month-15" >"$lab/sreport"
raw "$month-01T00:00:00" "$month-15T12:00:00" >"$lab/raw"
python3 tests/slurm/oracle.py suspended <"$lab/raw" >"$lab/suspended"
python3 tests/slurm/agree.py "$lab/state.json" "$month" sreport "$lab/suspended" <"$lab/sreport"
first=$(date -d "$month-01" +%s)
python3 tests/slurm/oracle.py sums "$(date +%s)" "$first" "$last" <"$lab/raw" |
    python3 tests/slurm/agree.py "$lab/state.json" "$month" oracle

# The same month once more changes nothing, and a sub-account goes to the account above it when that is asked for.
agent collect --since "$month-01T00:00:00Z" >"$lab/again"
grep -q ': 0 were new, 0 were corrected' "$lab/again" || refuse "reading the month again changed something" "$lab/again"
configure top "    account_level: 2" top_account
agent collect --json >"$lab/top.json"
python3 - "$lab/top.json" <<'PY'
import json, sys
readings = json.load(open(sys.argv[1]))["collectors"][0]["readings"]
tops = {(r["labels"]["account"], r["labels"]["top_account"]) for r in readings}
uuid = "3f2504e04f8911d39a0c0305e82c3301"
assert tops == {("proj-a", "proj-a"), ("sub-a", "proj-a"), ("proj-b", "proj-b"), (uuid, uuid)}, tops
PY
say "a month's sums are sreport's"
unset WALDUR_USAGE_AGENT_CLOCK_FILE

# 3. What the operator reads when it does not work.
fails() { # what it must say
    agent collect --json >"$lab/failed" 2>&1 && refuse "it did not fail" "$lab/failed"
    grep -qF -- "$1" "$lab/failed" || refuse "it does not say: $1" "$lab/failed"
}
configure trouble '    clusters: [alpha, nosuch]'
fails 'slurmdbd has no cluster `nosuch`; it has alpha. Correct `clusters`'
configure trouble '    clusters: [alpha]'
agent collect >/dev/null
configure trouble '    timeout: 2s'
kill -STOP "$(cat "$lab/pids/slurmdbd")"
fails '`sacct`: it did not end within 2s and was stopped; see whether slurmdbd answers'
kill -CONT "$(cat "$lab/pids/slurmdbd")"
configure trouble
stop slurmdbd
fails 'Problem talking to the database: Connection refused'
say "failures are told in the database's own words"

# 4. A database that hides others' jobs from those who are no operators.
slurmdbd_conf PrivateData=jobs
start_slurmdbd
install -d -o mail "$lab/private"
configure private/ledger
# A place that another user can reach.
install -m 755 "$bin/waldur-usage-agent" "$lab/agent"
as_mail() { setpriv --reuid mail --regid mail --clear-groups "$lab/agent" --config "$lab/agent.yaml" collect --dry-run --json >"$lab/private.json"; }
users() { python3 -c 'import json, sys; c = json.load(sys.stdin)["collectors"][0]; print(*sorted({r["labels"]["user"] for r in c["readings"]}), *c["notes"])' <"$lab/private.json"; }
as_mail
case $(users) in
    "mail slurmdbd keeps jobs private (PrivateData=jobs), and the user mail is no operator"*) ;;
    *) refuse "it does not notice that jobs are hidden: $(users)" ;;
esac
sacctmgr -i modify user mail set adminlevel=operator >/dev/null
as_mail
[ "$(users)" = "games mail news" ] || refuse "an operator does not see all: $(users)"
say "a database that hides jobs is noticed"
