//! Plan periods that change where no plan does: renewed in a month that is split already, ended with none after it, gone from
//! the server's answer because its month has just ended; and what is left of one that ended.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

const NOBODYS: &str = "{none}";

fn start(api: &str, now: &str, submit: &str, user: &str) -> World {
    let world = world(api, now);
    write_config(&world, submit, "", user);
    world
}

fn write_config(world: &World, submit: &str, waldur: &str, user: &str) {
    let keys = targeted("{project}", user, CPU);
    let keys = if user == NOBODYS { keys.replace("    user: \"{none}\"\n", "") } else { keys };
    configure(world, submit, waldur, &[("source", keys)]);
}

/// What is billed of project A in a month, in the order of its plan periods.
fn billed(world: &World, month: &str) -> Vec<String> {
    let held = world.held(A);
    let items = held["invoice_items"].as_array().unwrap().iter();
    let of_month = items.filter(|item| item["billing_period"].as_str().unwrap().starts_with(month));
    let of_month: Vec<&Value> = of_month.collect();
    let periods = held["plan_periods"].as_array().unwrap().iter();
    let of_period = |period: &Value| {
        let of = of_month.iter().filter(|item| item["plan_period"] == period["uuid"]);
        of.map(|item| item["quantity"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    periods.flat_map(of_period).collect()
}

/// 1 h before a switch of plan, 2 h before the new plan is renewed, and 3 + 4 + 5 h after that: 15 h.
#[test]
fn a_plan_that_is_renewed_in_a_month_of_two_plans_is_billed_once() {
    for api in BOTH {
        for user in ["{user}", NOBODYS] {
            let world = start(api, "2026-11-04T12:00:00Z", "late: hold", user);
            let mut all = vec![hours("1", "11-03T00:00", "11-03T01:00", "1")];
            jobs(&world, "2026-11-04T12:00:00Z", &all).exits(0);
            change_plan(&world, "2026-11-05T00:00:00Z", "switch_plan");
            all.push(hours("2", "11-06T00:00", "11-06T02:00", "2"));
            jobs(&world, "2026-11-07T12:00:00Z", &all).exits(0);
            change_plan(&world, "2026-11-10T00:00:00Z", "renew_plan");
            all.push(hours("3", "11-11T00:00", "11-11T03:00", "3"));
            jobs(&world, "2026-11-12T12:00:00Z", &all).exits(0);
            assert_eq!(billed(&world, "2026-11"), ["1.00", "2.00", "3.00"], "{api} {user}");
            all.push(hours("4", "11-13T00:00", "11-13T04:00", "4"));
            jobs(&world, "2026-11-14T12:00:00Z", &all).exits(0);
            all.push(hours("5", "11-19T00:00", "11-19T05:00", "5"));
            jobs(&world, "2026-11-20T12:00:00Z", &all).exits(0);
            jobs(&world, "2026-12-02T12:00:00Z", &all).exits(0);
            assert_eq!(billed(&world, "2026-11"), ["1.00", "2.00", "12.00"], "{api} {user}");
            if user != NOBODYS {
                let shares = ["1.00", "12.00", "2.00"].map(|share| format!("alice cpu 2026-11 {share}"));
                assert_eq!(world.shares(A), shares, "{api}");
            }
            world.agent(&["recount"]).exits(0);
        }
    }
}

/// The plan is switched and switched back between two looks, so that its name is what it was.
#[test]
fn a_plan_that_is_switched_there_and_back_between_two_looks_is_billed_once() {
    for api in BOTH {
        let world = start(api, "2026-11-04T12:00:00Z", "late: hold", "{user}");
        let mut all = vec![hours("1", "11-03T00:00", "11-03T01:00", "1")];
        jobs(&world, "2026-11-04T12:00:00Z", &all).exits(0);
        change_plan(&world, "2026-11-05T00:00:00Z", "switch_plan");
        all.push(hours("2", "11-06T00:00", "11-06T02:00", "2"));
        jobs(&world, "2026-11-07T12:00:00Z", &all).exits(0);
        change_plan(&world, "2026-11-10T00:00:00Z", "renew_plan");
        change_plan(&world, "2026-11-15T00:00:00Z", "renew_plan");
        all.push(hours("3", "11-11T00:00", "11-11T03:00", "3"));
        all.push(hours("4", "11-16T00:00", "11-16T04:00", "4"));
        jobs(&world, "2026-11-17T12:00:00Z", &all).exits(0);
        jobs(&world, "2026-11-18T12:00:00Z", &all).exits(0);
        assert_eq!(billed(&world, "2026-11"), ["1.00", "2.00", "3.00", "4.00"], "{api}");
    }
}

/// The server is in Tallinn, and its November ends two hours before the one of this ledger: what its plan periods list then is
/// December's. 2 h come too late for November, and are carried with December's 3.
#[test]
fn rows_of_a_month_of_two_plans_stay_known_where_the_servers_month_has_ended() {
    for user in ["{user}", NOBODYS] {
        let world = World::of(Setting {
            api: CURRENT,
            now: "2026-11-05T12:00:00Z",
            zone: "Europe/Tallinn",
            marketplace: market(),
        });
        write_config(&world, "late: carry_forward", "billing_timezone: UTC", user);
        let mut all = vec![hours("1", "11-05T00:00", "11-05T05:00", "5")];
        jobs(&world, "2026-11-05T12:00:00Z", &all).exits(0);
        write_config(&world, "late: carry_forward", "billing_timezone: Europe/Tallinn", user);
        all.push(hours("2", "11-10T00:00", "11-10T01:00", "1"));
        jobs(&world, "2026-11-10T12:00:00Z", &all).exits(0);
        change_plan(&world, "2026-11-20T00:00:00Z", "switch_plan");
        all.push(hours("3", "11-30T11:00", "11-30T21:00", "10"));
        jobs(&world, "2026-11-30T21:50:00Z", &all).exits(0);
        assert_eq!(billed(&world, "2026-11"), ["6.00", "10.00"]);
        all.push(hours("4", "11-30T22:00", "11-30T23:00", "1"));
        jobs(&world, "2026-11-30T23:00:00Z", &all).says_not("another").says_not("holds 0.00");
        all.push(hours("5", "11-30T23:00", "11-30T23:59", "1"));
        jobs(&world, "2026-12-01T00:10:00Z", &all).exits(0).says_not("another");
        all.push(hours("6", "12-01T00:00", "12-01T03:00", "3"));
        jobs(&world, "2026-12-01T12:10:00Z", &all).exits(0);
        assert_eq!(billed(&world, "2026-11"), ["6.00", "10.00"], "{user}");
        assert_eq!(billed(&world, "2026-12"), ["5.00"], "{user}");
        if user != NOBODYS {
            let shares = ["2026-11 10.00", "2026-11 6.00", "2026-12 5.00"];
            assert_eq!(world.shares(A), shares.map(|share| format!("alice cpu {share}")));
        }
        world.agent(&["recount"]).exits(0);
    }
}

/// A classic server takes a report of a resource whose plan period has ended, and bills it nowhere.
#[test]
fn a_plan_period_that_ends_with_none_after_it_is_told_with_the_first_report_after_it() {
    for user in ["{user}", NOBODYS] {
        let world = start(CLASSIC, "2026-11-09T12:00:00Z", "late: hold", user);
        let mut all = vec![hours("1", "11-08T00:00", "11-08T05:00", "5")];
        jobs(&world, "2026-11-09T12:00:00Z", &all).exits(0);
        change_plan(&world, "2026-11-10T00:00:00Z", "end_plan");
        all.push(hours("2", "11-11T00:00", "11-11T03:00", "3"));
        let told = jobs(&world, "2026-11-11T12:00:00Z", &all).exits(65);
        told.names_a().tells(&["no open plan period", "5.00 is billed"]).says_not("another writer");
        world.agent(&["status"]).exits(65).tells(&["held"]).says_not("8.00 agreed");
        let mark = world.mark();
        jobs(&world, "2026-11-11T14:00:00Z", &all).exits(65);
        all.push(hours("3", "11-12T00:00", "11-12T01:00", "1"));
        jobs(&world, "2026-11-12T12:00:00Z", &all).exits(65).says_not("another writer");
        assert!(world.posts_since(mark).is_empty(), "{user}: once is enough");
        assert_eq!(billed(&world, "2026-11"), ["5.00"], "{user}");
        // It has a plan period again: what comes from then on is billed, and the 4 h between are told.
        change_plan(&world, "2026-11-15T00:00:00Z", "renew_plan");
        all.push(hours("4", "11-16T00:00", "11-16T02:00", "2"));
        let told = jobs(&world, "2026-11-17T12:00:00Z", &all).exits(65);
        world.with_status(told).names_a().tells(&["stranded", "4.00"]);
        assert_eq!(billed(&world, "2026-11"), ["5.00", "2.00"], "{user}");
        world.agent(&["recount"]).exits(0);
    }
}

/// The same of a first report, in a month in which its plan was looked at before: the server was away then.
fn first_under_no_plan_period(follows: bool) {
    let world = start(CLASSIC, "2026-11-02T12:00:00Z", "late: hold", "{user}");
    let mut all = vec![hours("1", "11-01T00:00", "11-01T01:00", "1")];
    world.fault(json!({ "match": { "path": "set_usage" }, "when": "before", "action": { "status": 503 } }));
    jobs(&world, "2026-11-02T12:00:00Z", &all).exits(75);
    world.no_faults();
    change_plan(&world, "2026-11-10T00:00:00Z", "end_plan");
    all.push(hours("2", "11-11T00:00", "11-11T03:00", "3"));
    let told = jobs(&world, "2026-11-11T12:00:00Z", &all).exits(65);
    told.names_a().tells(&["no open plan period", "0.00 is billed"]);
    jobs(&world, "2026-11-12T12:00:00Z", &all).exits(65).says_not("another writer");
    jobs(&world, "2026-11-12T14:00:00Z", &all).exits(65).says_not("another writer");
    assert_eq!(world.rows(A), ["cpu 2026-11 4.00"]);
    assert_eq!(billed(&world, "2026-11"), [""; 0]);
    if follows {
        // Nothing is there under the plan period that ended: a first report of it is taken.
        change_plan(&world, "2026-11-15T00:00:00Z", "renew_plan");
        jobs(&world, "2026-11-17T12:00:00Z", &all).exits(0);
        assert_eq!(billed(&world, "2026-11"), ["4.00"]);
    }
    for now in ["2026-12-01T12:00:00Z", "2026-12-02T14:00:00Z"] {
        jobs(&world, now, &all).exits(if follows { 0 } else { 65 });
    }
    let left = if follows { "agreed" } else { "no open plan period" };
    world.agent(&["status", "--all", "--period", "2026-11"]).tells(&[left]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_first_report_under_no_plan_period_is_told_at_once() {
    first_under_no_plan_period(false);
}

#[test]
fn what_was_first_reported_under_no_plan_period_is_billed_once_there_is_one() {
    first_under_no_plan_period(true);
}

/// An hour of the earlier plan turns out not to have been used, before anything is measured under the new one. It waits with
/// its reason, and a flush does not go round until its deadline.
#[test]
fn what_an_ended_plan_holds_too_much_of_is_told_and_taken_away_later() {
    for api in BOTH {
        for user in ["{user}", NOBODYS] {
            let world = start(api, "2026-11-04T12:00:00Z", "late: hold", user);
            let first = |used| hours("1", "11-03T00:00", "11-03T04:00", used);
            jobs(&world, "2026-11-04T12:00:00Z", &[first("4")]).exits(0);
            change_plan(&world, "2026-11-05T00:00:00Z", "switch_plan");
            let mark = world.mark();
            let told = jobs(&world, "2026-11-06T12:00:00Z", &[first("3")]).exits(65);
            assert!(world.requests_since(mark).len() < 20, "{:#?}", world.requests_since(mark));
            world.with_status(told).names_a().tells(&["stranded", "-1.00", "taken away by itself"]);
            // Nobody is sent to have it credited by hand: then it would be credited twice.
            let listed = world.agent(&["parked", "list"]).exits(65);
            listed
                .says("plan_ended: what is too much there is taken away by itself")
                .says_not("only Waldur's staff can bill (or credit) it now");
            let status = world.agent(&["status"]).exits(65);
            status.says("what is too much is taken away by itself in its month; the rest: bill it by hand");
            let second = hours("2", "11-07T00:00", "11-07T05:00", "5");
            jobs(&world, "2026-11-08T12:00:00Z", &[first("3"), second]).exits(0);
            assert_eq!(billed(&world, "2026-11"), ["4.00", "4.00"], "{api} {user}");
            world.agent(&["recount"]).exits(0);
        }
    }
}

/// 2 h of the earlier plan were told too late for it, while October ran; its total can't be reported under it any more, but
/// under the plan that October ended with. 10 + 3 + 2.
#[test]
fn what_a_plan_that_ended_did_not_take_is_backfilled_under_the_later_plan() {
    let world = world(CURRENT, "2026-10-10T12:00:00Z");
    world.write("token", "staff-token");
    configure(&world, "late: backfill", "", &[("source", keys(CPU))]);
    let mut all = vec![hours("1", "10-10T02:00", "10-10T12:00", "10")];
    jobs(&world, "2026-10-10T13:00:00Z", &all).exits(0);
    change_plan(&world, "2026-10-20T00:00:00Z", "switch_plan");
    all.push(hours("2", "10-20T02:00", "10-20T05:00", "3"));
    all.push(hours("3", "10-10T12:00", "10-10T14:00", "2"));
    jobs(&world, "2026-10-25T12:00:00Z", &all).exits(65).tells(&["2.00"]);
    assert_eq!(billed(&world, "2026-10"), ["10.00", "3.00"]);
    jobs(&world, "2026-11-01T12:00:00Z", &all).exits(0).tells(&["2.00"]);
    assert_eq!(billed(&world, "2026-10"), ["10.00", "5.00"]);
    assert_eq!(world.shares(A), ["alice cpu 2026-10 10.00", "alice cpu 2026-10 5.00"]);
    let mark = world.mark();
    jobs(&world, "2026-11-02T12:00:00Z", &all).exits(0).says_not("2.00");
    assert!(world.posts_since(mark).is_empty());
    world.agent(&["parked", "list"]).exits(0);
    world.agent(&["recount"]).exits(0);
}

/// In a month's last day the date of a report lies before the renewal, in the plan period that ended.
#[test]
fn a_plan_that_is_renewed_in_a_months_last_day_is_billed_once() {
    for (api, renewed) in BOTH.into_iter().flat_map(|api| ["12:00", "15:59"].map(|renewed| (api, renewed))) {
        let world = start(api, "2026-10-29T06:00:00Z", "late: hold", "{user}");
        let twenty = hours("1", "10-28T10:00", "10-29T06:00", "20");
        jobs(&world, "2026-10-29T06:00:00Z", std::slice::from_ref(&twenty)).exits(0);
        change_plan(&world, &format!("2026-10-31T{renewed}:00Z"), "renew_plan");
        let all = [twenty, hours("2", "10-31T16:00", "10-31T18:00", "2")];
        jobs(&world, "2026-10-31T18:00:00Z", &all).exits(0);
        jobs(&world, "2026-11-02T12:00:00Z", &all).exits(0);
        assert_eq!(billed(&world, "2026-10"), ["20.00", "2.00"], "{api} {renewed}");
    }
}

/// October's plan period ended with a renewal in November, which nobody has seen: its row can't be raised without billing it anew.
#[test]
fn what_comes_late_of_a_month_whose_plan_was_renewed_since_is_told_and_not_billed_twice() {
    for cycles in [0, 2] {
        let world = start(CURRENT, "2026-10-15T12:00:00Z", "late: backfill", "{user}");
        world.write("token", "staff-token");
        let twelve = hours("1", "10-10T00:00", "10-10T12:00", "12");
        for now in ["2026-10-15T12:00:00Z", "2026-11-01T00:30:00Z"] {
            jobs(&world, now, std::slice::from_ref(&twelve)).exits(0);
        }
        change_plan(&world, "2026-11-10T10:00:00Z", "renew_plan");
        for day in 0..cycles {
            jobs(&world, &format!("2026-11-1{day}T12:00:00Z"), std::slice::from_ref(&twelve)).exits(0);
        }
        let all = [twelve, hours("late", "10-20T00:00", "10-20T01:00", "1")];
        for now in ["2026-11-15T12:00:00Z", "2026-11-16T12:00:00Z"] {
            jobs(&world, now, &all).exits(65);
        }
        assert_eq!(billed(&world, "2026-10"), ["12.00"], "{cycles}");
        world.agent(&["parked", "list"]).exits(65).tells(&["1.00", "2026-10", "plan_ended"]);
    }
}

/// What is carried in a month's last day makes due what nothing was to be sent of: its plan is looked at, too.
#[test]
fn what_is_carried_in_a_months_last_day_goes_under_the_plan_period_that_runs() {
    let world = start(CURRENT, "2026-10-15T12:00:00Z", "late: carry_forward", "{user}");
    let twelve = hours("1", "10-10T00:00", "10-10T12:00", "12");
    for now in ["2026-10-15T12:00:00Z", "2026-11-01T00:30:00Z"] {
        jobs(&world, now, std::slice::from_ref(&twelve)).exits(0);
    }
    let both = vec![twelve, hours("2", "11-05T00:00", "11-05T05:00", "5")];
    jobs(&world, "2026-11-10T12:00:00Z", &both).exits(0);
    change_plan(&world, "2026-11-30T06:00:00Z", "renew_plan");
    let all = [both, vec![hours("late", "10-20T00:00", "10-20T01:00", "1")]].concat();
    jobs(&world, "2026-11-30T12:00:00Z", &all).exits(0);
    jobs(&world, "2026-11-30T20:00:00Z", &all).exits(0);
    assert_eq!(billed(&world, "2026-11"), ["5.00", "1.00"]);
    assert_eq!(billed(&world, "2026-10"), ["12.00"]);
}

/// Before a month that is over is reported its plan periods must be known: where they can't be read, it waits.
#[test]
fn what_comes_late_waits_while_plan_periods_can_not_be_read() {
    let world = start(CURRENT, "2026-10-15T12:00:00Z", "late: backfill", "{user}");
    world.write("token", "staff-token");
    let twelve = hours("1", "10-10T00:00", "10-10T12:00", "12");
    for now in ["2026-10-15T12:00:00Z", "2026-11-01T00:30:00Z", "2026-11-03T12:00:00Z"] {
        jobs(&world, now, std::slice::from_ref(&twelve)).exits(0);
    }
    change_plan(&world, "2026-11-10T10:00:00Z", "renew_plan");
    let all = [twelve, hours("late", "10-20T00:00", "10-20T01:00", "1")];
    world
        .fault(json!({ "match": { "path": "plan_periods" }, "when": "before", "action": { "status": 502 } }));
    jobs(&world, "2026-11-15T12:00:00Z", &all).exits(75).names_a().tells(&["502"]);
    assert_eq!(billed(&world, "2026-10"), ["12.00"]);
    world.no_faults();
    jobs(&world, "2026-11-15T14:00:00Z", &all).exits(65);
    assert_eq!(billed(&world, "2026-10"), ["12.00"]);
    world.agent(&["parked", "list"]).exits(65).tells(&["1.00", "2026-10", "plan_ended"]);
}
