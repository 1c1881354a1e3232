//! The end of a month: what a server takes until when, what the closing itself leaves, shares that are completed after
//! the end, and a clock that is ahead. A month is closed when its totals and its shares were read back, and not before.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

fn start(api: &str, now: &str, submit: &str) -> World {
    let world = world(api, now);
    configure(&world, submit, "", &[("source", keys(CPU))]);
    world
}

fn ten() -> Value {
    hours("1", "11-05T00:00", "11-05T10:00", "10")
}

/// What November of project A has come to, as `status` tells it.
fn november(world: &World) -> Done {
    world.agent(&["status", "--period", "2026-11", "--users"])
}

#[test]
fn a_dated_server_takes_posts_until_seconds_before_the_end_and_a_classic_one_until_the_guard() {
    for api in BOTH {
        let world = start(api, "2026-11-30T23:00:00Z", "late: hold");
        jobs(&world, "2026-11-30T23:00:00Z", &[ten()]).exits(0);
        // Six minutes of use, ten seconds before the end.
        let last = hours("2", "11-30T23:53", "11-30T23:59", "0.1");
        jobs(&world, "2026-11-30T23:59:50Z", &[ten(), last.clone()]);
        let amount = if api == CURRENT { "10.10" } else { "10.00" };
        assert_eq!(world.rows(A), [format!("cpu 2026-11 {amount}")], "{api}");
        jobs(&world, "2026-12-01T00:10:00Z", &[ten(), last]);
        assert_eq!(world.rows(A), [format!("cpu 2026-11 {amount}")], "{api}");
    }
}

#[test]
fn nothing_is_sent_into_the_last_two_seconds() {
    for api in BOTH {
        let world = start(api, "2026-11-30T23:59:59Z", "late: hold");
        jobs(&world, "2026-11-30T23:59:59Z", &[ten()]);
        assert_eq!(world.rows(A), [""; 0], "{api}");
        jobs(&world, "2026-12-01T00:10:00Z", &[ten()]).exits(65);
        assert_eq!(world.rows(A), [""; 0], "{api}");
        world.agent(&["parked", "list"]).exits(65).tells(&["10.00", "stranded"]);
    }
}

#[test]
fn minutes_that_the_closing_itself_leaves_are_shown_and_are_no_alarm() {
    let world = start(CLASSIC, "2026-11-30T23:00:00Z", "late: hold");
    jobs(&world, "2026-11-30T23:00:00Z", &[ten()]).exits(0);
    // Two minutes of ten cores, known inside the guard.
    let last = hours("2", "11-30T23:57", "11-30T23:59", "0.33");
    jobs(&world, "2026-11-30T23:59:50Z", &[ten(), last.clone()]);
    jobs(&world, "2026-12-01T00:10:00Z", &[ten(), last.clone()]).exits(0);
    jobs(&world, "2026-12-02T00:10:00Z", &[ten(), last.clone()]).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 10.00"]);
    world.with_status(world.agent(&["status"])).exits(0).tells(&["0.33"]);
    world.agent(&["parked", "list"]).says_not("10.33");
    // What comes on top of it is no such thing.
    let late = hours("3", "11-20T00:00", "11-20T01:00", "1");
    jobs(&world, "2026-12-02T12:00:00Z", &[ten(), last, late]).exits(65);
    let parked = world.agent(&["parked", "list"]).exits(65).says_not("11.33");
    assert!(["1.00", "1.33"].iter().any(|left| parked.all().contains(left)), "{parked:#?}");
}

#[test]
fn five_minutes_are_what_a_closing_may_leave() {
    for api in BOTH {
        for (from, is_alarm) in [("11-30T23:56", false), ("11-30T23:54", true)] {
            let world = start(api, "2026-11-30T23:00:00Z", "late: hold");
            jobs(&world, "2026-11-30T23:00:00Z", &[ten()]).exits(0);
            // Used up to the month's end, and told ten minutes after it.
            let last = hours("2", from, "12-01T00:00", "0.40");
            let done = jobs(&world, "2026-12-01T00:10:00Z", &[ten(), last]);
            done.exits(if is_alarm { 65 } else { 0 });
            assert_eq!(world.rows(A), ["cpu 2026-11 10.00"], "{api} {from}");
            let (code, reason) = if is_alarm { (65, "period_ended") } else { (0, "closing_rest") };
            world.agent(&["status"]).exits(code);
            world.agent(&["parked", "list"]).exits(code).tells(&["0.40", reason]).names_a();
        }
    }
}

