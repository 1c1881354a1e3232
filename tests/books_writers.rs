//! Others write into Waldur too: a person, another agent, this agent's own past. What Waldur holds is read before it is
//! written over, and a number that is not the one last accepted from us is held, with both numbers shown.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// Ten hours of alice's, reported on 10 November at noon; and one more, that may come.
fn ten(api: &str) -> (World, Value, Value) {
    let world = world(api, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    let ten = hours("1", "11-05T00:00", "11-05T10:00", "10");
    jobs(&world, NOON, std::slice::from_ref(&ten)).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 10.00"]);
    (world, ten, hours("2", "11-10T11:00", "11-10T12:00", "1"))
}

/// Another writer's number on project A.
fn writes(world: &World, amount: &str) {
    world.post("rows", json!({ "resource": A, "type": "cpu", "usage": amount, "modified_by": 77 }));
}

#[test]
fn another_writers_number_is_a_conflict_at_the_next_change() {
    for api in BOTH {
        let (world, ten, one) = ten(api);
        world.now("2026-11-10T12:05:00Z");
        writes(&world, "500.00");
        let done = jobs(&world, "2026-11-10T12:15:00Z", &[ten, one]).exits(65);
        done.names_a().tells(&["cpu", "500.00", "11.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 500.00"], "{api}");
        world.agent(&["parked", "list"]).exits(65).tells(&["500.00", "11.00", "overwrite", "adopt"]);
        let done = world.agent(&["resolve", A, "overwrite"]).exits(0);
        done.tells(&["500.00", "11.00"]);
        world.now("2026-11-10T12:30:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 11.00"], "{api}");
        // On record.
        world.agent(&["explain", A, "cpu"]).exits(0).tells(&["500.00", "11.00"]);
    }
}

/// What `status`, `explain` and `export` say that Waldur holds of A's cpu, since when, and what this agent last reported.
#[track_caller]
fn holds(world: &World, amount: &str, at: &str, call: &str, reported: Option<&str>) {
    let status = world.agent(&["status", "--json", A]).json();
    let cpu = &status["statements"][0]["components"][0];
    assert_eq!((&cpu["waldur_holds"], &cpu["acknowledged"]), (&json!(amount), &json!(reported)), "{cpu}");
    assert!(cpu["waldur_holds_at"].as_str().unwrap().starts_with(at), "{cpu}");
    let explained = world.agent(&["explain", A, "cpu", "--json"]).exits(0).json();
    assert_eq!(explained["waldur_holds"], json!([amount]), "{explained}");
    world.agent(&["explain", A, "cpu"]).exits(0).says(&format!("  Waldur    {amount}, "));
    let exported = world.agent(&["export", "--period", "2026-11", "--json"]).json();
    let total = &exported[0];
    assert_eq!((&total["waldur_holds"], &total["call"]), (&json!(amount), &json!(call)), "{total}");
    assert!(total["reported_at"].as_str().unwrap().starts_with(at), "{total}");
    world.agent(&["status", "--all"]).says(amount);
}

#[test]
fn what_waldur_holds_is_the_number_that_was_read_last_whoever_wrote_it() {
    for api in BOTH {
        let (world, ten, one) = ten(api);
        holds(&world, "10.00", "2026-11-10T12:00", "set_usage", Some("10.00"));
        world.now("2026-11-10T12:05:00Z");
        writes(&world, "500.00");
        jobs(&world, "2026-11-10T12:15:00Z", &[ten, one]).exits(65);
        holds(&world, "500.00", "2026-11-10T12:15", "read", Some("10.00"));
        // Decided, and not carried out yet.
        world.agent(&["resolve", A, "overwrite"]).exits(0);
        holds(&world, "500.00", "2026-11-10T12:15", "read", Some("10.00"));
        world.now("2026-11-10T12:30:00Z");
        world.flush().exits(0);
        holds(&world, "11.00", "2026-11-10T12:30", "set_usage", Some("11.00"));
    }
}

#[test]
fn what_waldur_holds_is_known_before_anything_was_reported() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        writes(&world, "32.00");
        let ten = hours("1", "11-05T00:00", "11-05T10:00", "10");
        jobs(&world, NOON, std::slice::from_ref(&ten)).exits(65);
        holds(&world, "32.00", "2026-11-10T12:00", "read", None);
    }
}

