//! Killed between any two steps and started again: the same statements, nothing twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::time::Duration;

use agent::*;

/// Killed at in tests/agent_takeover.rs, tests/agent_late.rs and tests/shared.rs.
const ELSEWHERE: [&str; 5] = [
    "after an opening balance is recorded",
    "after something is carried forward",
    "before a run is sent",
    "after a run is sent",
    "before arrived runs are taken",
];

#[test]
fn a_list_of_fail_points_is_whole() {
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let calls = text.split("crate::fail_point(\"").skip(1);
                found.extend(calls.map(|rest| rest.split('"').next().unwrap().to_owned()));
            }
        }
    }
    found.sort();
    found.dedup();
    let mut listed = [&POINTS[..], &CLASSIC_POINTS[..], &ELSEWHERE[..]].concat();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

fn points(api: &str) -> Vec<&'static str> {
    match api {
        CLASSIC => [&POINTS[..], &CLASSIC_POINTS[..]].concat(),
        _ => POINTS.to_vec(),
    }
}

/// What the sandbox must hold in the end, whatever happened on the way.
fn assert_first_amounts(world: &World, point: &str) {
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"], "{point}");
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.02", "bob cpu_hours 2026-11 0.01"], "{point}");
    assert_eq!(world.billed(A), ["cpu_hours 2026-11 0.03"], "{point}");
}

#[test]
fn killed_at_any_step_of_the_first_report_the_next_run_makes_it_right() {
    for api in BOTH {
        for point in points(api) {
            let world = World::new(api);
            world.configure(&cpu_hours_by_user());
            world.readings(&alice_and_bob());
            world.flush_killed_at(point).exits(137);
            world.flush().exits(0);
            assert_first_amounts(&world, &format!("{api}, {point}"));
            let mark = world.mark();
            world.flush().exits(0).says("Nothing was sent.");
            assert_eq!(world.posts_since(mark).len(), 0, "{api}, {point}");
            world.agent(&["recount"]).exits(0);
        }
    }
}

#[test]
fn killed_at_any_step_of_a_later_report_the_next_run_makes_it_right() {
    for api in BOTH {
        for point in points(api) {
            let world = World::new(api);
            world.configure(&cpu_hours_by_user());
            world.readings(&alice_and_bob());
            world.flush().exits(0);
            // Alice goes on for an hour, Carol comes; the month was reported before.
            let mut lines = counter(&["100", "160", "20", "30", "3630"], &[("user", "alice")]);
            lines.extend(counter(&["0", "1800"], &[("user", "carol")]));
            world.readings(&lines);
            // That an older server has no call for many shares is known by then.
            let unused = api == CLASSIC && point.ends_with("set_user_usages");
            world.flush_killed_at(point).exits(if unused { 0 } else { 137 });
            world.flush().exits(0);
            // 110 + 3600 + 1800 = 5510 s = 1.5305; alice 3690 s = 1.025, bob 20 s = 0.0055, carol 0.5.
            assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.53"], "{api}, {point}");
            assert_eq!(
                world.shares(A),
                [
                    "alice cpu_hours 2026-11 1.02",
                    "bob cpu_hours 2026-11 0.01",
                    "carol cpu_hours 2026-11 0.50"
                ],
                "{api}, {point}"
            );
            assert_eq!(world.billed(A), ["cpu_hours 2026-11 1.53"], "{api}, {point}");
        }
    }
}

#[test]
fn killed_again_and_again_at_every_step_in_turn_it_gets_there() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        world.readings(&alice_and_bob());
        for point in points(api) {
            world.flush_killed_at(point);
        }
        world.flush().exits(0);
        assert_first_amounts(&world, api);
    }
}

#[test]
fn killed_after_the_call_it_reads_the_outcome_before_it_sends_again() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_of_a());
        world.readings(&counter(&["100", "160", "20", "50"], &[]));
        world.flush_killed_at("after set_usage").exits(137);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
        let mark = world.mark();
        world.flush().exits(0);
        let requests = world.requests_since(mark);
        assert!(
            requests.iter().any(|r| r.path.starts_with("/api/marketplace-component-usages/?")),
            "{requests:#?}"
        );
        // It was there: nothing is sent twice.
        assert!(!requests.iter().any(Request::is_post), "{requests:#?}");
    }
}

#[test]
fn killed_after_a_later_call_it_reads_the_outcome_before_it_sends_again() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_of_a());
        world.readings(&counter(&["0", "3600"], &[]));
        world.flush().exits(0);
        world.readings(&counter(&["0", "3600", "7200"], &[]));
        world.flush_killed_at("after set_usage").exits(137);
        let mark = world.mark();
        world.flush().exits(0);
        let requests = world.requests_since(mark);
        assert!(
            requests.iter().any(|r| r.path.starts_with("/api/marketplace-component-usages/?")),
            "{requests:#?}"
        );
        assert!(!requests.iter().any(Request::is_post), "{requests:#?}");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
    }
}

#[test]
fn a_run_that_was_not_committed_left_nothing_and_one_that_was_is_whole() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&counter(&["100", "160", "20", "50"], &[]));
    world.flush_killed_at("before a run is committed").exits(137);
    world.agent(&["status", "--json"]).says("\"statements\": []");
    world.flush_killed_at("after a run is committed").exits(137);
    let status = world.agent(&["status", "--json"]).exits(75).json();
    assert_eq!(status["statements"][0]["components"][0]["posted"], "0.03");
    assert_eq!(status["statements"][0]["components"][0]["acknowledged"], serde_json::Value::Null);
}

/// A series that grows by 36 s (0.01 h) a reading, alice's and bob's in turn.
fn growing(readings: usize) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    for user in ["alice", "bob"] {
        for index in 0..readings {
            let at = format!("2026-11-10T10:{:02}:{:02}Z", index / 60, index % 60);
            lines.push(reading("cpu_seconds", "counter", &at, &(36 * index).to_string(), &[("user", user)]));
        }
    }
    lines
}

#[test]
fn a_daemon_killed_at_random_moments_thirty_times_ends_with_exact_amounts() {
    for api in BOTH {
        let world = World::new(api);
        let collector = world
            .collector("source", "readings", &cpu_hours_by_user())
            .replace("schedule: \"@hourly\"", "schedule: every 1s");
        let head = world.head("timeout: 2s");
        world.write(
            "agent.yaml",
            &format!("{head}submit: {{ schedule: every 1s }}\ncollectors:\n{collector}"),
        );
        // A little slow, so that most moments are amidst something.
        world.post("settings", serde_json::json!({ "latency_ms": 5 }));
        // Repeatable chance: a linear congruence.
        let mut chance: u64 = 20_261_110;
        for round in 1..=15 {
            world.readings(&growing(1 + 10 * round));
            let mut daemon = world.daemon(&[], &[]);
            daemon.until_it_says("Ready");
            daemon.signal("USR1");
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            pause(Duration::from_millis((chance >> 33) % 120));
            daemon.kill();
            std::fs::remove_file(&daemon.log).unwrap();
        }
        world.post("settings", serde_json::json!({ "latency_ms": 0 }));
        world.flush().exits(0);
        // 150 rises of 36 s each for both: 1.50 h each.
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 1.50", "bob cpu_hours 2026-11 1.50"], "{api}");
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 3.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}
