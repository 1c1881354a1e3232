//! What a person decides is carried out for what the person saw, and for nothing else; and what was left over of a month
//! stands again when what stood in its place has passed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// Cpu under another name.
const CPU2: &str = "cpu2: { reading: sec, factor: 1/3600 }";
const DECIDED: &str = "2026-11-10T12:05:00Z";
const AFTER: &str = "2026-11-10T12:15:00Z";

/// Five hours of alice's are reported by one collector; on the 10th these are the collectors.
fn changed(api: &str, before: &[(&str, String)], after: &[(&str, String)]) -> World {
    let world = world(api, "2026-11-05T12:00:00Z");
    configure(&world, "late: hold", "", before);
    for (name, _) in before.iter().chain(after) {
        lines(&world, name, &[hours("1", "11-04T00:00", "11-04T05:00", "5")]);
    }
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 5.00"]);
    configure(&world, "late: hold", "", after);
    world.now(CHANGE);
    world.flush().exits(65);
    world
}

fn one(name: &str, keys: String) -> [(&str, String); 1] {
    [(name, keys)]
}

/// A user's share as a person sets it.
fn sets_share(world: &World, user: &str, amount: &str) {
    let row = world.held(A)["rows"][0]["uuid"].as_str().unwrap().replace('-', "");
    let path = format!("/api/marketplace-component-usages/{row}/set_user_usage/");
    let body = json!({ "username": user, "usage": amount }).to_string();
    assert_eq!(world.send_as("staff-token", "POST", &path, &body).0, 201);
}

/// Another writer's total of October, long after.
fn sets_october(world: &World, amount: &str) {
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu", "usage": amount, "billing_period": "2026-10-01", "modified_by": 77,
                "users": { "alice": "5.00" } }),
    );
}

#[test]
fn what_rules_hold_is_not_adopted_and_stays_as_it_is() {
    let source = || one("source", keys(CPU));
    let cases: [(&[(&str, String)], &str); 3] = [
        (&one("source", keys(CPU2)), "Project A"),
        (&[("source", keys(CPU)), ("second", keys(CPU))], "Project A"),
        (&one("source", targeted("{moved}", "{user}", CPU)), "--all"),
    ];
    for api in BOTH {
        for (after, named) in &cases {
            let world = changed(api, &source(), after);
            world.now(DECIDED);
            let done = world.agent(&["resolve", named, "adopt"]).exits(65);
            done.tells(&["can't be adopted, and stays held", "There is nothing to decide"]);
            world.now(AFTER);
            world.flush().exits(65);
            assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
            assert_eq!(world.rows(B), [""; 0], "{api}");
            world.agent(&["parked", "list"]).exits(65).tells(&["5.00"]);
        }
    }
}

#[test]
fn a_share_that_another_set_is_not_adopted_and_not_undone() {
    for api in BOTH {
        let world = world(api, "2026-11-05T12:00:00Z");
        configure(&world, "late: hold", "", &one("source", keys(CPU)));
        let five = hours("1", "11-04T00:00", "11-04T05:00", "5");
        jobs(&world, "2026-11-05T12:00:00Z", std::slice::from_ref(&five)).exits(0);
        sets_share(&world, "alice", "0.50");
        world.now("2026-11-05T14:00:00Z");
        world.flush().exits(65);
        let both = [five, hours("2", "11-06T00:00", "11-06T01:00", "1")];
        jobs(&world, "2026-11-06T12:00:00Z", &both);
        world.agent(&["resolve", A, "adopt"]).exits(65).tells(&["can't be adopted"]);
        jobs(&world, "2026-11-06T13:00:00Z", &both).exits(65);
        assert_eq!(world.shares(A), ["alice cpu 2026-11 0.50"], "{api}");
        // To overwrite it is a choice, also where the total has gone on since.
        world.agent(&["resolve", A, "overwrite"]).exits(0);
        jobs(&world, "2026-11-06T13:15:00Z", &both).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 6.00"], "{api}");
    }
}