#[test]
fn another_writers_number_is_a_conflict_within_the_hour_where_nothing_changes() {
    // A person who sets it to nothing means that, too.
    for (api, theirs) in BOTH.into_iter().flat_map(|api| ["500.00", "0.00"].map(|theirs| (api, theirs))) {
        let (world, ten, _) = ten(api);
        world.now("2026-11-10T12:05:00Z");
        writes(&world, theirs);
        let done = jobs(&world, "2026-11-10T13:05:00Z", &[ten]).exits(65);
        done.names_a().tells(&["cpu", theirs, "10.00"]);
        assert_eq!(world.rows(A), [format!("cpu 2026-11 {theirs}")], "{api}");
        assert_eq!(world.reports().len(), 1);
    }
}

/// The level of alice's on project A.
fn level(at: &str, value: &str) -> Value {
    reading("level", "gauge", at, value, &[("project", "project-a"), ("user", "alice")])
}

#[test]
fn what_adopting_a_number_comes_to_is_said_before() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys("cpu: { reading: level, aggregate: last }"))]);
        writes(&world, "40.00");
        let before = level("2026-11-10T11:00:00Z", "5");
        jobs(&world, NOON, std::slice::from_ref(&before)).exits(65);
        let since = level("2026-11-10T12:30:00Z", "7");
        jobs(&world, "2026-11-10T12:30:00Z", &[before, since]).exits(65);
        let done = world.agent(&["resolve", A, "adopt"]).exits(0).out;
        let words = done.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = "cpu: 40.00 becomes the opening balance of 2026-11-10 12:00:00Z, and the bill 7.00, which was read since; \
                    the ledger has 7.00";
        assert!(words.contains(said) && words.contains("of alice: 7.00"), "{done}");
        world.now("2026-11-10T12:45:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 7.00"], "{api}");
        // Of a level one reading counts, and is marked.
        let explained = world.agent(&["explain", A, "cpu", "--readings"]).exits(0);
        assert_eq!(explained.out.matches("this one counts").count(), 1, "{}", explained.out);
        explained.says_not("(no labels)");
    }
    let (world, ten, one) = ten(CURRENT);
    world.now("2026-11-10T12:05:00Z");
    writes(&world, "500.00");
    jobs(&world, "2026-11-10T12:15:00Z", &[ten, one]).exits(65);
    let done = world.agent(&["resolve", A, "adopt"]).exits(0).out;
    let words = done.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("and the bill 500.00, with what was used since; the ledger has 11.00"), "{done}");
    assert!(words.contains("of alice: what Waldur holds of it, and 0.00 used since"), "{done}");
}

#[test]
fn a_persons_number_that_is_to_repeat_is_theirs_and_never_the_servers_own() {
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu", "usage": "500.00", "modified_by": 77, "missing_usage_policy": "reuse" }),
    );
    jobs(&world, NOON, &[hours("1", "11-05T00:00", "11-05T10:00", "10")])
        .exits(65)
        .tells(&["500.00", "10.00"]);
    assert_eq!(world.rows(A), ["cpu 2026-11 500.00"]);
}

#[test]
fn a_persons_number_that_equals_an_old_one_of_ours_is_a_conflict() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        let five = hours("1", "11-05T00:00", "11-05T05:00", "5");
        let three = hours("2", "11-06T00:00", "11-06T03:00", "3");
        let one = hours("3", "11-07T00:00", "11-07T01:00", "1");
        world.fault(json!({ "match": { "path": "/set_usage/" }, "when": "after", "action": { "status": 504 }, "times": 1 }));
        jobs(&world, NOON, std::slice::from_ref(&five));
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        jobs(&world, "2026-11-11T12:00:00Z", &[five.clone(), three.clone()]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 8.00"], "{api}");
        world.now("2026-11-20T12:00:00Z");
        writes(&world, "5.00");
        let done = jobs(&world, "2026-11-20T12:15:00Z", &[five, three, one]).exits(65);
        done.names_a().tells(&["cpu", "5.00", "9.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
    }
}

#[test]
fn an_old_call_of_ours_that_arrives_late_is_ours_and_is_mended() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        let five = hours("1", "11-05T00:00", "11-05T05:00", "5");
        let three = hours("2", "11-06T00:00", "11-06T03:00", "3");
        world.fault(json!({ "match": { "path": "/set_usage/" }, "when": "late", "action": { "status": 504 }, "times": 1 }));
        jobs(&world, NOON, std::slice::from_ref(&five));
        world.flush_once();
        jobs(&world, "2026-11-10T12:01:00Z", &[five.clone(), three.clone()]);
        world.post("late", json!({}));
        // Whatever was believed meanwhile: the hour's look finds it.
        jobs(&world, "2026-11-10T13:05:00Z", &[five.clone(), three.clone()]);
        jobs(&world, "2026-11-10T14:10:00Z", &[five, three]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 8.00"], "{api}");
    }
}

