//! Totals that were not answered in a month of several plan periods, and are looked for when that month is over: what Waldur
//! holds of them is found, billed once, and told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// These are what the source has, and the agent is killed when Waldur has taken the first total.
fn killed(world: &World, now: &str, point: &str, all: &[Value]) {
    lines(world, "source", all);
    world.now(now);
    world.flush_killed_at(point).exits(137);
}

/// The first cycles of November; what the unanswered call came to is known after the first.
#[track_caller]
fn settles(world: &World, all: &[Value], code: i32) -> Done {
    let first = jobs(world, "2026-11-01T01:00:00Z", all);
    for now in ["2026-11-01T03:00:00Z", "2026-11-02T12:00:00Z"] {
        jobs(world, now, all).exits(code);
    }
    first
}

fn fourteen_and_six() -> [Value; 2] {
    [
        hours("1", "10-24T20:00", "10-25T10:00", "14"),
        on("project-a", "bob", "2", "10-30T03:00", "10-30T09:00", "6"),
    ]
}

/// Nothing of October was reported; the earlier plan's total was taken when the agent died.
#[test]
fn the_first_total_of_an_earlier_plan_is_found_when_its_month_is_over() {
    for (api, late) in LATE {
        let world = metered(api, "2026-10-24T12:00:00Z", late);
        change_plan(&world, "2026-10-26T22:50:00Z", "switch_plan");
        killed(&world, "2026-10-31T20:30:00Z", "after set_usage", &fourteen_and_six());
        assert_eq!(world.rows(A), ["cpu 2026-10 14.00"], "{api} {late}");
        settles(&world, &fourteen_and_six(), if late == "carry_forward" { 0 } else { 65 });
        let rows: &[&str] = match late {
            "carry_forward" => &["cpu 2026-10 14.00", "cpu 2026-11 6.00"],
            _ => &["cpu 2026-10 14.00"],
        };
        assert_eq!(world.rows(A), rows, "{api} {late}");
        let parked = world.agent(&["parked", "list"]).all();
        assert_eq!(parked.contains("6.00"), late != "carry_forward", "{api} {late}: {parked}");
        assert!(!parked.contains("14.00"), "{api} {late}: {parked}");
    }
}

/// The earlier plan's total was reported; the later one's was taken when the agent died.
#[test]
fn the_first_total_of_a_later_plan_is_found_when_its_month_is_over() {
    for (api, late) in LATE {
        let world = metered(api, "2026-10-24T12:00:00Z", late);
        jobs(&world, "2026-10-26T13:00:00Z", &fourteen_and_six()[..1]).exits(0);
        change_plan(&world, "2026-10-26T22:50:00Z", "switch_plan");
        killed(&world, "2026-10-31T20:30:00Z", "after set_usage", &fourteen_and_six());
        settles(&world, &fourteen_and_six(), 0);
        assert_eq!(world.rows(A), ["cpu 2026-10 14.00", "cpu 2026-10 6.00"], "{api} {late}");
        assert_eq!(world.shares(A), ["alice cpu 2026-10 14.00", "bob cpu 2026-10 6.00"], "{api} {late}");
    }
}

/// The plan was switched, and nobody had seen it, when all 7.00 were taken under the new one without an answer: 5.00 are billed
/// twice. Together they are a conflict: nothing is carried, and a person decides.
#[test]
fn a_total_that_went_under_a_plan_that_nobody_had_seen_is_a_conflict_when_its_month_is_over() {
    for late in ["hold", "carry_forward"] {
        let world = metered(CLASSIC, NOON, late);
        jobs(&world, NOON, &[five()]).exits(0);
        change_plan(&world, "2026-11-30T22:00:00Z", "switch_plan");
        let seven = [five(), hours("2", "11-30T20:00", "11-30T22:00", "2")];
        let fails = |method: &str, path: &str, when: &str| json!({ "match": { "method": method, "path": path }, "when": when, "action": { "status": 504 } });
        let faults = [fails("GET", "provider-resources", "before"), fails("POST", "set_usage", "after")];
        world.post("faults", json!({ "faults": faults }));
        jobs(&world, "2026-11-30T23:30:00Z", &seven).exits(75);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00", "cpu 2026-11 7.00"], "{late}");
        world.no_faults();
        jobs(&world, "2026-12-01T01:00:00Z", &seven);
        for now in ["2026-12-01T03:00:00Z", "2026-12-02T12:00:00Z", "2026-12-04T12:00:00Z"] {
            jobs(&world, now, &seven).exits(65);
        }
        world.agent(&["status"]).exits(65).tells(&["Project A", "2026-11", "held", "12.00", "7.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00", "cpu 2026-11 7.00"], "{late}");
    }
}

/// The same where the plan was renewed: all 20.00 are under the new plan period, and 14.00 of them under the old one, too.
#[test]
fn a_total_that_went_under_a_plan_period_that_nobody_had_seen_is_a_conflict_too() {
    for late in ["hold", "carry_forward"] {
        let world = metered(CLASSIC, "2026-10-24T12:00:00Z", late);
        jobs(&world, "2026-10-26T13:00:00Z", &fourteen_and_six()[..1]).exits(0);
        change_plan(&world, "2026-10-26T22:50:00Z", "renew_plan");
        killed(&world, "2026-10-31T20:30:00Z", "after set_usage", &fourteen_and_six());
        settles(&world, &fourteen_and_six(), 65).names_a().tells(&["holds 34.00", "14.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-10 14.00", "cpu 2026-10 20.00"], "{late}");
    }
}

/// Both plans' totals are 5.00: which row is whose is told by when they were made.
#[test]
fn shares_of_two_plans_with_equal_totals_are_completed_after_the_month() {
    for api in BOTH {
        let world = metered(api, "2026-10-24T12:00:00Z", "hold");
        let first = hours("1", "10-24T20:00", "10-25T10:00", "5");
        jobs(&world, "2026-10-26T13:00:00Z", std::slice::from_ref(&first)).exits(0);
        change_plan(&world, "2026-10-26T22:50:00Z", "switch_plan");
        let all = [first, on("project-a", "bob", "2", "10-30T03:00", "10-30T09:00", "5")];
        killed(&world, "2026-10-31T20:30:00Z", "after totals are acknowledged", &all);
        settles(&world, &all, 0);
        assert_eq!(world.rows(A), ["cpu 2026-10 5.00", "cpu 2026-10 5.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-10 5.00", "bob cpu 2026-10 5.00"], "{api}");
    }
}
