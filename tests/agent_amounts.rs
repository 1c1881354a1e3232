//! The main job, through the binary and over HTTP: readings in, literal amounts in Waldur out.
//!
//! The expected numbers were worked out by hand from docs/metering.md; none of them is computed here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::json;

#[test]
fn a_counter_with_a_reset_is_billed_as_0_03() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_of_a());
        world.readings(&counter(&["100", "160", "20", "50"], &[]));
        world.flush().exits(0).says("Sent 1 amount of 1 resource.");
        // 60 + 20 + 30 = 110 s; 110/3600 = 0.0305...
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 0.03"]);
        let explained = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
        assert_eq!(explained["amount"], "11/360", "{explained:#}");
        assert_eq!(explained["posted"], "0.03");
    }
}

#[test]
fn the_posted_shares_of_two_users_sum_to_the_posted_total() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        world.readings(&alice_and_bob());
        world.flush().exits(0).says("Sent 3 amounts of ");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
        // 90/3600 = 0.025 and 20/3600 = 0.0055: the missing cent goes to the larger remainder, bob's.
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.02", "bob cpu_hours 2026-11 0.01"]);
    }
}

#[test]
fn a_second_run_without_new_readings_asks_nothing_at_all() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        world.readings(&alice_and_bob());
        world.flush().exits(0);
        let mark = world.mark();
        world.flush().exits(0).says("Nothing was sent.");
        assert_eq!(world.posts_since(mark).len(), 0);
        // No GET either: everything that is needed is known.
        assert_eq!(world.requests_since(mark).len(), 0, "{:#?}", world.requests_since(mark));
    }
}

#[test]
fn a_job_across_the_end_of_a_month_is_split_there_by_time() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    // 4 h, 1 h of them before midnight: 3600 of 14400 s.
    world.readings(&[job("cpu_seconds", "1", "2026-10-31T23:00:00Z", "2026-11-01T03:00:00Z", "14400", &[])]);
    world.flush().exits(65).says("1 amount: stranded: they can't be reported any more");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    let october = world.agent(&["explain", A, "cpu_hours", "--period", "2026-10", "--json"]).json();
    assert_eq!((&october["amount"], &october["posted"]), (&json!("1"), &json!("1.00")));
}

#[test]
fn what_was_used_in_a_past_month_is_stranded_and_never_booked_in_the_new_one() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_of_a());
        world.readings(&[job(
            "cpu_seconds",
            "1",
            "2026-10-10T00:00:00Z",
            "2026-10-10T02:00:00Z",
            "7200",
            &[],
        )]);
        world.flush().exits(65);
        assert_eq!(world.rows(A), [""; 0]);
        assert_eq!(world.posts_since(0).len(), 0);
        let parked = world.agent(&["parked", "list"]).exits(65);
        parked.says("stranded").says("2026-10").says("period_ended").says("2.00");
    }
}

/// A level of 8 at 10:00, 2 at 10:30, 5 at 11:00 and again at 11:30: an hour and a half.
fn gauge(aggregate: &str) -> World {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {A}\n    meters:\n      ram_gb_hours: {{ reading: memory, aggregate: {aggregate} }}\n"
    ));
    let at =
        |time: &str, value: &str| reading("memory", "gauge", &format!("2026-11-10T{time}:00Z"), value, &[]);
    world.readings(&[at("10:00", "8"), at("10:30", "2"), at("11:00", "5"), at("11:30", "5")]);
    world.flush().exits(0);
    world
}

#[test]
fn the_integral_of_a_gauge_is_in_unit_hours() {
    // 8 x 0.5 + 2 x 0.5 + 5 x 0.5
    assert_eq!(gauge("integral").rows(A), ["ram_gb_hours 2026-11 7.50"]);
}

#[test]
fn the_mean_of_a_gauge_is_over_the_time_covered() {
    // 7.5 / 1.5
    assert_eq!(gauge("mean").rows(A), ["ram_gb_hours 2026-11 5.00"]);
}

#[test]
fn the_max_of_a_gauge_is_its_highest_level() {
    assert_eq!(gauge("max").rows(A), ["ram_gb_hours 2026-11 8.00"]);
}