/// A source that tells each job once: what it told is in the ledger or nowhere.
fn restored(api: &str, age: usize) {
    const TOLD: [(&str, &str, &str); 6] = [
        ("2026-11-10T00:05:00Z", "11-09T13:00", "10"),
        ("2026-11-10T06:05:00Z", "11-10T00:05", "6"),
        ("2026-11-10T18:05:00Z", "11-10T06:05", "12"),
        ("2026-11-11T01:05:00Z", "11-10T18:05", "7"),
        ("2026-11-11T05:05:00Z", "11-11T01:05", "4"),
        ("2026-11-11T06:05:00Z", "11-11T05:05", "1"),
    ];
    let world = world(api, "2026-11-10T00:00:00Z");
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    let files = ["ledger.db", "ledger.db-wal", "ledger.db-shm"];
    for (n, (now, start, amount)) in TOLD.iter().enumerate() {
        let end = now[5..16].to_owned();
        jobs(&world, now, &[hours(&format!("j{n}"), start, &end, amount)]).exits(0);
        if n == age {
            for name in files.into_iter().filter(|name| world.path(name).exists()) {
                std::fs::copy(world.path(name), world.path(&format!("copy-{name}"))).unwrap();
            }
        }
    }
    assert_eq!(world.rows(A), ["cpu 2026-11 40.00"], "{api}");
    for name in files {
        let _ = std::fs::remove_file(world.path(name));
        let copy = world.path(&format!("copy-{name}"));
        if copy.exists() {
            std::fs::rename(copy, world.path(name)).unwrap();
        }
    }
    for (n, now) in
        ["2026-11-11T06:20:00Z", "2026-11-11T06:35:00Z", "2026-11-11T08:05:00Z"].iter().enumerate()
    {
        let quarter = hours(&format!("k{n}"), "11-11T06:05", "11-11T06:20", "0.25");
        let done = world.with_status(jobs(&world, now, &[quarter])).exits(65);
        done.names_a().tells(&["cpu", "40.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 40.00"], "{api} {age}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 40.00"], "{api} {age}");
    }
    world.agent(&["parked", "list"]).exits(65).tells(&["40.00"]);
}

#[test]
fn a_ledger_restored_from_a_copy_of_an_hour_ago_is_held() {
    restored(CLASSIC, 4);
    restored(CURRENT, 4);
}

#[test]
fn a_ledger_restored_from_a_copy_of_five_hours_ago_is_held() {
    restored(CLASSIC, 3);
    restored(CURRENT, 3);
}

#[test]
fn a_ledger_restored_from_a_copy_of_a_day_ago_is_held() {
    restored(CLASSIC, 1);
    restored(CURRENT, 1);
}

#[test]
fn rows_of_a_lost_ledger_are_told_as_this_tokens_own() {
    for api in BOTH {
        let (world, ten, one) = ten(api);
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.submit", "ledger.db.lock"] {
            let _ = std::fs::remove_file(world.path(name));
        }
        // Project B was never reported: what is written there tells who this token is.
        let other = on("project-b", "bob", "b", "11-06T00:00", "11-06T02:00", "2");
        jobs(&world, "2026-11-10T12:15:00Z", &[ten.clone(), one.clone(), other.clone()]).exits(65);
        assert_eq!(world.rows(A), ["cpu 2026-11 10.00"], "{api}");
        assert_eq!(world.rows(B), ["cpu 2026-11 2.00"], "{api}");
        jobs(&world, "2026-11-10T12:30:00Z", &[ten, one, other]).exits(65);
        let parked = world.agent(&["parked", "list"]).exits(65);
        parked.tells(&["10.00", "11.00", "token"]).says_not("another hand").says_not("another writer");
    }
}

