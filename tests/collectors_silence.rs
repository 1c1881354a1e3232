//! A source that falls silent, through the real binary: what there was has ended when a second run agrees, and not before.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;

/// A level of 6 GB from 10:00 on, and then programs that print nothing.
fn world(more: &str) -> World {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {A}\n{more}    meters:\n      ram_gb_hours: {{ reading: level, aggregate: integral, max_gap: 2h }}\n"
    ));
    world.now("2026-11-10T10:00:00Z");
    world.readings(&[reading("level", "gauge", "2026-11-10T10:00:00Z", "6", &[])]);
    world.flush().exits(0);
    world.write("readings", "# nothing\n");
    world
}

#[test]
fn a_program_that_prints_nothing_ends_what_there_was_when_a_second_run_agrees() {
    let world = world("");
    world.now("2026-11-10T11:00:00Z");
    world.agent(&["collect"]).exits(69).says("it saw nothing at all, where it saw counters or gauges before");
    // A restart in between changes nothing of that: each run here is a process of its own.
    world.now("2026-11-10T12:00:00Z");
    let second = world.agent(&["collect"]).exits(0).says("it saw nothing at all twice in a row");
    second.says_not("where it saw counters or gauges before");
    world.now("2026-11-10T13:00:00Z");
    world.flush().exits(0);
    // 6 GB from 10:00 to 12:00, where the second run did not see it either.
    assert_eq!(world.rows(A), ["ram_gb_hours 2026-11 12.00"]);
}

#[test]
fn where_nothing_is_right_at_times_the_first_run_is_believed() {
    let world = world("    allow_empty: true\n");
    world.now("2026-11-10T11:00:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["ram_gb_hours 2026-11 6.00"]);
}

/// What comes back before a second run agrees was never away.
#[test]
fn a_source_that_speaks_again_has_lost_nothing() {
    let world = world("");
    world.now("2026-11-10T11:00:00Z");
    world.agent(&["collect"]).exits(69);
    world.readings(&[reading("level", "gauge", "2026-11-10T12:00:00Z", "6", &[])]);
    world.now("2026-11-10T12:00:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["ram_gb_hours 2026-11 12.00"]);
}

/// Garbage is no silence: the run has failed, and what was known stands.
#[test]
fn a_program_that_prints_only_garbage_has_failed() {
    let world = world("");
    world.write("readings", "Traceback (most recent call last):\n  File \"x\", line 1\n");
    world.now("2026-11-10T11:00:00Z");
    world.agent(&["collect"]).exits(69).says(
        "failed: none of its 2 lines or values could be read; the first: line 1: it is not one JSON object",
    );
    stands(&world);
}

/// So have times that are all in the future.
#[test]
fn a_program_that_prints_only_the_future_has_failed() {
    let world = world("");
    let tomorrow =
        |project: &str| reading("level", "gauge", "2026-11-11T11:00:00Z", "6", &[("project", project)]);
    world.readings(&[tomorrow("a"), tomorrow("b")]);
    world.now("2026-11-10T11:00:00Z");
    world.agent(&["collect"]).exits(69).says("failed: none of its 2 lines or values could be read");
    stands(&world);
}

/// 6 GB are still there an hour later: 12 GB-hours since 10:00, where a run that failed has ended nothing.
#[track_caller]
fn stands(world: &World) {
    world.readings(&[reading("level", "gauge", "2026-11-10T12:00:00Z", "6", &[])]);
    world.now("2026-11-10T12:00:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["ram_gb_hours 2026-11 12.00"]);
}

/// A counter that is silent once goes on from where it was: 20 h by 10:00, 50 h by 12:00.
#[test]
fn a_counter_that_is_silent_once_has_lost_nothing() {
    let world = World::new(CURRENT);
    world.configure(&format!("    resource: {A}\n    meters:\n      cpu_hours: {{ reading: used }}\n"));
    let used = |at: &str, value: &str| reading("used", "counter", at, value, &[]);
    for (now, value) in [("2026-11-10T09:00:00Z", "100"), ("2026-11-10T10:00:00Z", "120")] {
        world.now(now);
        world.readings(&[used(now, value)]);
        world.flush().exits(0);
    }
    world.write("readings", "# nothing\n");
    world.now("2026-11-10T11:00:00Z");
    world.agent(&["collect"]).exits(69).says("it saw nothing at all, where it saw counters or gauges before");
    world.now("2026-11-10T12:00:00Z");
    world.readings(&[used("2026-11-10T12:00:00Z", "150")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 50.00"]);
}
