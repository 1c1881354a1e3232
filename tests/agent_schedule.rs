//! The daemon's schedule on a clock that the tests move: jitter, the looks at the month's end, a collector that takes its
//! time, one that fails, and runs that were missed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What `status` says of a collector.
fn told(world: &World, name: &str) -> Value {
    let status = world.agent(&["status", "--json"]).json();
    let all = status["collectors"].as_array().unwrap().clone();
    all.into_iter().find(|one| one["name"] == name).unwrap()
}

fn looked_at(world: &World, name: &str, when: &str) {
    until(&format!("a look of {name} at {when}"), || told(world, name)["last_run"] == when);
}

/// A collector that runs a line of shell.
fn shell(name: &str, schedule: &str, line: &str) -> String {
    format!(
        "  {name}:\n    plugin: exec\n    schedule: {schedule}\n    command: [sh, -c, '{line}']\n{}",
        cpu_hours_of_a()
    )
}

fn configure(world: &World, more: &str, collectors: &[String]) {
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}{more}collectors:\n{}", collectors.concat()));
}

fn lines(world: &World, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(world.path(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn jitter_moves_no_look_at_the_months_end() {
    let world = World::of(Setting { now: "2026-11-30T23:10:00Z", ..Setting::default() });
    let jitter = "\"@hourly\"\n    jitter: 10m";
    configure(&world, "submit: { schedule: \"@hourly\", jitter: 10m }\n", &[shell("c", jitter, "true")]);
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    for when in ["2026-11-30T23:10:00Z", "2026-11-30T23:55:00Z", "2026-12-01T00:00:00Z"] {
        world.now(when);
        looked_at(&world, "c", when);
    }
    // The hour's own one comes within ten minutes of it.
    let mut now = time("2026-12-01T00:00:00Z");
    until("the next look", || {
        now += SignedDuration::from_secs(20);
        world.now(&now.to_string());
        told(&world, "c")["last_run"] != "2026-12-01T00:00:00Z"
    });
    let looked = time(told(&world, "c")["last_run"].as_str().unwrap());
    assert!(looked.as_second() % 3600 < 640, "{looked}");
}

#[test]
fn a_collector_never_overlaps_itself() {
    let world = World::new(CURRENT);
    let steps = world.path("steps").display().to_string();
    let line = format!("echo begun >> {steps}; sleep 0.3; echo done >> {steps}");
    configure(&world, "", &[shell("slow", "every 1s", &line)]);
    let mut daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    // Each tenth of a second the next run is due.
    world.in_time("five runs", || lines(&world, "steps").len() >= 10);
    daemon.signal("USR1");
    daemon.signal("USR1");
    world.in_time("two more", || lines(&world, "steps").len() >= 14);
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), 0);
    let steps = lines(&world, "steps");
    for (index, step) in steps.iter().enumerate() {
        assert_eq!(step, ["begun", "done"][index % 2], "{steps:?}");
    }
}

#[test]
fn a_collector_that_fails_is_left_alone_for_longer_and_longer_and_the_others_go_on() {
    let world = World::new(CURRENT);
    let (tries, works) =
        (world.path("tries").display().to_string(), world.path("works").display().to_string());
    let line = format!("echo x >> {tries}; [ -e {works} ]");
    configure(
        &world,
        "listen: 127.0.0.1:0\n",
        &[shell("bad", "every 30s", &line), shell("good", "every 1s", "true")],
    );
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let tried = || lines(&world, "tries").len();
    // The bad one has had its turn when the good one has looked twice since. Never as late as `limit`.
    let go_on_before = |limit: Timestamp| {
        let mut now = limit - SignedDuration::from_secs(10);
        let mut seen = std::collections::BTreeSet::new();
        until("two looks of the good one", || {
            now = (now + SignedDuration::from_millis(200)).min(limit - SignedDuration::from_millis(1));
            world.now(&now.to_string());
            seen.insert(told(&world, "good")["last_run"].to_string());
            seen.len() >= 3
        });
    };
    let mut ended = time(NOON);
    for (tries, shortest) in [(1, 15), (2, 30), (3, 60), (4, 120)] {
        until("the failure", || told(&world, "bad")["failures_since_success"] == tries);
        assert_eq!(tried(), tries as usize);
        let retry = time(told(&world, "bad")["retry_after"].as_str().unwrap());
        let wait = retry.duration_since(ended).as_secs();
        assert!((shortest..2 * shortest).contains(&wait), "after failure {tries}: {wait} s");
        go_on_before(retry);
        assert_eq!(tried(), tries as usize, "not before {retry}");
        if tries < 4 {
            world.now(&retry.to_string());
            ended = retry;
        }
    }
    // It is told once, and shown where one looks.
    assert_eq!(daemon.log().matches("Collector bad fails").count(), 1);
    world
        .agent(&["status"])
        .exits(69)
        .says("Collector bad: ")
        .says("; the daemon tries it again at")
        .says("(4 runs, and none succeeded)");
    let retry = time(told(&world, "bad")["retry_after"].as_str().unwrap());
    let log = daemon.log();
    let address =
        log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let metrics = scrape(&address);
    for line in [
        format!("collector_retry_timestamp_seconds{{collector=\"bad\"}} {}", retry.as_second()),
        "collector_retry_timestamp_seconds{collector=\"good\"} 0".to_owned(),
        "collector_failures_since_success{collector=\"bad\"} 4".to_owned(),
    ] {
        assert!(metrics.contains(&format!("waldur_usage_agent_{line}\n")), "{line}\n{metrics}");
    }
    // A person does not wait for it.
    world.write("works", "");
    daemon.signal("USR1");
    daemon.until_it_says("Collector bad works again.");
    assert_eq!(told(&world, "bad")["retry_after"], Value::Null);
    // And from then on it is its schedule that counts.
    let next = Timestamp::from_second((retry.as_second() / 30 + 1) * 30).unwrap();
    world.now(&next.to_string());
    looked_at(&world, "bad", &next.to_string());
}

fn scrape(address: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn runs_missed_while_the_agent_was_away_are_told_of_and_a_source_with_history_is_read_on() {
    let world = World::new(CURRENT);
    let (asked, readings) =
        (world.path("asked").display().to_string(), world.path("readings").display().to_string());
    let line = format!(
        "echo \"$WALDUR_USAGE_CHECKPOINT\" >> {asked}; cat {readings}; echo \"{{\\\"checkpoint\\\":\\\"$WALDUR_USAGE_NOW\\\"}}\""
    );
    configure(
        &world,
        "submit: { schedule: every 1s }\n",
        &[shell("history", "\"@hourly\"", &line), shell("moment", "\"@hourly\"", "true")],
    );
    let mut daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    looked_at(&world, "history", NOON);
    looked_at(&world, "moment", NOON);
    daemon.kill();
    // Two hours of a job, while nobody looked.
    world.readings(&[job("cpu_seconds", "7", "2026-11-10T13:00:00Z", "2026-11-10T15:00:00Z", "7200", &[])]);
    world.now("2026-11-10T17:10:00Z");
    world.agent(&["status"]).exits(0).says("history: 4 runs were due since, and no daemon is running");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    looked_at(&world, "moment", "2026-11-10T17:10:00Z");
    daemon.until_it_says(
        "Collector history: 4 of its runs were missed since 2026-11-10T12:00:00Z, because the agent was not at work, \
         or the clock was set: \
         its source keeps history, and this run reads on",
    );
    daemon.until_it_says(
        "Collector moment: 4 of its runs were missed since 2026-11-10T12:00:00Z, because the agent was not at work, \
         or the clock was set: a \
         counter goes on from its last reading; the level of a gauge is not known",
    );
    looked_at(&world, "history", "2026-11-10T17:10:00Z");
    assert_eq!(lines(&world, "asked"), ["", NOON]);
    world.now("2026-11-10T17:10:02Z");
    until("the report", || world.rows(A) == ["cpu_hours 2026-11 2.00"]);
    let said = world.agent(&["status", "--all"]);
    said.says("moment: missed 4 runs between 12:00Z and 17:10Z");
    assert_eq!(told(&world, "moment")["missed"]["runs"], 4);
    // A short restart is none.
    assert_eq!(told(&world, "moment")["overdue"], 0);
}

#[test]
fn a_run_that_takes_longer_than_its_schedule_is_told_of_once() {
    let world = World::new(CURRENT);
    let (begun, go_on) =
        (world.path("begun").display().to_string(), world.path("go-on").display().to_string());
    let line = format!("echo x >> {begun}; while [ ! -e {go_on} ]; do sleep 0.05; done");
    configure(&world, "", &[shell("slow", "every 1m", &line)]);
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    until("the first run", || lines(&world, "begun").len() == 1);
    world.now("2026-11-10T12:05:10Z");
    world.write("go-on", "");
    looked_at(&world, "slow", NOON);
    world.now("2026-11-10T12:06:00Z");
    looked_at(&world, "slow", "2026-11-10T12:06:00Z");
    daemon.until_it_says(
        "Collector slow: 5 of its runs were missed since 2026-11-10T12:00:00Z, because that one took 5m",
    );
    // It goes on missing every other one.
    let mut now = time("2026-11-10T12:06:00Z");
    until("three more runs", || {
        now += SignedDuration::from_secs(150);
        world.now(&now.to_string());
        pause(std::time::Duration::from_millis(100));
        lines(&world, "begun").len() >= 5
    });
    assert_eq!(daemon.log().matches("of its runs were missed").count(), 1, "{}", daemon.log());
}

/// The daemon's first run comes whenever it is started: just before the next is due, say.
#[test]
fn what_came_due_while_a_quick_run_was_at_work_is_not_missed() {
    let world = World::new(CURRENT);
    world.now("2026-11-10T12:00:55Z");
    let (begun, go_on) =
        (world.path("begun").display().to_string(), world.path("go-on").display().to_string());
    let line = format!("echo x >> {begun}; while [ ! -e {go_on} ]; do sleep 0.05; done");
    configure(&world, "", &[shell("quick", "every 1m", &line)]);
    let daemon = world.daemon(&[], &[]);
    until("the first run", || lines(&world, "begun").len() == 1);
    world.now("2026-11-10T12:01:05Z");
    world.write("go-on", "");
    looked_at(&world, "quick", "2026-11-10T12:00:55Z");
    world.now("2026-11-10T12:02:00Z");
    looked_at(&world, "quick", "2026-11-10T12:02:00Z");
    assert!(!daemon.log().contains("missed"), "{}", daemon.log());
}