#[test]
fn two_hosts_that_overwrite_each_other_do_it_once_a_period_and_then_hold() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "on_conflict: overwrite", "", &[("source", keys(CPU))]);
        let first = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let second = first.replace("ledger.db", "second.db").replace("source.lines", "second.lines");
        world.write("second.yaml", &second);
        lines(&world, "source", &[hours("1", "11-05T00:00", "11-05T05:00", "5")]);
        lines(&world, "second", &[hours("2", "11-06T00:00", "11-06T03:00", "3")]);
        let config = world.path("second.yaml").display().to_string();
        let other = || world.agent(&["--config", &config, "flush", "--collect", "--deadline", "3s"]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        world.now("2026-11-10T13:05:00Z");
        other().exits(0).tells(&["5.00", "3.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 3.00"], "{api}");
        world.now("2026-11-10T14:10:00Z");
        world.flush().exits(0).tells(&["3.00", "5.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        // The second one has had its time.
        for now in ["2026-11-10T15:15:00Z", "2026-11-10T16:20:00Z", "2026-11-20T12:00:00Z"] {
            world.now(now);
            other().exits(65);
            assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api} {now}");
            world.flush().exits(0);
            assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api} {now}");
        }
        // In December each has its time once more, and no more than once.
        lines(&world, "source", &[hours("3", "12-02T00:00", "12-02T06:00", "6")]);
        lines(&world, "second", &[hours("4", "12-03T00:00", "12-03T04:00", "4")]);
        let december =
            || -> Vec<String> { world.rows(A).into_iter().filter(|row| row.contains("2026-12")).collect() };
        world.now("2026-12-05T12:00:00Z");
        world.flush().exits(0);
        assert_eq!(december(), ["cpu 2026-12 6.00"], "{api}");
        world.now("2026-12-05T13:05:00Z");
        other().tells(&["6.00", "4.00"]);
        assert_eq!(december(), ["cpu 2026-12 4.00"], "{api}");
        world.now("2026-12-05T14:10:00Z");
        world.flush().exits(0).tells(&["4.00", "6.00"]);
        assert_eq!(december(), ["cpu 2026-12 6.00"], "{api}");
        for now in ["2026-12-05T15:15:00Z", "2026-12-20T12:00:00Z"] {
            world.now(now);
            other().exits(65);
            assert_eq!(december(), ["cpu 2026-12 6.00"], "{api} {now}");
        }
    }
}

#[test]
fn a_users_share_that_another_writer_changed_is_a_conflict_before_the_month_is_closed() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        let both = [
            hours("1", "11-05T00:00", "11-05T05:00", "5"),
            on("project-a", "bob", "2", "11-05T00:00", "11-05T03:00", "3"),
        ];
        jobs(&world, NOON, &both).exits(0);
        let row = world.held(A)["rows"][0]["uuid"].as_str().unwrap().replace('-', "");
        let path = format!("/api/marketplace-component-usages/{row}/set_user_usage/");
        let body = json!({ "username": "alice", "usage": "0.50" }).to_string();
        assert_eq!(world.send_as("staff-token", "POST", &path, &body).0, 201);
        let changed = ["alice cpu 2026-11 0.50", "bob cpu 2026-11 3.00"];
        assert_eq!(world.shares(A), changed, "{api}");
        let done = world.with_status(jobs(&world, "2026-11-30T12:00:00Z", &both)).exits(65);
        done.tells(&["alice", "0.50", "5.00"]);
        jobs(&world, "2026-12-01T00:10:00Z", &both).exits(65);
        assert_eq!(world.shares(A), changed, "{api}");
        assert_eq!(world.rows(A), ["cpu 2026-11 8.00"], "{api}");
        let status = world.agent(&["status", "--period", "2026-11"]).exits(65);
        status.tells(&["alice"]).says_not("closed");
    }
}

