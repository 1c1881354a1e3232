//! The rest of the table of faults (tests/agent/table.rs): what happens to the machine that the agent runs on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::table::*;
use agent::*;

#[test]
fn a_directory_that_can_not_be_read() {
    let at = begin(&format!(
        "  homes:\n    plugin: filesystem\n    schedule: every 10s\n    directories: FOLDER/homes/*\n    resource: {A}\n    \
         meters: {{ storage_gb: {{ reading: directory_inodes, aggregate: last }} }}\n"
    ));
    let At { world, daemon, .. } = &at;
    world.in_time("the failure", || daemon.log().contains("Collector homes could not read all"));
    let status = world.agent(&["status"]).exits(69).says("Collector homes:").says("/homes");
    assert!(status.out.contains("none succeeded"), "{status:#?}");
    assert!(at.failures("homes") >= 1);
    let (homes, elsewhere) = (world.path("homes"), world.path("elsewhere"));
    for name in ["anna", "bert"] {
        std::fs::create_dir_all(homes.join(name)).unwrap();
    }
    world.in_time("it goes on", || daemon.log().contains("Collector homes works again."));
    world.in_time("the report", || world.rows(A) == ["storage_gb 2026-11 2.00"]);
    world.in_time("its end", || world.agent(&["status"]).code == 0);
    // A link to itself: nobody can read that, not even root. What was known stands.
    std::fs::rename(&homes, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&homes, &homes).unwrap();
    at.shows(&Seen {
        exit: 69,
        status: &["Collector homes:", "/homes", "since it last succeeded, 12:"],
        metrics: &["collector_failures_since_success{collector=\"homes\"} n", "pending_statements 0"],
        log: "Collector homes could not read all",
        ready: (200, "ready"),
    });
    assert_eq!(daemon.log().matches("Collector homes could not read all").count(), 2);
    assert!(at.failures("homes") >= 1);
    assert_eq!(world.rows(A), ["storage_gb 2026-11 2.00"]);
    std::fs::remove_file(&homes).unwrap();
    std::fs::rename(&elsewhere, &homes).unwrap();
    at.goes_on(&["storage_gb 2026-11 2.00"]);
    assert_eq!(daemon.log().matches("Collector homes works again.").count(), 2);
}

#[test]
fn a_disk_that_is_full() {
    let world = table_world(&cpu());
    let Some(disk) = disk::small_disk(&world, "a_disk_that_is_full") else { return };
    world.readings(&[hours("1", "5400")]);
    let at = start(world).reported();
    disk.fill();
    // 500 jobs of 3.6 s are half an hour, and more than what was left of the last page.
    let mut jobs: Vec<_> = (0..500).map(|id| hours(&format!("small-{id}"), "3.6")).collect();
    jobs.push(hours("1", "5400"));
    at.world.readings(&jobs);
    at.shows(&Seen {
        exit: 78,
        status: &[
            "Ledger: it can't be written since 12:",
            "no space left on the disk",
            "1 resource: 1 agreed.",
        ],
        metrics: &[
            "ledger_failing 1",
            "ledger_failing_reason{reason=\"full\"} 1",
            "ledger_free_bytes 0",
            "pending_statements 0",
        ],
        log: "no space left on the disk",
        ready: (503, "no space left on the disk"),
    });
    assert_eq!(at.world.rows(A), ["cpu_hours 2026-11 1.50"]);
    disk.make_room();
    at.world.in_time("it goes on", || at.world.rows(A) == ["cpu_hours 2026-11 2.00"]);
    at.world.in_time("it is ready", || at.get("/ready").0 == 200);
    at.world.in_time("the disk alone is told", || at.world.agent(&["status"]).code == 0);
    at.world.agent(&["status"]).says("Ledger: 0 MB are free on the disk of").says("1 resource: 1 agreed.");
}

