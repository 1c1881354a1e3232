//! The rules of metering change in the middle of a month: another factor, another component, another resource, a filter,
//! a time zone, a user, a collector's name. October is over and keeps what it was closed with; what comes late of it is
//! counted by October's rules; November is as the new rules say, or held where that would bill more than was used.
//! October has 12 h, November 5 h, the change comes on the 10th, the late hour of October on the 12th.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// Plays a change with each way to deal with late usage, in both generations of the API.
#[track_caller]
fn each(keys: &str, more: &[Value], play: impl Fn(&Books)) {
    for (api, late) in LATE {
        play(&Books::with(api, late, keys, more));
    }
}

#[test]
fn another_factor_holds_from_the_running_month_on() {
    each(&keys(CPU), &[], |books| {
        books.rules(&[("source", keys("cpu: { reading: sec, factor: 1/1800 }"))]);
        books.november(A, &["cpu 5.00"]);
        books.at(CHANGE, &[]).exits(0).tells(&["cpu", "5.00", "10.00"]).names_a();
        books.november(A, &["cpu 10.00"]);
        books.november_shares(A, &["alice cpu 10.00"]);
        books.october_stands("12.00");
        let october = books.world.agent(&["explain", A, "cpu", "--period", "2026-10"]).exits(0);
        october.tells(&["1/3600"]).says_not("1/1800");
        books.world.agent(&["explain", A, "cpu"]).exits(0).tells(&["1/1800", "10.00"]);
        books.the_late_hour_is_one_hour(&["cpu 10.00"], &["cpu 11.00"]);
    });
}

#[test]
fn a_component_that_is_added_counts_from_the_running_month_on() {
    each(&keys(CPU), &[], |books| {
        let both = format!("{CPU}\n      cpu2: {{ reading: sec, factor: 1/3600 }}");
        books.rules(&[("source", keys(&both))]);
        books.at(CHANGE, &[]).exits(0).tells(&["cpu2", "5.00"]).names_a();
        books.november(A, &["cpu 5.00", "cpu2 5.00"]);
        books.october_stands("12.00");
        books.the_late_hour_is_one_hour(&["cpu 5.00", "cpu2 5.00"], &["cpu 6.00", "cpu2 5.00"]);
    });
}

#[test]
fn an_amount_that_a_reading_changes_is_not_said_to_be_changed_by_rules() {
    each(&keys(CPU), &[], |books| {
        // Another component's rule, of which nothing was read yet.
        books.rules(&[("source", keys(&format!("{CPU}\n      {RAM}")))]);
        books.at(CHANGE, &[]).exits(0);
        books.at("2026-11-11T12:00:00Z", &[hours("9", "11-11T10:00", "11-11T11:00", "1")]).exits(0);
        books.november(A, &["cpu 6.00"]);
        books.world.agent(&["explain", A, "cpu"]).exits(0).says_not("because the rules were changed");
        // Its own rule.
        books.rules(&[("source", keys("cpu: { reading: sec, factor: 1/1800 }"))]);
        books.at("2026-11-12T12:00:00Z", &[]).exits(0);
        let told = books.world.agent(&["explain", A, "cpu"]).exits(0);
        told.says("6.00 becomes 12.00, because the rules were changed");
        // Its own rule again, which makes no difference to what there is; but a job does.
        books.rules(&[("source", keys("cpu: { reading: sec, factor: 1/1800, rounding: up }"))]);
        books.at("2026-11-13T12:00:00Z", &[]).exits(0);
        books.at("2026-11-14T12:00:00Z", &[hours("10", "11-13T10:00", "11-13T11:00", "1")]).exits(0);
        books.november(A, &["cpu 14.00"]);
        let told = books.world.agent(&["explain", A, "cpu"]).exits(0);
        told.says_not("14.00, because the rules were changed");
    });
}

const RAM: &str = "ram: { reading: mem, factor: 1/3600 }";

fn ram(id: &str, day: &str) -> Value {
    let mut job = hours(id, &format!("{day}T00:00"), &format!("{day}T01:00"), "1");
    job["name"] = json!("mem");
    job
}

/// Where among the calls since then a share of alice's became nothing, and where its total did.
fn zeroed(world: &World, mark: u64, component: &str) -> (Option<usize>, Option<usize>) {
    let posts = world.posts_since(mark);
    let total = |call: &Request| {
        let usages = call.body["usages"].as_array().cloned().unwrap_or_default();
        usages.iter().any(|one| one["type"] == component && one["amount"] == "0.00")
    };
    let share = |call: &Request| {
        let text = call.body.to_string();
        call.path.contains("set_user_usage") && text.contains("alice") && text.contains("\"0.00\"")
    };
    (posts.iter().position(share), posts.iter().position(total))
}

