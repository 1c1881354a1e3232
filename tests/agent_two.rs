//! More than one hand: two daemons, a `flush` beside a stopped one, a call that lands late, a machine that was paused or
//! set back, a plan switched while a report was on its way. Whoever comes last by the clock, the newest amounts stand.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::collections::BTreeSet;
use std::process::Stdio;

use agent::*;
use serde_json::{Value, json};

/// Another hour, used up on the 9th.
fn hours(id: &str, seconds: &str) -> Value {
    job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", seconds, &[])
}

/// Schedules of a second, so that whatever waits goes on as soon as it can; the clock moves only when a test moves it.
fn world() -> World {
    let world = World::new(CURRENT);
    let collector =
        world.collector("source", "readings", &cpu_hours_of_a()).replace("\"@hourly\"", "every 1s");
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}submit: {{ schedule: every 1s }}\ncollectors:\n{collector}"));
    world
}

/// The totals are not answered, and not even begun with, until the faults are cleared.
fn hold_totals(world: &World) {
    world.fault(json!({ "match": { "path": "set_usage/" }, "when": "before", "action": "hang", "times": 1 }));
}

/// Stops a daemon while it writes nothing: a transaction that stands still keeps everybody else out.
fn stop(world: &World, daemon: &Daemon) {
    let pid = daemon.child.id();
    let stands = || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    };
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    ledger.busy_timeout(std::time::Duration::ZERO).unwrap();
    until("it stands between two transactions", || {
        daemon.signal("STOP");
        until("it stands", stands);
        let free = ledger.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok();
        if !free {
            daemon.signal("CONT");
        }
        free
    });
}

fn waits_for_an_answer(world: &World) -> bool {
    let posts = world.posts_since(0);
    posts.iter().any(|request| request.path.ends_with("/set_usage/") && request.status == 0)
}

#[test]
fn a_second_daemon_on_one_ledger_is_refused_with_the_first_ones_process() {
    let world = world();
    world.readings(&[hours("1", "5400")]);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("listen: 127.0.0.1:0\n{text}"));
    let mut first = world.daemon(&[], &[]);
    first.until_it_says("Ready: 1 collector");
    let log = first.log();
    let address =
        log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let pid = first.child.id();
    let second = world.agent(&["run"]).exits(78);
    second.says("a daemon is at work on the ledger").says(&format!("process {pid}."));
    assert!(get(&address, "/metrics").1.contains("waldur_usage_agent_ledger_failing 0\n"));
    // The first was not disturbed, and `status` knows it by the same number, and since when it runs.
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    world.agent(&["status"]).says(&format!("Daemon: process {pid}, since 12:00Z."));
    let daemon = world.agent(&["status", "--json"]).json()["daemon"].clone();
    assert_eq!((&daemon["running"], &daemon["pid"]), (&json!(true), &json!(pid)));
    assert_eq!(daemon["since"], NOON);
    // However it ends, the next one may begin.
    first.kill();
    world.agent(&["status"]).says("Daemon: none is running.");
    assert_eq!(world.agent(&["status", "--json"]).json()["daemon"]["running"], json!(false));
    let next = world.daemon(&[], &[]);
    until("the next one", || next.log().matches("Ready: 1 collector").count() == 2);
    drop(next);
    world.agent(&["recount"]).exits(0);
}

