//! `explain` as a customer would check it: each table adds up, and what is not in it is named.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::Value;

fn in_unit(mut reading: Value, unit: &str) -> Value {
    reading["unit"] = unit.into();
    reading
}

fn world() -> World {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {A}\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n      \
         ram_gb_hours: {{ reading: memory_bytes, aggregate: integral, factor: 1/1073741824, max_gap: 1h }}\n"
    ));
    let cpu = |at: &str, value: &str, partition: &str| {
        in_unit(
            reading("cpu_seconds", "counter", at, value, &[("partition", partition), ("site", "north")]),
            "s",
        )
    };
    let memory = |at: &str, value: &str| in_unit(reading("memory_bytes", "gauge", at, value, &[]), "B");
    world.readings(&[
        cpu("2026-11-09T10:00:00Z", "0", "a"),
        cpu("2026-11-09T12:00:00Z", "7200", "a"),
        // It started anew.
        cpu("2026-11-10T10:00:00Z", "1800", "a"),
        cpu("2026-11-10T09:00:00Z", "100", "b"),
        cpu("2026-11-10T10:00:00Z", "3700", "b"),
        memory("2026-11-10T08:00:00Z", "2147483648"),
        memory("2026-11-10T09:00:00Z", "2147483648"),
        // Longer than an hour: nobody knows what was between.
        memory("2026-11-10T11:30:00Z", "1073741824"),
        memory("2026-11-10T12:00:00Z", "1073741824"),
    ]);
    world.flush().exits(0);
    world
}

/// 7200 s on the 9th; 1800 after a reset and 3600 on the 10th: 12600 s are 3.5 h.
#[test]
fn a_counters_days_and_series_add_up_and_a_reset_is_named() {
    let world = world();
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.50", "ram_gb_hours 2026-11 2.50"]);
    let explained = world.agent(&["explain", A, "cpu_hours"]).exits(0);
    explained
        .says("posted 3.50 h used 3.5 h, rounded half_even")
        .says("from collector source, counter cpu_seconds, s: increase, x factor 1/3600 of site=north")
        .says("DAY ADDS (s) MAKES (h) READINGS NOTE 2026-11-09 7200 2 2 2026-11-10 5400 1.5 3 a reset: counted from zero total 12600 3.5 5")
        .says("SERIES ADDS (s) MAKES (h) READINGS NOTE partition=a 9000 2.5 3 a reset: counted from zero partition=b 3600 1 2 total 12600 3.5 5")
        .says("5 readings: --readings shows them");
}

/// 2 GiB for an hour and 1 GiB for half an hour are 2.5 GiB*h; two and a half hours are not known.
#[test]
fn a_gauges_gap_is_named() {
    let world = world();
    let explained = world.agent(&["explain", A, "ram_gb_hours"]).exits(0);
    explained
        .says(
            "from collector source, gauge memory_bytes, B: integral step 3600000000us, x factor 1/1073741824",
        )
        .says("2026-11-10 2684354560 2.5 4 gaps of 2h 30m left out")
        .says("levels are known for 1h 30m; 2h 30m left out in 1 gap");
}

#[test]
fn it_says_when_it_shows_a_part() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let jobs: Vec<Value> = (0..1200)
        .map(|n| job("cpu_seconds", &n.to_string(), "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "3", &[]))
        .collect();
    world.readings(&jobs);
    world.flush().exits(0);
    // 1200 times 3 s are an hour.
    let explained = world.agent(&["explain", A, "cpu_hours"]).exits(0);
    explained.says("2026-11-09 3600 1 1200 total 3600 1 1200").says("1,200 readings: --readings shows them");
    let explained = world.agent(&["explain", A, "cpu_hours", "--readings"]).exits(0);
    explained.says("the last 40 of 1,200 readings; --json has all");
    let all = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
    assert_eq!(all["readings"].as_array().unwrap().len(), 1200);
}

/// A slip of the finger is answered with what there is.
#[test]
fn a_name_that_is_not_there_is_told_with_those_that_are() {
    let world = world();
    world.agent(&["explain", "Projekt A", "cpu_hours"]).exits(64).says("did you mean `Project A`?");
    world.agent(&["explain", "project-aa", "cpu_hours"]).exits(64).says("did you mean `project-a`?");
    world.agent(&["explain", "something else", "cpu_hours"]).exits(64).says_not("did you mean");
    let done = world.agent(&["explain", A, "cpu"]).exits(64);
    done.says(&format!("no amount of cpu for {A} in 2026-11; it has some of cpu_hours, ram_gb_hours"));
    world.agent(&["explain", A, "cpu_hours", "--user", "eve"]).exits(64).says("of cpu_hours of eve for");
    world.agent(&["explain", A, "cpu_hours", "--period", "2026-10"]).exits(64).says("it has some in 2026-11");
    world.agent(&["resolve", "Projekt A", "adopt"]).exits(64).says("did you mean `Project A`?");
    world.agent(&["parked", "drop", "projectA"]).exits(64).says("did you mean");
}

/// As the file has it, in whatever form that is; and another form of the same number changes nothing.
#[test]
fn a_factor_is_shown_as_it_is_written() {
    let world = World::new(CURRENT);
    let with = |factor: &str| {
        world.configure(&format!(
            "    resource: {A}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, factor: {factor} }} }}\n"
        ));
    };
    with("10/36000");
    world.readings(&[job("cpu_seconds", "1", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "5400", &[])]);
    world.flush().exits(0);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("x factor 10/36000");
    let json = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
    assert_eq!((&json["factor"], &json["factor_as_written"]), (&"1/3600".into(), &"10/36000".into()));
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
    with("1/3600");
    world.agent(&["check"]).says_not("factor of");
    world.flush().exits(0).says("Nothing was sent.").says_not("the rules were changed");
    world
        .agent(&["explain", A, "cpu_hours"])
        .exits(0)
        .says("x factor 1/3600")
        .says_not("the rules were changed");
    with("2e-3");
    world.flush().exits(0).says("the factor of cpu_hours is 2e-3 instead of 1/3600");
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("x factor 2e-3").says("posted    10.80 h");
}
