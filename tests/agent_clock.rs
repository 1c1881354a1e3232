//! Clocks that are wrong: ahead by a year and set right, behind in 1970, set back under a waiting daemon, asleep for
//! hours. What has an impossible time is quarantined and not billed, what is true is, and the schedule recovers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::cell::Cell;
use std::time::Duration;

use agent::*;

/// A program that tells a counter as of now, by the clock that the agent has.
fn momentary(world: &World) {
    world.write(
        "look",
        "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho '{\"name\":\"cpu_seconds\",\"kind\":\"counter\",\"value\":'$(cat value)'}'\n",
    );
    let look = world.path("look");
    std::fs::set_permissions(&look, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = format!(
        "{}collectors:\n  source:\n    plugin: exec\n    schedule: every 5s\n    command: [{}]\n{}",
        world.head(""),
        look.display(),
        cpu_hours_of_a()
    );
    world.write("agent.yaml", &format!("listen: 127.0.0.1:0\nsubmit: {{ schedule: every 5s }}\n{text}"));
}

fn count(world: &World, query: &str) -> i64 {
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    ledger.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    ledger.query_row(query, [], |row| row.get(0)).unwrap_or(0)
}

fn look(world: &World, agents: &str, servers: &str, value: i64) -> Done {
    world.agent_clock(agents);
    world.sandbox_clock(servers);
    world.write("value", &value.to_string());
    world.flush()
}

#[test]
fn what_a_clock_a_year_ahead_recorded_is_quarantined_once_it_is_right_again() {
    for api in BOTH {
        let world = World::new(api);
        momentary(&world);
        look(&world, "2026-11-10T10:00:00Z", "2026-11-10T10:00:00Z", 0).exits(0);
        look(&world, "2026-11-10T11:00:00Z", "2026-11-10T11:00:00Z", 3600).exits(0);
        // Two looks with the clock a year and three days ahead.
        look(&world, "2027-11-13T12:00:00Z", "2026-11-10T12:00:00Z", 7200);
        look(&world, "2027-11-13T12:05:00Z", "2026-11-10T12:05:00Z", 7500);
        // Of the hour that was used the part that falls into this month by that clock, no more: 20.5 of 368 days.
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.06"], "{api}");
        // Right again: the first cycle finds out, the next look counts on from the last true one.
        look(&world, "2026-11-10T13:00:00Z", "2026-11-10T13:00:00Z", 10800);
        look(&world, "2026-11-10T13:10:00Z", "2026-11-10T13:10:00Z", 11400).exits(0);
        look(&world, "2026-11-10T14:00:00Z", "2026-11-10T14:00:00Z", 14400).exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00"], "{api}");
        // The first was recorded before the clocks were compared, the second was never sure.
        let quarantined = |words: &str| {
            count(&world, &format!("SELECT count(*) FROM quarantine WHERE reason LIKE '%{words}%'"))
        };
        assert_eq!((quarantined("the clock was ahead"), quarantined("")), (1, 2));
        assert_eq!(
            count(&world, "SELECT count(*) FROM line WHERE period <> '2026-11' AND posted <> '0.00'"),
            0
        );
        world.agent(&["recount"]).exits(0);
    }
}

/// A clock that is wrongly set back must not make the truth look like the future.
#[test]
fn a_clock_that_is_behind_quarantines_nothing_that_is_true() {
    let world = World::new(CURRENT);
    momentary(&world);
    look(&world, "2026-11-10T10:00:00Z", "2026-11-10T10:00:00Z", 0).exits(0);
    look(&world, "2026-11-10T11:00:00Z", "2026-11-10T11:00:00Z", 3600).exits(0);
    look(&world, "2026-11-03T12:00:00Z", "2026-11-10T12:00:00Z", 7200);
    look(&world, "2026-11-03T12:05:00Z", "2026-11-10T12:05:00Z", 7500);
    look(&world, "2026-11-10T13:00:00Z", "2026-11-10T13:00:00Z", 10800).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    assert_eq!(count(&world, "SELECT count(*) FROM quarantine"), 0);
}

#[test]
fn a_machine_that_boots_in_1970_bills_nothing_of_it_and_goes_on_when_it_knows_the_time() {
    for api in BOTH {
        let world = World::new(api);
        momentary(&world);
        look(&world, "1970-01-01T00:00:10Z", "2026-11-10T10:00:00Z", 100).says_not("panicked");
        look(&world, "1970-01-01T00:05:10Z", "2026-11-10T10:05:00Z", 400).says_not("panicked");
        assert_eq!(world.rows(A), [""; 0]);
        assert_eq!(count(&world, "SELECT count(*) FROM reading"), 0);
        // Of what it saw nothing could have been then: those runs have failed.
        assert_eq!(count(&world, "SELECT count(*) FROM run WHERE outcome = 'failed'"), 2);
        look(&world, "2026-11-10T11:00:00Z", "2026-11-10T11:00:00Z", 3600).exits(0);
        look(&world, "2026-11-10T12:00:00Z", "2026-11-10T12:00:00Z", 7200).exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"], "{api}");
    }
}

#[test]
fn a_daemon_goes_on_when_the_clock_is_set_back() {
    let world = World::new(CURRENT);
    momentary(&world);
    world.write("value", "0");
    world.now("2026-11-10T12:00:00Z");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let runs = || count(&world, "SELECT count(*) FROM run");
    until("the first run", || runs() == 1);
    // A call that is under way while one clock is set and the other one not yet would see them a day apart.
    let calls = || world.requests_since(0).len();
    let mut seconds = 0;
    until("the first cycle", || {
        seconds += 1;
        world.now(&after("2026-11-10T12:00:00Z", seconds));
        calls() > 0
    });
    until("its end", || {
        let before = calls();
        pause(Duration::from_millis(300));
        calls() == before
    });
    // It had booted with a clock that was a day ahead, and learns the time.
    world.now("2026-11-09T12:00:00Z");
    until("a run by the new time", || runs() >= 2);
    // From here on the time goes by: a clock that stood still might stand just before what is due.
    seconds = 0;
    let mut goes_by = |from: &str| {
        seconds += 1;
        world.now(&after(&format!("{from}:00:00Z"), seconds));
    };
    // What was seen while the clock was ahead is put aside, and it is counted from what is seen by the new time.
    let seen = |value: &str| {
        count(
            &world,
            &format!("SELECT count(*) FROM reading WHERE value = '{value}' AND at < 1794268800000000"),
        )
    };
    until("a reading by the new time", || {
        goes_by("2026-11-09T13");
        seen("0") >= 1
    });
    world.write("value", "3600");
    until("another", || {
        goes_by("2026-11-09T13");
        seen("3600") >= 1
    });
    world.write("value", "7200");
    until("what was used since", || {
        goes_by("2026-11-10T14");
        world.rows(A) == ["cpu_hours 2026-11 2.00"]
    });
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let metrics = get(address, "/metrics").1;
    let of = "waldur_usage_agent_collector_quarantined_total{collector=\"source\"} ";
    let quarantined = metrics.lines().find_map(|line| line.strip_prefix(of)).unwrap();
    assert!(quarantined.parse::<u64>().unwrap() > 0, "what was put aside: {metrics}");
    world.agent(&["status", "--all"]).says("the clock was ahead");
}

/// While the machine sleeps the wall clock goes on and the other one does not. It is noticed at the next short wait, and
/// there is one run for all that was missed, not one for each.
#[test]
fn after_a_sleep_of_eight_hours_there_is_one_run_and_nothing_is_lost() {
    let world = World::new(CURRENT);
    momentary(&world);
    world.write("value", "0");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let runs = || count(&world, "SELECT count(*) FROM run");
    until("the first run", || runs() == 1);
    world.write("value", "28800");
    // The clock goes on while it looks: what was planned before the jump and what is planned after it both come.
    let second = Cell::new(0);
    let goes_on = || {
        second.set(second.get() + 1);
        world.now(&after("2026-11-10T20:00:00Z", second.get()));
    };
    until("the second run", || {
        goes_on();
        runs() >= 2
    });
    until("the report", || {
        goes_on();
        world.rows(A) == ["cpu_hours 2026-11 8.00"]
    });
    // One for eight hours, and not more than its schedule has had since.
    assert!(runs() <= 3 + second.get(), "{} runs in {} s", runs(), second.get());
}

/// What was recorded while the clock was ahead is of a month that has not begun at the server. `flush` does not wait for that
/// month, and says so; `status` does, too.
#[test]
fn a_month_that_has_not_begun_at_the_server_is_not_waited_for() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[job("cpu_seconds", "1", "2026-12-02T00:00:00Z", "2026-12-02T01:00:00Z", "3600", &[])]);
    world.agent_clock("2026-12-05T10:00:00Z");
    world.sandbox_clock("2026-11-05T10:00:00Z");
    let told =
        "2026-12 has not begun at Waldur: 1 statement of it waits until then. Is this machine's clock right";
    let begun = std::time::Instant::now();
    // Far longer than a test may take.
    let flush = world.agent(&["flush", "--collect", "--deadline", "1h"]).exits(75);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    flush.says("1 statement: still pending").says(told);
    assert!(world.rows(A).is_empty());
    world.agent(&["status"]).exits(75).says(told);
    let status = world.agent(&["status", "--json"]).exits(75).json();
    assert_eq!(status["statements"][0]["components"][0]["reason"], "2026-12 has not begun at Waldur");
    let flush = world.agent(&["flush", "--json"]).exits(75).json();
    assert_eq!(flush["not_begun"], serde_json::json!([{ "period": "2026-12", "statements": 1 }]));
    // And it is sent when that month has come.
    world.now("2026-12-05T10:00:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-12 1.00"]);
    world.agent(&["status"]).exits(0).says_not("has not begun");
}