#[test]
fn the_last_of_a_gauge_is_its_latest_level() {
    assert_eq!(gauge("last").rows(A), ["ram_gb_hours 2026-11 5.00"]);
}

#[test]
fn a_total_is_billed_as_its_last_word() {
    let world = World::new(CURRENT);
    world.configure(&format!("    resource: {A}\n    meters:\n      cpu_hours: {{ reading: used }}\n"));
    world.readings(&series("used", "total", &["4.25", "6.75"], &[]));
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 6.75"]);
    world.readings(&series("used", "total", &["4.25", "6.75", "6.5"], &[]));
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 6.50"]);
}

#[test]
fn several_meters_and_collectors_add_up_on_one_component() {
    let world = World::new(CURRENT);
    let user_and_system = format!(
        "    resource: {A}\n    meters:\n      user: {{ component: cpu_hours, reading: user_seconds, factor: 1/3600 }}\n      \
         system: {{ component: cpu_hours, reading: system_seconds, factor: 1/1800 }}\n"
    );
    let other = format!("    resource: {A}\n    meters:\n      cpu_hours: {{ reading: hours }}\n");
    let collectors =
        world.collector("one", "readings", &user_and_system) + &world.collector("two", "more", &other);
    world.write("agent.yaml", &format!("{}collectors:\n{collectors}", world.head("")));
    let mut lines = series("user_seconds", "counter", &["0", "3600"], &[("core", "0")]);
    lines.extend(series("user_seconds", "counter", &["0", "1800"], &[("core", "1")]));
    lines.extend(series("system_seconds", "counter", &["0", "900"], &[]));
    world.readings(&lines);
    world.write(
        "more",
        &job("hours", "7", "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", "0.125", &[]).to_string(),
    );
    world.flush().exits(0);
    // 1 + 0.5 + 900/1800 + 0.125 = 2.125: half to the even cent.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.12"]);
}

#[test]
fn the_missing_cents_go_one_each_to_the_largest_remainders() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&format!(
            "    resource: {A}\n    user: \"{{user}}\"\n    meters:\n      cpu_hours: {{ reading: hours }}\n"
        ));
        let share = |user: &str, value: &str| {
            job("hours", user, "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", value, &[("user", user)])
        };
        let nobodys = job("hours", "x", "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", "0.001", &[]);
        world.readings(&[share("ann", "0.333"), share("ben", "0.338"), share("cid", "0.336"), nobodys]);
        world.flush().exits(0);
        // 1.008 is 1.01; cut down 0.33 + 0.33 + 0.33 + 0.00 = 0.99; the two cents go to ben (.008) and cid (.006).
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.01"]);
        assert_eq!(
            world.shares(A),
            ["ann cpu_hours 2026-11 0.33", "ben cpu_hours 2026-11 0.34", "cid cpu_hours 2026-11 0.34"]
        );
    }
}

#[test]
fn what_rounds_to_zero_and_was_never_posted_is_not_posted() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        // 17 s are 0.0047 h.
        world.readings(&counter(&["0", "17"], &[("user", "alice")]));
        world.flush().exits(0).says("Nothing was sent.");
        assert_eq!(world.posts_since(0).len(), 0);
        assert_eq!(world.rows(A), [""; 0]);
        // 18 s are 0.005: half to the even cent is zero still; 19 s are a cent.
        world.readings(&counter(&["0", "17", "18"], &[("user", "alice")]));
        world.flush().exits(0).says("Nothing was sent.");
        world.readings(&counter(&["0", "17", "18", "19"], &[("user", "alice")]));
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.01"]);
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.01"]);
    }
}

#[test]
fn a_job_corrected_downwards_is_posted_lower() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        let with = |seconds: &str| {
            job(
                "cpu_seconds",
                "7",
                "2026-11-03T00:00:00Z",
                "2026-11-03T01:00:00Z",
                seconds,
                &[("user", "alice")],
            )
        };
        world.readings(&[with("7200")]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
        world.readings(&[with("1800")]);
        world.flush().exits(0).says("Sent 2 amounts of ");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.50"]);
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.50"]);
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 0.50"]);
        // Down to nothing: posted as zero, because it was posted before.
        world.readings(&[with("0")]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.00"]);
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.00"]);
    }
}

