//! What a proxy, a network or a dying worker does to a call, before or after the server has committed it: the amounts
//! end up right, nothing is counted twice, and an unknown outcome is read back before anything is sent again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::process::Stdio;

use agent::*;
use serde_json::{Value, json};

const WHENS: [&str; 2] = ["before", "after"];

/// When all that was put off may be tried again. Clocks stand still until then, and a flush waits as everybody does.
const LATER: &str = "2026-11-10T12:30:00Z";

fn is_report(request: &Request) -> bool {
    request.is_post() && request.path.ends_with("/set_usage/")
}

fn reads_rows(request: &Request) -> bool {
    request.method == "GET" && request.path.starts_with("/api/marketplace-component-usages/?")
}

/// Between two reports of the one resource the rows are read.
#[track_caller]
fn assert_read_back_between_reports(world: &World, case: &str) {
    let mut read = true;
    for request in world.requests_since(0) {
        if is_report(&request) {
            assert!(read, "{case}: sent again unread: {:#?}", world.requests_since(0));
            read = false;
        }
        read |= reads_rows(&request);
    }
}

#[track_caller]
fn assert_right(world: &World, case: &str) {
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"], "{case}");
    assert_eq!(world.billed(A), ["cpu_hours 2026-11 0.03"], "{case}");
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.02", "bob cpu_hours 2026-11 0.01"], "{case}");
    let mark = world.mark();
    world.flush().exits(0).says("Nothing was sent.");
    assert_eq!(world.posts_since(mark).len(), 0, "{case}");
}