#[test]
fn a_component_that_is_renamed_is_held_under_both_names_until_a_person_decides() {
    each(&keys(&format!("{CPU}\n      {RAM}")), &[ram("r1", "11-06")], |books| {
        let renamed = format!("cpu2: {{ reading: sec, factor: 1/3600 }}\n      {RAM}");
        books.rules(&[("source", keys(&renamed))]);
        // What the change does not concern goes on: another hour of memory.
        let done = books.at(CHANGE, &[ram("r2", "11-08")]).exits(65);
        let done = done.tells(&["cpu", "cpu2", "5.00"]).names_a();
        let warns = |line: &str| line.contains("WARN") && line.contains("held: the rules were changed");
        assert!(done.err.lines().any(warns), "{}", done.err);
        books.november(A, &["cpu 5.00", "ram 2.00"]);
        books.october_stands("12.00");
        // Each component with its own numbers.
        let status = books.world.agent(&["status"]).exits(65).out;
        let words = status.split_whitespace().collect::<Vec<_>>().join(" ");
        let said =
            "held: the rules were changed: Waldur holds cpu 5.00, cpu2 0.00; the ledger has 0.00, 5.00.";
        assert!(words.contains(said), "{status}");
        books.world.agent(&["parked", "list"]).tells(&["cpu", "cpu2", "5.00", "overwrite"]);
        let mark = books.world.mark();
        books.world.agent(&["resolve", A, "overwrite"]).exits(0).tells(&["cpu", "5.00", "0.00"]);
        books.at("2026-11-11T12:00:00Z", &[]).exits(0);
        books.november(A, &["cpu 0.00", "cpu2 5.00", "ram 2.00"]);
        books.november_shares(A, &["alice cpu 0.00", "alice cpu2 5.00", "alice ram 2.00"]);
        let (share, total) = zeroed(&books.world, mark, "cpu");
        assert!(share.is_some() && share < total, "alice's 0.00 comes first: {share:?} {total:?}");
        books.the_late_hour_is_one_hour(
            &["cpu 0.00", "cpu2 5.00", "ram 2.00"],
            &["cpu 1.00", "cpu2 5.00", "ram 2.00"],
        );
    });
}

#[test]
fn a_component_that_is_dropped_is_held_until_a_person_decides() {
    each(&keys(&format!("{CPU}\n      {RAM}")), &[ram("r1", "11-06")], |books| {
        books.rules(&[("source", keys(RAM))]);
        books.at(CHANGE, &[ram("r2", "11-08")]).exits(65).tells(&["cpu", "5.00"]).names_a();
        books.november(A, &["cpu 5.00", "ram 2.00"]);
        books.october_stands("12.00");
        let mark = books.world.mark();
        books.world.agent(&["resolve", A, "overwrite"]).exits(0).tells(&["cpu", "5.00", "0.00"]);
        books.at("2026-11-11T12:00:00Z", &[]).exits(0);
        books.november(A, &["cpu 0.00", "ram 2.00"]);
        books.november_shares(A, &["alice cpu 0.00", "alice ram 2.00"]);
        let (share, total) = zeroed(&books.world, mark, "cpu");
        assert!(share.is_some() && share < total, "alice's 0.00 comes first: {share:?} {total:?}");
        books.the_late_hour_is_one_hour(&["cpu 0.00", "ram 2.00"], &["cpu 1.00", "ram 2.00"]);
    });
}

