# Sourced by tests/slurm.sh: a private SLURM on this machine, with everything in the folder $lab: munge, MariaDB,
# slurmdbd, slurmctld and one slurmd that says it has 32 processors and six GPUs. It touches no configuration of the
# system's and stops what it started by its pid.
# shellcheck shell=bash
# shellcheck disable=SC2154 # lab is set by whoever sources this

wait_for() { # what, seconds, command
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until timeout 5 "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            echo "slurm.sh: waited in vain for $what" >&2
            tail -n 5 "$lab"/log/* >&2 || true
            return 1
        fi
        sleep 0.1
    done
}

background() { # name, user, command
    local name=$1 user=$2
    shift 2
    setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups "$@" >>"$lab/log/$name.out" 2>&1 &
    echo $! >"$lab/pids/$name"
}

# A zombie is none: the first process of a container may leave them for seconds.
alive() { [ -e "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

stop() { # names
    local name pid
    for name in "$@"; do
        [ -s "$lab/pids/$name" ] || continue
        pid=$(cat "$lab/pids/$name")
        rm -f "$lab/pids/$name"
        kill -CONT "$pid" 2>/dev/null || true
        kill -TERM "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do
            alive "$pid" || break
            sleep 0.1
        done
        ! alive "$pid" || kill -KILL "$pid"
    done
}

sql() { mariadb --no-defaults -u root -S "$lab/mysql-socket/s" slurm_acct_db -N -e "$1"; }

slurmdbd_conf() { # another line, or ''
    cat >"$lab/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$lab/munge/socket
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=slurm
DebugLevel=info
LogFile=$lab/log/slurmdbd.log
PidFile=$lab/dbd/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$port
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
$1
CONF
    chown slurm:slurm "$lab/slurmdbd.conf"
    chmod 600 "$lab/slurmdbd.conf"
}

start_slurmdbd() {
    background slurmdbd slurm slurmdbd -D
    wait_for slurmdbd 60 sacctmgr -n list cluster
}

cluster_start() {
    # Six ports in a row that were free a moment ago.
    port=$((20000 + $$ % 20000))
    local host
    host=$(hostname -s)
    mkdir -p "$lab"/{pids,log,mysql,mysql-socket,munge,dbd,state,spool}
    chmod 755 "$lab" "$lab/spool"

    head -c 1024 /dev/urandom >"$lab/munge/key"
    chown -R munge:munge "$lab/munge"
    chmod 400 "$lab/munge/key"
    chmod 755 "$lab/munge"
    background munged munge munged --foreground --key-file="$lab/munge/key" --socket="$lab/munge/socket" \
        --pid-file="$lab/munge/pid" --log-file="$lab/munge/log" --seed-file="$lab/munge/seed"

    chown mysql:mysql "$lab/mysql" "$lab/mysql-socket"
    mariadb-install-db --no-defaults --user=mysql --datadir="$lab/mysql" --skip-test-db \
        --auth-root-authentication-method=normal >"$lab/log/install-db.out" 2>&1
    background mariadbd mysql mariadbd --no-defaults --datadir="$lab/mysql" --socket="$lab/mysql-socket/s" \
        --bind-address=127.0.0.1 --port="$port" --innodb-buffer-pool-size=128M --innodb-log-file-size=48M \
        --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --skip-log-bin \
        --pid-file="$lab/mysql-socket/pid"
    wait_for munged 10 munge -S "$lab/munge/socket" -n
    wait_for mariadbd 60 mariadb-admin --no-defaults -u root -S "$lab/mysql-socket/s" ping
    mariadb --no-defaults -u root -S "$lab/mysql-socket/s" -e "
        CREATE DATABASE slurm_acct_db;
        CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
        CREATE USER slurm@localhost IDENTIFIED BY 'slurm';
        GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1', slurm@localhost;"

    # slurmdbd looks for its configuration beside slurm.conf.
    export SLURM_CONF=$lab/slurm.conf
    slurmdbd_conf ''
    # AccountingStoragePass is, with munge, the socket for the connection to slurmdbd; AuthInfo is not used there.
    cat >"$lab/slurm.conf" <<CONF
ClusterName=alpha
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((port + 2))
AuthType=auth/munge
AuthInfo=socket=$lab/munge/socket
CryptoType=crypto/munge
SlurmUser=slurm
SlurmdUser=root
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool/%n
SlurmctldPidFile=$lab/state/slurmctld.pid
SlurmdPidFile=$lab/spool/slurmd.pid
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmdLogFile=$lab/log/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$lab/munge/socket
AccountingStorageTRES=gres/gpu,gres/gpu:a100,gres/gpu:v100
AccountingStorageEnforce=associations
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobRequeue=1
PriorityType=priority/multifactor
InactiveLimit=0
KillWait=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 3)) CPUs=32 Boards=1 SocketsPerBoard=2 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=262144 Gres=gpu:a100:4,gpu:v100:2 State=UNKNOWN
PartitionName=main Nodes=n1 Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n1 MaxTime=INFINITE State=UP TRESBillingWeights="CPU=1.0,Mem=0.25G,GRES/gpu=10.0"
CONF
    # Any device will do for a GPU that nobody computes on.
    {
        echo AutoDetect=off
        for device in null zero full random; do echo "NodeName=n1 Name=gpu Type=a100 File=/dev/$device"; done
        for device in urandom tty; do echo "NodeName=n1 Name=gpu Type=v100 File=/dev/$device"; done
    } >"$lab/gres.conf"
    echo CgroupPlugin=cgroup/v1 >"$lab/cgroup.conf"
    chown -R slurm:slurm "$lab/state" "$lab/dbd" "$lab/log"
    start_slurmdbd
    sacctmgr -i add cluster alpha >/dev/null
    background slurmctld slurm slurmctld -D -i
    background slurmd root slurmd -D -N n1
    wait_for "the node" 60 sh -c 'sinfo -h -o %t | grep -qE "idle|mix"'
}

# Copies every finished job back in time by so many seconds, suspensions too, and has slurmdbd sum up the hours since:
# sreport speaks of whole hours that are summed up, never of the one that runs.
cluster_history() { # seconds
    local shift=$1 columns first pid
    columns=$(sql "SELECT group_concat(concat('\`', column_name, '\`')) FROM information_schema.columns
        WHERE table_schema = 'slurm_acct_db' AND table_name = 'alpha_job_table' AND column_name NOT IN
            ('job_db_inx', 'id_job', 'id_array_job', 'time_submit', 'time_eligible', 'time_start', 'time_end', 'mod_time')")
    sql "INSERT INTO alpha_job_table
            ($columns, id_job, id_array_job, time_submit, time_eligible, time_start, time_end, mod_time)
        SELECT $columns, id_job + 100000, IF(id_array_job, id_array_job + 100000, 0), time_submit - $shift,
            time_eligible - $shift, time_start - $shift, time_end - $shift, mod_time - $shift
        FROM alpha_job_table WHERE id_job < 100000 AND time_start > 0 AND time_end > 0;
        INSERT INTO alpha_suspend_table (job_db_inx, id_assoc, time_start, time_end)
        SELECT copy.job_db_inx, suspended.id_assoc, suspended.time_start - $shift, suspended.time_end - $shift
        FROM alpha_suspend_table suspended JOIN alpha_job_table job USING (job_db_inx)
        JOIN alpha_job_table copy ON copy.id_job = job.id_job + 100000 AND copy.time_submit = job.time_submit - $shift"
    first=$(sql "SELECT min(time_submit) DIV 3600 * 3600 FROM alpha_job_table")
    sql "UPDATE alpha_event_table SET time_start = $first WHERE node_name = '';
        DELETE FROM alpha_last_ran_table;
        INSERT INTO alpha_last_ran_table VALUES ($first, $first, $first)"
    stop slurmdbd
    start_slurmdbd
    wait_for "the hours' sums" 60 sh -c \
        "[ \"\$(mariadb --no-defaults -u root -S '$lab/mysql-socket/s' slurm_acct_db -N -e 'SELECT hourly_rollup FROM alpha_last_ran_table')\" -ge $(($(date +%s) / 3600 * 3600)) ]"
}

cluster_stop() {
    # Jobs first: their processes survive slurmd.
    if [ -s "$lab/pids/slurmctld" ]; then
        squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel 2>/dev/null || true
        for _ in $(seq 50); do
            [ -n "$(squeue -h -t R,CG 2>/dev/null)" ] || break
            sleep 0.1
        done
    fi
    stop slurmd slurmctld slurmdbd mariadbd munged
}