fn ready(api: &str) -> World {
    let world = World::new(api);
    world.configure_with("timeout: 1s", &cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world
}

/// The calls with totals suffer for a while, then no more.
fn totals_suffer(action: &Value) {
    for api in BOTH {
        for when in WHENS {
            let case = format!("{api}, {when}, {action}");
            let world = ready(api);
            world.fault(json!({ "match": { "path": "/set_usage/" }, "when": when, "action": action }));
            let first = world.flush_once();
            // What was committed shows when it is read back, unless the server asked to be left alone.
            let expected = if when == "after" && first.code == 0 { 0 } else { 75 };
            let first = first.exits(expected);
            match expected {
                75 => assert!(first.out.contains("still pending"), "{case}: {first:#?}"),
                _ => assert!(first.out.contains("Sent 3 amounts of 1 resource."), "{case}: {first:#?}"),
            }
            world.no_faults();
            world.now(LATER);
            world.flush().exits(0);
            assert_read_back_between_reports(&world, &case);
            if when == "after" {
                let reports = world.requests_since(0).iter().filter(|r| is_report(r)).count();
                assert_eq!(reports, 1, "{case}: sent again although it was there");
            }
            assert_right(&world, &case);
        }
    }
}

/// The calls with users' shares suffer.
fn shares_suffer(action: &Value) {
    for api in BOTH {
        for when in WHENS {
            let case = format!("{api}, {when}, {action}");
            let world = ready(api);
            world.fault(json!({ "match": { "path": "/set_user_usage" }, "when": when, "action": action }));
            let first = world.flush_once();
            // What was committed may show when it is read back.
            let expected = if when == "after" && first.code == 0 { 0 } else { 75 };
            first.exits(expected);
            assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"], "{case}");
            world.no_faults();
            world.now(LATER);
            world.flush().exits(0);
            assert_right(&world, &case);
        }
    }
}

#[test]
fn a_500_leaves_totals_right() {
    totals_suffer(&json!({ "status": 500, "body": "<h1>Server Error (500)</h1>" }));
}

#[test]
fn a_502_of_a_proxy_leaves_totals_right() {
    totals_suffer(&json!({ "status": 502, "body": "<html><h1>Bad Gateway</h1></html>" }));
}

#[test]
fn a_503_with_retry_after_leaves_totals_right() {
    totals_suffer(&json!({ "status": 503, "headers": { "Retry-After": "1" } }));
}

#[test]
fn a_429_of_a_proxy_leaves_totals_right() {
    totals_suffer(&json!({ "status": 429, "headers": { "Retry-After": "1" } }));
}

#[test]
fn a_dropped_connection_leaves_totals_right() {
    totals_suffer(&json!("drop"));
}

#[test]
fn a_server_that_hangs_leaves_totals_right() {
    totals_suffer(&json!({ "hang": 60_000 }));
}

#[test]
fn a_truncated_answer_leaves_totals_right() {
    // A 201 has no body: half of it is all of it.
    for api in BOTH {
        let world = ready(api);
        world.fault(json!({ "match": { "method": "GET" }, "action": "truncate", "when": "after" }));
        world.flush_once().exits(75);
        world.fault(json!({ "match": { "path": "/set_usage/" }, "action": "truncate", "when": "after" }));
        world.flush_once();
        world.no_faults();
        world.now(LATER);
        world.flush().exits(0);
        assert_right(&world, api);
    }
}

#[test]
fn a_500_leaves_shares_right() {
    shares_suffer(&json!({ "status": 500, "body": "<h1>Server Error (500)</h1>" }));
}

#[test]
fn a_503_with_retry_after_leaves_shares_right() {
    shares_suffer(&json!({ "status": 503, "headers": { "Retry-After": "1" } }));
}

#[test]
fn a_dropped_connection_leaves_shares_right() {
    shares_suffer(&json!("drop"));
}

#[test]
fn a_server_that_hangs_leaves_shares_right() {
    shares_suffer(&json!({ "hang": 60_000 }));
}

#[test]
fn a_server_that_refuses_everything_for_a_while_is_waited_for() {
    for status in [500, 502, 503, 429] {
        let world = ready(CURRENT);
        world.fault(json!({ "action": { "status": status, "body": "out of order" } }));
        world.flush_once().exits(75).says(&status.to_string());
        world.no_faults();
        world.now(LATER);
        world.flush().exits(0);
        assert_right(&world, &status.to_string());
    }
}

/// Its deadline and ten seconds are over long before the server would answer, and before the agent itself would give up (after
/// two minutes). What was under way is found out by the next one, and reported once.
#[test]
fn a_server_that_hangs_is_not_waited_for_beyond_the_deadline() {
    for (path, what) in [("/set_usage/", "after"), ("/api/", "before")] {
        let world = World::new(CURRENT);
        world.configure(&cpu_hours_of_a());
        world.readings(&[job(
            "cpu_seconds",
            "1",
            "2026-11-09T00:00:00Z",
            "2026-11-09T01:00:00Z",
            "3600",
            &[],
        )]);
        world.fault(json!({ "match": { "path": path }, "when": what, "action": { "hang": 600_000 } }));
        let begun = std::time::Instant::now();
        let flush = world.agent(&["flush", "--collect", "--deadline", "1s"]).exits(75);
        assert!(begun.elapsed() < std::time::Duration::from_secs(100), "{:?}", begun.elapsed());
        flush.says("Waldur did not answer within the deadline").says("1 statement: still pending");
        world.no_faults();
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"], "{path}");
        let reports = world.posts_since(0).iter().filter(|one| one.path.ends_with("/set_usage/")).count();
        assert_eq!(reports, 1, "{path}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn a_collector_that_hangs_is_not_waited_for_beyond_the_deadline() {
    let world = World::new(CURRENT);
    let keys = cpu_hours_by_user();
    let hangs = world.collector("a-first", "nothing", &keys).replace("cat", "sh, -c, 'sleep 600'");
    let collectors = hangs + &world.collector("source", "readings", &keys);
    world.write("agent.yaml", &format!("{}collectors:\n{collectors}", world.head("")));
    world.readings(&alice_and_bob());
    let begun = std::time::Instant::now();
    let done = world.agent(&["flush", "--collect", "--deadline", "3s"]).exits(69);
    assert!(begun.elapsed().as_secs() < 300);
    // The others are measured and reported all the same.
    done.says("collector a-first: not done by the deadline of 3s").says("Sent 3 amounts of 1 resource.");
    world.configure(&keys);
    assert_right(&world, "beside one that hangs");
}

#[test]
fn a_retry_after_is_waited_out_within_the_deadline() {
    let world = ready(CURRENT);
    world.fault(json!({
        "match": { "path": "/set_usage/" }, "action": { "status": 503, "headers": { "Retry-After": "2" } }, "times": 1
    }));
    let begun = std::time::Instant::now();
    let flush = ["flush", "--collect", "--deadline", "10m"];
    let running = world.command(&flush).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Only what was asked for before the clock moves is over then. A first failure's own rest is 5 s at most.
    until("it is left alone", || {
        let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
        ledger.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        ledger
            .query_row("SELECT count(*) FROM retry", [], |row| row.get::<_, i64>(0))
            .is_ok_and(|rows| rows > 0)
    });
    world.now("2026-11-10T12:00:06Z");
    Done::from(running.wait_with_output().unwrap()).exits(0);
    let took = begun.elapsed().as_secs_f64();
    assert!((2.0..300.0).contains(&took), "{took}");
    assert_right(&world, "Retry-After: 2");
}

#[test]
fn a_retry_after_beyond_the_deadline_is_not_waited_for() {
    let world = ready(CURRENT);
    world.fault(json!({
        "match": { "path": "/set_usage/" }, "action": { "status": 503, "headers": { "Retry-After": "3600" } }
    }));
    let begun = std::time::Instant::now();
    world.agent(&["flush", "--collect", "--deadline", "10m"]).exits(75).says("asks for 3600 s of rest");
    assert!(begun.elapsed().as_secs() < 300);
    let reports = world.requests_since(0).iter().filter(|r| is_report(r)).count();
    assert_eq!(reports, 1, "it was asked for rest");
}

/// However often it failed before: what the server asked for is waited out, and no backoff of our own with it.
#[test]
fn whoever_flushes_waits_as_long_as_the_server_asks_and_no_longer() {
    let world = ready(CURRENT);
    world.fault(json!({
        "match": { "path": "/set_usage/" }, "action": { "status": 503, "headers": { "Retry-After": "1" } }, "times": 9
    }));
    for failure in 1..=9 {
        world.now(&format!("2026-11-10T12:00:{:02}Z", 2 * failure));
        world.flush_once().exits(75);
        let reports = world.requests_since(0).iter().filter(|r| is_report(r)).count();
        assert_eq!(reports, failure, "one try in each flush, 2 s after the last");
    }
    // Half a second later it is too early, for anybody.
    world.now("2026-11-10T12:00:18.500Z");
    world.flush_once().exits(75).says("asks for 1 s of rest");
    assert_eq!(world.requests_since(0).iter().filter(|r| is_report(r)).count(), 9);
    world.now("2026-11-10T12:00:20Z");
    world.flush_once().exits(0);
    assert_right(&world, "after nine failures");
}

#[test]
fn one_resource_in_trouble_does_not_delay_the_other() {
    for api in BOTH {
        let world = World::new(api);
        let keys = format!(
            "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      \
             cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n"
        );
        world.configure(&keys);
        let one = |account: &str| {
            let (start, end) = ("2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z");
            job("cpu_seconds", account, start, end, "3600", &[("account", account)])
        };
        world.readings(&[one("project-a"), one("project-b")]);
        let of_a = A.replace('-', "");
        for spelling in [A, of_a.as_str()] {
            // Whichever way the agent writes it.
            world.fault(json!({
                "match": { "path": "/set_usage/", "body": spelling }, "action": { "status": 500, "body": "x" }
            }));
            world.flush_once();
            assert_eq!(world.rows(B), ["cpu_hours 2026-11 1.00"], "{api}");
        }
        world.no_faults();
        world.now(LATER);
        world.flush().exits(0);
        assert_eq!(
            (world.rows(A), world.billed(A)),
            (vec!["cpu_hours 2026-11 1.00".to_owned()], vec!["cpu_hours 2026-11 1.00".to_owned()])
        );
    }
}

#[test]
fn a_growing_amount_through_an_hour_of_faults_ends_exact() {
    for api in BOTH {
        let world = ready(api);
        let mut values: Vec<String> = vec!["0".to_owned()];
        let actions = [
            json!({ "status": 500, "body": "x" }),
            json!("drop"),
            json!({ "status": 504, "body": "<h1>Gateway Time-out</h1>" }),
            json!({ "status": 429, "headers": { "Retry-After": "1" } }),
        ];
        for (round, action) in actions.iter().cycle().take(8).enumerate() {
            values.push((3600 * (round + 1)).to_string());
            let texts: Vec<&str> = values.iter().map(String::as_str).collect();
            world.readings(&counter(&texts, &[("user", "alice")]));
            let when = WHENS[round / 4];
            world.fault(json!({ "match": { "method": "POST" }, "when": when, "action": action }));
            world.now(&format!("2026-11-10T12:{round:02}:00Z"));
            world.flush_once();
        }
        world.no_faults();
        world.now(LATER);
        world.flush().exits(0);
        assert_read_back_between_reports(&world, api);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 8.00"]);
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 8.00"]);
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 8.00"]);
    }
}

/// The old number stands in a hung proxy's queue while the agent goes on, and overwrites a newer one in the end.
#[test]
fn a_call_that_arrives_late_is_our_own() {
    for api in BOTH {
        let world = World::new(api);
        world.configure_with("timeout: 1s", &cpu_hours_of_a());
        world.readings(&counter(&["0", "3600"], &[]));
        world.fault(json!({ "match": { "path": "/set_usage/" }, "action": "hang", "times": 1 }));
        world.flush_once().exits(75);
        world.readings(&counter(&["0", "3600", "7200"], &[]));
        world.now("2026-11-10T12:01:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"], "{api}");
        world.no_faults();
        until("the late arrival", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
        world.readings(&counter(&["0", "3600", "7200", "10800"], &[]));
        world.fault(json!({ "match": { "path": "/set_usage/" }, "action": "drop", "times": 1 }));
        world.flush().exits(75).says_not("another");
        world.now(LATER);
        world.flush().exits(0).says_not("another");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"], "{api}");
        world.agent(&["explain", A, "cpu_hours"]).exits(0).says("not there");
    }
}

#[test]
fn another_writer_that_writes_while_an_outcome_is_unknown_is_seen() {
    let world = ready(CURRENT);
    world.fault(json!({ "match": { "path": "/set_usage/" }, "action": "drop" }));
    world.flush_once().exits(75);
    world.no_faults();
    world.post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": "7.00", "modified_by": 99 }));
    world.flush().exits(65).says("Waldur holds 7.00").says("another");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 7.00"]);
}

#[test]
fn a_reload_keeps_the_daemon_alive_also_where_its_address_is_taken() {
    let world = ready(CLASSIC);
    let port = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener)
    };
    let config = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let (address, listener) = port();
    drop(listener);
    world.write("agent.yaml", &format!("listen: {address}\n{config}"));
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    for times in 1..=10 {
        daemon.signal("HUP");
        until("the reload", || daemon.log().matches("Reloaded").count() == times);
    }
    assert!(!daemon.log().contains("are not served"), "{}", daemon.log());
    let (taken, _listener) = port();
    world.write("agent.yaml", &format!("listen: {taken}\n{config}"));
    daemon.signal("HUP");
    daemon.until_it_says("Health and metrics are not served: can't listen on");
    until("the reload", || daemon.log().matches("Reloaded").count() == 11);
}
