//! `report: shadow` collects and compares and never posts, whatever the month brings; and the way from there to `live`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::io::{Read, Write};

use agent::books::*;
use agent::*;
use serde_json::json;

fn shadow(world: &World, submit: &str) {
    configure(world, &format!("report: shadow, {submit}"), "", &[("source", keys(CPU))]);
}

/// Requests of ours, not of the other writer's.
fn posts(world: &World) -> usize {
    world
        .requests_since(0)
        .iter()
        .filter(|call| call.method != "GET" && call.body["usages"][0]["amount"] != "5")
        .count()
}

#[test]
fn a_whole_month_with_its_end_and_closing_sees_no_post() {
    for (api, late) in
        [(CLASSIC, "hold"), (CURRENT, "hold"), (CURRENT, "carry_forward"), (CURRENT, "backfill")]
    {
        let world = world(api, "2026-11-01T00:30:00Z");
        shadow(&world, &format!("late: {late}, on_conflict: overwrite"));
        let mut all = Vec::new();
        for (now, id, start, end) in [
            ("2026-11-01T01:30:00Z", "1", "11-01T00:00", "11-01T01:00"),
            ("2026-11-15T12:00:00Z", "2", "11-15T10:00", "11-15T11:00"),
            ("2026-11-30T23:50:00Z", "3", "11-30T22:00", "11-30T23:00"),
            ("2026-11-30T23:58:30Z", "4", "11-30T23:00", "11-30T23:58"),
            ("2026-12-01T00:01:00Z", "5", "11-30T23:58", "12-01T00:00"),
            ("2026-12-02T12:00:00Z", "6", "11-20T10:00", "11-20T11:00"),
            ("2026-12-03T12:00:00Z", "7", "12-02T10:00", "12-02T11:00"),
        ] {
            all.push(hours(id, start, end, "1"));
            let done = jobs(&world, now, &all).exits(0);
            let done = done.says("report: shadow: nothing is posted.");
            // Of a month that has nothing yet, there is nothing to tell.
            if !["2026-12-01", "2026-12-02"].contains(&&now[..10]) {
                done.says("Different from what Waldur holds: 1 of 1 resource");
            }
        }
        // The daemon over the end of a month: it closes nothing, and registers nowhere.
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let text =
            text.replace("submit: { ", "submit: { schedule: every 1s, ").replace("\"@hourly\"", "every 1s");
        world.write("agent.yaml", &format!("listen: 127.0.0.1:0\n{text}"));
        world.now("2026-12-31T23:59:00Z");
        let daemon = world.daemon(&[], &[]);
        daemon.until_it_says("report: shadow: nothing is posted");
        daemon.until_it_says("Ready");
        for second in (0..60).step_by(10) {
            let now = format!("2026-12-31T23:59:{second:02}");
            world.now(&format!("{now}Z"));
            until("a run of the collector", || {
                let status = world.agent(&["status", "--json"]).json();
                status["collectors"][0]["last_run"].as_str().is_some_and(|last| *last >= *now)
            });
        }
        world.now("2027-01-01T00:05:00Z");
        // A cycle in the new month marks the one after it.
        let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
        let marked =
            || ledger.query_row("SELECT max(period) FROM shadow", [], |row| row.get::<_, String>(0)).unwrap();
        until("a cycle in the new month", || marked() == "2027-02");
        let log = daemon.log();
        let listens = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
        let mut stream = std::net::TcpStream::connect(listens).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).unwrap();
        for metric in ["oldest_unreported_seconds 0", "pending_statements 0"] {
            assert!(metrics.contains(&format!("waldur_usage_agent_{metric}\n")), "{metric}: {metrics}");
        }
        drop(daemon);
        assert_eq!(posts(&world), 0, "{api} {late}");
        assert_eq!(world.rows(A), [""; 0], "{api} {late}");
        // Nothing of it is an alarm.
        let status = world.agent(&["status", "--period", "2026-11"]).exits(0);
        status.says("report: shadow: nothing is posted").says_not("stranded").says_not("pending");
        world.agent(&["export", "--period", "2026-11"]).exits(0).says(",,shadow,");
        assert_eq!(world.agent(&["status", "--json"]).exits(0).json()["report"], "shadow");
    }
}

