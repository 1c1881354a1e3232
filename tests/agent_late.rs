//! Usage that is left over when its month is over: held, reported into its own month, or carried forward, once; and what
//! a person gives up. All amounts are worked out by hand.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::{Value, json};

const NOVEMBER: &str = "2026-11-30T12:00:00Z";
const DECEMBER: &str = "2026-12-01T06:10:00Z";

fn of(user: &str, id: &str, start: &str, end: &str, seconds: &str) -> Value {
    job("cpu_seconds", id, start, end, seconds, &[("user", user)])
}

/// An hour and a half of alice's, reported in time.
fn in_time() -> Value {
    of("alice", "nov", "2026-11-20T00:00:00Z", "2026-11-20T01:30:00Z", "5400")
}

/// An hour of hers that comes to be known after the month.
fn late() -> Value {
    of("alice", "late", "2026-11-21T00:00:00Z", "2026-11-21T01:00:00Z", "3600")
}

/// Four hours of bob's over midnight, of which 8 minutes are December's.
fn over() -> Value {
    of("bob", "over", "2026-11-30T20:08:00Z", "2026-12-01T00:08:00Z", "14400")
}

fn configure(world: &World, policy: &str, more: &str) {
    let collector = world.collector("source", "readings", &(cpu_hours_by_user() + more));
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}submit: {{ late: {policy} }}\ncollectors:\n{collector}"));
}