/// The usage goes to project B from now on; it is still on A's bill. Project C has a collector of its own.
#[track_caller]
fn moved(books: &Books, new_keys: String) {
    let own = ("other", keys(CPU));
    let job = |id: &str, start, end, amount| on("project-c", "bob", id, start, end, amount);
    let (one, two) =
        (job("c1", "11-06T00:00", "11-06T01:00", "1"), job("c2", "11-09T13:00", "11-09T15:00", "2"));
    books.rules(&[("source", keys(CPU)), own.clone()]);
    lines(&books.world, "other", std::slice::from_ref(&one));
    books.at("2026-11-09T12:30:00Z", &[]).exits(0);
    books.november(C, &["cpu 1.00"]);
    books.rules(&[("source", new_keys), own]);
    lines(&books.world, "other", &[one, two]);
    let done = books.at(CHANGE, &[]).exits(65);
    done.tells(&["cpu", "5.00", "Project B"]).names_a();
    books.november(A, &["cpu 5.00"]);
    books.november(B, &[]);
    // What the change does not concern goes on.
    books.november(C, &["cpu 3.00"]);
    books.november_shares(C, &["bob cpu 3.00"]);
    books.october_stands("12.00");
    books.world.agent(&["resolve", A, B, "overwrite"]).exits(0).tells(&["5.00", "0.00"]);
    books.at("2026-11-11T12:00:00Z", &[]).exits(0);
    books.november(A, &["cpu 0.00"]);
    books.november(B, &["cpu 5.00"]);
    books.november_shares(A, &["alice cpu 0.00"]);
    books.november_shares(B, &["alice cpu 5.00"]);
    books.the_late_hour_is_one_hour(&["cpu 0.00"], &["cpu 1.00"]);
    books.november(B, &["cpu 5.00"]);
    books.november(C, &["cpu 3.00"]);
    assert_eq!(books.month(B, "2026-10"), [""; 0]);
}

#[test]
fn usage_that_goes_to_another_resource_is_held_on_both() {
    each(&keys(CPU), &[], |books| {
        let fixed = format!("    resource: {B}\n    user: \"{{user}}\"\n    meters:\n      {CPU}\n");
        moved(books, fixed);
    });
}

#[test]
fn another_backend_id_template_within_an_offering_is_held_on_both() {
    each(&keys(CPU), &[], |books| moved(books, targeted("{moved}", "{user}", CPU)));
}

#[test]
fn a_filter_that_leaves_everything_out_makes_the_running_month_nothing_and_is_told() {
    each(&keys(CPU), &[], |books| {
        books.rules(&[("source", keys("cpu: { reading: sec, factor: 1/3600, not_if: { part: x } }"))]);
        books.at(CHANGE, &[]).exits(0).tells(&["cpu", "5.00", "0.00"]).names_a();
        books.november(A, &["cpu 0.00"]);
        books.november_shares(A, &["alice cpu 0.00"]);
        books.october_stands("12.00");
        books.the_late_hour_is_one_hour(&["cpu 0.00"], &["cpu 1.00"]);
    });
}

#[test]
fn weights_hold_from_the_running_month_on() {
    each(&keys(CPU), &[], |books| {
        let weighed = "cpu: { reading: sec, factor: 1/3600, weights: { part: { x: 3 } } }";
        books.rules(&[("source", keys(weighed))]);
        books.at(CHANGE, &[]).exits(0).tells(&["cpu", "5.00", "15.00"]).names_a();
        books.november(A, &["cpu 15.00"]);
        books.the_late_hour_is_one_hour(&["cpu 15.00"], &["cpu 16.00"]);
    });
}

