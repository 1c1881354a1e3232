//! Usage that is left over when its month is over, over and over: corrected, carried for years, dropped, in months whose
//! readings are kept no more. What is carried is a difference in cents; what is settled stays settled.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use rust_decimal::Decimal;
use serde_json::{Value, json};

fn start(api: &str, now: &str, submit: &str, more: &str, meters: &str) -> World {
    let world = world(api, now);
    rules(&world, submit, more, meters);
    world
}

/// With more top-level keys (`retention: 30d`).
fn rules(world: &World, submit: &str, more: &str, meters: &str) {
    configure(world, submit, "", &[("source", keys(meters))]);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("{more}{text}"));
}

#[test]
fn what_was_carried_of_nobodys_usage_is_taken_back_when_it_is_corrected() {
    for api in BOTH {
        let world = start(api, "2026-10-31T12:00:00Z", "late: carry_forward", "", CPU);
        let ten = hours("a", "10-10T00:00", "10-10T10:00", "10");
        let nobodys = |amount: &str| {
            let mut job = hours("late", "10-31T20:00", "10-31T23:00", amount);
            job["labels"].as_object_mut().unwrap().remove("user");
            job
        };
        jobs(&world, "2026-10-31T12:00:00Z", std::slice::from_ref(&ten)).exits(0);
        jobs(&world, "2026-11-01T01:00:00Z", &[ten.clone(), nobodys("5")]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-11 5.00"], "{api}");
        jobs(&world, "2026-11-02T01:00:00Z", &[ten.clone(), nobodys("3")]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-11 3.00"], "{api}");
        // 13 in all, and December finds nothing left over.
        jobs(&world, "2026-12-03T01:00:00Z", &[ten, nobodys("3")]).exits(0);
        let rows = world.rows(A);
        assert_eq!(rows[..2], ["cpu 2026-10 10.00", "cpu 2026-11 3.00"], "{api}");
        assert!(rows[2..].iter().all(|row| row.ends_with(" 0.00")), "{api} {rows:?}");
        world.agent(&["recount"]).exits(0);
    }
}

/// The sum of users' posted shares in a month.
fn shared(world: &World, month: &str) -> Decimal {
    let of = format!(" {month} ");
    let shares = world.shares(A).into_iter().filter(|share| share.contains(&of));
    shares.map(|share| share.rsplit(' ').next().unwrap().parse::<Decimal>().unwrap()).sum()
}

#[test]
fn carrying_every_month_stays_exact_for_years() {
    for api in BOTH {
        let world = start(
            api,
            "2026-01-20T12:00:00Z",
            "late: carry_forward",
            "",
            "ram: { reading: byte_hours, factor: 1/1073741824 }",
        );
        let month = |n: u32| format!("{}-{:02}", 2026 + n / 12, n % 12 + 1);
        let used = |n: u32, user: u32, day: u32| {
            // 3579139413 / 1073741824 = 3.33333333302...
            json!({
                "name": "byte_hours", "kind": "delta", "id": format!("{n}-{user}-{day}"), "value": "3579139413",
                "start": format!("{}-{day}T10:00:00Z", month(n)), "end": format!("{}-{day}T11:00:00Z", month(n)),
                "labels": { "project": "project-a", "user": format!("user-{user}") },
            })
        };
        for n in 0..26 {
            let in_time: Vec<Value> = (0..8).map(|user| used(n, user, 20)).collect();
            jobs(&world, &format!("{}-25T12:00:00Z", month(n)), &in_time).exits(0);
            // Two of them come to be known ten minutes after the month.
            let late: Vec<Value> = (0..2).map(|user| used(n, user, 28)).collect();
            jobs(&world, &format!("{}-01T00:10:00Z", month(n + 1)), &late).exits(0);
        }
        // 8 x 3.3333 = 26.67 in time, 10 x 3.3333 = 33.33 in all: 6.66 are carried on from month to month.
        let rows = world.rows(A);
        for n in 0..26 {
            let amount = if n == 0 { "26.67" } else { "33.33" };
            let row = format!("ram {} {amount}", month(n));
            assert!(rows.contains(&row), "{api}: {row} in {rows:?}");
            assert_eq!(shared(&world, &month(n)), amount.parse::<Decimal>().unwrap(), "{api} {}", month(n));
        }
        assert!(rows.contains(&"ram 2028-03 6.66".to_owned()), "{api}: {rows:?}");
    }
}

#[test]
fn what_was_dropped_is_settled_and_only_what_comes_after_it_is_carried() {
    for api in BOTH {
        let world = start(api, "2026-10-31T12:00:00Z", "late: hold", "", CPU);
        let mut all = vec![hours("a", "10-10T00:00", "10-10T10:00", "10")];
        jobs(&world, "2026-10-31T12:00:00Z", &all).exits(0);
        all.push(hours("b", "10-31T20:00", "10-31T23:00", "3"));
        jobs(&world, "2026-11-01T12:00:00Z", &all).exits(65);
        let parked = world.agent(&["parked", "list"]).exits(65);
        // The difference only.
        parked.tells(&["3.00", "stranded"]).says_not("13.00");
        world.agent(&["parked", "drop", "project-a"]).exits(0).tells(&["3.00"]);
        jobs(&world, "2026-11-01T13:00:00Z", &all).exits(0);
        rules(&world, "late: carry_forward", "", CPU);
        jobs(&world, "2026-11-02T12:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00"], "{api}");
        all.push(hours("c", "10-31T20:00", "10-31T23:00", "1"));
        jobs(&world, "2026-11-03T12:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-11 1.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-10 10.00", "alice cpu 2026-11 1.00"], "{api}");
    }
}