#[test]
fn a_job_that_went_to_another_user_leaves_the_first_with_nothing() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        let of = |user: &str| {
            job("cpu_seconds", "7", "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", "7200", &[("user", user)])
        };
        world.readings(&[of("alice")]);
        world.flush().exits(0);
        world.readings(&[of("bob")]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.00", "bob cpu_hours 2026-11 2.00"]);
    }
}

#[test]
fn late_readings_and_another_order_make_the_same_amount() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let mut lines = counter(&["100", "160", "20", "50"], &[]);
    let middle = lines.remove(1);
    world.readings(&lines);
    world.flush().exits(0);
    // 20 (a reset) + 30 = 50 s = 0.0138
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.01"]);
    world.readings(&[middle]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
    world.agent(&["recount"]).exits(0).says("The ledger agrees with its readings.");
}

#[test]
fn description_and_policy_go_along_with_every_report() {
    for (api, key, sent, kept) in [
        (CLASSIC, "recurring: true", json!(true), json!(true)),
        (CURRENT, "missing_usage_policy: reuse", json!("reuse"), json!("reuse")),
    ] {
        let world = World::new(api);
        let meter = format!(
            "{{ reading: cpu_seconds, factor: 1/3600, description: \"measured, not guessed\", {key} }}"
        );
        world.configure(&format!("    resource: {A}\n    meters:\n      cpu_hours: {meter}\n"));
        for values in [&["0", "3600"][..], &["0", "3600", "7200"][..]] {
            world.readings(&counter(values, &[]));
            world.flush().exits(0);
            let row = world.held(A)["rows"][0].clone();
            assert_eq!(row["description"], "measured, not guessed");
            let key = key.split(':').next().unwrap();
            assert_eq!(row[key], kept, "{row:#}");
            let call = world.posts_since(0).pop().unwrap();
            assert_eq!(call.body["usages"][0][key], sent);
        }
    }
}

#[test]
fn without_being_asked_neither_description_nor_policy_is_sent() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_of_a());
        world.readings(&counter(&["0", "3600"], &[]));
        world.flush().exits(0);
        let usage = world.posts_since(0)[0].body["usages"][0].clone();
        assert_eq!(usage, json!({ "type": "cpu_hours", "amount": "1.00" }));
    }
}

#[test]
fn a_known_user_goes_with_its_address_and_others_by_name_alone() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        world.readings(&alice_and_bob());
        world.flush().exits(0);
        let users = world.held(A)["rows"][0]["users"].clone();
        let address = users["alice"]["user"].as_str().unwrap();
        assert!(
            address.ends_with("/api/marketplace-offering-users/a11ce000000040008000000000000001/"),
            "{address}"
        );
        assert_eq!(users["bob"]["user"], json!(null));
    }
}

#[test]
fn the_current_api_takes_all_users_in_one_call_and_the_classic_one_by_one() {
    let shares = |api: &str| {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        world.readings(&alice_and_bob());
        world.flush().exits(0);
        let bulk = |tail: &str| {
            world.posts_since(0).iter().filter(|r| r.path.ends_with(tail) && r.status == 201).count()
        };
        (bulk("/set_usage/"), bulk("/set_user_usages/"), bulk("/set_user_usage/"))
    };
    assert_eq!(shares(CURRENT), (1, 1, 0));
    assert_eq!(shares(CLASSIC), (1, 0, 2));
}

#[test]
fn the_missing_bulk_call_is_found_out_once_and_remembered() {
    let world = World::new(CLASSIC);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world.flush().exits(0);
    let tries = || world.posts_since(0).iter().filter(|r| r.path.ends_with("/set_user_usages/")).count();
    assert_eq!(tries(), 1);
    let mut lines = alice_and_bob();
    lines.extend(counter(&["0", "360"], &[("user", "carol")]));
    world.readings(&lines);
    world.flush().exits(0);
    assert_eq!(tries(), 1);
    assert_eq!(world.shares(A).len(), 3);
}