#[test]
fn a_closed_month_that_a_person_lowers_is_told_and_nothing_is_carried() {
    for api in BOTH {
        let books = Books::of(api, "carry_forward", &keys(CPU));
        let lowered = json!({ "resource": A, "type": "cpu", "usage": "11.00", "billing_period": "2026-10-01", "modified_by": 77 });
        books.world.post("rows", lowered);
        // Closed months are compared once a day, too.
        books.at(CHANGE, &[]).exits(65).names_a().tells(&["2026-10", "11.00", "12.00"]);
        books.november(A, &["cpu 5.00"]);
        assert_eq!(books.month(A, "2026-10"), ["cpu 11.00"], "{api}");
        // Not even what comes late, while nobody has decided.
        let done = books.at(LATER, &[late_hour()]).exits(65);
        books.world.with_status(done).names_a().tells(&["2026-10", "11.00", "12.00"]);
        books.november(A, &["cpu 5.00"]);
        assert_eq!(books.month(A, "2026-10"), ["cpu 11.00"], "{api}");
    }
}

/// A row that went to nothing is a person's number, too.
#[test]
fn a_closed_month_that_a_person_sets_to_nothing_is_told_and_nothing_is_carried() {
    for api in BOTH {
        let books = Books::of(api, "carry_forward", &keys(CPU));
        let nothing = json!({ "resource": A, "type": "cpu", "usage": "0.00", "billing_period": "2026-10-01", "modified_by": 77 });
        books.world.post("rows", nothing);
        books.at(CHANGE, &[]).exits(65).names_a().tells(&["2026-10", "0.00", "12.00"]);
        let done = books.at(LATER, &[late_hour()]).exits(65);
        books.world.with_status(done).names_a().tells(&["2026-10", "0.00"]);
        books.november(A, &["cpu 5.00"]);
        assert_eq!(books.month(A, "2026-10"), ["cpu 0.00"], "{api}");
    }
}

/// A person changes what October holds under its first plan (0) or its second.
fn person_sets_october(world: &World, plan: usize, amount: &str) {
    let periods = world.held(A)["plan_periods"].clone();
    let row = json!({ "resource": A, "type": "cpu", "usage": amount, "billing_period": "2026-10-01",
        "plan_period": periods[plan]["uuid"], "modified_by": 77 });
    world.post("rows", row);
}

/// Of either a person's number stands.
#[test]
fn a_closed_month_of_two_plans_that_a_person_lowers_is_told_and_never_overwritten() {
    for api in BOTH {
        for on_conflict in ["hold", "overwrite"] {
            let submit = format!("late: carry_forward, on_conflict: {on_conflict}");
            let (world, both) = october_of_two_plans(api, &submit);
            person_sets_october(&world, 0, "9.00");
            let told = jobs(&world, "2026-11-03T12:00:00Z", &both).exits(65);
            told.names_a().tells(&["2026-10", "9.00", "10.00"]);
            // Nor when it comes late: 10 + 3 and an hour, which nobody is billed for until a person decides.
            let late = [both, vec![hours("3", "10-10T12:00", "10-10T13:00", "1")]].concat();
            jobs(&world, "2026-11-04T12:00:00Z", &late).exits(65);
            assert_eq!(world.rows(A), ["cpu 2026-10 3.00", "cpu 2026-10 9.00"], "{api} {on_conflict}");
        }
    }
}

/// In November the plan is switched again, right before a report: Waldur keeps that in another row than before.
#[test]
fn a_closed_month_of_two_plans_is_compared_also_after_another_switch() {
    for api in BOTH {
        let (world, mut all) = october_of_two_plans(api, "late: hold");
        all.push(hours("3", "11-05T00:00", "11-05T05:00", "5"));
        jobs(&world, "2026-11-05T12:00:00Z", &all).exits(0);
        world.now("2026-11-05T12:00:20Z");
        world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
        all.push(hours("4", "11-05T05:00", "11-05T06:00", "1"));
        // The hour of before the switch can't be reported under the plan that has ended: it would be billed with all else again.
        jobs(&world, "2026-11-05T12:00:40Z", &all)
            .exits(65)
            .tells(&["other rows than before", "1.00 is left"]);
        assert_eq!(
            world.billed(A).join(", "),
            "cpu 2026-10 10.00, cpu 2026-10 3.00, cpu 2026-11 0.00, cpu 2026-11 5.00"
        );
        person_sets_october(&world, 0, "9.00");
        let told = jobs(&world, "2026-11-06T12:30:00Z", &all).exits(65);
        told.names_a().tells(&["2026-10", "9.00", "10.00"]);
    }
}