/// Beside a daemon any number of people may report at once.
#[test]
fn a_daemon_and_others_beside_it_report_everything_once() {
    let world = world();
    world.readings(&[hours("1", "5400")]);
    let daemon = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    let mut lines = vec![hours("1", "5400")];
    for (id, seconds, sum) in [("2", "3600", "2.50"), ("3", "1800", "3.00"), ("4", "7200", "5.00")] {
        lines.push(hours(id, seconds));
        world.readings(&lines);
        let mut beside = world.command(&["flush", "--collect", "--deadline", "5s"]);
        let mut beside = beside.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        world.in_time(sum, || world.rows(A) == [format!("cpu_hours 2026-11 {sum}")]);
        assert!(beside.wait().unwrap().code().is_some());
    }
    drop(daemon);
    let reports = world.reports();
    let once: BTreeSet<&String> = reports.iter().collect();
    assert_eq!(reports.len(), once.len(), "{reports:?}");
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_stopped_daemon_keeps_its_lock_and_flush_names_it() {
    let world = world();
    world.readings(&[hours("1", "5400")]);
    hold_totals(&world);
    let mut daemon = world.daemon(&[], &[]);
    world.in_time("a call on its way", || waits_for_an_answer(&world));
    stop(&world, &daemon);
    let process = format!("process {}, which is stopped", daemon.child.id());
    world.flush_once().exits(75).says(&process).says("is submitting for this ledger");
    assert_eq!(world.flush_once().exits(75).says("1 statement: still pending").code, 75);
    assert_eq!(world.posts_since(0).len(), 1);
    // Its lock dies with it, at that moment; what it had begun is read before anything is sent.
    daemon.kill();
    let mark = world.mark();
    world.flush().exits(0).says("Sent 1 amount of 1 resource.");
    let asked = world.requests_since(mark);
    let read = asked.iter().position(|r| r.path.starts_with("/api/marketplace-component-usages/?")).unwrap();
    let sent = asked.iter().position(|r| r.path.ends_with("/set_usage/")).unwrap();
    assert!(read < sent, "{asked:#?}");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

/// The lock is lost without the daemon's knowing, as on a shared disk whose server was restarted while it was stopped.
#[test]
fn a_daemon_that_wakes_up_with_an_old_call_does_not_overwrite_newer_knowledge() {
    let world = world();
    world.readings(&[hours("1", "5400")]);
    hold_totals(&world);
    let daemon = world.daemon(&[], &[]);
    world.in_time("a call on its way", || waits_for_an_answer(&world));
    stop(&world, &daemon);
    std::fs::remove_file(world.path("ledger.db.lock")).unwrap();
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    // The old call is processed only now, and its answer waits for the daemon.
    world.no_faults();
    until("the old number lands", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    daemon.signal("CONT");
    daemon.until_it_says("another process has taken over submitting for this ledger (this one had turn 1)");
    world.in_time("the newer number again", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    world.in_time("it is known, too", || {
        let status = world.agent(&["status", "--json"]);
        status.code == 0 && status.json()["statements"][0]["components"][0]["acknowledged"] == "2.50"
    });
    // In the order in which they arrived.
    assert_eq!(world.reports(), ["cpu_hours=1.50", "cpu_hours=2.50", "cpu_hours=2.50"]);
}

/// The whole machine sleeps for three hours while an answer is on its way; meanwhile a person corrects the row.
#[test]
fn an_answer_that_is_hours_old_is_not_believed_but_read_back() {
    let world = world();
    world.readings(&[hours("1", "5400")]);
    world.fault(json!({ "match": { "path": "set_usage/" }, "when": "after", "action": "hang", "times": 1 }));
    let daemon = world.daemon(&[], &[]);
    world.in_time("the report lands", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    stop(&world, &daemon);
    world.now("2026-11-10T15:30:00Z");
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "9.00", "billing_period": "2026-11-01" }),
    );
    world.no_faults();
    daemon.signal("CONT");
    until("the conflict", || world.agent(&["parked", "list"]).out.contains("conflict"));
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 9.00"]);
    drop(daemon);
    let calls = world.agent(&["explain", A, "cpu_hours", "--json"]).json()["calls"].to_string();
    assert!(calls.contains("was this machine suspended"), "{calls}");
}

/// A machine that was set back to a snapshot knows less than the server does.
#[test]
fn a_ledger_restored_from_a_snapshot_does_not_undo_what_was_reported_since() {
    // Whatever its age, and also in the very start of the machine that it was copied in.
    for now in ["2026-11-10T12:00:30Z", "2026-11-10T13:00:00Z", "2026-11-10T23:00:00Z"] {
        let world = World::new(CURRENT);
        world.configure(&cpu_hours_of_a());
        world.readings(&[hours("1", "5400")]);
        world.flush().exits(0);
        std::fs::copy(world.path("ledger.db"), world.path("snapshot")).unwrap();
        world.readings(&[hours("1", "5400"), hours("2", "3600")]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
        for side in ["ledger.db-wal", "ledger.db-shm"] {
            let _ = std::fs::remove_file(world.path(side));
        }
        std::fs::copy(world.path("snapshot"), world.path("ledger.db")).unwrap();
        world.now(now);
        // The source of the second hour forgot it, too; a new quarter of an hour came.
        world.readings(&[hours("1", "5400"), hours("3", "900")]);
        world.flush().exits(65).says("Waldur holds 2.50").says("last reported 1.50");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    }
}

/// A second hour is reported, and the plan switched while that call is on its way.
fn switched_under_way(api: &str, skew: i64) -> World {
    let world = World::new(api);
    world.post("clock", json!({ "skew_seconds": skew }));
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    world.now("2026-11-10T13:00:00Z");
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    hold_totals(&world);
    let mut flush = world.command(&["flush", "--collect", "--deadline", "5s"]);
    let flush = flush.stdout(Stdio::null()).spawn().unwrap();
    until("a call on its way", || waits_for_an_answer(&world));
    world.now("2026-11-10T13:00:20Z");
    world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
    world.no_faults();
    flush.wait_with_output().unwrap();
    world
}

/// Nobody can look and post in one step. What lands under a plan that began in between is found when it has landed.
#[test]
fn a_plan_switched_between_look_and_post_is_found_and_repaired_though_nothing_is_used_any_more() {
    for skew in [-90, 0, 90] {
        let world = switched_under_way(CLASSIC, skew);
        // The hour that came too late for the old plan is not billed under the new one.
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.00", "cpu_hours 2026-11 1.50"], "{skew}");
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 0.00", "cpu_hours 2026-11 1.50"], "{skew}");
        // Until the longest call time is over it is not known whether it lands under the old one after all.
        world.agent(&["status"]).exits(75);
        // Usage of the new plan goes there.
        world.now("2026-11-10T16:00:00Z");
        let late = job("cpu_seconds", "4", "2026-11-10T14:00:00Z", "2026-11-10T14:30:00Z", "1800", &[]);
        world.readings(&[hours("1", "5400"), hours("2", "3600"), late]);
        world.flush().exits(65);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.50", "cpu_hours 2026-11 1.50"], "{skew}");
        let status = world.agent(&["status", "--json"]).exits(65).json();
        assert_eq!(status["statements"][0]["components"][0]["stranded"], "1.00", "{skew}");
    }
}

#[test]
fn a_server_that_honours_dates_files_a_report_under_the_plan_that_was_meant_whenever_it_lands() {
    let world = switched_under_way(CURRENT, 0);
    // Whether it landed under the new plan is not known at first: nothing is to stand there, and nothing does.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.00", "cpu_hours 2026-11 2.50"]);
    let late = job("cpu_seconds", "4", "2026-11-10T14:00:00Z", "2026-11-10T14:30:00Z", "1800", &[]);
    world.now("2026-11-10T16:00:00Z");
    world.readings(&[hours("1", "5400"), hours("2", "3600"), late]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.50", "cpu_hours 2026-11 2.50"]);
}

#[test]
fn an_unchanged_cycle_asks_nothing_and_rows_are_read_each_hour_and_around_each_report() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    let rows = |mark: u64| {
        let asked = world.requests_since(mark);
        asked.iter().filter(|r| r.path.starts_with("/api/marketplace-component-usages/?")).count()
    };
    // A first report on a server that honours dates has been read back: nothing is left to ask.
    let mark = world.mark();
    world.flush().exits(0).says("Nothing was sent.");
    world.now("2026-11-10T12:50:00Z");
    world.flush().exits(0).says("Nothing was sent.");
    assert_eq!(world.requests_since(mark).len(), 0);
    // Within an hour what another writer did shows, though nothing changes here.
    world.now("2026-11-10T14:00:00Z");
    world.flush().exits(0).says("Nothing was sent.");
    assert_eq!((rows(mark), world.posts_since(mark).len()), (1, 0));
    // Read before it is written, and read back.
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    let mark = world.mark();
    world.flush().exits(0);
    assert_eq!((rows(mark), world.posts_since(mark).len()), (2, 1));
}
