//! Plans and the ids of resources change: a switch seen at once, late, or with a new period under the same plan; an id that
//! moves to another resource, or that two have; no plan at all. What was used is billed once, under the plan and on the
//! resource in whose time it was used, with its users' shares.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use rust_decimal::Decimal;
use serde_json::{Value, json};

const N: &str = "5e2f0000-0000-4000-8000-000000000009";

fn start(api: &str, now: &str, submit: &str, keys: &str) -> World {
    let world = world(api, now);
    configure(&world, submit, "", &[("source", keys.to_owned())]);
    world
}

fn amount(text: &str) -> Decimal {
    text.parse().unwrap()
}

/// All that is billed of a component in a month, under whatever plan.
fn in_all(world: &World, resource: &str, component: &str, month: &str) -> Decimal {
    let of = format!("{component} {month} ");
    let items = world.billed(resource);
    items.iter().filter_map(|item| item.strip_prefix(&of)).map(amount).sum()
}

/// What is billed under each plan period of project A, the earliest first, and the users' shares there.
fn by_period(world: &World, component: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let held = world.held(A);
    let periods = held["plan_periods"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let each = |period: &Value| {
        let of = |one: &&Value| one["plan_period"] == period["uuid"] && one["type"] == component;
        let items = held["invoice_items"].as_array().unwrap().iter().filter(of);
        let rows = held["rows"].as_array().unwrap().iter().filter(of);
        let shares = rows.flat_map(|row| row["users"].as_object().unwrap());
        (
            items.map(|item| text(&item["quantity"])).collect(),
            shares.map(|(user, share)| format!("{user} {}", share["usage"].as_str().unwrap())).collect(),
        )
    };
    periods.iter().map(each).collect()
}

#[test]
fn a_new_plan_period_under_the_same_plan_bills_the_month_once() {
    for api in BOTH {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        let ten = hours("1", "11-05T00:00", "11-05T10:00", "10");
        jobs(&world, NOON, std::slice::from_ref(&ten)).exits(0);
        world.now("2026-11-10T13:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "renew_plan": true }));
        let more = hours("2", "11-10T14:00", "11-10T14:36", "0.6");
        jobs(&world, "2026-11-10T15:00:00Z", &[ten, more]).exits(0);
        assert_eq!(in_all(&world, A, "cpu", "2026-11"), amount("10.60"), "{api}");
        assert_eq!(world.rows(A), ["cpu 2026-11 0.60", "cpu 2026-11 10.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 0.60", "alice cpu 2026-11 10.00"], "{api}");
    }
}

#[test]
fn what_is_carried_into_a_month_whose_plan_was_switched_stays_under_the_old_plan() {
    for api in BOTH {
        let world = start(api, "2026-10-31T12:00:00Z", "late: carry_forward", &keys(CPU));
        let ten = hours("a", "10-10T00:00", "10-10T10:00", "10");
        jobs(&world, "2026-10-31T12:00:00Z", std::slice::from_ref(&ten)).exits(0);
        world.now("2026-11-02T00:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        let late = hours("late", "10-31T13:00", "10-31T18:00", "5");
        let new = hours("n", "11-03T00:00", "11-03T01:00", "1");
        jobs(&world, "2026-11-05T12:00:00Z", &[ten.clone(), late.clone(), new.clone()]).exits(0);
        let (old, new_plan) = (strings(&["10.00", "5.00"]), strings(&["1.00"]));
        let billed: Vec<_> = by_period(&world, "cpu").into_iter().map(|(items, _)| items).collect();
        assert_eq!(billed, [old, new_plan], "{api}");
        assert_eq!(in_all(&world, A, "cpu", "2026-11"), amount("6.00"), "{api}");
        jobs(&world, "2026-11-05T13:00:00Z", &[ten, late, new]).exits(0).says("Nothing was sent.");
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_plan_switch_that_is_noticed_next_month_bills_nothing_twice_and_blocks_nothing_else() {
    let world = world(CURRENT, "2026-05-02T11:30:00Z");
    world.write("token", "staff-token");
    configure(&world, "late: backfill", "", &[("source", keys(CPU))]);
    let a = hours("a", "05-01T10:00", "05-01T20:00", "10");
    jobs(&world, "2026-05-02T11:30:00Z", std::slice::from_ref(&a)).exits(0);
    world.now("2026-05-03T00:00:00Z");
    world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
    let b = hours("b", "06-05T10:00", "06-05T12:00", "2");
    jobs(&world, "2026-06-10T11:30:00Z", &[a.clone(), b.clone()]).exits(0);
    let late = hours("late", "05-01T11:00", "05-01T12:00", "1");
    // Its plan period has ended: a report there would bill all 11 h once more. The hour goes under the plan that May ended with.
    let done = jobs(&world, "2026-06-11T11:30:00Z", &[a.clone(), b.clone(), late.clone()]).exits(0);
    done.names_a().tells(&["cpu", "2026-05", "1.00"]);
    assert_eq!(in_all(&world, A, "cpu", "2026-05"), amount("11.00"));
    assert_eq!(in_all(&world, A, "cpu", "2026-06"), amount("2.00"));
    let (old, new_plan) = (strings(&["10.00"]), strings(&["2.00", "1.00"]));
    let billed: Vec<_> = by_period(&world, "cpu").into_iter().map(|(items, _)| items).collect();
    assert_eq!(billed, [old, new_plan]);
    assert_eq!(
        world.shares(A),
        ["alice cpu 2026-05 1.00", "alice cpu 2026-05 10.00", "alice cpu 2026-06 2.00"]
    );
    // A second late hour and a correction of it go the same way: 12.00, then 11.50 in all.
    let second = |value| hours("second", "05-01T12:00", "05-01T13:00", value);
    jobs(&world, "2026-06-12T11:30:00Z", &[a.clone(), b.clone(), late.clone(), second("1")]).exits(0);
    assert_eq!(in_all(&world, A, "cpu", "2026-05"), amount("12.00"));
    jobs(&world, "2026-06-13T11:30:00Z", &[a.clone(), b.clone(), late.clone(), second("0.5")]).exits(0);
    assert_eq!(in_all(&world, A, "cpu", "2026-05"), amount("11.50"));
    world.agent(&["recount"]).exits(0);
    // Near June's end nothing else is kept from being sent.
    let other = on("project-b", "bob", "o", "06-30T20:00", "06-30T21:00", "1");
    let more = hours("m", "06-30T20:00", "06-30T21:00", "1");
    jobs(&world, "2026-06-30T23:40:00Z", &[a, b, late, second("0.5"), other, more]).exits(0);
    assert_eq!(world.rows(B), ["cpu 2026-06 1.00"]);
    assert_eq!(in_all(&world, A, "cpu", "2026-05"), amount("11.50"));
    assert_eq!(in_all(&world, A, "cpu", "2026-06"), amount("3.00"));
}

/// The plan period that May was billed under has ended since, and no other one touches May: a changed amount there would be
/// billed beside the first.
#[test]
fn what_comes_late_of_a_month_whose_only_plan_period_has_ended_is_not_billed_twice() {
    let world = world(CURRENT, "2026-05-02T11:30:00Z");
    world.write("token", "staff-token");
    configure(&world, "late: backfill", "", &[("source", keys(CPU))]);
    let a = hours("a", "05-01T10:00", "05-01T20:00", "10");
    jobs(&world, "2026-05-02T11:30:00Z", std::slice::from_ref(&a)).exits(0);
    world.now("2026-06-03T00:00:00Z");
    world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
    let b = hours("b", "06-05T10:00", "06-05T12:00", "2");
    jobs(&world, "2026-06-10T11:30:00Z", &[a.clone(), b.clone()]).exits(0);
    let late = hours("late", "05-01T11:00", "05-01T12:00", "1");
    let done = jobs(&world, "2026-06-11T11:30:00Z", &[a, b, late]).exits(65);
    done.names_a().tells(&["cpu", "2026-05", "1.00", "plan period has ended"]);
    assert_eq!(in_all(&world, A, "cpu", "2026-05"), amount("10.00"));
    assert_eq!(in_all(&world, A, "cpu", "2026-06"), amount("2.00"));
}

/// The resource's only plan period of October began in mid-month: it is no later one that the rest could go to.
#[test]
fn what_comes_late_never_replaces_a_month_under_the_plan_period_that_it_was_reported_under() {
    let world = world(CURRENT, "2026-10-20T12:00:00Z");
    world.write("token", "staff-token");
    let began = json!({ "plan_periods": [{ "start": "2026-10-10T00:00:00Z" }] });
    world.post(&format!("resources/{A}"), began);
    configure(&world, "late: backfill", "", &[("source", keys(CPU))]);
    let a = hours("a", "10-12T00:00", "10-16T04:00", "100");
    jobs(&world, "2026-10-20T12:00:00Z", std::slice::from_ref(&a)).exits(0);
    jobs(&world, "2026-11-01T00:10:00Z", std::slice::from_ref(&a)).exits(0);
    world.now("2026-11-10T00:00:00Z");
    world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
    let b = hours("b", "11-11T10:00", "11-11T12:00", "2");
    jobs(&world, "2026-11-12T12:00:00Z", &[a.clone(), b.clone()]).exits(0);
    let late = hours("late", "10-17T00:00", "10-17T00:30", "0.5");
    let done = jobs(&world, "2026-11-15T12:00:00Z", &[a, b, late]).exits(65);
    done.names_a().tells(&["cpu", "2026-10", "0.50", "plan period has ended"]);
    assert_eq!(in_all(&world, A, "cpu", "2026-10"), amount("100.00"));
    assert_eq!(in_all(&world, A, "cpu", "2026-11"), amount("2.00"));
    assert_eq!(world.rows(A), ["cpu 2026-10 100.00", "cpu 2026-11 2.00"]);
}

#[test]
fn shares_that_come_after_a_switch_sum_to_the_total_of_their_own_plan() {
    for api in BOTH {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        let alice = hours("1", "11-05T00:00", "11-05T01:30", "1.5");
        let bob = on("project-a", "bob", "2", "11-05T00:00", "11-05T01:00", "1");
        // The total is taken, the shares are not.
        world.fault(
            json!({ "match": { "path": "set_user_usage" }, "when": "before", "action": { "status": 503 } }),
        );
        jobs(&world, NOON, &[alice.clone(), bob.clone()]).exits(75);
        assert_eq!(world.rows(A), ["cpu 2026-11 2.50"], "{api}");
        world.now("2026-11-10T13:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        world.no_faults();
        let after = hours("3", "11-10T14:00", "11-10T15:41", "1.68");
        jobs(&world, "2026-11-10T16:00:00Z", &[alice, bob, after]).exits(0);
        let wanted = [
            (strings(&["2.50"]), strings(&["alice 1.50", "bob 1.00"])),
            (strings(&["1.68"]), strings(&["alice 1.68"])),
        ];
        assert_eq!(by_period(&world, "cpu"), wanted, "{api}");
    }
}

#[test]
fn what_comes_late_of_an_earlier_plan_is_not_shared_out_on_its_row() {
    for (api, shares_first) in BOTH.into_iter().flat_map(|api| [true, false].map(|first| (api, first))) {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        let alice = hours("1", "11-05T00:00", "11-05T01:30", "1.5");
        let bob = on("project-a", "bob", "2", "11-05T00:00", "11-05T01:00", "1");
        if !shares_first {
            let lost = json!({ "match": { "path": "set_user_usage" }, "when": "before", "action": { "status": 503 } });
            world.fault(lost);
        }
        jobs(&world, NOON, &[alice.clone(), bob.clone()]).exits(if shares_first { 0 } else { 75 });
        world.no_faults();
        world.now("2026-11-10T13:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        // Of the time before the switch: its row's total is 2.50 and can't be touched any more.
        let late = on("project-a", "bob", "3", "11-06T00:00", "11-06T01:41", "1.68");
        let done = jobs(&world, "2026-11-10T16:00:00Z", &[alice, bob, late]);
        assert!([0, 65].contains(&done.code), "{done:#?}");
        let old = (strings(&["2.50"]), strings(&["alice 1.50", "bob 1.00"]));
        assert_eq!(by_period(&world, "cpu")[0], old, "{api}");
        // It is billed under the plan that runs, or left to a person; never lost from sight.
        match done.code {
            0 => assert_eq!(in_all(&world, A, "cpu", "2026-11"), amount("4.18"), "{api}"),
            _ => drop(world.agent(&["parked", "list"]).exits(65).names_a().tells(&["1.68"])),
        }
    }
}

/// October's late hour of the first plan goes to November, and nothing of either plan is left over.
#[test]
fn what_is_carried_out_of_a_month_of_two_plans_is_settled_under_the_plan_that_it_was_used_under() {
    for api in BOTH {
        let (world, mut all) = october_of_two_plans(api, "late: carry_forward");
        let october = ["cpu 2026-10 10.00", "cpu 2026-10 3.00"];
        let billed = |november: &str| {
            let rows = [&strings(&october)[..], &[format!("cpu 2026-11 {november}")]].concat();
            assert_eq!(world.rows(A), rows, "{api}");
            assert_eq!(
                world.shares(A),
                rows.iter().map(|row| format!("alice {row}")).collect::<Vec<_>>(),
                "{api}"
            );
            world.agent(&["parked", "list"]).exits(0);
            world.agent(&["recount"]).exits(0);
        };
        all.push(hours("late", "10-12T00:00", "10-12T01:00", "1"));
        jobs(&world, "2026-11-05T12:00:00Z", &all).exits(0);
        billed("1.00");
        // An hour more under the second plan, and half of one less under the first.
        all[0] = hours("1", "10-10T02:00", "10-10T12:00", "9.5");
        all.push(hours("later", "10-25T00:00", "10-25T01:00", "1"));
        jobs(&world, "2026-11-06T12:00:00Z", &all).exits(0);
        billed("1.50");
        // An hour that was used under the other plan: no more and no less in all.
        all[2] = hours("late", "10-25T02:00", "10-25T03:00", "1");
        jobs(&world, "2026-11-07T12:00:00Z", &all).exits(0);
        billed("1.50");
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        jobs(&world, "2026-11-08T12:00:00Z", &all).exits(0);
        billed("1.50");
    }
}

/// 0.20 h of the first plan come after the switch: they can't be reported there any more.
#[test]
fn what_a_plan_that_ended_did_not_take_is_carried_with_the_rest_of_its_month() {
    for api in BOTH {
        let world = start(api, "2026-10-10T12:00:00Z", "late: carry_forward", &keys(CPU));
        let mut all = vec![hours("1", "10-10T02:00", "10-10T12:00", "10")];
        jobs(&world, "2026-10-10T13:00:00Z", &all).exits(0);
        world.now("2026-10-20T00:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        all.push(hours("2", "10-20T02:00", "10-20T05:00", "3"));
        all.push(hours("3", "10-10T12:00", "10-10T12:12", "0.2"));
        jobs(&world, "2026-10-25T12:00:00Z", &all).exits(65).tells(&["0.20"]);
        jobs(&world, "2026-10-31T20:00:00Z", &all).exits(65);
        jobs(&world, "2026-11-01T12:00:00Z", &all).exits(0);
        let october = ["cpu 2026-10 10.00", "cpu 2026-10 3.00"];
        assert_eq!(world.rows(A), [&october[..], &["cpu 2026-11 0.20"]].concat(), "{api}");
        all.push(hours("late", "10-25T00:00", "10-25T05:00", "5"));
        jobs(&world, "2026-11-05T12:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A), [&october[..], &["cpu 2026-11 5.20"]].concat(), "{api}");
        world.agent(&["parked", "list"]).exits(0);
        world.agent(&["recount"]).exits(0);
    }
}

/// What is carried of both plans is more than 64 bits hold in cents: it is told as what it is, and all else goes on.
/// 1.50 too much under the old plan is taken away under the new one; when that falls to 1.00 in the end, 0.50 of it is not.
#[test]
fn what_a_later_fall_leaves_of_the_old_plan_on_the_bill_is_told() {
    for api in BOTH {
        let world = start(api, "2026-10-10T12:00:00Z", "late: hold", &keys(CPU));
        let first = |value| hours("1", "10-10T02:00", "10-10T12:00", value);
        let second = |value| hours("2", "10-20T02:00", "10-20T07:00", value);
        jobs(&world, "2026-10-10T13:00:00Z", &[first("10")]).exits(0);
        world.now("2026-10-20T00:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        jobs(&world, "2026-10-21T12:00:00Z", &[first("10"), second("5")]).exits(0);
        jobs(&world, "2026-10-22T12:00:00Z", &[first("8.5"), second("5")]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-10 3.50"], "{api}");
        jobs(&world, "2026-10-31T20:00:00Z", &[first("8.5"), second("5")]).exits(0);
        jobs(&world, "2026-11-01T12:00:00Z", &[first("8.5"), second("5")]).exits(0);
        let done = jobs(&world, "2026-11-02T12:00:00Z", &[first("8.5"), second("1")]).exits(65);
        done.names_a().tells(&["3.50 more was reported", "0.50 too much stays on the bill", "2026-10"]);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-10 3.50"], "{api}");
        let shares = ["alice cpu 2026-10 10.00", "alice cpu 2026-10 3.50"];
        assert_eq!(world.shares(A), shares, "{api}: those of the totals that stand");
        // Once.
        jobs(&world, "2026-11-02T13:00:00Z", &[first("8.5"), second("1")]).says_not("0.50 more");
        world.agent(&["explain", A, "cpu", "--period", "2026-10"]).exits(0).tells(&["0.50 too much"]);
    }
}

#[test]
fn amounts_that_no_bill_can_hold_are_told_and_stop_nothing() {
    for api in BOTH {
        let (world, mut all) = october_of_two_plans(api, "late: carry_forward");
        let huge = "80000000000000000";
        all.push(hours("x", "10-12T00:00", "10-12T01:00", huge));
        all.push(hours("y", "10-25T00:00", "10-25T01:00", huge));
        all.push(on("project-b", "bob", "b", "11-02T00:00", "11-02T02:00", "2"));
        jobs(&world, "2026-11-05T12:00:00Z", &all).exits(65);
        world.agent(&["parked", "list"]).exits(65).names_a().tells(&["160000000000000000.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-10 3.00"], "{api}");
        assert_eq!(world.rows(B), ["cpu 2026-11 2.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

/// A level of 500 all the month, under three meters.
fn levels(api: &str) -> (World, Vec<Value>) {
    let meters = "disk: { reading: sec, aggregate: max }\n      ram: { reading: sec, aggregate: mean, max_gap: 2d }\n      \
                  cpu: { reading: sec, aggregate: last }";
    let world = start(api, "2026-11-10T12:00:00Z", "late: hold", &keys(meters));
    let level = |day: u32| {
        let mut line = seen("gauge", "500");
        line["at"] = json!(format!("2026-11-{day:02}T00:00:00Z"));
        line
    };
    (world, (1..30).map(level).collect())
}

#[test]
fn a_level_is_billed_once_when_the_plan_is_switched_before_the_first_report() {
    for api in BOTH {
        let (world, all) = levels(api);
        world.now("2026-11-16T00:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        // Half of November's thirty days under each plan.
        jobs(&world, "2026-11-29T12:00:00Z", &all).exits(0);
        for component in ["cpu", "disk", "ram"] {
            let billed: Vec<_> = by_period(&world, component).into_iter().map(|(items, _)| items).collect();
            assert_eq!(billed, [strings(&["250.00"]), strings(&["250.00"])], "{api} {component}");
        }
    }
}

#[test]
fn a_level_is_billed_once_when_the_plan_is_switched_after_a_report() {
    for api in BOTH {
        let (world, all) = levels(api);
        jobs(&world, "2026-11-10T12:00:00Z", &all[..10]).exits(0);
        world.now("2026-11-16T00:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        jobs(&world, "2026-11-29T12:00:00Z", &all).exits(0);
        for component in ["cpu", "disk", "ram"] {
            assert_eq!(in_all(&world, A, component, "2026-11"), amount("500.00"), "{api} {component}");
        }
    }
}

#[test]
fn a_resource_without_a_plan_is_held_after_one_call_at_most() {
    for api in BOTH {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        world.post(&format!("resources/{A}"), json!({ "plan": false, "plan_periods": [] }));
        let both = [
            hours("1", "11-05T00:00", "11-05T05:00", "5"),
            on("project-b", "bob", "2", "11-05T00:00", "11-05T02:00", "2"),
        ];
        jobs(&world, NOON, &both).exits(65).names_a().tells(&["has no plan"]);
        let calls = || {
            let posts = world.posts_since(0).into_iter().filter(|call| call.path.ends_with("/set_usage/"));
            posts
                .filter(|call| call.body["resource"].as_str().unwrap().replace('-', "") == A.replace('-', ""))
                .count()
        };
        assert!(calls() <= 1, "{api}: {}", calls());
        assert_eq!(world.rows(B), ["cpu 2026-11 2.00"], "{api}");
        world.agent(&["parked", "list"]).exits(65).tells(&["has no plan"]).says_not("server error");
        let before = calls();
        jobs(&world, "2026-11-10T13:00:00Z", &both).exits(65);
        assert!(calls() <= before.max(1), "{api}: {}", calls());
        // It is given one.
        world.post(
            &format!("resources/{A}"),
            json!({ "plan": true, "plan_periods": [{ "start": "2026-11-01T00:00:00Z" }] }),
        );
        jobs(&world, "2026-11-10T15:00:00Z", &both).exits(0);
        assert_eq!(world.billed(A), ["cpu 2026-11 5.00"], "{api}");
        world.agent(&["parked", "list"]).exits(0);
    }
}

/// A resource with a plan, and these plan periods.
#[track_caller]
fn unbilled(plan_periods: Value) {
    for api in BOTH {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        world.post(&format!("resources/{A}"), json!({ "plan_periods": plan_periods }));
        let five = hours("1", "11-05T00:00", "11-05T05:00", "5");
        let other = on("project-b", "bob", "2", "11-05T00:00", "11-05T01:00", "1");
        let done = jobs(&world, NOON, &[five.clone(), other.clone()]);
        if api == CLASSIC {
            // A row would be stored there under no plan period, and billed nowhere.
            done.exits(65).names_a().tells(&["cpu", "plan period"]);
            assert_eq!(world.rows(A), [""; 0]);
            world.agent(&["status"]).exits(65);
            // It is given one, under the same plan.
            world.post(
                &format!("resources/{A}"),
                json!({ "plan_periods": [{ "start": "2026-11-01T00:00:00Z" }] }),
            );
            jobs(&world, "2026-11-10T14:00:00Z", &[five, other]).exits(0);
            assert_eq!(world.billed(A), ["cpu 2026-11 5.00"]);
        } else {
            // The report of another resource shows which kind of Waldur it is: until then it is not known whether a row
            // would be billed.
            done.exits(65).names_a().tells(&["cpu", "plan period"]);
            assert_eq!(world.rows(A), [""; 0]);
            assert_eq!(world.rows(B), ["cpu 2026-11 1.00"]);
            let mark = world.mark();
            jobs(&world, "2026-11-10T13:00:00Z", &[five, other]).exits(0);
            assert_eq!(world.rows(A), ["cpu 2026-11 5.00"]);
            assert_eq!(world.billed(A), ["cpu 2026-11 5.00"]);
            // One call, and its row is read back.
            let calls = totals(&world, A, mark);
            assert_eq!(calls.len(), 1, "{calls:#?}");
            let after = world.requests_since(calls[0].n + 1);
            let is_read = |call: &&Request| {
                call.method == "GET"
                    && call.path.starts_with("/api/marketplace-component-usages/?")
                    && call.path.contains("2026-11-01")
                    && call.status == 200
            };
            assert!(after.iter().any(|call| is_read(&call)), "{after:#?}");
        }
    }
}

#[test]
fn a_resource_without_a_plan_period_is_held_where_its_row_would_be_billed_nowhere() {
    unbilled(json!([]));
}

#[test]
fn a_resource_whose_plan_period_is_closed_is_held_where_its_row_would_be_billed_nowhere() {
    unbilled(json!([{ "start": "2026-01-01T00:00:00Z", "end": "2026-11-08T00:00:00Z" }]));
}

#[test]
fn an_id_that_moves_to_a_new_resource_takes_what_is_used_from_then_on() {
    for api in BOTH {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        let five = hours("1", "11-05T00:00", "11-05T05:00", "5");
        jobs(&world, NOON, std::slice::from_ref(&five)).exits(0);
        world.now("2026-11-10T13:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
        let began = json!([{ "start": "2026-11-10T13:00:00Z" }]);
        world.post(
            "resources",
            json!({ "uuid": N, "name": "Project N", "backend_id": "project-a", "offering": "Cluster",
                    "created": "2026-11-10T13:00:00Z", "plan_periods": began }),
        );
        let seven = hours("2", "11-11T00:00", "11-11T07:00", "7");
        let first = jobs(&world, "2026-11-11T12:00:00Z", &[five.clone(), seven.clone()]).all();
        let second = jobs(&world, "2026-11-11T18:00:00Z", &[five, seven]).exits(0);
        assert!((first + &second.all()).contains("Project N"), "it is told: {second:#?}");
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        assert_eq!(world.rows(N), ["cpu 2026-11 7.00"], "{api}");
        assert_eq!(world.shares(N), ["alice cpu 2026-11 7.00"], "{api}");
        world.agent(&["status"]).exits(0);
    }
}

#[test]
fn an_id_that_is_first_read_after_it_moved_leaves_the_earlier_usage_with_the_terminated_resource() {
    for (api, began) in
        BOTH.into_iter().flat_map(|api| ["2026-11-10T13:00:00Z", "2026-10-10T13:00:00Z"].map(|at| (api, at)))
    {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
        world.post(
            "resources",
            json!({ "uuid": N, "name": "Project N", "backend_id": "project-a", "offering": "Cluster",
                    "created": began, "plan_periods": [{ "start": began }] }),
        );
        let all =
            [hours("1", "11-05T00:00", "11-05T05:00", "5"), hours("2", "11-11T00:00", "11-11T07:00", "7")];
        let done = jobs(&world, "2026-11-11T12:00:00Z", &all);
        let told = done.all();
        assert_eq!(world.rows(A), [""; 0], "{api}");
        if began == "2026-11-10T13:00:00Z" {
            // Nobody can be billed for the five hours any more; they are shown.
            done.exits(65).tells(&["Project A", "5.00", "not in valid state"]);
            assert_eq!(world.rows(N), ["cpu 2026-11 7.00"], "{api}");
            assert_eq!(world.shares(N), ["alice cpu 2026-11 7.00"], "{api}");
        } else {
            done.exits(0);
            assert_eq!(world.rows(N), ["cpu 2026-11 12.00"], "{api}");
        }
        assert!(told.contains("its backend id was that of Project A"), "{told}");
        world.agent(&["recount"]).exits(0);
    }
}

/// Project A is terminated, and N has its id.
fn moved_to_n(api: &str, submit: &str, periods: Value) -> World {
    let world = start(api, "2026-11-03T12:00:00Z", submit, &keys(CPU));
    world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
    world.post(
        "resources",
        json!({ "uuid": N, "name": "Project N", "backend_id": "project-a", "offering": "Cluster",
                "plan_periods": periods }),
    );
    world
}

#[test]
fn a_new_resource_is_billed_nothing_of_what_was_used_before_its_plan_began() {
    for api in BOTH {
        let world = moved_to_n(api, "late: hold", json!([{ "start": "2026-11-02T12:00:00Z" }]));
        let before = hours("1", "11-01T00:00", "11-01T05:00", "5");
        jobs(&world, "2026-11-03T12:00:00Z", &[before]).exits(65).tells(&["Project A", "5.00"]);
        assert_eq!(world.rows(N), [""; 0], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn a_month_that_a_new_resource_was_billed_for_is_not_changed_by_a_plan_period_that_is_seen_later() {
    let world = moved_to_n(CURRENT, "late: backfill", json!([]));
    let mut all = vec![
        hours("1", "11-02T00:00", "11-02T05:00", "5"),
        on("project-b", "bob", "2", "11-02T00:00", "11-02T02:00", "2"),
    ];
    // The report of another resource shows which kind of Waldur it is.
    jobs(&world, "2026-11-03T12:00:00Z", &all);
    jobs(&world, "2026-11-03T13:00:00Z", &all).exits(0);
    assert_eq!(world.rows(N), ["cpu 2026-11 5.00"]);
    all.push(hours("3", "12-01T01:00", "12-01T04:00", "3"));
    for now in ["2026-12-01T12:00:00Z", "2026-12-01T13:00:00Z"] {
        jobs(&world, now, &all).exits(0);
        assert_eq!(world.rows(N), ["cpu 2026-11 5.00", "cpu 2026-12 3.00"]);
    }
}

#[test]
fn a_level_counts_for_each_resource_for_the_time_in_which_the_id_was_its_own() {
    for api in BOTH {
        let (world, mut all) = levels(api);
        // Something else grows, so that Waldur is asked at all.
        let grows = |(at, level): (usize, &Value)| {
            let mut other = level.clone();
            (other["value"], other["labels"]["project"]) = (json!(at.to_string()), json!("project-b"));
            [level.clone(), other]
        };
        all = all.iter().enumerate().flat_map(grows).collect();
        jobs(&world, "2026-11-10T12:00:00Z", &all[..20]).exits(0);
        world.now("2026-11-16T00:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
        world.post(
            "resources",
            json!({ "uuid": N, "name": "Project N", "backend_id": "project-a", "offering": "Cluster",
                    "plan_periods": [{ "start": "2026-11-16T00:00:00Z" }] }),
        );
        jobs(&world, "2026-11-16T12:00:00Z", &all[..32]);
        jobs(&world, "2026-11-29T12:00:00Z", &all);
        for component in ["cpu", "disk", "ram"] {
            // Half of November's thirty days.
            assert_eq!(in_all(&world, N, component, "2026-11"), amount("250.00"), "{api} {component}");
        }
    }
}

/// Nothing is to be sent, so that nothing else asks Waldur whose the id is.
#[test]
fn a_level_that_never_changes_is_each_resources_for_the_time_in_which_the_id_was_its_own() {
    for api in BOTH {
        for gone in [false, true] {
            let (world, all) = levels(api);
            jobs(&world, "2026-11-10T12:00:00Z", &all[..10]).exits(0);
            jobs(&world, "2026-11-16T00:00:00Z", &all[..16]).exits(0);
            let old = if gone { json!({ "state": "Terminated" }) } else { json!({ "backend_id": "old" }) };
            world.post(&format!("resources/{A}"), old);
            world.post(
                "resources",
                json!({ "uuid": N, "name": "Project N", "backend_id": "project-a", "offering": "Cluster",
                        "plan_periods": [{ "start": "2026-11-16T00:00:00Z" }] }),
            );
            // It is noticed with the next comparison, hours before the month's end.
            let done = jobs(&world, "2026-11-16T02:00:00Z", &all[..16]);
            done.exits(if gone { 65 } else { 0 }).tells(&["project-a belongs to Project N"]);
            jobs(&world, "2026-11-29T12:00:00Z", &all);
            for component in ["cpu", "disk", "ram"] {
                // Half of November's thirty days; from a resource that is gone nothing can be taken back.
                let case = format!("{api} {component} {gone}");
                assert_eq!(in_all(&world, N, component, "2026-11"), amount("250.00"), "{case}");
                let left = if gone { "500.00" } else { "250.00" };
                assert_eq!(in_all(&world, A, component, "2026-11"), amount(left), "{case}");
            }
        }
    }
}

#[test]
fn a_switch_of_plan_is_told_also_where_nothing_is_to_be_sent() {
    for api in BOTH {
        let (world, all) = levels(api);
        jobs(&world, "2026-11-10T12:00:00Z", &all[..10]).exits(0);
        world.now("2026-11-16T00:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        // The mean's new part has nothing yet that it could be taken from: it waits, and is told.
        let done = jobs(&world, "2026-11-16T02:00:00Z", &all[..16]).exits(65);
        done.tells(&["its plan was switched at 2026-11-16"]);
        jobs(&world, "2026-11-17T00:00:00Z", &all[..17]).exits(0);
        for component in ["cpu", "disk", "ram"] {
            assert_eq!(in_all(&world, A, component, "2026-11"), amount("500.00"), "{api} {component}");
        }
        // 250 + 1000 / 2 = 750 for the first half and the second; then 250 + 300 / 2 = 400, of which Waldur can't get below
        // the 500 of the plan that ended, until it is 250 + 600 / 2 = 550.
        for (day, level, billed, left) in
            [(20, "1000", "750.00", false), (24, "300", "500.00", true), (26, "600", "550.00", false)]
        {
            let mut now = all[16].clone();
            (now["at"], now["value"]) = (json!(format!("2026-11-{day}T00:00:00Z")), json!(level));
            jobs(&world, &format!("2026-11-{day}T12:00:00Z"), &[now]);
            assert_eq!(in_all(&world, A, "cpu", "2026-11"), amount(billed), "{api} {day}");
            let parked = world.agent(&["parked", "list"]);
            assert_eq!(parked.all().contains("cpu -100.00"), left, "{api} {day} {parked:#?}");
        }
    }
}

#[test]
fn two_resources_that_swap_their_ids_are_billed_for_their_own_from_then_on() {
    for api in BOTH {
        let world = start(api, NOON, "late: hold", &keys(CPU));
        let mut all = vec![
            hours("1", "11-05T00:00", "11-05T05:00", "5"),
            on("project-b", "bob", "2", "11-05T00:00", "11-05T02:00", "2"),
        ];
        jobs(&world, NOON, &all).exits(0);
        world.now("2026-11-10T13:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "backend_id": "project-b" }));
        world.post(&format!("resources/{B}"), json!({ "backend_id": "project-a" }));
        all.push(hours("3", "11-11T00:00", "11-11T05:00", "5"));
        let first = jobs(&world, "2026-11-11T12:00:00Z", &all).all();
        let told = first + &jobs(&world, "2026-11-11T18:00:00Z", &all).exits(0).all();
        assert!(["project-a", "Project A", "Project B"].iter().all(|name| told.contains(name)), "{told}");
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        assert_eq!(world.rows(B), ["cpu 2026-11 7.00"], "{api}");
        assert_eq!(world.shares(B), ["alice cpu 2026-11 5.00", "bob cpu 2026-11 2.00"], "{api}");
    }
}

/// Project A and another of its id, in this state.
fn twin(api: &str, state: &str) -> (World, Done) {
    let world = start(api, NOON, "late: hold", &keys(CPU));
    let spec = json!({ "uuid": N, "name": "Project N", "backend_id": "project-a", "offering": "Cluster", "state": state });
    world.post("resources", spec);
    let both = [
        hours("1", "11-05T00:00", "11-05T05:00", "5"),
        on("project-b", "bob", "2", "11-05T00:00", "11-05T02:00", "2"),
    ];
    let done = jobs(&world, NOON, &both);
    assert_eq!(world.rows(B), ["cpu 2026-11 2.00"], "{api}");
    (world, done)
}

#[test]
fn of_two_resources_with_one_id_the_one_that_lives_has_it() {
    for (api, state) in
        BOTH.into_iter().flat_map(|api| ["Terminated", "Erred", "Creating"].map(|state| (api, state)))
    {
        let (world, done) = twin(api, state);
        done.exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api} {state}");
        assert_eq!(world.rows(N), [""; 0], "{api} {state}");
    }
}

#[test]
fn two_resources_that_live_with_one_id_are_held_and_both_are_named() {
    for (api, state) in
        BOTH.into_iter().flat_map(|api| ["OK", "Updating", "Terminating"].map(|state| (api, state)))
    {
        let (world, done) = twin(api, state);
        done.exits(65).tells(&["project-a", "Project A", "Project N"]);
        assert_eq!(world.rows(A), [""; 0], "{api} {state}");
        assert_eq!(world.rows(N), [""; 0], "{api} {state}");
        world.agent(&["status"]).exits(65).tells(&["project-a"]);
        world.agent(&["check"]).tells(&["project-a", "Project A", "Project N"]);
        // One of them gets an id of its own.
        world.post(&format!("resources/{N}"), json!({ "backend_id": "project-n" }));
        world.now("2026-11-10T14:00:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api} {state}");
    }
}

#[test]
fn what_was_held_for_two_resources_with_one_id_is_the_living_ones_also_after_the_months_end() {
    for api in BOTH {
        let (world, done) = twin(api, "OK");
        done.exits(65);
        world.post(&format!("resources/{N}"), json!({ "backend_id": "project-n" }));
        let all = [
            hours("1", "11-05T00:00", "11-05T05:00", "5"),
            on("project-b", "bob", "2", "11-05T00:00", "11-05T02:00", "2"),
            on("project-b", "bob", "3", "12-01T00:00", "12-01T02:00", "2"),
        ];
        jobs(&world, "2026-12-02T12:00:00Z", &all);
        jobs(&world, "2026-12-02T13:00:00Z", &all).exits(65);
        let parked = world.agent(&["parked", "list"]).exits(65).names_a();
        parked.tells(&["5.00", "stranded"]).says_not("have its backend id");
    }
}