/// 1,000 h of the month's last four minutes that are told two days later: no closing left those.
#[test]
fn what_is_told_long_after_a_months_end_is_an_alarm_and_no_rest_of_its_closing() {
    for api in BOTH {
        let world = start(api, "2026-11-30T23:00:00Z", "late: hold");
        jobs(&world, "2026-11-30T23:00:00Z", &[ten()]).exits(0);
        jobs(&world, "2026-12-01T12:00:00Z", &[ten()]).exits(0);
        let big = hours("big", "11-30T23:56", "12-01T00:00", "1000");
        jobs(&world, "2026-12-03T12:00:00Z", &[ten(), big]).exits(65).names_a().tells(&["1000.00"]);
        world.agent(&["parked", "list"]).exits(65).tells(&["1000.00", "period_ended"]);
        // A job that goes on into the next month is told when it ends: four of its 40 minutes are the closing's.
        let world = start(api, "2026-11-30T23:00:00Z", "late: hold");
        jobs(&world, "2026-11-30T23:00:00Z", &[ten()]).exits(0);
        jobs(&world, "2026-12-01T00:10:00Z", &[ten()]).exits(0);
        let long = hours("long", "11-30T23:56", "12-01T00:36", "10");
        jobs(&world, "2026-12-01T00:50:00Z", &[ten(), long]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 10.00", "cpu 2026-12 9.00"], "{api}");
        world.with_status(world.agent(&["status"])).exits(0).tells(&["1.00"]);
    }
}

#[test]
fn what_a_correction_takes_out_of_a_month_that_is_over_is_an_alarm_and_no_rest_of_its_closing() {
    let world = start(CLASSIC, "2026-11-30T23:00:00Z", "late: hold");
    let two = hours("2", "11-06T00:00", "11-06T02:00", "2");
    jobs(&world, "2026-11-30T23:00:00Z", &[ten(), two.clone()]).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 12.00"]);
    // The ten hours turn out to be December's: Waldur holds them in November, and gets them in December.
    let moved = hours("1", "12-01T00:00", "12-01T10:00", "10");
    jobs(&world, "2026-12-01T12:00:00Z", &[moved, two]).exits(65);
    assert_eq!(world.rows(A), ["cpu 2026-11 12.00", "cpu 2026-12 10.00"]);
    world.agent(&["status"]).exits(65).names_a().tells(&["10.00"]);
}

#[test]
fn only_the_difference_of_a_month_is_stranded() {
    for api in BOTH {
        let world = start(api, "2026-11-30T12:00:00Z", "late: hold");
        jobs(&world, "2026-11-30T12:00:00Z", &[ten()]).exits(0);
        let late = hours("2", "11-20T00:00", "11-20T01:00", "1");
        jobs(&world, "2026-12-01T12:00:00Z", &[ten(), late]).exits(65);
        let parked = world.agent(&["parked", "list"]).exits(65);
        parked.names_a().tells(&["cpu", "2026-11", "1.00", "stranded"]).says_not("11.00");
    }
}

#[test]
fn shares_of_the_last_total_are_completed_after_the_end_and_then_the_month_is_closed() {
    for api in BOTH {
        let world = start(api, "2026-11-30T12:00:00Z", "late: hold");
        let alice = hours("1", "11-05T00:00", "11-05T12:00", "10.05");
        let bob = on("project-a", "bob", "2", "11-05T00:00", "11-05T05:00", "5");
        jobs(&world, "2026-11-30T12:00:00Z", &[alice.clone(), bob.clone()]).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 15.05"], "{api}");
        // The last total before the end goes out, its shares do not.
        world.fault(
            json!({ "match": { "path": "set_user_usage" }, "when": "before", "action": { "status": 503 } }),
        );
        let more = hours("3", "11-30T13:00", "11-30T15:00", "1.96");
        let all = [alice, bob, more];
        jobs(&world, "2026-11-30T23:40:00Z", &all).exits(75);
        assert_eq!(world.rows(A), ["cpu 2026-11 17.01"], "{api}");
        jobs(&world, "2026-12-01T00:10:00Z", &all).exits(75);
        november(&world).says_not("closed");
        world.no_faults();
        // It dies as soon as the last of the shares is accepted: that alone closes nothing.
        world.now("2026-12-01T01:10:00Z");
        world.flush_killed_at("after shares are acknowledged").exits(137);
        assert_eq!(world.shares(A), ["alice cpu 2026-11 12.01", "bob cpu 2026-11 5.00"], "{api}");
        november(&world).says_not("closed");
        let mark = world.mark();
        jobs(&world, "2026-12-01T02:10:00Z", &all).exits(0);
        // They were read back, and none was written again.
        assert!(read_shares(&world, mark), "{api}");
        assert_eq!(world.posts_since(mark).len(), 0, "{api}");
        november(&world).exits(0).says("closed");
        assert_eq!(world.rows(A), ["cpu 2026-11 17.01"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 12.01", "bob cpu 2026-11 5.00"], "{api}");
    }
}

/// Whether users' shares were asked for, and shown, since the n-th request.
fn read_shares(world: &World, since: u64) -> bool {
    let is_read = |call: &Request| {
        call.method == "GET"
            && call.path.starts_with("/api/marketplace-component-user-usages/")
            && call.status == 200
    };
    world.requests_since(since).iter().any(is_read)
}

#[test]
fn completed_shares_that_can_not_be_read_back_leave_the_month_open() {
    for api in BOTH {
        let world = start(api, "2026-11-30T12:00:00Z", "late: hold");
        jobs(&world, "2026-11-30T12:00:00Z", &[ten()]).exits(0);
        world.fault(
            json!({ "match": { "path": "set_user_usage" }, "when": "before", "action": { "status": 503 } }),
        );
        let all = [ten(), hours("2", "11-30T13:00", "11-30T15:00", "2")];
        jobs(&world, "2026-11-30T23:40:00Z", &all).exits(75);
        assert_eq!(world.shares(A), ["alice cpu 2026-11 10.00"], "{api}");
        world.no_faults();
        world.now("2026-12-01T01:10:00Z");
        world.flush_killed_at("after shares are acknowledged").exits(137);
        assert_eq!(world.shares(A), ["alice cpu 2026-11 12.00"], "{api}");
        world.fault(json!({ "match": { "method": "GET", "path": "user-usages" }, "when": "before", "action": { "status": 503 } }));
        // Nothing is to be sent, and the month can't be closed: that is pending, and told by name until it can be.
        for now in ["2026-12-01T02:10:00Z", "2026-12-01T02:20:00Z"] {
            let done = jobs(&world, now, &all).exits(75);
            world.with_status(done).names_a().tells(&["503"]);
            world.agent(&["status"]).exits(75).line_with(&["Project A", "tried again"]);
        }
        november(&world).says_not("closed");
        world.no_faults();
        jobs(&world, "2026-12-01T03:10:00Z", &all).exits(0);
        november(&world).exits(0).says("closed");
    }
}

#[test]
fn shares_of_the_accepted_total_are_completed_and_not_those_of_later_usage() {
    for api in BOTH {
        let world = start(api, "2026-11-30T12:00:00Z", "late: hold");
        let alice = hours("1", "11-05T00:00", "11-05T12:00", "10.05");
        let bob = on("project-a", "bob", "2", "11-05T00:00", "11-05T05:00", "5");
        jobs(&world, "2026-11-30T12:00:00Z", &[alice.clone(), bob.clone()]).exits(0);
        world.fault(
            json!({ "match": { "path": "set_user_usage" }, "when": "before", "action": { "status": 503 } }),
        );
        let more = hours("3", "11-30T13:00", "11-30T15:00", "1.96");
        jobs(&world, "2026-11-30T23:40:00Z", &[alice.clone(), bob.clone(), more.clone()]).exits(75);
        world.no_faults();
        // An hour of bob's comes late: it is no part of the total that was accepted.
        let late = on("project-a", "bob", "4", "11-20T00:00", "11-20T01:00", "1");
        jobs(&world, "2026-12-01T01:10:00Z", &[alice, bob, more, late]).exits(65);
        assert_eq!(world.rows(A), ["cpu 2026-11 17.01"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 12.01", "bob cpu 2026-11 5.00"], "{api}");
        world.agent(&["parked", "list"]).exits(65).tells(&["1.00"]).says_not("18.01");
    }
}

#[test]
fn readings_by_a_clock_that_is_ahead_are_held_near_a_boundary_and_others_count() {
    for api in BOTH {
        let world = start(api, "2026-11-30T18:00:00Z", "late: hold");
        let look = |agents: &str, servers: &str, hours: &str| {
            let seconds: rust_decimal::Decimal = hours.parse().unwrap();
            let seconds = (seconds * rust_decimal::Decimal::from(3600)).normalize().to_string();
            lines(&world, "source", &[seen("counter", &seconds)]);
            world.sandbox_clock(servers);
            world.agent_clock(agents);
            world.flush()
        };
        // Two hours ahead; the end of November is still far.
        look("2026-11-30T20:00:00Z", "2026-11-30T18:00:00Z", "100");
        look("2026-11-30T21:00:00Z", "2026-11-30T19:00:00Z", "101");
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        // By this clock it is December, by the server's it is half past ten: in which month was it?
        let done = look("2026-12-01T00:30:00Z", "2026-11-30T22:30:00Z", "104.5").exits(65);
        done.tells(&["clock"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        // Set right, it goes on from the last sure reading: four and a half hours more.
        look("2026-11-30T23:30:00Z", "2026-11-30T23:30:00Z", "105.5");
        assert_eq!(world.rows(A), ["cpu 2026-11 5.50"], "{api}");
        // December begins with its own.
        look("2026-12-01T00:30:00Z", "2026-12-01T00:30:00Z", "106.5");
        look("2026-12-01T01:30:00Z", "2026-12-01T01:30:00Z", "107.5");
        assert_eq!(world.rows(A), ["cpu 2026-11 5.50", "cpu 2026-12 1.50"], "{api}");
    }
}

#[test]
fn an_old_month_that_waits_for_a_person_never_blocks_the_running_one() {
    for api in BOTH {
        let world = start(api, "2026-11-30T12:00:00Z", "late: hold");
        world.post("rows", json!({ "resource": A, "type": "cpu", "usage": "40.00", "modified_by": 77 }));
        jobs(&world, "2026-11-30T12:00:00Z", &[ten()]).exits(65).tells(&["40.00", "10.00"]);
        let new = hours("2", "12-02T00:00", "12-02T03:00", "3");
        jobs(&world, "2026-12-02T12:00:00Z", &[ten(), new]).exits(65);
        assert_eq!(world.rows(A), ["cpu 2026-11 40.00", "cpu 2026-12 3.00"], "{api}");
    }
}