/// What only the daemon does in its time: months past are kept as subtotals.
fn a_day_passes(world: &World, now: &str) {
    world.now(now);
    let mut daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let begun: jiff::Timestamp = now.parse().unwrap();
    let (mut at, end) = (begun, begun + jiff::SignedDuration::from_hours(24));
    until("a day of looks", || {
        at += jiff::SignedDuration::from_mins(30);
        world.now(&at.to_string());
        let status = world.agent(&["status", "--json"]).json();
        let run = status["collectors"][0]["last_run"].as_str().and_then(|run| run.parse().ok());
        run.is_some_and(|run: jiff::Timestamp| run >= end)
    });
    daemon.signal("TERM");
    daemon.ends();
}

const RETENTION: &str = "retention: 30d\n";

#[test]
fn a_job_over_a_month_whose_readings_are_gone_counts_in_full() {
    let world = world(CURRENT, "2026-08-28T00:00:00Z");
    world.write("token", "staff-token");
    rules(&world, "late: backfill", RETENTION, CPU);
    let short = hours("short", "08-02T00:00", "08-02T01:00", "1");
    jobs(&world, "2026-08-28T00:00:00Z", std::slice::from_ref(&short)).exits(0);
    jobs(&world, "2026-09-01T00:10:00Z", &[]).exits(0);
    a_day_passes(&world, "2026-11-04T12:00:00Z");
    // Known only when it ends: 27, 30 and 31 days, and nine days and two hours, 2,330 h.
    let long = hours("long", "08-05T00:00", "11-10T02:00", "2330");
    jobs(&world, "2026-11-10T03:00:00Z", &[short, long]).exits(0);
    assert_eq!(
        world.rows(A),
        ["cpu 2026-08 649.00", "cpu 2026-09 720.00", "cpu 2026-10 744.00", "cpu 2026-11 218.00"]
    );
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_job_that_was_counted_in_a_month_whose_readings_are_gone_goes_on_growing() {
    let world = world(CURRENT, "2026-08-28T00:00:00Z");
    world.write("token", "staff-token");
    rules(&world, "late: backfill", RETENTION, CPU);
    // It runs still: 27 days.
    jobs(&world, "2026-08-28T00:00:00Z", &[hours("long", "08-01T00:00", "08-28T00:00", "648")]).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-08 648.00"]);
    jobs(&world, "2026-09-01T00:10:00Z", &[]).exits(0);
    a_day_passes(&world, "2026-11-04T12:00:00Z");
    // 31, 30 and 31 days, and five days and two hours.
    jobs(&world, "2026-11-06T03:00:00Z", &[hours("long", "08-01T00:00", "11-06T02:00", "2330")]).exits(0);
    assert_eq!(
        world.rows(A),
        ["cpu 2026-08 744.00", "cpu 2026-09 720.00", "cpu 2026-10 744.00", "cpu 2026-11 122.00"]
    );
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_late_reading_for_a_month_whose_readings_are_gone_counts_for_everybody() {
    let world = world(CURRENT, "2026-08-28T00:00:00Z");
    world.write("token", "staff-token");
    rules(&world, "late: backfill", RETENTION, CPU);
    let mut all = vec![
        hours("1", "08-10T00:00", "08-10T05:00", "5"),
        on("project-a", "bob", "2", "08-10T00:00", "08-10T03:00", "3"),
    ];
    jobs(&world, "2026-08-28T00:00:00Z", &all).exits(0);
    jobs(&world, "2026-09-01T00:10:00Z", &all).exits(0);
    a_day_passes(&world, "2026-11-04T12:00:00Z");
    // What is read again changes nothing; an hour more of alice's, and one of carol's, count.
    jobs(&world, "2026-11-06T12:00:00Z", &all).exits(0).says("Nothing was sent.");
    all.push(hours("3", "08-11T00:00", "08-11T01:00", "1"));
    all.push(on("project-a", "carol", "4", "08-11T00:00", "08-11T01:00", "1"));
    jobs(&world, "2026-11-06T13:00:00Z", &all).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-08 10.00"]);
    assert_eq!(world.shares(A), ["alice cpu 2026-08 6.00", "bob cpu 2026-08 3.00", "carol cpu 2026-08 1.00"]);
    // Corrected and read again, each stays what it is.
    all[0] = hours("1", "08-10T00:00", "08-10T05:00", "4");
    jobs(&world, "2026-11-06T14:00:00Z", &all).exits(0);
    jobs(&world, "2026-11-06T15:00:00Z", &all).exits(0).says("Nothing was sent.");
    assert_eq!(world.rows(A), ["cpu 2026-08 9.00"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn what_is_held_longer_than_readings_are_kept_and_then_adopted_is_whole() {
    let world = world(CURRENT, "2026-08-10T12:00:00Z");
    world.write("token", "staff-token");
    rules(&world, "late: backfill", RETENTION, CPU);
    let others = json!({ "resource": A, "type": "cpu", "usage": "40.00", "date": "2026-08-10T11:00:00Z" });
    world.post("rows", others);
    let all = [
        hours("1", "08-10T06:00", "08-10T11:00", "5"),
        on("project-a", "bob", "2", "08-20T00:00", "08-20T03:00", "3"),
    ];
    jobs(&world, "2026-08-25T12:00:00Z", &all).exits(65);
    a_day_passes(&world, "2026-11-24T12:00:00Z");
    world.agent(&["resolve", A, "adopt"]).exits(0);
    // What is reported of November shows that this Waldur takes dates.
    let now = on("project-a", "bob", "4", "11-24T13:00", "11-24T14:00", "1");
    jobs(&world, "2026-11-25T13:00:00Z", &[now]).exits(0);
    // What was used before the other's number is in it; bob's 3 h came after it.
    assert_eq!(world.rows(A), ["cpu 2026-08 43.00", "cpu 2026-11 1.00"]);
    assert_eq!(world.shares(A), ["bob cpu 2026-08 3.00", "bob cpu 2026-11 1.00"]);
}

#[test]
fn a_month_of_which_nothing_was_accepted_is_stranded() {
    for api in BOTH {
        let world = start(api, "2026-10-20T12:00:00Z", "late: hold", "", CPU);
        world.fault(
            json!({ "match": { "path": "/set_usage/" }, "when": "before", "action": { "status": 503 } }),
        );
        let ten = [hours("a", "10-10T00:00", "10-10T10:00", "10")];
        lines(&world, "source", &ten);
        world.flush_once().exits(75);
        world.now("2026-11-01T01:00:00Z");
        world.no_faults();
        jobs(&world, "2026-11-01T01:00:00Z", &ten).exits(65);
        jobs(&world, "2026-11-02T01:00:00Z", &ten).exits(65);
        assert_eq!(world.rows(A), [""; 0], "{api}");
        let status = world.agent(&["status", "--period", "2026-10"]).exits(65);
        status.names_a().tells(&["10.00", "stranded"]).says_not("closed");
        world.agent(&["parked", "list"]).exits(65).tells(&["10.00", "stranded"]);
    }
}

#[test]
fn a_negative_share_is_parked_for_that_reason_and_all_else_is_posted() {
    for api in BOTH {
        let world = start(
            api,
            NOON,
            "late: hold",
            "",
            &format!("{CPU}\n      ram: {{ reading: mem, factor: 1/3600 }}"),
        );
        let mut ram = hours("r", "11-05T00:00", "11-05T01:00", "1");
        ram["name"] = json!("mem");
        let all = [
            hours("1", "11-05T00:00", "11-05T05:00", "5"),
            on("project-a", "bob", "2", "11-06T00:00", "11-06T01:00", "-1"),
            ram,
            on("project-b", "bob", "3", "11-06T00:00", "11-06T02:00", "2"),
        ];
        jobs(&world, NOON, &all).exits(65);
        assert!(world.rows(A).contains(&"ram 2026-11 1.00".to_owned()), "{api} {:?}", world.rows(A));
        assert_eq!(world.rows(B), ["cpu 2026-11 2.00"], "{api}");
        world.agent(&["parked", "list"]).exits(65).names_a().tells(&["cpu", "bob", "-1", "negative"]);
        world.agent(&["status", "--users"]).exits(65).tells(&["bob", "negative"]);
        assert!(!world.posts_since(0).iter().any(|call| call.body.to_string().contains("\"-")), "{api}");
        // Mended, it goes by itself.
        let mut mended = all.to_vec();
        mended.remove(1);
        mended.push(on("project-a", "bob", "2", "11-06T00:00", "11-06T01:00", "1"));
        jobs(&world, "2026-11-10T13:00:00Z", &mended).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00", "ram 2026-11 1.00"], "{api}");
        assert_eq!(
            world.shares(A),
            ["alice cpu 2026-11 5.00", "alice ram 2026-11 1.00", "bob cpu 2026-11 1.00"],
            "{api}"
        );
    }
}

#[test]
fn nothing_against_no_amount_agrees() {
    for api in BOTH {
        let world = start(api, NOON, "late: hold", "", CPU);
        jobs(&world, NOON, &[hours("1", "11-05T00:00", "11-05T01:00", "0")]).exits(0);
        world.agent(&["recount"]).exits(0);
        // A job that is no longer of the project that it was of.
        let five = |project: &str| on(project, "alice", "2", "11-05T00:00", "11-05T05:00", "5");
        jobs(&world, "2026-11-10T13:00:00Z", &[five("project-a")]).exits(0);
        jobs(&world, "2026-11-10T14:00:00Z", &[five("project-b")]);
        world.agent(&["recount"]).exits(0);
        // Shares that are nobody's any more.
        configure(&world, "late: hold", "", &[("source", targeted("{project}", "{team}", CPU))]);
        jobs(&world, "2026-11-10T15:00:00Z", &[five("project-b")]).exits(0);
        world.agent(&["recount"]).exits(0);
        let filtered = "cpu: { reading: sec, factor: 1/3600, not_if: { part: x } }";
        rules(&world, "late: hold", "", filtered);
        jobs(&world, "2026-11-10T16:00:00Z", &[five("project-b")]).exits(0);
        world.agent(&["recount"]).exits(0);
        world.agent(&["recount", "--write"]).exits(0);
        world.agent(&["recount"]).exits(0);
    }
}
