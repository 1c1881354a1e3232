//! Registration with Waldur's list of agents is best effort: whatever becomes of it, usage is reported, nothing is paused for
//! it, and a daemon ends when it is told to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::table::*;
use serde_json::{Value, json};

const IDENTITIES: &str = "/marketplace-site-agent-identities/";

/// A daemon whose registration meets this, and which has reported all the same.
fn begun(action: Value) -> At {
    let world = table_world(&cpu());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    // So long that what waited for such a call would wait for longer than this test does.
    world.write("agent.yaml", &text.replace("waldur:\n", "waldur:\n  timeout: 10m\n"));
    world.readings(&[hours("1", "5400")]);
    world.fault(json!({ "match": { "path": IDENTITIES }, "action": action }));
    let at = start(world);
    at.world.in_time("its registration", || tries(&at) == 1);
    at.reported()
}

/// How often it was tried.
fn tries(at: &At) -> usize {
    at.world.requests_since(0).iter().filter(|request| request.path.contains(IDENTITIES)).count()
}

/// More is used, and reported; nobody is told of anything but what the log has.
fn goes_on_reporting(at: &At) {
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
    let server = at.world.agent(&["status", "--json"]).exits(0).json()["server"].clone();
    assert_eq!([&server["paused_reason"], &server["reports_refused"]], [&Value::Null; 2], "{server:#}");
    assert_eq!(at.get("/ready").0, 200);
    for words in ["paused", "WARN", "ERROR"] {
        assert!(!at.daemon.log().contains(words), "{words}: {}", at.daemon.log());
    }
    // Once an hour at most, and not with each cycle.
    assert_eq!(tries(at), 1);
}

fn ends(mut at: At) {
    at.daemon.signal("TERM");
    assert_eq!(at.daemon.ends(), 0, "{}", at.daemon.log());
}

#[test]
fn a_server_error_is_tried_again_later_and_stops_nothing() {
    for status in [500, 503] {
        let at = begun(json!({ "status": status, "body": "out of order" }));
        goes_on_reporting(&at);
        assert!(!at.daemon.log().contains("Registered") && !at.daemon.log().contains("list this agent"));
        ends(at);
    }
}

#[test]
fn a_call_that_hangs_stops_nothing_and_does_not_keep_the_daemon_from_ending() {
    let at = begun(json!({ "hang": 3_600_000 }));
    goes_on_reporting(&at);
    ends(at);
}

#[test]
fn a_connection_that_breaks_stops_nothing() {
    let at = begun(json!("drop"));
    goes_on_reporting(&at);
    ends(at);
}

#[test]
fn a_refusal_is_told_once_and_is_no_trouble_of_the_token() {
    let headers = json!({ "Content-Type": "application/json" });
    for (status, body, words) in [
        (403, "{\"detail\": \"Only staff may list agents.\"}", "Only staff may list agents."),
        (400, "{\"name\": [\"This name is taken.\"]}", "This name is taken."),
    ] {
        let at = begun(json!({ "status": status, "headers": headers, "body": body }));
        goes_on_reporting(&at);
        let log = at.daemon.log();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("does not list this agent")).collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(
            told[0].contains(" INFO Waldur does not list this agent, which changes nothing else: "),
            "{log}"
        );
        assert!(told[0].contains(words), "{log}");
        ends(at);
    }
}