#[test]
fn only_users_whose_share_changed_are_sent_again() {
    let world = World::new(CLASSIC);
    world.configure(&cpu_hours_by_user());
    let hour = |user: &str, values: &[&str]| counter(values, &[("user", user)]);
    world.readings(&[hour("ann", &["0", "3600"]), hour("ben", &["0", "3600"])].concat());
    world.flush().exits(0);
    let mark = world.mark();
    world.readings(&[hour("ann", &["0", "3600"]), hour("ben", &["0", "3600", "7200"])].concat());
    world.flush().exits(0);
    let users: Vec<_> = world
        .posts_since(mark)
        .iter()
        .filter(|r| r.path.ends_with("/set_user_usage/"))
        .map(|r| r.body["username"].clone())
        .collect();
    assert_eq!(users, ["ben"]);
    assert_eq!(world.shares(A), ["ann cpu_hours 2026-11 1.00", "ben cpu_hours 2026-11 2.00"]);
}

/// Jobs of backend ids in the offering.
fn by_backend_id() -> String {
    format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      \
         cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n"
    )
}

fn of_account(account: &str, seconds: &str) -> serde_json::Value {
    job(
        "cpu_seconds",
        account,
        "2026-11-03T00:00:00Z",
        "2026-11-03T01:00:00Z",
        seconds,
        &[("account", account)],
    )
}

#[test]
fn resources_are_found_by_their_backend_ids() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&by_backend_id());
        world.readings(&[of_account("project-a", "3600"), of_account("project-b", "9000")]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
        assert_eq!(world.rows(B), ["cpu_hours 2026-11 2.50"]);
    }
}

#[test]
fn an_unmatched_backend_id_is_kept_and_reported_once_the_resource_appears() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&by_backend_id());
        world.readings(&[of_account("project-a", "3600"), of_account("newcomer", "5400")]);
        // A warning, no failure.
        world.flush().exits(0).says("1 backend id: unmatched: Waldur knows no such resource");
        world.agent(&["status"]).exits(0).says("Unmatched").says("newcomer");
        world.post(
            "resources",
            json!({ "name": "Newcomer", "backend_id": "newcomer", "offering": "Cluster" }),
        );
        world.readings(&[]);
        // The listing is asked again after ten minutes.
        world.now("2026-11-10T12:11:00Z");
        world.flush().exits(0).says_not("unmatched");
        assert_eq!(world.rows("newcomer"), ["cpu_hours 2026-11 1.50"]);
    }
}

#[test]
fn an_ignored_backend_id_is_not_even_unmatched() {
    let world = World::new(CURRENT);
    world.configure(&format!("{}    ignore: [root]\n", by_backend_id()));
    world.readings(&[of_account("root", "3600")]);
    world.flush().exits(0).says_not("unmatched");
    world.agent(&["status"]).exits(0).says_not("Unmatched");
}

#[test]
fn backend_ids_are_told_apart_by_case_and_an_empty_one_is_nobodys() {
    let world = World::new(CURRENT);
    world.configure(&by_backend_id());
    world.readings(&[of_account("Project-A", "3600"), of_account("", "7200")]);
    // That is all that the collector measured.
    world.flush().exits(65).says("unmatched");
    assert_eq!((world.rows(A), world.rows(B)), (vec![], vec![]));
}