#[test]
fn another_billing_time_zone_changes_nothing_before_the_next_month() {
    for (api, late) in LATE {
        let books = Books::of(api, late, &keys(CPU));
        let collectors = [("source", keys(CPU))];
        books.rules_with("billing_timezone: Europe/Tallinn", &collectors);
        books.at(CHANGE, &[]).tells(&["Europe/Tallinn", "UTC"]);
        books.november(A, &["cpu 5.00"]);
        books.october_stands("12.00");
        books.the_late_hour_is_one_hour(&["cpu 5.00"], &["cpu 6.00"]);
        books.world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn december_begins_where_november_ended_and_january_by_the_new_time_zone() {
    for api in BOTH {
        let books = Books::of(api, "hold", &keys(CPU));
        books.rules_with("billing_timezone: Europe/Tallinn", &[("source", keys(CPU))]);
        books.at(CHANGE, &[]);
        // Until the change has come, nothing is sent after the earlier of both ends: 22:00 in UTC.
        let mark = books.world.mark();
        books.at("2026-11-30T22:30:00Z", &[hours("n2", "11-30T20:00", "11-30T21:00", "1")]);
        assert_eq!(books.world.posts_since(mark).len(), 0);
        // 22:30 to 23:30 by UTC is December in Tallinn, but still November's by what was recorded.
        let last = hours("n3", "11-30T22:30", "11-30T23:30", "1");
        books.at("2026-12-02T12:00:00Z", &[last, hours("d1", "12-01T00:00", "12-01T03:00", "3")]).exits(65);
        books.november(A, &["cpu 5.00"]);
        assert_eq!(books.month(A, "2026-12"), ["cpu 3.00"], "{api}");
        books.world.agent(&["parked", "list"]).tells(&["2026-11", "2.00", "stranded"]).names_a();
        // 21:00 to 23:00 by UTC on the last day of the year: an hour of December, an hour of January.
        books.at("2027-01-02T12:00:00Z", &[hours("y", "12-31T21:00", "12-31T23:00", "2")]).exits(65);
        assert_eq!(books.month(A, "2026-12"), ["cpu 3.00"], "{api}");
        assert_eq!(books.month(A, "2027-01"), ["cpu 1.00"], "{api}");
    }
}

#[test]
fn another_user_template_makes_new_shares_in_the_running_month_only() {
    for (api, late) in LATE {
        let books = Books::of(api, late, &keys(CPU));
        books.rules(&[("source", targeted("{project}", "{team}", CPU))]);
        books.at(CHANGE, &[]).exits(0).tells(&["alice", "blue", "5.00"]).names_a();
        books.november(A, &["cpu 5.00"]);
        books.november_shares(A, &["alice cpu 0.00", "blue cpu 5.00"]);
        books.october_stands("12.00");
        books.the_late_hour_is_one_hour(&["cpu 5.00"], &["cpu 6.00"]);
        // By October's rules the hour was alice's.
        let shares: &[&str] = match late {
            "carry_forward" => &["alice cpu 1.00", "blue cpu 5.00"],
            _ => &["alice cpu 0.00", "blue cpu 5.00"],
        };
        books.november_shares(A, shares);
    }
}

/// A collector of one counter that is seen as it is now: 12 h in October, 5 h in November.
fn momentary(api: &str) -> World {
    let world = world(api, "2026-10-15T12:00:00Z");
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    for (now, value, code) in [
        ("2026-10-15T12:00:00Z", "1000000", 0),
        ("2026-10-31T12:00:00Z", "1043200", 0),
        ("2026-11-01T00:10:00Z", "1043200", 0),
        ("2026-11-09T12:00:00Z", "1061200", 0),
    ] {
        look(&world, "source", now, value).exits(code);
    }
    assert_eq!(world.rows(A), ["cpu 2026-10 12.00", "cpu 2026-11 5.00"]);
    world
}

fn look(world: &World, collector: &str, now: &str, value: &str) -> Done {
    lines(world, collector, &[seen("counter", value)]);
    world.now(now);
    world.flush()
}

#[test]
fn a_collector_renamed_without_history_is_held_until_it_continues_the_old_one() {
    for api in BOTH {
        let world = momentary(api);
        configure(&world, "late: hold", "", &[("renamed", keys(CPU))]);
        let done = look(&world, "renamed", CHANGE, "1061200").exits(65);
        done.tells(&["cpu", "5.00", "renamed", "source", "continues"]).names_a();
        assert_eq!(world.rows(A), ["cpu 2026-10 12.00", "cpu 2026-11 5.00"], "{api}");
        world.agent(&["parked", "list"]).tells(&["continues", "5.00"]).says_not("factor");
        configure(&world, "late: hold", "", &[("renamed", keys(CPU) + "    continues: source\n")]);
        look(&world, "renamed", "2026-11-11T12:00:00Z", "1064800").exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 12.00", "cpu 2026-11 6.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-10 12.00", "alice cpu 2026-11 6.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn a_collector_renamed_with_history_that_makes_the_same_goes_on() {
    each(&keys(CPU), &[], |books| {
        books.rules(&[("renamed", keys(CPU))]);
        books.at(CHANGE, &[]).exits(0).tells(&["renamed", "source"]);
        books.november(A, &["cpu 5.00"]);
        books.october_stands("12.00");
        books.at("2026-11-11T12:00:00Z", &[hours("n2", "11-10T00:00", "11-10T01:00", "1")]).exits(0);
        books.november(A, &["cpu 6.00"]);
        books.november_shares(A, &["alice cpu 6.00"]);
        // The same rules, ids and amounts: it is the old one under another name, in October, too.
        books.the_late_hour_is_one_hour(&["cpu 6.00"], &["cpu 7.00"]);
        books.world.agent(&["recount"]).exits(0);
    });
}

/// What runs on has more under the new name than under the old one, and was not counted under both.
#[test]
fn a_job_that_is_read_again_under_a_new_name_with_more_of_it_counts_once() {
    for (api, late) in LATE {
        let books = Books::of(api, late, &keys(CPU));
        books.rules(&[("renamed", keys(CPU))]);
        let grown = || {
            let october = [
                hours("o1", "10-10T00:00", "10-10T10:00", "10"),
                hours("o2", "10-31T21:30", "10-31T23:30", "2"),
            ];
            [&october[..], &[hours("n1", "11-05T00:00", "11-05T07:00", "7")]].concat()
        };
        let flush = |now: &str| {
            lines(&books.world, "renamed", &grown());
            books.world.now(now);
            books.world.flush()
        };
        flush(CHANGE).exits(65).tells(&["5.00", "7.00"]).names_a();
        books.november(A, &["cpu 5.00"]);
        books.world.agent(&["explain", A, "cpu"]).says("7.00").says_not("12.00");
        books.rules(&[("renamed", keys(CPU) + "    continues: source\n")]);
        flush("2026-11-11T12:00:00Z").exits(0);
        books.november(A, &["cpu 7.00"]);
        books.november_shares(A, &["alice cpu 7.00"]);
        books.october_stands("12.00");
        books.world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn what_a_renamed_collector_brings_late_with_its_first_run_is_counted_by_the_rules_of_its_month() {
    each(&keys(CPU), &[], |books| {
        books.rules(&[("renamed", keys(CPU))]);
        books.the_late_hour_is_one_hour(&["cpu 5.00"], &["cpu 6.00"]);
        books.world.agent(&["recount"]).exits(0);
    });
}

#[test]
fn a_collector_that_continues_another_goes_on_without_a_break() {
    each(&keys(CPU), &[], |books| {
        books.rules(&[("renamed", keys(CPU) + "    continues: source\n")]);
        books.at(CHANGE, &[hours("n2", "11-09T00:00", "11-09T01:00", "1")]).exits(0);
        books.november(A, &["cpu 6.00"]);
        books.november_shares(A, &["alice cpu 6.00"]);
        books.october_stands("12.00");
        books.the_late_hour_is_one_hour(&["cpu 6.00"], &["cpu 7.00"]);
        books.world.agent(&["recount"]).exits(0);
    });
}

#[test]
fn a_second_collector_of_the_same_identities_is_held_and_both_are_named() {
    each(&keys(CPU), &[], |books| {
        books.rules(&[("source", keys(CPU)), ("second", keys(CPU))]);
        let done = books.at(CHANGE, &[]).exits(65).names_a();
        done.line_with(&["source", "second"]).tells(&["cpu", "5.00", "10.00"]);
        books.november(A, &["cpu 5.00"]);
        books.october_stands("12.00");
        // Back to one: nothing is left to decide.
        books.rules(&[("source", keys(CPU))]);
        books.at("2026-11-11T12:00:00Z", &[]).exits(0);
        books.november(A, &["cpu 5.00"]);
        books.the_late_hour_is_one_hour(&["cpu 5.00"], &["cpu 6.00"]);
    });
}

#[test]
fn a_second_collector_of_other_identities_counts_and_check_names_both() {
    for (api, late) in LATE {
        let books = Books::of(api, late, &keys(CPU));
        books.rules(&[("source", keys(CPU)), ("other", keys(CPU))]);
        let same = |id: &str, start, end, amount| hours(id, start, end, amount);
        lines(&books.world, "other", &[same("x1", "11-05T00:00", "11-05T05:00", "5")]);
        books.at(CHANGE, &[]).exits(0);
        books.november(A, &["cpu 10.00"]);
        books.october_stands("12.00");
        books.the_late_hour_is_one_hour(&["cpu 10.00"], &["cpu 11.00"]);
    }
}

/// Law 13: what the new rules make is what Waldur holds only if it is the same usage, not because both come to one number.
#[test]
fn a_collector_that_is_renamed_stays_held_when_other_usage_comes_to_the_same_number() {
    for api in BOTH {
        let world = world(api, NOON);
        let level = keys("ram: { reading: sec, aggregate: integral, on_gap: hold }");
        configure(&world, "late: hold", "", &[("source", level.clone())]);
        for name in ["source", "renamed"] {
            lines(&world, name, &[seen("gauge", "1")]);
        }
        let flush = |now: &str| {
            world.now(now);
            world.flush()
        };
        flush("2026-11-10T12:00:00Z").exits(0);
        flush("2026-11-10T22:00:00Z").exits(0);
        assert_eq!(world.rows(A), ["ram 2026-11 10.00"], "{api}");
        configure(&world, "late: hold", "", &[("renamed", level)]);
        flush("2026-11-10T23:00:00Z").exits(65).tells(&["ram", "10.00", "no longer configured"]).names_a();
        // Ten hours later it has made 10.00 by itself: 21 h were used.
        for now in ["2026-11-11T09:00:00Z", "2026-11-11T10:00:00Z"] {
            flush(now).exits(65);
            assert_eq!(world.rows(A), ["ram 2026-11 10.00"], "{api}");
        }
        world.agent(&["resolve", A, "overwrite"]).exits(0).tells(&["10.00", "11.00"]);
        flush("2026-11-11T11:00:00Z").exits(0);
        assert_eq!(world.rows(A), ["ram 2026-11 12.00"], "{api}");
    }
}

#[test]
fn a_decision_about_another_writer_is_none_about_jobs_that_two_collectors_count() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU)), ("second", keys(CPU))]);
        let job = hours("j1", "11-05T00:00", "11-05T05:00", "5");
        lines(&world, "source", std::slice::from_ref(&job));
        lines(&world, "second", &[]);
        world.flush().exits(0);
        world.now("2026-11-10T12:05:00Z");
        another_reports(&world, A, "cpu", "9.00");
        world.now("2026-11-10T13:15:00Z");
        world.flush().exits(65).tells(&["9.00", "5.00"]);
        world.agent(&["resolve", A, "overwrite"]).exits(0);
        world.now("2026-11-10T13:30:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        lines(&world, "second", &[job]);
        world.now("2026-11-10T14:00:00Z");
        world.flush().exits(65).tells(&["same ids", "10.00", "5.00"]).names_a();
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        // This one is about just that.
        world.agent(&["resolve", A, "overwrite"]).exits(0);
        world.now("2026-11-10T14:30:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 10.00"], "{api}");
    }
}

