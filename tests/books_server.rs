//! The server fails in parts: a list, one resource, every answer after the commit. What is known goes on, what was proven
//! is a success, what fails waits alone and for its own cause; and what is due at one instant is reported once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::time::Duration;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

fn start(api: &str, now: &str) -> World {
    let world = world(api, now);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    world
}

fn bobs() -> Value {
    on("project-b", "bob", "2", "11-05T00:00", "11-05T02:00", "2")
}

/// Calls that name a resource, in whichever form, are answered so before the server sees them.
fn failing(world: &World, resource: &str, action: &Value) {
    let forms = [resource.to_owned(), resource.replace('-', "")];
    let fault = |form: &String| json!({ "match": { "path": "/set_usage/", "body": form }, "when": "before", "action": action });
    world.post("faults", json!({ "faults": forms.iter().map(fault).collect::<Vec<_>>() }));
}

#[test]
fn a_list_of_resources_that_fails_stops_nothing_of_what_is_known() {
    for api in BOTH {
        let world = start(api, NOON);
        jobs(&world, NOON, &[five()]).exits(0);
        world.fault(json!({ "match": { "method": "GET", "path": "provider-resources/?" }, "when": "before", "action": { "status": 503 } }));
        let one = hours("3", "11-10T12:00", "11-10T13:00", "1");
        // Hours later, so that it is looked for again.
        jobs(&world, "2026-11-10T20:00:00Z", &[five(), one.clone()]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00"], "{api}");
        // Nor for an id that nobody knows yet: that one waits.
        let unknown = on("project-x", "bob", "x", "11-05T00:00", "11-05T01:00", "1");
        let more = hours("4", "11-10T20:00", "11-10T21:00", "1");
        jobs(&world, "2026-11-10T22:00:00Z", &[five(), one, more, unknown]);
        assert_eq!(world.rows(A), ["cpu 2026-11 7.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 7.00"], "{api}");
    }
}

/// Rows are read by the page or by the resource, whichever is less; and where a listing fails, by the resource.
#[test]
fn rows_and_shares_are_read_by_the_page_or_by_the_resource_whichever_is_less() {
    let world = start(CURRENT, NOON);
    let projects: Vec<(String, String)> = (10..15)
        .map(|n| (format!("5e2f0000-0000-4000-8000-0000000000{n}"), format!("project-{n}")))
        .collect();
    for (uuid, project) in &projects {
        let spec = json!({ "uuid": uuid, "name": project, "backend_id": project, "offering": "Cluster" });
        world.post("resources", spec);
    }
    let used = |hours: &str| -> Vec<Value> {
        projects.iter().map(|(_, of)| on(of, "alice", of, "11-05T00:00", "11-05T05:00", hours)).collect()
    };
    // Lists of rows and of shares since then: by the offering, and by the resource.
    let lists = |since: u64| {
        let calls = world.requests_since(since);
        let of = |list: &str, by: &str| {
            calls.iter().filter(|call| call.path.starts_with(list) && call.path.contains(by)).count()
        };
        ["component-usages/", "component-user-usages/"].map(|list| {
            let list = &format!("/api/marketplace-{list}?");
            (of(list, "offering_uuid="), of(list, "resource_uuid="))
        })
    };
    jobs(&world, NOON, &used("5")).exits(0);
    // One of five has changed: two reads of its own rows. A listing of five resources' rows is no more than that of one.
    let mut one_more = used("5");
    one_more.push(on("project-10", "alice", "more", "11-06T00:00", "11-06T01:00", "1"));
    let mark = world.mark();
    jobs(&world, "2026-11-10T12:10:00Z", &one_more).exits(0);
    assert_eq!(lists(mark), [(0, 2), (0, 0)]);
    // All have: one page before, and one after.
    let mark = world.mark();
    jobs(&world, "2026-11-10T12:20:00Z", &used("4")).exits(0);
    assert_eq!(lists(mark), [(2, 0), (0, 0)]);
    // The hour's comparison: one page of rows, and one of shares.
    let mark = world.mark();
    jobs(&world, "2026-11-10T13:30:00Z", &used("4")).exits(0);
    assert_eq!(lists(mark), [(1, 0), (1, 0)]);
    // Neither can be listed: each resource is asked for, and another writer's share is found all the same.
    let target = json!({ "method": "GET", "path": "offering_uuid=" });
    world.fault(json!({ "match": target, "when": "before", "action": { "status": 500 } }));
    let row = world.held(&projects[0].0)["rows"][0]["uuid"].as_str().unwrap().replace('-', "");
    let path = format!("/api/marketplace-component-usages/{row}/set_user_usage/");
    let body = json!({ "username": "alice", "usage": "9.00" }).to_string();
    assert_eq!(world.send_as("staff-token", "POST", &path, &body).0, 201);
    let mark = world.mark();
    let done = jobs(&world, "2026-11-10T14:40:00Z", &used("4")).exits(65);
    done.tells(&["read one by one"]);
    assert_eq!(lists(mark), [(1, 5), (1, 5)]);
    world.agent(&["status"]).exits(65).tells(&["project-10", "9.00", "5.00"]);
}

#[test]
fn plan_periods_of_one_resource_that_fail_stop_nothing_else() {
    for api in BOTH {
        let world = start(api, NOON);
        let path = format!("{}/plan_periods", B.replace('-', ""));
        let other = format!("{B}/plan_periods");
        let fault =
            |path: &str| json!({ "match": { "path": path }, "when": "before", "action": { "status": 500 } });
        world.post("faults", json!({ "faults": [fault(&path), fault(&other)] }));
        world.with_status(jobs(&world, NOON, &[five(), bobs()])).exits(75).tells(&["Project B"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        assert_eq!(world.rows(B), [""; 0], "{api}");
        world.no_faults();
        jobs(&world, "2026-11-10T13:00:00Z", &[five(), bobs()]).exits(0);
        assert_eq!(world.rows(B), ["cpu 2026-11 2.00"], "{api}");
    }
}

/// Three of four resources have something that the server can't read: the fourth is reported, and the server not left alone.
#[test]
fn what_can_not_be_read_of_several_resources_is_their_own_trouble() {
    let fourth = "5e2f0000-0000-4000-8000-000000000009";
    for api in BOTH {
        let world = start(api, NOON);
        let spec =
            json!({ "uuid": fourth, "name": "Fourth", "backend_id": "project-d", "offering": "Cluster" });
        world.post("resources", spec);
        let forms = [A, B, C].into_iter().flat_map(|uuid| [uuid.to_owned(), uuid.replace('-', "")]);
        let fault = |form: String| {
            let path = format!("{form}/plan_periods");
            json!({ "match": { "path": path }, "when": "before", "action": { "status": 500 } })
        };
        world.post("faults", json!({ "faults": forms.map(fault).collect::<Vec<_>>() }));
        let job = |project: &str| on(project, "alice", project, "11-05T00:00", "11-05T05:00", "5");
        let all = ["project-a", "project-b", "project-c", "project-d"].map(job);
        jobs(&world, NOON, &all).exits(75);
        assert_eq!(world.rows(fourth), ["cpu 2026-11 5.00"], "{api}");
        assert_eq!(world.shares(fourth), ["alice cpu 2026-11 5.00"], "{api}");
        world.agent(&["status"]).exits(75).says_not("paused until");
        // Where it answers nothing, it is no resource's trouble.
        world.fault(json!({ "match": { "method": "GET" }, "when": "before", "action": { "status": 500 } }));
        jobs(&world, "2026-11-10T14:10:00Z", &all).exits(75);
        world.agent(&["status"]).exits(75).says("paused until");
    }
}

/// Twenty-four resources with an hour each, known to a server behind a proxy that answers 504 to all that is committed.
fn many(api: &str) -> (World, Vec<String>) {
    let world = start(api, NOON);
    let many: Vec<String> = (10..34).map(|n| format!("5e2f0000-0000-4000-8000-0000000000{n}")).collect();
    let mut jobs = Vec::new();
    for (n, uuid) in many.iter().enumerate() {
        let name = format!("many-{n}");
        world.post(
            "resources",
            json!({ "uuid": uuid, "name": format!("Many {n}"), "backend_id": name, "offering": "Cluster" }),
        );
        jobs.push(on(&name, "alice", &name, "11-05T00:00", "11-05T01:00", "1"));
    }
    lines(&world, "source", &jobs);
    world.fault(json!({ "match": { "method": "POST" }, "when": "after", "action": { "status": 504 } }));
    (world, many)
}

#[test]
fn reads_that_prove_the_commit_of_each_call_count_as_success() {
    for api in BOTH {
        let (world, many) = many(api);
        world.agent(&["flush", "--collect", "--deadline", "25s"]).exits(0);
        for uuid in &many {
            assert_eq!(world.rows(uuid), ["cpu 2026-11 1.00"], "{api}");
            assert_eq!(world.shares(uuid), ["alice cpu 2026-11 1.00"], "{api}");
            assert_eq!(totals(&world, uuid, 0).len(), 1, "{api}");
        }
        world.agent(&["status"]).exits(0).says_not("left alone");
    }
}

#[test]
fn reads_that_prove_the_commits_let_the_daemons_pauses_not_grow() {
    for api in BOTH {
        let world = start(api, NOON);
        world.fault(
            json!({ "match": { "path": "/set_usage/" }, "when": "after", "action": { "status": 504 } }),
        );
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let text =
            text.replace("submit: { ", "submit: { schedule: every 1s, ").replace("\"@hourly\"", "every 1s");
        world.write("agent.yaml", &text);
        let daemon = world.daemon(&[], &[]);
        daemon.until_it_says("Ready");
        let mut now: jiff::Timestamp = NOON.parse().unwrap();
        let mut all = Vec::new();
        for n in 1..=9 {
            all.push(hours(&n.to_string(), &format!("11-0{n}T00:00"), &format!("11-0{n}T01:00"), "1"));
            lines(&world, "source", &all);
            let known = now;
            until("a share", || {
                now += jiff::SignedDuration::from_secs(1);
                world.now(&now.to_string());
                pause(Duration::from_millis(100));
                world.shares(A) == [format!("alice cpu 2026-11 {n}.00")]
            });
            // The ninth takes no longer than the first.
            let took = now.duration_since(known).as_secs();
            assert!(took <= 60, "{api}: {took} s for the change {n}");
        }
        drop(daemon);
    }
}

#[test]
fn a_resource_that_always_fails_is_called_by_its_backoff_only() {
    for api in BOTH {
        let world = start(api, NOON);
        failing(&world, B, &json!({ "status": 503 }));
        lines(&world, "source", &[five(), bobs()]);
        world.agent(&["flush", "--collect", "--deadline", "12s"]).exits(75);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        // A second, two, four: the next would come too late.
        let calls = totals(&world, B, 0).len();
        assert!((1..=5).contains(&calls), "{api}: {calls} calls in 12 s");
    }
}

#[test]
fn a_resource_that_fails_is_not_called_before_the_time_that_the_server_asks_for() {
    for api in BOTH {
        let world = start(api, NOON);
        failing(&world, B, &json!({ "status": 503, "headers": { "Retry-After": "30" } }));
        lines(&world, "source", &[five(), bobs()]);
        world.agent(&["flush", "--collect", "--deadline", "5s"]).exits(75);
        assert_eq!(totals(&world, B, 0).len(), 1, "{api}");
        // Nor by the next flush, half a minute before its time.
        world.now("2026-11-10T12:00:10Z");
        world.flush_once().exits(75);
        assert_eq!(totals(&world, B, 0).len(), 1, "{api}");
        world.no_faults();
        world.now("2026-11-10T12:01:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(B), ["cpu 2026-11 2.00"], "{api}");
    }
}

/// Moves the clock on in such steps until there is a call for project B after that one; tells when it came.
#[track_caller]
fn next_call(world: &World, now: &mut jiff::Timestamp, mark: u64, step: i64) -> jiff::Timestamp {
    let mut found = None;
    until("a call", || {
        *now += jiff::SignedDuration::from_secs(step);
        world.now(&now.to_string());
        pause(Duration::from_millis(80));
        found = totals(world, B, mark).first().map(|call| call.at.parse().unwrap());
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn failures_of_one_cause_do_not_count_for_another() {
    for (api, restarts) in BOTH.into_iter().flat_map(|api| [false, true].map(|restarts| (api, restarts))) {
        let world = start(api, NOON);
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let text =
            text.replace("submit: { ", "submit: { schedule: every 1s, ").replace("\"@hourly\"", "every 1s");
        world.write("agent.yaml", &text);
        lines(&world, "source", &[bobs()]);
        failing(&world, B, &json!({ "status": 503 }));
        let mut daemon = world.daemon(&[], &[]);
        daemon.until_it_says("Ready");
        // An hour and more of one failure.
        let mut now: jiff::Timestamp = NOON.parse().unwrap();
        for _ in 0..40 {
            now += jiff::SignedDuration::from_mins(2);
            world.now(&now.to_string());
            pause(Duration::from_millis(80));
        }
        assert!(!totals(&world, B, 0).is_empty(), "{api}");
        // Then another: the connection ends without a word. What was counted before is in the ledger, for a new daemon, too.
        if restarts {
            daemon.kill();
        }
        failing(&world, B, &json!("drop"));
        if restarts {
            daemon = world.daemon(&[], &[]);
        }
        let mark = world.mark();
        let first = next_call(&world, &mut now, mark, 60);
        let mark = world.mark();
        let second = next_call(&world, &mut now, mark, 2);
        let gap = second.duration_since(first).as_secs();
        assert!(gap <= 120, "{api} {restarts}: called again after {gap} s");
        drop(daemon);
    }
}

/// A daemon whose collector and whose submitting are due at the same minutes.
#[test]
fn what_is_collected_and_submitted_at_the_same_minute_is_reported_once() {
    for api in BOTH {
        let world = world(api, "2026-11-10T12:00:00Z");
        let look = format!("sleep 1; cat {}", world.path("source.lines").display());
        let collector = world
            .collector("source", "source.lines", &keys(CPU))
            .replace(
                &format!("[cat, {}]", world.path("source.lines").display()),
                &format!("[sh, -c, '{look}']"),
            )
            .replace("\"@hourly\"", "\"*/15 * * * *\"");
        let text =
            format!("{}submit: {{ schedule: \"*/15 * * * *\" }}\ncollectors:\n{collector}", world.head(""));
        world.write("agent.yaml", &text);
        jobs(&world, "2026-11-10T12:00:00Z", &[five()]).exits(0);
        // Known at 12:07, and not yet submitted.
        lines(&world, "source", &[five(), hours("3", "11-10T11:30", "11-10T12:00", "0.5")]);
        world.now("2026-11-10T12:07:00Z");
        world.agent(&["collect"]).exits(0);
        let daemon = world.daemon(&[], &[]);
        daemon.until_it_says("Ready");
        lines(
            &world,
            "source",
            &[
                five(),
                hours("3", "11-10T11:30", "11-10T12:00", "0.5"),
                hours("4", "11-10T12:07", "11-10T12:14", "0.5"),
            ],
        );
        world.now("2026-11-10T12:15:00Z");
        // From here the clock goes as real time does.
        let (begun, due) =
            (std::time::Instant::now(), "2026-11-10T12:15:00Z".parse::<jiff::Timestamp>().unwrap());
        until("a report", || {
            world.now(&(due + jiff::SignedDuration::try_from(begun.elapsed()).unwrap()).to_string());
            world.rows(A) != ["cpu 2026-11 5.00"]
        });
        assert_eq!(world.reports(), ["cpu=5.00", "cpu=6.00"], "{api}");
        drop(daemon);
    }
}

#[test]
fn a_probe_is_not_sent_in_a_months_first_second() {
    let world = start(CURRENT, "2026-11-01T00:00:00.5Z");
    let ten = json!({
        "name": "sec", "kind": "delta", "id": "1", "start": "2026-11-01T00:00:00Z", "end": "2026-11-01T00:00:00.4Z",
        "value": "36000", "labels": { "project": "project-a", "user": "alice" },
    });
    lines(&world, "source", &[ten]);
    world.now("2026-11-01T00:00:00.5Z");
    world.flush_once();
    let refused = |world: &World| world.posts_since(0).into_iter().filter(|call| call.status == 400).count();
    assert_eq!(refused(&world), 0, "{:#?}", world.posts_since(0));
    let dates: Vec<String> = world
        .posts_since(0)
        .iter()
        .filter_map(|call| call.body["date"].as_str().map(str::to_owned))
        .collect();
    assert!(dates.iter().all(|date| date.starts_with("2026-11")), "{dates:?}");
    world.now("2026-11-01T00:05:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 10.00"]);
    assert_eq!(refused(&world), 0);
}