#[test]
fn a_decision_about_a_share_holds_when_the_total_is_reported_with_late_usage_first() {
    let world = world(CURRENT, "2026-10-20T12:00:00Z");
    world.write("token", "staff-token");
    configure(&world, "late: backfill", "", &one("source", keys(CPU)));
    let five = hours("1", "10-05T00:00", "10-05T05:00", "5");
    jobs(&world, "2026-10-31T12:00:00Z", std::slice::from_ref(&five)).exits(0);
    jobs(&world, "2026-11-01T12:00:00Z", std::slice::from_ref(&five)).exits(0);
    sets_share(&world, "alice", "0.50");
    jobs(&world, "2026-11-03T13:00:00Z", std::slice::from_ref(&five)).exits(65);
    world.agent(&["resolve", A, "overwrite"]).exits(0);
    let both = [five, hours("2", "10-06T00:00", "10-06T01:00", "1")];
    jobs(&world, "2026-11-03T13:15:00Z", &both);
    jobs(&world, "2026-11-03T13:30:00Z", &both).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-10 6.00"]);
    assert_eq!(world.shares(A), ["alice cpu 2026-10 6.00"]);
}

#[test]
fn what_another_puts_beside_a_successor_is_not_what_was_decided_about() {
    for (api, before) in BOTH.into_iter().flat_map(|api| [true, false].map(|before| (api, before))) {
        let world = changed(api, &one("source", keys(CPU)), &one("source", keys(CPU2)));
        let another = || {
            world
                .post("rows", json!({ "resource": A, "type": "cpu2", "usage": "500.00", "modified_by": 77 }));
        };
        world.now(DECIDED);
        if before {
            another();
        }
        world.agent(&["resolve", A, "overwrite"]).exits(0).tells(&["cpu2: 0.00 becomes 5.00"]);
        if !before {
            another();
        }
        world.now(AFTER);
        world.flush().exits(65).tells(&["500.00", "5.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 0.00", "cpu2 2026-11 500.00"], "{api} {before}");
    }
}

#[test]
fn an_opening_balance_goes_when_no_rule_goes_on_from_it() {
    for api in BOTH {
        let of = |resource: &str| {
            format!("    resource: {resource}\n    user: \"{{user}}\"\n    meters:\n      {CPU}\n")
        };
        let cases = [(keys(CPU), keys(CPU2), A, "cpu2"), (of(A), of(B), B, "cpu")];
        for (before, after, successor, component) in cases {
            let world = world(api, "2026-11-05T12:00:00Z");
            configure(&world, "late: hold", "", &one("source", before));
            world.post(
                "rows",
                json!({ "resource": A, "type": "cpu", "usage": "40.00", "modified_by": 77, "date": "2026-11-05T11:30:00Z",
                        "users": { "alice": "40.00" } }),
            );
            // The source knows 39 of them.
            let mut all = vec![
                hours("1", "11-02T00:00", "11-03T14:00", "38"),
                hours("2", "11-05T09:00", "11-05T10:00", "1"),
            ];
            jobs(&world, "2026-11-05T12:00:00Z", &all).exits(65);
            world.agent(&["resolve", A, "adopt"]).exits(0);
            all.push(hours("3", "11-06T00:00", "11-06T02:00", "2"));
            jobs(&world, "2026-11-06T12:00:00Z", &all).exits(0);
            assert_eq!(world.rows(A), ["cpu 2026-11 42.00"], "{api}");
            configure(&world, "late: hold", "", &one("source", after));
            all.push(hours("4", "11-09T00:00", "11-09T01:00", "1"));
            jobs(&world, CHANGE, &all).exits(65);
            world.now(DECIDED);
            let done = world.agent(&["resolve", "--all", "overwrite"]).exits(0);
            done.tells(&["cpu: 42.00 becomes 0.00", &format!("{component}: 0.00 becomes 42.00")]);
            jobs(&world, AFTER, &all).exits(0);
            let gone = "cpu 2026-11 0.00".to_owned();
            let held = format!("{component} 2026-11 42.00");
            if successor == A {
                assert_eq!(world.rows(A), [gone, held], "{api}");
            } else {
                assert_eq!((world.rows(A), world.rows(B)), (vec![gone], vec![held]), "{api}");
            }
            world.agent(&["recount"]).exits(0);
        }
    }
}