/// A credit that staff gave under the plan that has ended is not billed again in the next month.
#[test]
fn what_another_writer_put_under_a_plan_that_ended_is_never_carried() {
    for api in BOTH {
        for number in ["7.00", "12.00"] {
            let world = world(api, "2026-10-10T12:00:00Z");
            configure(&world, "late: carry_forward", "", &[("source", keys(CPU))]);
            let mut all = vec![hours("1", "10-10T02:00", "10-10T12:00", "10")];
            jobs(&world, "2026-10-10T13:00:00Z", &all).exits(0);
            world.now("2026-10-20T00:00:00Z");
            world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
            all.push(hours("2", "10-20T02:00", "10-20T05:00", "3"));
            jobs(&world, "2026-10-25T12:00:00Z", &all).exits(0);
            person_sets_october(&world, 0, number);
            jobs(&world, "2026-10-26T12:00:00Z", &all).tells(&[number]);
            jobs(&world, "2026-10-31T20:00:00Z", &all);
            let mut october = vec!["cpu 2026-10 3.00".to_owned(), format!("cpu 2026-10 {number}")];
            october.sort();
            for now in ["2026-11-01T12:00:00Z", "2026-11-02T12:00:00Z"] {
                jobs(&world, now, &all).exits(65);
                assert_eq!(world.rows(A), october, "{api} {number} {now}");
            }
        }
    }
}

/// What was decided of the one number does not hold for the other, whichever of them is more.
#[test]
fn a_decision_about_a_month_of_two_plans_is_about_each_plans_own_number() {
    for api in BOTH {
        let (world, all) = october_of_two_plans(api, "late: hold");
        person_sets_october(&world, 0, "9.00");
        person_sets_october(&world, 1, "12.00");
        jobs(&world, "2026-11-03T12:00:00Z", &all).exits(65).names_a().tells(&["9.00", "12.00"]);
        world.agent(&["resolve", A, "overwrite"]).exits(0);
        world.now("2026-11-03T13:00:00Z");
        world.flush();
        let explained = world.agent(&["explain", A, "cpu", "--period", "2026-10"]).exits(0);
        explained.tells(&["Waldur's 9.00", "Waldur's 12.00"]);
        world.agent(&["parked", "list"]).says_not("another writer");
    }
}

/// Something odd stands in a row of project B: all else goes on.
#[track_caller]
fn odd(field: &str, value: Value) {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        world.post(
            "rows",
            json!({ "resource": B, "type": "ram", "usage": "1.00", "as_read": { field: value } }),
        );
        let job = |project: &str| on(project, "alice", project, "11-05T00:00", "11-05T05:00", "5");
        let all = ["project-a", "project-b", "project-c"].map(job);
        let done = jobs(&world, NOON, &all);
        for resource in [A, B, C] {
            let rows = world.rows(resource);
            assert!(rows.contains(&"cpu 2026-11 5.00".to_owned()), "{api} {rows:?} {done:#?}");
        }
        assert!([0, 65].contains(&done.code), "{done:#?}");
        world.with_status(done).tells(&["ram", "Project B"]);
    }
}

#[test]
fn a_row_whose_usage_is_null_is_told_and_stops_nothing_else() {
    odd("usage", Value::Null);
}

#[test]
fn a_row_whose_usage_has_thirty_digits_is_told_and_stops_nothing_else() {
    odd("usage", json!("123456789012345678901234567890.12"));
}

#[test]
fn a_row_whose_period_is_a_date_time_is_told_and_stops_nothing_else() {
    odd("billing_period", json!("2026-11-01T00:00:00Z"));
}