/// A FUSE server that is stopped is the double of a dead NFS server.
#[test]
fn a_path_that_hangs() {
    let command = |name: &str| std::process::Command::new(name);
    if !command("bindfs").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip("a_path_that_hangs", "no bindfs");
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, dead) = (folder.path().join("source"), folder.path().join("dead"));
    std::fs::create_dir_all(source.join("anna")).unwrap();
    std::fs::create_dir_all(&dead).unwrap();
    let mut server = command("bindfs")
        .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
        .args([&source, &dead])
        .spawn()
        .unwrap();
    until("the mount", || {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dead.to_str().unwrap())
    });
    let signal = |name: &str| {
        let pid = server.id().to_string();
        assert!(command("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    };
    let at = begin(&format!(
        "{}  homes:\n    plugin: filesystem\n    schedule: every 10s\n    directories: {dead}/*\n    mounts: {dead}\n    \
         resource: {B}\n    meters: {{ storage_gb: {{ reading: directory_inodes, aggregate: last }} }}\n",
        cpu(),
        dead = dead.display()
    ))
    .reported();
    at.world.in_time("the directory", || at.world.rows(B) == ["storage_gb 2026-11 1.00"]);
    signal("STOP");
    let told = format!("collector homes: {} does not answer since 2026-11-10T", dead.display());
    at.world.in_time("health names the path", || at.get("/health").1.contains(&told));
    let metric = format!("collector_path_hangs{{collector=\"homes\",path=\"{}\"}} 1\n", dead.display());
    assert!(at.get("/metrics").1.contains(&metric));
    let shown = format!("Collector homes: {} does not answer since 2026-11-10 ", dead.display());
    assert!(get_from_socket(&at.world.path("page.sock"), "/").contains(&shown));
    at.world.in_time("status names the path", || {
        let out = at.world.agent(&["status"]).out;
        out.contains("Collector homes") && out.contains("does not answer")
    });
    // The other collector's usage is reported meanwhile, and what was known of this one stands.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.world.in_time("the others go on", || at.world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    assert_eq!(at.world.rows(B), ["storage_gb 2026-11 1.00"]);
    // A command beside the daemon ends as well, and has the others' usage reported.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600"), hours("3", "3600")]);
    at.world.agent(&["flush", "--collect", "--deadline", "20s"]).exits(69).says("does not answer");
    at.world.in_time("the third job", || at.world.rows(A) == ["cpu_hours 2026-11 3.50"]);
    signal("CONT");
    at.world.in_time("it answers again", || at.get("/health").1 == "ok\n");
    drop(at);
    assert!(command("umount").arg(&dead).status().unwrap().success());
    server.wait().unwrap();
}

#[test]
fn clocks_that_are_apart() {
    let at = begin(&cpu()).reported();
    // The server's clock jumps ahead by two minutes.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    let mut second = 0;
    until("the report", || {
        second += 2;
        at.world.sandbox_clock(&after("2026-11-10T12:10:00Z", second));
        at.world.agent_clock(&after("2026-11-10T12:08:00Z", second));
        pause(std::time::Duration::from_millis(100));
        at.world.rows(A) == ["cpu_hours 2026-11 2.50"]
    });
    let skew = || {
        let page = at.get("/metrics").1;
        let line =
            page.lines().find_map(|line| line.strip_prefix("waldur_usage_agent_waldur_clock_skew_seconds "));
        line.unwrap().parse::<f64>().unwrap()
    };
    assert!((115.0..=125.0).contains(&skew()), "{}", skew());
    until("status", || at.world.agent(&["status"]).out.contains("ahead of ours; synchronise them."));
    at.daemon.until_it_says("ahead of ours: synchronise them; at a month's end seconds decide.");
    assert_eq!(at.daemon.log().matches("synchronise them").count(), 1);
    assert_eq!(at.get("/ready").0, 200);
}

/// Both clocks are eight hours on at once, as after a sleep: the runs that did not take place are told, nothing that was used
/// is lost, and nothing is made up.
#[test]
fn a_clock_that_jumps() {
    let mut at = begin(&cpu()).reported();
    at.world.in_time("it is noted", || at.world.agent(&["status"]).code == 0);
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.world.seconds.set(8 * 3600);
    at.shows(&Seen {
        exit: 0,
        status: &["Collector source: missed 2,8", "runs between 12:", "1 resource: 1 agreed."],
        metrics: &[
            "collector_runs_missed_total{collector=\"source\"} n",
            "collector_failures_since_success{collector=\"source\"} 0",
            "pending_statements 0",
        ],
        log: "of its runs were missed since",
        ready: (200, "ready"),
    });
    assert!(at.daemon.log().contains("clock was set"), "{}", at.daemon.log());
    assert!(at.number("collector_runs_missed_total{collector=\"source\"}") >= 2_800);
    assert_eq!(at.world.rows(A), ["cpu_hours 2026-11 2.50"]);
    // By hand, or by cron, nothing is missed: `--all` tells when it was not looked.
    at.daemon.kill();
    at.world.agent(&["status"]).exits(0).says_not("missed");
    at.world.agent(&["status", "--all"]).exits(0).says("Collector source: missed 2,8");
}

#[test]
fn a_daemon_that_was_killed() {
    let mut at = begin(&cpu()).reported();
    // What was accepted is noted a moment later; until then it would be in doubt.
    at.world.in_time("it is noted", || at.world.agent(&["status"]).code == 0);
    at.daemon.kill();
    at.world.agent(&["status"]).exits(0).says("Daemon: none is running.").says("1 resource: 1 agreed.");
    at.comes_to_be_as_kept(None);
    at.world.now("2026-11-10T12:30:00Z");
    at.world.agent(&["status"]).exits(0).says("runs were due since, and no daemon is running");
    at.world.agent(&["recount"]).exits(0);
    // The next one tells what was missed, in its log, a metric and status; nothing that was recorded is lost.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    let next = at.world.daemon(&[], &[]);
    until("the next one", || next.log().matches("Health and metrics at http://").count() == 2);
    let log = next.log();
    let address =
        log.rsplit("Health and metrics at http://").next().unwrap().split('/').next().unwrap().to_owned();
    next.until_it_says("of its runs were missed since");
    until("the metric", || {
        let page = get(&address, "/metrics").1;
        let missed = page.lines().find_map(|line| {
            line.strip_prefix("waldur_usage_agent_collector_runs_missed_total{collector=\"source\"} ")
        });
        missed.unwrap().parse::<u64>().unwrap() > 0
    });
    // Once the run that found out is recorded.
    until("status", || at.world.agent(&["status", "--all"]).out.contains("Collector source: missed "));
    let second = std::cell::Cell::new(0);
    until("its report", || {
        second.set(second.get() + 2);
        at.world.now(&after("2026-11-10T12:30:00Z", second.get()));
        at.world.rows(A) == ["cpu_hours 2026-11 2.50"]
    });
}

#[test]
fn a_second_daemon_changes_nothing_of_what_is_told() {
    let at = begin(&cpu()).reported();
    let first = at.world.agent(&["status"]).exits(0).out;
    let second = at.world.agent(&["run"]).exits(78);
    let process = at.daemon.id().to_string();
    let second = second.says(&process);
    assert_eq!(second.out, "");
    let status = at.world.agent(&["status"]).exits(0);
    let of = |text: &str| text.lines().next().unwrap().to_owned();
    assert_eq!(of(&status.out), of(&first));
    status.says(&format!("Daemon: process {process}, since "));
    at.comes_to_be_as_kept(None);
    assert_eq!(at.get("/ready").0, 200);
}