#[test]
fn what_is_carried_into_a_month_that_is_in_conflict_is_not_lost_by_adopting() {
    for api in BOTH {
        let world = world(api, "2026-10-10T12:00:00Z");
        configure(&world, "late: carry_forward", "", &one("source", keys(CPU)));
        let mut all = vec![hours("a", "10-10T00:00", "10-10T10:00", "10")];
        jobs(&world, "2026-10-31T12:00:00Z", &all).exits(0);
        all.push(hours("n", "11-01T00:00", "11-01T05:00", "5"));
        jobs(&world, "2026-11-02T12:00:00Z", &all).exits(0);
        world.now("2026-11-03T00:00:00Z");
        world.post(
            "rows",
            json!({ "resource": A, "type": "cpu", "usage": "50.00", "modified_by": 77, "users": { "alice": "5.00" } }),
        );
        all.push(on("project-a", "bob", "l", "10-30T00:00", "10-30T03:00", "3"));
        jobs(&world, "2026-11-03T12:00:00Z", &all).exits(65);
        world.agent(&["resolve", A, "adopt"]).exits(0);
        all.push(hours("n2", "11-04T00:00", "11-04T01:00", "1"));
        jobs(&world, "2026-11-04T12:00:00Z", &all).exits(0);
        // Another's 50, 3 of October, and 1 since.
        assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-11 54.00"], "{api}");
        let shares = ["alice cpu 2026-10 10.00", "alice cpu 2026-11 6.00", "bob cpu 2026-11 3.00"];
        assert_eq!(world.shares(A), shares, "{api}");
        all[2] = on("project-a", "bob", "l", "10-30T00:00", "10-30T01:00", "1");
        jobs(&world, "2026-11-05T12:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A)[1], "cpu 2026-11 52.00", "{api}");
    }
}

/// October has 5.00 and is closed, and four hours came late and are stranded.
fn stranded(api: &str) -> (World, Vec<Value>) {
    let world = world(api, "2026-10-10T12:00:00Z");
    configure(&world, "late: hold", "", &one("source", keys(CPU)));
    let mut all = vec![hours("1", "10-05T00:00", "10-05T05:00", "5")];
    jobs(&world, "2026-10-31T12:00:00Z", &all).exits(0);
    jobs(&world, "2026-11-01T10:00:00Z", &all).exits(0);
    all.push(hours("2", "10-06T00:00", "10-06T04:00", "4"));
    jobs(&world, "2026-11-01T12:00:00Z", &all).exits(65);
    jobs(&world, "2026-11-01T13:00:00Z", &all).exits(65);
    (world, all)
}

#[test]
fn what_is_stranded_stands_again_when_a_conflict_over_it_has_passed() {
    for (api, of_share) in BOTH.into_iter().flat_map(|api| [false, true].map(|of_share| (api, of_share))) {
        let (world, all) = stranded(api);
        let sets = |amount: &str, share: &str| match of_share {
            true => sets_share(&world, "alice", share),
            false => sets_october(&world, amount),
        };
        world.now("2026-11-02T00:00:00Z");
        sets("7.00", "0.50");
        jobs(&world, "2026-11-03T13:00:00Z", &all).exits(65);
        world.agent(&["parked", "list"]).exits(65).tells(&[if of_share { "0.50" } else { "7.00" }]);
        sets("5.00", "5.00");
        for day in 4..8 {
            jobs(&world, &format!("2026-11-0{day}T15:00:00Z"), &all).exits(65);
        }
        assert_eq!(world.rows(A), ["cpu 2026-10 5.00"], "{api}");
        let parked = world.agent(&["parked", "list"]).exits(65);
        parked.tells(&["2026-10", "4.00", "stranded"]);
    }
}

#[test]
fn what_a_person_decided_too_late_for_a_month_is_stranded_with_what_is_really_there() {
    for api in BOTH {
        let world = world(api, "2026-10-20T12:00:00Z");
        configure(&world, "late: hold", "", &one("source", keys(CPU)));
        let mut all = vec![hours("1", "10-05T00:00", "10-05T05:00", "5")];
        jobs(&world, "2026-10-20T12:00:00Z", &all).exits(0);
        world.post("rows", json!({ "resource": A, "type": "cpu", "usage": "50.00", "modified_by": 77 }));
        all.push(hours("2", "10-30T00:00", "10-30T01:00", "1"));
        jobs(&world, "2026-10-31T23:00:00Z", &all).exits(65);
        world.now("2026-10-31T23:59:30Z");
        world.agent(&["resolve", A, "overwrite"]).exits(0);
        all.push(hours("3", "10-31T20:00", "10-31T23:00", "3"));
        for now in
            ["2026-11-01T00:05:00Z", "2026-11-01T00:20:00Z", "2026-11-01T01:20:00Z", "2026-11-01T12:05:00Z"]
        {
            jobs(&world, now, &all).exits(65);
        }
        assert_eq!(world.rows(A), ["cpu 2026-10 50.00"], "{api}");
        // 9.00 were used.
        world.agent(&["parked", "list"]).exits(65).tells(&["2026-10", "-41.00", "stranded"]);
    }
}

#[test]
fn nothing_more_is_carried_once_late_usage_is_to_be_held() {
    for api in BOTH {
        let world = world(api, "2026-10-10T12:00:00Z");
        configure(&world, "late: carry_forward", "", &one("source", keys(CPU)));
        let mut all = vec![hours("a", "10-10T00:00", "10-10T06:00", "6")];
        jobs(&world, "2026-10-31T12:00:00Z", &all).exits(0);
        all.extend([
            hours("b", "10-31T00:00", "10-31T03:00", "3"),
            hours("n", "11-01T00:00", "11-01T02:00", "2"),
        ]);
        jobs(&world, "2026-11-02T12:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 6.00", "cpu 2026-11 5.00"], "{api}");
        configure(&world, "late: hold", "", &one("source", keys(CPU)));
        all.push(hours("c", "10-30T00:00", "10-30T01:00", "1"));
        jobs(&world, "2026-11-03T12:00:00Z", &all).exits(65);
        assert_eq!(world.rows(A), ["cpu 2026-10 6.00", "cpu 2026-11 5.00"], "{api}");
        world.agent(&["parked", "list"]).exits(65).tells(&["2026-10", "1.00", "stranded"]);
        // What was carried was too much: 6 + 1 + 1 are 8.
        all[1] = hours("b", "10-31T00:00", "10-31T01:00", "1");
        jobs(&world, "2026-11-04T12:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 6.00", "cpu 2026-11 4.00"], "{api}");
    }
}