/// 1 h of one spelling and 2 h of another are one resource's 3 h; Waldur's own spelling makes no difference either.
#[test]
fn where_case_is_ignored_all_spellings_are_one_resource() {
    let world = World::new(CURRENT);
    let rules = by_backend_id().replace("\"{account}\" }", "\"{account}\", ignore_case: true }");
    world.configure(&format!("{rules}    ignore: [Root]\n"));
    world.post("resources", json!({ "name": "Mixed", "backend_id": "Mixed-Case", "offering": "Cluster" }));
    world.readings(&[
        of_account("Project-A", "3600"),
        of_account("project-a", "7200"),
        of_account("mixed-case", "5400"),
        of_account("root", "3600"),
    ]);
    world.agent(&["check"]).exits(0).says_not("unmatched");
    world.flush().exits(0).says_not("unmatched");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    assert_eq!(world.rows("Mixed-Case"), ["cpu_hours 2026-11 1.50"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_report_carries_all_components_of_its_resource_sorted() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&format!(
            "    resource: {A}\n    meters:\n      storage_gb: {{ reading: c }}\n      cpu_hours: {{ reading: a }}\n      \
             gpu_hours: {{ reading: b }}\n"
        ));
        let at = |name: &str, value: &str| {
            job(name, "1", "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", value, &[])
        };
        world.readings(&[at("c", "3"), at("b", "2"), at("a", "1")]);
        world.flush().exits(0);
        world.readings(&[at("b", "4")]);
        world.flush().exits(0);
        // Whole statements: also what did not change, because the server keeps the latest set as `current_usages`.
        assert_eq!(
            world.reports(),
            [
                "cpu_hours=1.00 gpu_hours=2.00 storage_gb=3.00",
                "cpu_hours=1.00 gpu_hours=4.00 storage_gb=3.00"
            ]
        );
        let current = world.held(A)["current_usages"].clone();
        assert_eq!(current.as_object().unwrap().len(), 3, "{current}");
    }
}

#[test]
fn a_plan_switch_in_mid_month_leaves_the_earlier_usage_with_the_earlier_plan() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        let used = |id: &str, day: &str, seconds: &str| {
            let at = |hour: &str| format!("2026-11-{day}T{hour}:00:00Z");
            job("cpu_seconds", id, &at("01"), &at("02"), seconds, &[("user", "alice")])
        };
        world.readings(&[used("1", "03", "7200")]);
        world.flush().exits(0);
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 2.00"]);
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        // An hour and a half later the switch is known to whoever looks.
        world.now("2026-11-12T12:00:00Z");
        world.readings(&[used("1", "03", "7200"), used("2", "11", "10800")]);
        world.flush().exits(0);
        // 2 h under the old plan, 3 h under the new one: 5 in all, and not 2 + 5.
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 2.00", "cpu_hours 2026-11 3.00"], "{api}");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00", "cpu_hours 2026-11 3.00"]);
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 2.00", "alice cpu_hours 2026-11 3.00"]);
        // And it stays so.
        let mark = world.mark();
        world.flush().exits(0);
        assert_eq!(world.posts_since(mark).len(), 0);
    }
}

#[test]
fn a_plan_switch_a_few_minutes_before_a_report_is_noticed_in_time() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        let used = |id: &str, time: &str, seconds: &str| {
            job("cpu_seconds", id, time, time, seconds, &[("user", "alice")])
        };
        world.readings(&[used("1", "2026-11-03T00:00:00Z", "7200")]);
        world.flush().exits(0);
        world.now("2026-11-10T12:05:00Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        world.now("2026-11-10T12:15:00Z");
        world.readings(&[used("2", "2026-11-10T12:10:00Z", "10800")]);
        world.flush().exits(0);
        // The whole month's 5 h under the new plan, beside the 2 h under the old one, would be 7.
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 2.00", "cpu_hours 2026-11 3.00"], "{api}");
        assert_eq!(
            world.shares(A),
            ["alice cpu_hours 2026-11 2.00", "alice cpu_hours 2026-11 3.00"],
            "{api}"
        );
    }
}

#[test]
fn a_counter_that_runs_over_a_plan_switch_is_split_there() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let at = |time: &str, value: &str| reading("cpu_seconds", "counter", time, value, &[]);
    world.readings(&[at("2026-11-10T11:00:00Z", "0"), at("2026-11-10T12:00:00Z", "3600")]);
    world.flush().exits(0);
    world.now("2026-11-10T13:00:00Z");
    world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
    world.now("2026-11-10T15:00:00Z");
    world.readings(&[at("2026-11-10T14:00:00Z", "10800")]);
    world.flush().exits(65).says("stranded");
    // 7200 s from 12:00 to 14:00; the switch at 13:00 halves them. The first hour of them would have to be added to a
    // plan period that has ended: it is not billed again, whatever became of it.
    assert_eq!(world.billed(A), ["cpu_hours 2026-11 1.00", "cpu_hours 2026-11 1.00"]);
    let explained = world.agent(&["explain", A, "cpu_hours", "--json"]).json();
    assert_eq!(explained["amount"], "3");
}
