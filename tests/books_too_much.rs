//! What is too much on a bill and can't be taken away anywhere is told with its amount, until it is credited by hand and given
//! up, or taken away from later usage.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::Value;

/// What `parked list` shows of a month: amounts and reasons.
#[track_caller]
fn kept_back(world: &World, month: &str) -> Vec<String> {
    let listed = world.agent(&["parked", "list", "--json"]).out;
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap_or_default();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let of_month = listed.iter().filter(|one| text(one, "period") == month);
    let mut kept: Vec<String> =
        of_month.map(|one| format!("{} {}", text(one, "amount"), text(one, "reason"))).collect();
    kept.sort();
    kept
}

/// October's 20.00 were carried to November, and November is over when half of them turn out not to be used. 5.00 of
/// October's own may have been reported in October.
#[test]
fn what_was_carried_to_a_month_that_is_over_and_was_not_used_is_told_with_its_amount() {
    for api in BOTH {
        for own in [false, true] {
            let world = metered(api, "2026-10-15T12:00:00Z", "carry_forward");
            let of_b = on("project-b", "bob", "b", "10-10T00:00", "10-10T05:00", "1");
            let five = own.then(|| hours("o", "10-10T00:00", "10-10T05:00", "5"));
            let known: Vec<Value> = [Some(of_b), five].into_iter().flatten().collect();
            let with = |late: &str| {
                let late = hours("late", "10-28T12:00", "10-28T22:00", late);
                known.iter().cloned().chain([late]).collect::<Vec<_>>()
            };
            jobs(&world, "2026-10-15T12:00:00Z", &known).exits(0);
            jobs(&world, "2026-11-01T01:00:00Z", &known).exits(0);
            jobs(&world, "2026-11-10T12:00:00Z", &with("20")).exits(0);
            jobs(&world, "2026-12-01T12:00:00Z", &with("20")).exits(0);
            let done = jobs(&world, "2026-12-02T12:00:00Z", &with("10")).exits(65);
            // Used are 10.00 (and 5.00), billed 20.00 (and 5.00).
            let told: &[&str] = match own {
                false => &["-10.00 too_much"],
                true => &["-5.00 period_ended", "-5.00 too_much"],
            };
            assert_eq!(kept_back(&world, "2026-10"), told, "{api} {own}");
            let words =
                if own { "5.00 too much stays on the bill" } else { "10.00 too much stays on the bill" };
            world.with_status(done).names_a().tells(&["2026-10", words, "credit"]);
            jobs(&world, "2026-12-03T12:00:00Z", &with("10")).exits(65).says_not("too much stays");
            // Used in December are 4.00: they are on the bill already, and 6.00 are left.
            let mut more = with("10");
            more.push(hours("d", "12-04T00:00", "12-04T04:00", "4"));
            jobs(&world, "2026-12-05T12:00:00Z", &more).exits(65);
            let december =
                world.rows(A).into_iter().filter(|row| row.contains("2026-12 ") && !row.ends_with(" 0.00"));
            assert_eq!(december.collect::<Vec<_>>(), [""; 0], "{api} {own}");
            let told: &[&str] = match own {
                false => &["-6.00 too_much"],
                true => &["-1.00 too_much", "-5.00 period_ended"],
            };
            assert_eq!(kept_back(&world, "2026-10"), told, "{api} {own}");
            // Credited by hand and given up: nothing is left, and nothing is taken away a second time.
            world.agent(&["parked", "drop", A]).exits(0).tells(&["6.00"]);
            more.push(hours("e", "12-06T00:00", "12-06T02:00", "2"));
            jobs(&world, "2026-12-07T12:00:00Z", &more).exits(0);
            assert_eq!(kept_back(&world, "2026-10"), [""; 0], "{api} {own}");
            assert!(world.rows(A).contains(&"cpu 2026-12 2.00".to_owned()), "{api} {own}");
            assert!(world.shares(A).contains(&"alice cpu 2026-12 2.00".to_owned()), "{api} {own}");
            world.agent(&["recount"]).exits(0);
        }
    }
}

/// 28.00 were reported under the first plan and 26.00 used: 2.00 of the second plan's 11.00 were not reported for it. Then the
/// 11.00 turn out not to be used, when October is over.
#[test]
fn what_an_earlier_plan_has_too_much_is_told_where_the_later_one_has_nothing_any_more() {
    for (api, late) in LATE {
        let world = metered(api, "2026-10-27T20:00:00Z", late);
        jobs(&world, "2026-10-28T03:00:00Z", &[hours("1", "10-27T06:00", "10-27T18:00", "28")]).exits(0);
        change_plan(&world, "2026-10-28T13:50:00Z", "switch_plan");
        let first = hours("1", "10-27T06:00", "10-27T18:00", "26");
        let second = |used: &str| on("project-a", "bob", "2", "10-29T02:00", "10-29T13:00", used);
        jobs(&world, "2026-10-31T20:30:00Z", &[first.clone(), second("11")]);
        jobs(&world, "2026-11-01T01:00:00Z", &[first.clone(), second("11")]);
        assert_eq!(world.rows(A), ["cpu 2026-10 28.00", "cpu 2026-10 9.00"], "{api} {late}");
        for now in ["2026-11-10T01:00:00Z", "2026-11-11T01:00:00Z"] {
            jobs(&world, now, &[first.clone(), second("0")]).exits(65);
        }
        let (billed, told): (&[&str], &[&str]) = match late {
            "backfill" => (&["cpu 2026-10 0.00", "cpu 2026-10 28.00"], &["-2.00 too_much"]),
            _ => (&["cpu 2026-10 28.00", "cpu 2026-10 9.00"], &["-2.00 too_much", "-9.00 period_ended"]),
        };
        assert_eq!(world.rows(A), billed, "{api} {late}");
        assert_eq!(kept_back(&world, "2026-10"), told, "{api} {late}");
        world.agent(&["status", A]).exits(65).tells(&["Project A", "2026-10", "2.00 too much stays"]);
    }
}

/// Half an hour that came late was reported under the plan that October ended with; then nothing of October was used.
#[test]
fn what_came_late_under_a_later_plan_and_was_not_used_is_told_with_the_rest() {
    let world = metered(CURRENT, "2026-10-24T12:00:00Z", "backfill");
    let one = |used: &str| hours("1", "10-24T07:00", "10-24T08:00", used);
    let late = |used: &str| hours("late", "10-29T04:30", "10-29T05:00", used);
    jobs(&world, "2026-10-26T13:00:00Z", &[one("1")]).exits(0);
    change_plan(&world, "2026-10-31T19:50:00Z", "switch_plan");
    change_plan(&world, "2026-11-01T00:50:00Z", "switch_plan");
    jobs(&world, "2026-11-01T01:00:00Z", &[one("1"), late("0.5")]);
    assert_eq!(world.rows(A), ["cpu 2026-10 0.50", "cpu 2026-10 1.00"]);
    jobs(&world, "2026-11-15T06:00:00Z", &[one("1"), late("0")]).exits(65);
    assert_eq!(kept_back(&world, "2026-10"), ["-0.50 plan_ended"]);
    jobs(&world, "2026-11-18T06:00:00Z", &[one("0"), late("0")]).exits(65);
    assert_eq!(world.rows(A), ["cpu 2026-10 0.50", "cpu 2026-10 1.00"]);
    assert_eq!(kept_back(&world, "2026-10"), ["-0.50 too_much", "-1.00 plan_ended"]);
}