/// A ledger put back over a month's end makes just what Waldur holds, when everything was read again.
#[test]
fn a_ledger_that_was_put_back_takes_shares_that_are_as_it_makes_them() {
    for api in BOTH {
        let world = world(api, "2026-11-27T12:00:00Z");
        configure(&world, "late: hold", "", &one("source", keys(CPU)));
        let mut all = vec![hours("a", "11-26T00:00", "11-26T10:00", "10")];
        jobs(&world, "2026-11-27T12:00:00Z", &all).exits(0);
        let copy = world.path("copy.db");
        let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
        ledger.execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
        drop(ledger);
        let later = [
            on("project-a", "bob", "b", "11-27T00:00", "11-27T08:00", "8"),
            hours("c", "11-29T00:00", "11-29T10:00", "10"),
        ];
        all.extend(later);
        jobs(&world, "2026-11-30T12:00:00Z", &all).exits(0);
        jobs(&world, "2026-12-01T01:00:00Z", &all).exits(0);
        for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
            drop(std::fs::remove_file(world.path(name)));
        }
        std::fs::copy(&copy, world.path("ledger.db")).unwrap();
        jobs(&world, "2026-12-03T12:00:00Z", &all);
        jobs(&world, "2026-12-04T14:00:00Z", &all).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 28.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 20.00", "bob cpu 2026-11 8.00"], "{api}");
        world.agent(&["parked", "list"]).exits(0);
    }
}
