//! A connection that stalls, resets, is cut short or slow at any byte of a call or of its answer, and a server that is
//! stopped with the call under way: nothing is lost, nothing twice, and a doubt is looked into before anything is sent.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::proxy::{At, Harm, Plan, Proxy, Way};
use agent::*;

const HARMS: [Harm; 4] = [Harm::Stalls, Harm::Resets, Harm::Truncates, Harm::Delays];
const TO_SERVER: [At; 6] =
    [At::Byte(0), At::Byte(1), At::Byte(60), At::Byte(300), At::BeforeEnd(1), At::BeforeEnd(0)];
const TO_AGENT: [At; 5] = [At::Byte(0), At::Byte(1), At::Byte(12), At::Byte(60), At::BeforeEnd(1)];

fn places() -> [Vec<(Way, At)>; 2] {
    let to_server = TO_SERVER.into_iter().map(|at| (Way::ToServer, at));
    [to_server.collect(), TO_AGENT.into_iter().map(|at| (Way::ToAgent, at)).collect()]
}

/// The calls of a kind suffer for one flush, then no more: in the end all is right, with no report unread in doubt.
fn suffers(call: &'static str, api: &'static str) {
    std::thread::scope(|scope| {
        for harm in HARMS {
            for places in places() {
                scope.spawn(move || {
                    for (way, at) in places {
                        suffers_once(api, Plan { call, way, at, harm });
                    }
                });
            }
        }
    });
}

fn suffers_once(api: &str, plan: Plan) {
    let case = format!("{api}, {plan:?}");
    let world = World::new(api);
    let proxy = Proxy::before(&world.address);
    world.configure_with("timeout: 1s", &cpu_hours_by_user());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace(&world.address, &proxy.address));
    world.readings(&alice_and_bob());
    proxy.does(Some(plan.clone()));
    let done = world.flush_once();
    assert!([0, 75].contains(&done.code), "{case}: {done:#?}");
    if plan.harm == Harm::Delays {
        assert_eq!(done.code, 0, "{case}: {done:#?}");
    }
    proxy.does(None);
    let done = world.flush();
    assert_eq!(done.code, 0, "{case}: {done:#?}");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"], "{case}");
    assert_eq!(world.billed(A), ["cpu_hours 2026-11 0.03"], "{case}");
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.02", "bob cpu_hours 2026-11 0.01"], "{case}");
    let mut read = true;
    for request in world.requests_since(0) {
        if request.is_post() && request.path.ends_with("/set_usage/") && request.status != 0 {
            assert!(read, "{case}: reported again unread");
            read = false;
        }
        read |= request.method == "GET" && request.path.starts_with("/api/marketplace-component-usages/?");
    }
}

#[test]
fn reports_suffer_at_every_byte_with_a_classic_server() {
    suffers("/set_usage/", CLASSIC);
}

#[test]
fn reports_suffer_at_every_byte_with_a_current_server() {
    suffers("/set_usage/", CURRENT);
}

#[test]
fn shares_suffer_at_every_byte() {
    suffers("/set_user_usages/", CURRENT);
}

#[test]
fn readings_of_rows_suffer_at_every_byte() {
    suffers("GET /api/marketplace-component-usages/?", CURRENT);
}

/// The server is stopped with the call in its hands, and does it when it wakes up, long after the agent gave up.
#[test]
fn a_server_that_is_stopped_with_the_call_under_way_is_asked_what_became_of_it() {
    for api in BOTH {
        let world = World::new(api);
        world.configure_with("timeout: 2s", &cpu_hours_of_a());
        world.readings(&counter(&["0", "3600"], &[]));
        world.post("settings", serde_json::json!({ "latency_ms": 400 }));
        let flush = world
            .command(&["flush", "--collect", "--deadline", "1s"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let is_report = |r: &Request| r.is_post() && r.path.ends_with("/set_usage/");
        until("the report to be under way", || world.requests_since(0).iter().any(is_report));
        world.sandbox.as_ref().unwrap().signal("STOP");
        let done: Done = flush.wait_with_output().unwrap().into();
        assert_eq!(done.code, 75, "{api}: {done:#?}");
        world.sandbox.as_ref().unwrap().signal("CONT");
        until("the server to do it after all", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
        world.post("settings", serde_json::json!({ "latency_ms": 0 }));
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"], "{api}");
        assert_eq!(world.requests_since(0).iter().filter(|r| is_report(r)).count(), 1, "{api}: sent twice");
    }
}
