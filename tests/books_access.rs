//! The token and who may do what: a token without a role, a new token in the file, one with a lifetime; what a resource's
//! state and limits allow; users that Waldur comes to know. What is held is told with its true reason, and lifted by itself
//! when the reason is gone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

fn start(api: &str, meters: &str) -> World {
    let world = world(api, NOON);
    configure(&world, "late: hold", "", &[("source", keys(meters))]);
    world
}

#[test]
fn a_token_without_a_role_is_told_and_is_no_offering_without_resources() {
    for api in BOTH {
        let world = start(api, CPU);
        world.post(
            "tokens",
            json!({ "token": "elsewhere", "username": "elsewhere", "owner_of": ["Elsewhere"] }),
        );
        for token in ["stranger-token", "elsewhere"] {
            world.write("token", token);
            let done = jobs(&world, NOON, &[five()]).exits(77).says("role");
            assert!(["Cluster", OFFERING].iter().any(|name| done.all().contains(name)), "{done:#?}");
            assert_eq!(world.rows(A), [""; 0], "{api} {token}");
            world.agent(&["check"]).exits(77).says("role");
        }
        // With a role it goes on.
        world.write("token", TOKEN);
        jobs(&world, "2026-11-10T13:00:00Z", &[five()]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
    }
}

#[test]
fn a_role_that_is_taken_away_is_told() {
    for api in BOTH {
        let world = start(api, CPU);
        jobs(&world, NOON, &[five()]).exits(0);
        world.post("tokens", json!({ "token": TOKEN, "offerings": [] }));
        let one = hours("2", "11-10T12:00", "11-10T13:00", "1");
        jobs(&world, "2026-11-10T14:00:00Z", &[five(), one.clone()]).exits(77).says("role");
        world.post("tokens", json!({ "token": TOKEN, "offerings": ["*"] }));
        jobs(&world, "2026-11-10T16:00:00Z", &[five(), one]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00"], "{api}");
    }
}

#[test]
fn owners_of_the_provider_and_staff_need_no_role_in_the_offering() {
    for (api, token) in BOTH.into_iter().flat_map(|api| ["owner", "staff-token"].map(|token| (api, token))) {
        let world = start(api, CPU);
        world.post("tokens", json!({ "token": "owner", "username": "owner", "owner_of": ["Provider"] }));
        world.write("token", token);
        jobs(&world, NOON, &[five()]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api} {token}");
    }
}

#[test]
fn a_role_and_an_empty_list_is_an_offering_without_resources() {
    for api in BOTH {
        let bare = market();
        let bare = bare.split("resources:").next().unwrap().to_owned();
        let world = World::of(Setting { api, now: NOON, zone: "UTC", marketplace: bare });
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        jobs(&world, NOON, &[]).exits(0);
        // Usage of what Waldur does not know, and of nothing else.
        jobs(&world, "2026-11-10T13:00:00Z", &[five()]).exits(65).tells(&["project-a"]).says_not("role");
        world.agent(&["status"]).exits(65).tells(&["project-a"]);
    }
}

#[test]
fn a_few_unmatched_ids_are_listed_and_no_alarm() {
    for api in BOTH {
        let world = start(api, CPU);
        let unknown = on("project-x", "bob", "2", "11-05T00:00", "11-05T01:00", "1");
        jobs(&world, NOON, &[five(), unknown]).exits(0);
        world.agent(&["status"]).exits(0).tells(&["project-x"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
    }
}

#[test]
fn a_new_token_in_the_file_is_used_at_once() {
    for api in BOTH {
        let world = start(api, CPU);
        world.write("token", "wrong-token");
        jobs(&world, NOON, &[five()]).exits(77);
        // Not a second later.
        world.write("token", TOKEN);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
    }
}

#[test]
fn a_new_token_lifts_the_daemons_pause() {
    for api in BOTH {
        let world = start(api, CPU);
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let text =
            text.replace("submit: { ", "submit: { schedule: every 1s, ").replace("\"@hourly\"", "every 1s");
        world.write("agent.yaml", &text);
        lines(&world, "source", &[five()]);
        world.write("token", "wrong-token");
        let daemon = world.daemon(&[], &[]);
        daemon.until_it_says("Ready");
        // Refused again and again: for ten minutes.
        let refused = || world.requests_since(0).iter().filter(|call| call.status == 401).count();
        for minute in 1..=10 {
            world.now(&format!("2026-11-10T12:{minute:02}:00Z"));
            pause(std::time::Duration::from_millis(150));
        }
        until("a refusal", || refused() > 0);
        world.write("token", TOKEN);
        // Two more looks at the schedule, a second each.
        let mut second = 0;
        until("the report", || {
            second = (second + 1).min(5);
            world.now(&format!("2026-11-10T12:10:{second:02}Z"));
            world.rows(A) == ["cpu 2026-11 5.00"]
        });
    }
}

#[test]
fn a_token_with_a_lifetime_is_kept_alive_where_nothing_changes() {
    for api in BOTH {
        let world = start(api, CPU);
        world.post("tokens", json!({ "token": TOKEN, "lifetime": 3600 }));
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let text = text.replace("submit: { ", "submit: { schedule: every 5m, ");
        world.write("agent.yaml", &format!("{text}listen: 127.0.0.1:0\n"));
        jobs(&world, NOON, &[five()]).exits(0);
        let daemon = world.daemon(&[], &[]);
        daemon.until_it_says("Health and metrics at http://");
        let log = daemon.log();
        let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
        let looks = || {
            let page = get(address, "/metrics").1;
            let line = page
                .lines()
                .find_map(|line| line.strip_prefix("waldur_usage_agent_submission_cycles_total "));
            line.unwrap().parse::<u64>().unwrap()
        };
        let (mut now, begun): (jiff::Timestamp, jiff::Timestamp) =
            (NOON.parse().unwrap(), NOON.parse().unwrap());
        while now < begun + jiff::SignedDuration::from_hours(4) {
            now += jiff::SignedDuration::from_mins(5);
            // The clock goes on no faster than the daemon keeps up with: a look that it left out would be the test's doing.
            let before = looks();
            until("its look at the schedule", || {
                world.now(&now.to_string());
                let has_looked = looks() > before;
                now += jiff::SignedDuration::from_secs(if has_looked { 0 } else { 2 });
                has_looked
            });
            // A third of its lifetime, until the next look at the schedule, and while that is waited for.
            let calls = world.requests_since(0);
            let last: jiff::Timestamp = calls.last().unwrap().at.parse().unwrap();
            assert!(
                now.duration_since(last).as_secs() <= 1200 + 300 + 60,
                "the last call before {now} was at {last}"
            );
        }
        assert!(world.requests_since(0).iter().all(|call| call.status != 401), "{api}");
        drop(daemon);
        world.agent(&["check"]).tells(&["3600"]);
    }
}

#[test]
fn what_is_held_for_the_resources_state_is_lifted_although_another_id_is_unmatched() {
    for api in BOTH {
        let world = start(api, CPU);
        world.post(&format!("resources/{A}"), json!({ "state": "Erred" }));
        let unknown = on("project-x", "bob", "2", "11-05T00:00", "11-05T01:00", "1");
        let all = [five(), unknown];
        jobs(&world, NOON, &all).exits(65).names_a().tells(&["Erred"]);
        assert_eq!(world.rows(A), [""; 0], "{api}");
        world.agent(&["parked", "list"]).exits(65).names_a();
        world.post(&format!("resources/{A}"), json!({ "state": "OK" }));
        jobs(&world, "2026-11-10T13:05:00Z", &all).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        // And nothing goes on showing what is gone.
        let parked = world.agent(&["parked", "list"]).exits(0);
        parked.says_not("Erred").says_not(A);
        world.agent(&["status"]).exits(0).says_not("held");
    }
}

#[test]
fn what_is_held_over_a_limit_is_lifted_when_the_amount_falls() {
    let world = start(CLASSIC, "monthly: { reading: sec, factor: 1/3600 }");
    let used = |amount: &str| [hours("1", "11-05T00:00", "11-06T00:00", amount)];
    jobs(&world, NOON, &used("120")).exits(65).names_a().tells(&["monthly", "120.00", "100"]);
    assert_eq!(world.rows(A), [""; 0]);
    jobs(&world, "2026-11-10T13:00:00Z", &used("90")).exits(0);
    assert_eq!(world.rows(A), ["monthly 2026-11 90.00"]);
    world.agent(&["parked", "list"]).exits(0);
}

/// 45 are held, now there are 60; the server counts the old 45, too, when it compares with its limit of 100.
#[track_caller]
fn over_the_years_limit(component: &str) {
    let world = start(CLASSIC, &format!("{component}: {{ reading: sec, factor: 1/3600 }}"));
    let used = |amount: &str| [hours("1", "11-05T00:00", "11-06T00:00", amount)];
    jobs(&world, NOON, &used("45")).exits(0);
    let done = jobs(&world, "2026-11-10T13:00:00Z", &used("60")).exits(65);
    done.names_a().tells(&[component, "45.00", "60.00", "100"]);
    assert_eq!(world.rows(A), [format!("{component} 2026-11 45.00")]);
    let parked = world.agent(&["parked", "list"]).exits(65);
    parked
        .tells(&["45.00", "60.00", "100", "overwrite"])
        .says("The server counts the 45.00 that it holds already and this amount together");
    let before = totals(&world, A, 0).len();
    jobs(&world, "2026-11-10T14:00:00Z", &used("60")).exits(65);
    assert_eq!(totals(&world, A, 0).len(), before, "it is not tried again and again");
    world.agent(&["resolve", A, "overwrite"]).exits(0).tells(&["45.00", "60.00"]);
    jobs(&world, "2026-11-10T15:00:00Z", &used("60")).exits(0);
    assert_eq!(world.rows(A), [format!("{component} 2026-11 60.00")]);
    assert_eq!(world.billed(A), [format!("{component} 2026-11 60.00")]);
    let calls = totals(&world, A, 0);
    let sent: Vec<&str> =
        calls[before..].iter().map(|call| call.body["usages"][0]["amount"].as_str().unwrap()).collect();
    assert_eq!(sent, ["0.00", "60.00"]);
    // Between them the row is read: it is raised only when it is known to be lowered.
    let (lowering, raising) = (calls[before].n, calls[before + 1].n);
    let between = world.requests_since(lowering + 1);
    let is_read = |call: &Request| {
        call.n < raising
            && call.method == "GET"
            && call.path.starts_with("/api/marketplace-component-usages/")
            && call.status == 200
    };
    assert!(between.iter().any(is_read), "{between:#?}");
}

#[test]
fn an_annual_limit_that_counts_the_old_row_is_told_and_resolved_by_lowering_first() {
    over_the_years_limit("annual");
}

#[test]
fn a_total_limit_that_counts_the_old_row_is_told_and_resolved_by_lowering_first() {
    over_the_years_limit("total");
}

/// What another resource's month did to a limit can't be known before it is tried: lowered for nothing, the old amount goes
/// back.
#[test]
fn what_was_lowered_for_a_limit_that_refuses_it_all_the_same_is_put_back() {
    let world = start(CLASSIC, "annual: { reading: sec, factor: 1/3600 }");
    let used = |amount: &str| [hours("1", "11-05T00:00", "11-06T00:00", amount)];
    jobs(&world, NOON, &used("45")).exits(0);
    assert_eq!(world.shares(A), ["alice annual 2026-11 45.00"]);
    jobs(&world, "2026-11-10T13:00:00Z", &used("120")).exits(65).tells(&["45.00", "120.00", "100"]);
    world.agent(&["resolve", A, "overwrite"]).exits(0).tells(&["45.00", "120.00"]);
    let done = jobs(&world, "2026-11-10T15:00:00Z", &used("120")).exits(65).names_a();
    done.tells(&["annual", "120.00", "45.00", "put back", "100"]);
    assert_eq!(world.rows(A), ["annual 2026-11 45.00"]);
    assert_eq!(world.shares(A), ["alice annual 2026-11 45.00"]);
    // Nothing more is tried by itself, and what fits goes on.
    let calls = totals(&world, A, 0).len();
    jobs(&world, "2026-11-10T16:00:00Z", &used("120")).exits(65);
    assert_eq!(totals(&world, A, 0).len(), calls);
    jobs(&world, "2026-11-10T17:00:00Z", &used("50")).exits(0);
    assert_eq!(world.rows(A), ["annual 2026-11 50.00"]);
    assert_eq!(world.shares(A), ["alice annual 2026-11 50.00"]);
}

#[test]
fn a_limited_component_goes_alone_and_what_that_does_is_said() {
    let world = start(CLASSIC, &format!("{CPU}\n      annual: {{ reading: sec, factor: 1/3600 }}"));
    jobs(&world, NOON, &[five()]).exits(0);
    assert_eq!(world.rows(A), ["annual 2026-11 5.00", "cpu 2026-11 5.00"]);
    // What the server shows as current is the last call's; no call is made to mend that.
    let calls = totals(&world, A, 0).len();
    assert!(calls <= 2, "{calls}");
    jobs(&world, "2026-11-10T13:00:00Z", &[five()]).exits(0);
    assert_eq!(totals(&world, A, 0).len(), calls);
    world.agent(&["check"]).tells(&["current_usages"]);
    let pages = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
    let files = pages.map(|page| page.unwrap().path()).filter(|path| !path.ends_with("sandbox.md"));
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    assert!(texts.into_iter().any(|text| text.contains("current_usages")), "no page says it");
}

#[test]
fn all_users_are_linked_although_waldur_takes_the_link_with_a_users_first_row_only() {
    for (api, failing) in BOTH.into_iter().flat_map(|api| [false, true].map(|failing| (api, failing))) {
        let world = start(api, CPU);
        let users: Vec<String> = (0..36).map(|n| format!("user-{n:02}")).collect();
        for user in &users {
            world.post(&format!("offerings/{OFFERING}/users"), json!(user));
        }
        if failing {
            world.fault(
                json!({ "match": { "path": "offering-users" }, "when": "before", "action": { "status": 503 }, "times": 1 }),
            );
        }
        let job = |user: &String| on("project-a", user, user, "11-05T00:00", "11-05T01:00", "1");
        let all: Vec<Value> = users.iter().map(job).collect();
        jobs(&world, NOON, &all);
        jobs(&world, "2026-11-10T13:00:00Z", &all).exits(0);
        let rows = world.held(A)["rows"].clone();
        let shares = rows[0]["users"].as_object().unwrap().clone();
        let linked = shares.values().filter(|share| share["user"].is_string()).count();
        assert_eq!((shares.len(), linked), (36, 36), "{api} {failing}");
        assert_eq!(world.rows(A), ["cpu 2026-11 36.00"], "{api}");
    }
}

#[test]
fn a_server_without_a_list_of_users_is_reported_to_without_links() {
    for api in BOTH {
        let world = start(api, CPU);
        world.fault(
            json!({ "match": { "path": "offering-users" }, "when": "before", "action": { "status": 404 } }),
        );
        jobs(&world, NOON, &[five()]).exits(0);
        assert_eq!(world.shares(A), ["alice cpu 2026-11 5.00"], "{api}");
    }
}

#[test]
fn a_conflict_that_can_not_be_adopted_does_not_offer_it() {
    for api in BOTH {
        let world = start(api, "disk: { reading: sec, aggregate: mean, max_gap: 1d }");
        world.post("rows", json!({ "resource": A, "type": "disk", "usage": "40.00", "modified_by": 77 }));
        let at = |time: &str| {
            let mut line = seen("gauge", "500");
            line["at"] = json!(format!("2026-11-10T{time}:00Z"));
            line
        };
        jobs(&world, NOON, &[at("10:00"), at("11:00")]).exits(65).tells(&["disk", "40.00", "500.00"]);
        world.agent(&["parked", "list"]).exits(65).tells(&["overwrite"]).says_not("adopt");
        world.agent(&["status"]).exits(65).says_not("adopt");
        // The remedy that exists.
        world.agent(&["resolve", A, "overwrite"]).exits(0);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["disk 2026-11 500.00"], "{api}");
        world.agent(&["parked", "list"]).exits(0);
    }
}

/// What is stranded of a terminated resource is what was used less what was accepted, also when more is used or corrected.
#[test]
fn what_a_terminated_resource_can_not_take_is_told_as_it_is_by_now() {
    for api in BOTH {
        let world = start(api, CPU);
        jobs(&world, NOON, &[five()]).exits(0);
        world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
        let two = hours("2", "11-09T13:00", "11-09T15:00", "2");
        let seven = |used: &str| hours("3", "11-10T14:00", "11-10T20:00", used);
        for (now, all, left) in [
            ("2026-11-10T13:00:00Z", vec![five(), two.clone()], "2.00"),
            ("2026-11-10T21:00:00Z", vec![five(), two.clone(), seven("7")], "9.00"),
            ("2026-11-10T22:00:00Z", vec![five(), two.clone(), seven("4")], "6.00"),
            ("2026-12-03T12:00:00Z", vec![five(), two.clone(), seven("5.5")], "7.50"),
        ] {
            jobs(&world, now, &all).exits(65);
            let listed = world.agent(&["parked", "list", "--json"]).json();
            let amounts: Vec<&str> =
                listed.as_array().unwrap().iter().map(|one| one["amount"].as_str().unwrap()).collect();
            assert_eq!(amounts, [left], "{api} {now}");
            world.agent(&["status"]).exits(65).says(&format!("{left} is left"));
        }
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
    }
}