/// It comes too late: what the new name has counted in a month that is over stays there, and so does what comes of it late.
#[test]
fn a_collector_that_has_counted_a_month_by_itself_is_not_put_together_with_an_older_one() {
    for (api, late) in LATE {
        let world = world(api, "2026-10-12T12:00:00Z");
        if late == "backfill" {
            world.write("token", "staff-token");
        }
        let submit = format!("late: {late}");
        // By other rules, if only in what is said: it goes on as another collector.
        let described = "cpu: { reading: sec, factor: 1/3600, description: hours }";
        let go = |collector: &str, more: &str, now: &str, jobs: &[Value]| {
            let meters = if collector == "source" { CPU } else { described };
            configure(&world, &submit, "", &[(collector, format!("{more}{}", keys(meters)))]);
            lines(&world, collector, jobs);
            world.now(now);
            world.flush()
        };
        let ten = hours("o1", "10-10T00:00", "10-10T10:00", "10");
        let three = hours("o2", "10-22T00:00", "10-22T03:00", "3");
        let twenty = hours("n1", "11-01T10:00", "11-02T06:00", "20");
        let one = hours("o3", "10-29T00:00", "10-29T01:00", "1");
        go("source", "", "2026-10-12T12:00:00Z", std::slice::from_ref(&ten)).exits(0);
        // The new name has the same history, so that it goes on.
        go("renamed", "", "2026-10-20T12:00:00Z", std::slice::from_ref(&ten)).exits(0);
        let october = [ten, three];
        go("renamed", "", "2026-10-31T23:00:00Z", &october).exits(0);
        go("renamed", "", "2026-11-01T00:10:00Z", &october).exits(0);
        let mut jobs = [&october[..], &[twenty]].concat();
        go("renamed", "", "2026-11-03T12:00:00Z", &jobs).exits(0);
        let continues = "    continues: source\n";
        let done = go("renamed", continues, "2026-11-04T12:00:00Z", &jobs).exits(0);
        done.tells(&["does not go on where source ended", "has counted 2026-10 by itself"]);
        world.agent(&["recount"]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 13.00", "cpu 2026-11 20.00"], "{api} {late}");
        // An hour of October comes late: it is October's, as `late` says.
        jobs.push(one);
        let done = go("renamed", continues, "2026-11-05T12:00:00Z", &jobs);
        let (october, november) = match late {
            "hold" => {
                done.exits(65).tells(&["1.00", "2026-10"]);
                ("13.00", "20.00")
            }
            "backfill" => ("14.00", "20.00"),
            _ => ("13.00", "21.00"),
        };
        let rows = [format!("cpu 2026-10 {october}"), format!("cpu 2026-11 {november}")];
        assert_eq!(world.rows(A), rows, "{api} {late}");
        world.agent(&["recount"]).exits(0);
    }
}