/// November's 1.50 is agreed; it is December, and 1 h and 3 h 52 min of November come to be known.
fn december(api: &str, policy: &str) -> World {
    let world = World::of(Setting { api, now: NOVEMBER, ..Setting::default() });
    configure(&world, policy, "");
    world.readings(&[in_time()]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
    world.now(DECEMBER);
    world.readings(&[in_time(), late(), over()]);
    world
}

fn staff(world: &World) {
    world.write("token", "staff-token");
}

#[track_caller]
fn nothing_more(world: &World, code: i32) {
    for _ in 0..2 {
        let mark = world.mark();
        world.flush().exits(code).says("Nothing was sent.");
        assert_eq!(world.posts_since(mark).len(), 0);
    }
    world.agent(&["recount"]).exits(0).says("The ledger agrees with its readings.");
}

fn explained(world: &World, period: &str) -> Value {
    world.agent(&["explain", A, "cpu_hours", "--period", period, "--json"]).exits(0).json()
}

fn description(world: &World, month: &str) -> String {
    let rows = world.held(A)["rows"].as_array().unwrap().clone();
    let row =
        rows.into_iter().find(|row| row["billing_period"].as_str().unwrap().starts_with(month)).unwrap();
    row["description"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_left_over_is_carried_forward_once() {
    for api in BOTH {
        let world = december(api, "carry_forward");
        let done = world.flush().exits(0);
        assert_eq!(done.err.matches("4.87 of it is carried forward to 2026-12").count(), 1, "{}", done.err);
        // 8 min = 0.1333 h are December's own, posted as 0.13; 6.3666 were used in November, posted as 6.37, of which 1.50
        // were accepted: 4.87 are carried.
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 5.00"], "{api}");
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 5.00"], "{api}");
        // alice's hour is late; of bob's four all but 0.1333 h are.
        assert_eq!(
            world.shares(A),
            ["alice cpu_hours 2026-11 1.50", "alice cpu_hours 2026-12 1.00", "bob cpu_hours 2026-12 4.00"]
        );
        assert_eq!(description(&world, "2026-12"), "includes 4.87 carried forward from 2026-11");
        let (old, new) = (explained(&world, "2026-11"), explained(&world, "2026-12"));
        assert_eq!((&old["amount"], &old["posted"]), (&json!("191/30"), &json!("1.50")), "{old:#}");
        assert_eq!((&new["amount"], &new["posted"]), (&json!("2/15"), &json!("5.00")), "{new:#}");
        let (out, into) = (&old["adjustments"][0], &new["adjustments"][0]);
        assert_eq!((&out["to"], &out["amount"]), (&json!("2026-12"), &json!("-4.87")), "{old:#}");
        assert_eq!((&into["from"], &into["amount"]), (&json!("2026-11"), &json!("4.87")), "{new:#}");
        let told = world.agent(&["explain", A, "cpu_hours", "--period", "2026-11"]).exits(0);
        told.says("4.87 carried forward to 2026-12");
        world.agent(&["status", "--all"]).exits(0).says("4.87 carried forward from 2026-11");
        nothing_more(&world, 0);
    }
}

#[test]
fn a_later_late_reading_carries_only_the_further_difference() {
    for api in BOTH {
        let world = december(api, "carry_forward");
        world.flush().exits(0);
        let more = of("alice", "more", "2026-11-22T00:00:00Z", "2026-11-22T02:00:00Z", "7200");
        world.readings(&[in_time(), late(), over(), more.clone()]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 7.00"], "{api}");
        assert_eq!(description(&world, "2026-12"), "includes 6.87 carried forward from 2026-11");
        nothing_more(&world, 0);
        // A correction takes back an hour of it.
        let less = of("alice", "more", "2026-11-22T00:00:00Z", "2026-11-22T02:00:00Z", "3600");
        world.readings(&[in_time(), late(), over(), less.clone()]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 6.00"], "{api}");
        // And then almost everything: less was used than had been carried.
        let none = of("bob", "over", "2026-11-30T20:08:00Z", "2026-12-01T00:08:00Z", "0");
        world.readings(&[
            in_time(),
            late(),
            none,
            of("alice", "more", "2026-11-22T00:00:00Z", "2026-11-22T02:00:00Z", "0"),
        ]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 1.00"], "{api}");
        world.readings(&[in_time(), late(), over(), less.clone()]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 6.00"], "{api}");
        // In January, what went to December stays there, and the next hour goes to January.
        world.now("2027-01-02T12:00:00Z");
        let last = of("bob", "last", "2026-11-25T00:00:00Z", "2026-11-25T01:00:00Z", "3600");
        world.readings(&[in_time(), late(), over(), less, last]);
        world.flush().exits(0);
        assert_eq!(
            world.rows(A),
            ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 6.00", "cpu_hours 2027-01 1.00"],
            "{api}"
        );
        assert_eq!(description(&world, "2027-01"), "includes 1.00 carried forward from 2026-11");
        nothing_more(&world, 0);
    }
}

#[test]
fn a_month_of_which_nothing_was_reported_is_carried_on_through_the_next() {
    let world = World::of(Setting { api: CLASSIC, now: NOVEMBER, ..Setting::default() });
    configure(&world, "carry_forward", "");
    world.flush().exits(0);
    // The agent is away until January.
    world.now("2027-01-10T12:00:00Z");
    let december = of("bob", "dec", "2026-12-05T00:00:00Z", "2026-12-05T01:00:00Z", "1800");
    world.readings(&[in_time(), late(), december]);
    world.flush().exits(0);
    // 2.50 of November and 0.50 of December.
    assert_eq!(world.rows(A), ["cpu_hours 2027-01 3.00"]);
    assert_eq!(
        description(&world, "2027-01"),
        "includes 2.50 carried forward from 2026-11 and 0.50 carried forward from 2026-12"
    );
    nothing_more(&world, 0);
}

/// Which of them another has billed by then, a new ledger doesn't know.
#[test]
fn a_month_that_this_ledger_did_not_report_is_not_carried_out_of() {
    let world = World::of(Setting { api: CLASSIC, now: "2027-01-10T12:00:00Z", ..Setting::default() });
    configure(&world, "carry_forward", "");
    let december = of("bob", "dec", "2026-12-05T00:00:00Z", "2026-12-05T01:00:00Z", "1800");
    world.readings(&[in_time(), late(), december]);
    world.flush().exits(65).says("2.50 of 2026-11").says("0.50 of 2026-12").says("stranded");
    assert_eq!(world.rows(A), [""; 0]);
    nothing_more(&world, 65);
}

#[test]
fn what_another_puts_into_a_month_that_is_over_is_told_and_not_carried() {
    for api in BOTH {
        let world = december(api, "carry_forward");
        world.flush().exits(0);
        // Waldur's staff puts all of it where it belongs.
        let row = json!({ "resource": A, "type": "cpu_hours", "usage": "6.37", "modified_by": 3,
                          "billing_period": "2026-11-01", "date": "2026-12-02T09:00:00Z" });
        world.post("rows", row);
        world.now("2026-12-02T12:00:00Z");
        let hour = of("bob", "dec", "2026-12-02T00:00:00Z", "2026-12-02T01:00:00Z", "3600");
        world.readings(&[in_time(), late(), over(), hour]);
        // What another puts into a month that is over changes nothing of what is carried (law 7), and is told.
        world.flush().exits(65).says("2026-11").says("6.37").says("1.50");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 6.37", "cpu_hours 2026-12 6.00"], "{api}");
        // Nothing more is carried while nobody has decided.
        let more = of("alice", "more", "2026-11-22T00:00:00Z", "2026-11-22T02:00:00Z", "7200");
        world.readings(&[more]);
        world.flush().exits(65);
        world.agent(&["status"]).exits(65).says("2026-11").says("6.37").says("3.50");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 6.37", "cpu_hours 2026-12 6.00"], "{api}");
    }
}

#[test]
fn what_waldur_holds_too_much_of_is_taken_away_where_there_is_something_to_take_it_from() {
    for api in BOTH {
        let world = december(api, "carry_forward");
        let corrected = of("alice", "nov", "2026-11-20T00:00:00Z", "2026-11-20T01:30:00Z", "3600");
        world.readings(std::slice::from_ref(&corrected));
        // Less than nothing is never posted, so that it stays where it was.
        world.flush().exits(65).says("stranded").says("0.50 more was reported for 2026-11");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"], "{api}");
        nothing_more(&world, 65);
        // Of an hour of hers in December half is billed already.
        world.now("2026-12-02T12:00:00Z");
        world.readings(&[
            corrected,
            of("alice", "dec", "2026-12-02T00:00:00Z", "2026-12-02T01:00:00Z", "3600"),
        ]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 0.50"], "{api}");
        assert_eq!(
            world.shares(A),
            ["alice cpu_hours 2026-11 1.50", "alice cpu_hours 2026-12 0.50"],
            "{api}"
        );
        nothing_more(&world, 0);
    }
}

#[test]
fn a_crash_while_it_is_carried_changes_nothing() {
    for point in ["after something is carried forward", "before set_usage", "after set_usage"] {
        let world = december(CURRENT, "carry_forward");
        world.flush_killed_at(point).exits(128 + 9);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 5.00"], "{point}");
        nothing_more(&world, 0);
    }
}

#[test]
fn another_writers_number_in_the_old_month_is_decided_before_anything_is_carried() {
    let world = december(CURRENT, "carry_forward");
    let row = json!({ "resource": A, "type": "cpu_hours", "usage": "4.00", "modified_by": 3,
                      "billing_period": "2026-11-01", "date": "2026-12-01T05:00:00Z" });
    world.post("rows", row);
    world.flush().exits(65).says("Waldur holds 4.00").says("1.50");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00", "cpu_hours 2026-12 0.13"]);
    world.agent(&["resolve", A, "overwrite"]).exits(0);
    world.flush().exits(65);
    // 6.3666 - 4.00 + 0.1333
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00", "cpu_hours 2026-12 2.50"]);
    // Of bob's 3.8666 as much goes along as the total has for him beside alice's hour, 1.37; the rest is told.
    let shares =
        ["alice cpu_hours 2026-11 1.50", "alice cpu_hours 2026-12 1.00", "bob cpu_hours 2026-12 1.50"];
    assert_eq!(world.shares(A), shares);
    world.agent(&["parked", "list"]).exits(65).says("bob").says("2.50");
    world.agent(&["parked", "drop", A]).exits(0);
    nothing_more(&world, 0);
}

#[test]
fn what_was_stranded_before_is_carried_when_the_policy_changes_but_not_what_was_dropped() {
    let world = december(CURRENT, "hold");
    world.flush().exits(65).says("stranded");
    world.agent(&["parked", "drop", A, "cpu_hours", "--period", "2026-11"]).exits(0);
    world.agent(&["status", "--all", "--period", "2026-11"]).exits(0).says("4.87 given up");
    assert_eq!(world.agent(&["parked", "list", "--json"]).exits(0).json(), json!([]));
    configure(&world, "carry_forward", "");
    nothing_more(&world, 0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 0.13"]);
    // It is taken back on purpose.
    world.agent(&["parked", "retry"]).exits(0).says("0 items");
    // The total, and alice's and bob's shares of it.
    world.agent(&["parked", "retry", A]).exits(0).says("3 items");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 5.00"]);
    nothing_more(&world, 0);
}

#[test]
fn a_level_is_of_its_own_month_and_not_carried() {
    let world = World::of(Setting { api: CURRENT, now: DECEMBER, ..Setting::default() });
    let collector = world.collector(
        "source",
        "readings",
        &format!("    resource: {A}\n    meters:\n      storage_gb: {{ reading: disk, aggregate: max }}\n"),
    );
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}submit: {{ late: carry_forward }}\ncollectors:\n{collector}"));
    world.readings(&[reading("disk", "gauge", "2026-11-20T10:00:00Z", "9", &[])]);
    world.flush().exits(65).says("stranded");
    assert_eq!(world.posts_since(0).len(), 0);
}

#[test]
fn a_staff_token_reports_into_the_month_that_is_over() {
    let world = december(CURRENT, "backfill");
    staff(&world);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 6.37", "cpu_hours 2026-12 0.13"]);
    assert_eq!(world.billed(A), ["cpu_hours 2026-11 6.37", "cpu_hours 2026-12 0.13"]);
    assert_eq!(
        world.shares(A),
        ["alice cpu_hours 2026-11 2.50", "bob cpu_hours 2026-11 3.87", "bob cpu_hours 2026-12 0.13"]
    );
    let calls = world.posts_since(0);
    let late = calls.iter().find(|call| call.body["usages"][0]["amount"] == "6.37").unwrap();
    // In November in every time zone.
    assert_eq!(late.body["date"], "2026-11-29T22:00:00Z");
    nothing_more(&world, 0);
}

#[test]
fn what_is_learnt_of_the_server_only_now_is_reported_into_the_past_in_the_same_round() {
    let world = World::of(Setting { api: CURRENT, now: DECEMBER, ..Setting::default() });
    configure(&world, "backfill", "");
    staff(&world);
    world.readings(&[in_time(), late(), over()]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 6.37", "cpu_hours 2026-12 0.13"]);
    nothing_more(&world, 0);
}

#[test]
fn a_server_that_ignores_dates_is_never_sent_the_past() {
    let world = december(CLASSIC, "backfill");
    staff(&world);
    world.flush().exits(65).says("stranded");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 0.13"]);
    nothing_more(&world, 65);
}

/// An hour and 2 GB of November came to be known too late for both resources, and the provider's token was refused.
fn refused() -> World {
    let world = World::of(Setting { api: CURRENT, now: NOVEMBER, ..Setting::default() });
    let collector = world.collector(
        "source",
        "readings",
        &format!(
            "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n      storage_gb: {{ reading: disk }}\n"
        ),
    );
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}submit: {{ late: backfill }}\ncollectors:\n{collector}"));
    let one = |name: &str, account: &str, id: &str, day: &str, value: &str| {
        let (start, end) = (format!("{day}T00:00:00Z"), format!("{day}T01:00:00Z"));
        job(name, &format!("{account} {id}"), &start, &end, value, &[("account", account)])
    };
    let mut lines = Vec::new();
    for account in ["project-a", "project-b"] {
        lines.push(one("cpu_seconds", account, "1", "2026-11-20", "3600"));
        lines.push(one("disk", account, "1", "2026-11-20", "5"));
    }
    world.readings(&lines);
    world.flush().exits(0);
    world.now(DECEMBER);
    for account in ["project-a", "project-b"] {
        lines.push(one("cpu_seconds", account, "2", "2026-11-21", "3600"));
        lines.push(one("disk", account, "2", "2026-11-21", "2"));
    }
    world.readings(&lines);
    let mark = world.mark();
    let done = world.flush().exits(65);
    done.says("Service providers can only specify date for limit-based or prepaid billing components");
    for resource in [A, B] {
        assert_eq!(world.rows(resource), ["cpu_hours 2026-11 1.00", "storage_gb 2026-11 7.00"]);
    }
    let refused = world.posts_since(mark).into_iter().filter(|call| call.status == 400).count();
    assert_eq!(refused, 1, "the second resource is not tried");
    let list = world.agent(&["parked", "list", "--json"]).exits(65).json();
    assert_eq!(
        (&list[0]["reason"], &list[0]["state"]),
        (&json!("late_refused"), &json!("stranded")),
        "{list:#}"
    );
    nothing_more(&world, 65);
    world
}

#[test]
fn what_the_server_refused_may_be_carried_forward_after_all() {
    let world = refused();
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("late: backfill", "late: carry_forward"));
    world.flush().exits(0);
    for resource in [A, B] {
        assert_eq!(
            world.rows(resource),
            ["cpu_hours 2026-11 1.00", "cpu_hours 2026-12 1.00", "storage_gb 2026-11 7.00"]
        );
    }
    nothing_more(&world, 0);
}

#[test]
fn a_provider_is_refused_in_the_servers_words_once_and_reports_what_it_may() {
    let world = refused();
    // A person asks again, a day later, with another token.
    staff(&world);
    world.now("2026-12-02T12:00:00Z");
    world.agent(&["parked", "retry"]).exits(0).says("2 items");
    world.flush().exits(0);
    for resource in [A, B] {
        assert_eq!(world.rows(resource), ["cpu_hours 2026-11 2.00", "storage_gb 2026-11 7.00"]);
    }
    nothing_more(&world, 0);
}

#[test]
fn a_report_into_the_past_that_has_no_clear_outcome_is_read_back() {
    for when in ["before", "after"] {
        let world = december(CURRENT, "backfill");
        staff(&world);
        let matching = json!({ "path": "/set_usage/", "body": "6.37" });
        world.fault(json!({ "match": matching, "when": when, "action": { "status": 504 }, "times": 1 }));
        if when == "before" {
            // It may still be carried out: it is looked for again after the longest time of a call.
            world.flush().exits(75);
            assert_eq!(world.rows(A)[0], "cpu_hours 2026-11 1.50");
            world.now("2026-12-01T06:25:00Z");
        }
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 6.37", "cpu_hours 2026-12 0.13"], "{when}");
        nothing_more(&world, 0);
    }
}

#[test]
fn a_report_into_the_past_that_is_accepted_and_not_to_be_seen_there_is_the_last() {
    let world = december(CURRENT, "backfill");
    staff(&world);
    let matching = json!({ "path": "/set_usage/", "body": "6.37" });
    world.fault(json!({ "match": matching, "when": "before", "action": { "status": 201, "body": "" } }));
    // So near the month's beginning nothing else is sent either, until a person has looked.
    world.flush().exits(75).says("its row of that month does not show it");
    world.agent(&["parked", "list"]).exits(65).says("wrong_month");
    let mark = world.mark();
    world.flush_once().exits(75);
    assert_eq!(world.posts_since(mark).len(), 0);
    assert_eq!(world.rows(A)[0], "cpu_hours 2026-11 1.50");
}

#[test]
fn what_a_person_drops_stays_recorded_and_comes_back_when_it_changes() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&format!(
            "    resource: {A}\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n      nope: {{ reading: gpu_seconds, factor: 1/3600 }}\n"
        ));
        let mut lines = counter(&["0", "3600"], &[]);
        lines.extend(series("gpu_seconds", "counter", &["0", "7200"], &[]));
        world.readings(&lines);
        world.flush().exits(65).says("parked");
        world.agent(&["parked", "drop", B]).exits(0).says("Nothing of it");
        world.agent(&["parked", "drop", A, "cpu_hours"]).exits(0).says("Nothing of it");
        world.agent(&["parked", "drop", A, "nope"]).exits(0).says("2.00 given up");
        nothing_more(&world, 0);
        let status = world.agent(&["status", "--json"]).exits(0).json();
        let components = status["statements"][0]["components"].as_array().unwrap().clone();
        let nope = components.into_iter().find(|one| one["component"] == "nope").unwrap();
        assert_eq!((&nope["amount"], &nope["posted"]), (&json!("2"), &json!("0.00")), "{api} {nope:#}");
        world.agent(&["explain", A, "nope"]).exits(0).says("2.00 given up");
        // The others go on.
        lines.extend([reading("cpu_seconds", "counter", "2026-11-10T10:10:00Z", "7200", &[])]);
        world.readings(&lines);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"], "{api}");
        // Its own amount changes: it is tried again, and refused again.
        lines.extend([reading("gpu_seconds", "counter", "2026-11-10T10:10:00Z", "10800", &[])]);
        world.readings(&lines);
        world.flush().exits(65).says("1 amount: parked");
        // Only what came after it.
        world.agent(&["parked", "list"]).exits(65).says("1.00").says_not("3.00");
    }
}

#[test]
fn what_was_carried_and_reported_is_part_of_what_is_adopted_after_it() {
    for api in BOTH {
        let world = december(api, "carry_forward");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 5.00"], "{api}");
        // Another writes 7.00 over our 5.00, of which 4.87 had been carried.
        let row = json!({ "resource": A, "type": "cpu_hours", "usage": "7.00", "modified_by": 77,
                          "billing_period": "2026-12-01", "date": "2026-12-02T09:00:00Z" });
        world.post("rows", row);
        world.now("2026-12-02T15:00:00Z");
        let hour = of("bob", "dec", "2026-12-02T10:00:00Z", "2026-12-02T11:00:00Z", "3600");
        world.readings(&[in_time(), late(), over(), hour]);
        world.flush().exits(65).says("Waldur holds 7.00").says("5.00");
        world.agent(&["resolve", A, "adopt"]).exits(0);
        world.flush().exits(0);
        // 7.00 and the hour after it; the 4.87 are in the 7.00.
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 8.00"], "{api}");
        nothing_more(&world, 0);
    }
}

fn configure_both(world: &World, submit: &str) {
    let collector = world.collector("source", "readings", &cpu_hours_by_user());
    world.write("agent.yaml", &format!("{}submit: {{ {submit} }}\ncollectors:\n{collector}", world.head("")));
}

#[test]
fn a_report_of_the_month_before_that_landed_in_this_one_is_not_adopted() {
    let world = World::of(Setting { api: CLASSIC, now: "2026-11-30T23:50:00Z", ..Setting::default() });
    configure_both(&world, "on_conflict: adopt");
    world.readings(&[in_time()]);
    world.fault(json!({ "match": { "path": "/set_usage/" }, "when": "before", "action": { "status": 504 } }));
    world.flush_once();
    world.no_faults();
    assert_eq!(world.rows(A).len(), 0);
    // The server took it up after its midnight.
    world.now("2026-12-01T00:20:00Z");
    let row = json!({ "resource": A, "type": "cpu_hours", "usage": "1.50", "modified_by": 77,
                      "billing_period": "2026-12-01", "date": "2026-12-01T00:00:10Z" });
    world.post("rows", row);
    world.readings(&[in_time(), of("bob", "dec", "2026-12-01T00:05:00Z", "2026-12-01T00:11:00Z", "360")]);
    let done = world.flush();
    assert_eq!(world.rows(A), ["cpu_hours 2026-12 1.50"], "{}", done.all());
    done.exits(65);
}

fn without_ledger(world: &World) {
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock"] {
        let _ = std::fs::remove_file(world.path(name));
    }
}

#[test]
fn a_new_ledger_does_not_carry_what_the_plan_before_a_switch_holds() {
    let world = World::of(Setting { api: CLASSIC, now: "2026-11-10T12:00:00Z", ..Setting::default() });
    configure_both(&world, "late: carry_forward");
    let first = of("alice", "1", "2026-11-05T00:00:00Z", "2026-11-05T01:30:00Z", "5400");
    let second = of("alice", "2", "2026-11-18T00:00:00Z", "2026-11-18T01:00:00Z", "3600");
    world.readings(std::slice::from_ref(&first));
    world.flush().exits(0);
    world.now("2026-11-16T00:00:00Z");
    world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
    world.now("2026-11-20T12:00:00Z");
    world.readings(&[first.clone(), second.clone()]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00", "cpu_hours 2026-11 1.50"]);
    without_ledger(&world);
    world.now("2026-12-05T12:00:00Z");
    configure_both(&world, "late: carry_forward, on_conflict: overwrite");
    let third = of("alice", "3", "2026-12-03T00:00:00Z", "2026-12-03T00:30:00Z", "1800");
    world.readings(&[first, second, third]);
    let done = world.flush();
    let expected = ["cpu_hours 2026-11 1.00", "cpu_hours 2026-11 1.50", "cpu_hours 2026-12 0.50"];
    assert_eq!(world.rows(A), expected, "{}", done.all());
}

#[test]
fn what_a_person_overwrote_once_is_not_overwritten_for_ever() {
    let world = World::new(CURRENT);
    configure(&world, "hold", "");
    let hours = |id: &str, at: &str| of("bob", id, at, at, "3600");
    world.readings(&[hours("1", "2026-11-10T09:00:00Z")]);
    let row = |usage: &str, date: &str| json!({ "resource": A, "type": "cpu_hours", "usage": usage, "modified_by": 77, "date": date });
    world.post("rows", row("7.00", "2026-11-10T08:00:00Z"));
    world.flush().exits(65);
    world.agent(&["resolve", A, "overwrite"]).exits(0);
    world.now("2026-11-10T12:10:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.now("2026-11-15T12:00:00Z");
    world.post("rows", row("9.00", "2026-11-15T08:00:00Z"));
    world.readings(&[hours("1", "2026-11-10T09:00:00Z"), hours("2", "2026-11-15T10:00:00Z")]);
    let done = world.flush().exits(65);
    done.says("Waldur holds 9.00").says("1.00");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 9.00"]);
}