#[test]
fn a_row_of_ours_that_can_not_be_read_waits_alone() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        let odd = json!({ "usage": null });
        world.post("rows", json!({ "resource": B, "type": "cpu", "usage": "1.00", "as_read": odd }));
        let job = |project: &str| on(project, "alice", project, "11-05T00:00", "11-05T05:00", "5");
        jobs(&world, NOON, &["project-a", "project-b", "project-c"].map(job)).exits(65);
        world.agent(&["status"]).exits(65).tells(&["Project B", "cpu"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        assert_eq!(world.rows(B), ["cpu 2026-11 1.00"], "{api}");
        assert_eq!(world.rows(C), ["cpu 2026-11 5.00"], "{api}");
    }
}

#[test]
fn a_resource_that_can_not_be_read_is_tried_again_alone() {
    for api in BOTH {
        let (world, ten, _) = ten(api);
        let all = [ten, on("project-b", "bob", "b", "11-06T00:00", "11-06T02:00", "2")];
        jobs(&world, "2026-11-10T12:10:00Z", &all).exits(0);
        let reads_since = |mark: u64| {
            let reads = world.requests_since(mark).into_iter();
            reads.filter(|one| one.method == "GET" && one.path.contains("component-usages/")).count()
        };
        // Neither the listing nor B by itself is answered; A is.
        let forms = [B.to_owned(), B.replace('-', "")];
        let of_b = forms.iter().map(|form| format!("resource_uuid={form}"));
        let paths = of_b.chain(["offering_uuid=".to_owned()]);
        let fault = |path: String| json!({ "match": { "method": "GET", "path": path }, "when": "before", "action": { "status": 500 } });
        world.post("faults", json!({ "faults": paths.map(fault).collect::<Vec<_>>() }));
        let mark = world.mark();
        jobs(&world, "2026-11-10T13:20:00Z", &all);
        assert!(reads_since(mark) >= 3, "{api}");
        // A quarter of an hour later nothing is due but B.
        let mark = world.mark();
        jobs(&world, "2026-11-10T13:40:00Z", &all);
        let others: Vec<_> = world
            .requests_since(mark)
            .into_iter()
            .filter(|one| {
                one.path.contains("component-usages/") && !forms.iter().any(|form| one.path.contains(form))
            })
            .filter(|one| !one.path.contains("offering_uuid="))
            .collect();
        assert!(others.is_empty(), "{api}: {others:?}");
        // When it is answered again, what another wrote there meanwhile is found, without waiting for the hour.
        world.no_faults();
        world.post("rows", json!({ "resource": B, "type": "cpu", "usage": "7.00", "modified_by": 77 }));
        jobs(&world, "2026-11-10T14:10:00Z", &all).exits(65).tells(&["Project B", "7.00", "2.00"]);
        let mark = world.mark();
        jobs(&world, "2026-11-10T14:12:00Z", &all).exits(65);
        assert_eq!(reads_since(mark), 0, "{api}");
    }
}

/// Its plan was renewed, which nobody has looked at yet, and another writes under the new plan period.
#[test]
fn a_number_under_a_plan_that_was_renewed_unseen_is_overwritten_as_it_is_said() {
    for (api, more) in BOTH.into_iter().flat_map(|api| [false, true].map(|more| (api, more))) {
        let world = world(api, NOON);
        configure(&world, "on_conflict: overwrite", "", &[("source", keys(CPU))]);
        let mut all = vec![hours("1", "11-05T00:00", "11-05T10:00", "10")];
        jobs(&world, NOON, &all).exits(0);
        world.now("2026-11-10T13:00:00Z");
        world.post(&format!("resources/{A}"), json!({ "renew_plan": true }));
        world.now("2026-11-10T13:30:00Z");
        writes(&world, "500.00");
        all.extend(more.then(|| hours("2", "11-10T13:10", "11-10T14:10", "1")));
        jobs(&world, "2026-11-10T14:30:00Z", &all).tells(&["500.00", "overwritten"]);
        for now in ["2026-11-10T14:45:00Z", "2026-11-10T16:00:00Z"] {
            jobs(&world, now, &all).exits(0);
        }
        let new_plan = if more { "cpu 2026-11 1.00" } else { "cpu 2026-11 0.00" };
        assert_eq!(world.rows(A), [new_plan, "cpu 2026-11 10.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}