#[test]
fn not_even_a_late_month_is_carried_when_it_goes_live() {
    for (api, late) in LATE {
        let world = world(api, "2026-11-10T12:00:00Z");
        if late == "backfill" {
            world.write("token", "staff-token");
        }
        shadow(&world, &format!("late: {late}"));
        let mut all = vec![hours("1", "11-05T00:00", "11-05T05:00", "5")];
        jobs(&world, "2026-11-10T12:00:00Z", &all).exits(0);
        all.push(hours("2", "11-30T20:00", "11-30T23:00", "3"));
        jobs(&world, "2026-12-01T12:00:00Z", &all).exits(0);
        // Live from December on: November was another's, as a whole, whatever comes late of it.
        configure(&world, &format!("late: {late}"), "", &[("source", keys(CPU))]);
        all.push(hours("3", "12-01T10:00", "12-01T12:00", "2"));
        let done = jobs(&world, "2026-12-02T12:00:00Z", &all).exits(0);
        done.says("report: live: from this month on it is reported");
        all.push(hours("4", "11-29T20:00", "11-29T23:00", "3"));
        all.push(hours("5", "12-02T10:00", "12-02T11:00", "1"));
        jobs(&world, "2026-12-03T12:00:00Z", &all).exits(0).says_not("stranded");
        assert_eq!(world.rows(A), ["cpu 2026-12 3.00"], "{api} {late}");
        assert_eq!(world.shares(A), ["alice cpu 2026-12 3.00"], "{api} {late}");
        world.agent(&["status"]).exits(0).says_not("stranded");
        world.agent(&["parked", "list"]).exits(0);
    }
}

/// What was carried to a month that goes into shadow before it was accepted there is left over again where it was used, and
/// the month's own usage is nobody's but the other writer's.
#[test]
fn what_was_carried_to_a_month_that_goes_into_shadow_is_left_over_where_it_was_used() {
    for api in BOTH {
        let world = world(api, "2026-10-31T12:00:00Z");
        configure(&world, "late: carry_forward", "", &[("source", keys(CPU))]);
        let mut all = vec![hours("1", "10-10T00:00", "10-10T10:00", "10")];
        jobs(&world, "2026-10-31T12:00:00Z", &all).exits(0);
        // Five hours come late and are carried to November, where the server takes nothing.
        all.push(hours("2", "10-20T00:00", "10-20T05:00", "5"));
        world.fault(json!({ "match": { "path": "/set_usage/" }, "action": { "status": 503 } }));
        jobs(&world, "2026-11-02T12:00:00Z", &all).exits(75);
        let moved = || world.agent(&["explain", A, "cpu", "--period", "2026-11"]).out;
        assert!(moved().contains("2026-10") && moved().contains("5.00"), "{}", moved());
        world.no_faults();
        shadow(&world, "late: carry_forward");
        all.push(hours("3", "11-02T00:00", "11-02T02:00", "2"));
        let done = jobs(&world, "2026-11-03T12:00:00Z", &all);
        let status = world.agent(&["status", "--period", "2026-10"]).exits(75);
        status.says("report: shadow: nothing is posted").says("1 pending").says_not("503");
        assert!(!moved().contains("2026-10"), "{} {done:#?}", moved());
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00"], "{api}");
        // Live again in December, which the five hours are carried to.
        configure(&world, "late: carry_forward", "", &[("source", keys(CPU))]);
        jobs(&world, "2026-12-02T12:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-12 5.00"], "{api}");
    }
}

#[test]
fn what_waldur_holds_when_it_goes_live_is_another_writers() {
    for api in BOTH {
        let world = world(api, NOON);
        another_reports(&world, A, "cpu", "5");
        shadow(&world, "late: hold");
        // Equal, and compared often: even so it is not ours.
        for hour in 12..16 {
            jobs(&world, &format!("2026-11-10T{hour}:30:00Z"), &[five()])
                .exits(0)
                .says("As Waldur holds it: 1 resource.");
        }
        another_reports(&world, A, "cpu", "6");
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        let six = [five(), hours("2", "11-10T12:00", "11-10T13:00", "1.5")];
        jobs(&world, "2026-11-10T17:00:00Z", &six).exits(65).tells(&["6.00", "resolve"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00"], "{api}");
        world.agent(&["resolve", "project-a", "overwrite"]).exits(0);
        jobs(&world, "2026-11-10T17:10:00Z", &six).exits(0).says("6.00").says("6.50");
        assert_eq!(world.rows(A), ["cpu 2026-11 6.50"], "{api}");
    }
}

#[test]
fn a_server_that_refuses_or_is_away_is_told_in_shadow_too() {
    let mut world = world(CURRENT, NOON);
    shadow(&world, "late: hold");
    world.write("token", "wrong-token");
    jobs(&world, NOON, &[five()]).exits(77);
    world.write("token", TOKEN);
    world.server_goes_away();
    world.agent_clock("2026-11-10T12:20:00Z");
    world.flush().exits(75);
    world.agent(&["status"]).says("report: shadow");
}

#[test]
fn a_word_that_is_none_is_told() {
    let world = world(CURRENT, NOON);
    configure(&world, "report: shado", "", &[("source", keys(CPU))]);
    world.agent(&["check", "--offline"]).exits(78).says("`shado` is no way to report; known: live, shadow");
}
