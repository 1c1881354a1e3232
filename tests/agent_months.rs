//! The end of a month, by the server's clock and in its time zone: what was used in a month is never booked in another.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::io::{Read, Write};

use agent::*;
use serde_json::{Value, json};

/// An hour and a half on 20 November.
fn november_job() -> Value {
    job("cpu_seconds", "nov", "2026-11-20T00:00:00Z", "2026-11-20T01:30:00Z", "5400", &[])
}

/// Another hour, on the 21st.
fn late_job() -> Value {
    job("cpu_seconds", "late", "2026-11-21T00:00:00Z", "2026-11-21T01:00:00Z", "3600", &[])
}

fn at(api: &str, now: &str) -> World {
    let world = World::of(Setting { api, now, ..Setting::default() });
    world.configure(&cpu_hours_of_a());
    world
}

#[test]
fn two_minutes_before_midnight_a_classic_server_is_still_told() {
    let world = at(CLASSIC, "2026-11-30T23:58:00Z");
    world.readings(&[november_job()]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

#[test]
fn in_the_last_minute_a_classic_server_is_told_nothing_that_might_land_in_the_new_month() {
    let world = at(CLASSIC, "2026-11-30T23:59:10Z");
    world.readings(&[november_job()]);
    let why = "is about to end at Waldur, and a report could land in the next month";
    let unfolded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let done = world.flush_once().exits(75).says("1 statement: still pending");
    assert!(unfolded(&done.out).contains(why) && unfolded(&done.err).contains(why), "{done:#?}");
    assert_eq!(world.posts_since(0).len(), 0);
    let status = world.agent(&["status"]).exits(75);
    assert!(unfolded(&status.out).contains(why), "{status:#?}");
    // Over midnight it can't be reported any more.
    world.now("2026-12-01T00:00:30Z");
    world.flush().exits(65).says("stranded");
    assert_eq!(world.posts_since(0).len(), 0);
    assert_eq!(world.rows(A), [""; 0]);
    let kept = world.agent(&["explain", A, "cpu_hours", "--period", "2026-11", "--json"]).exits(0).json();
    assert_eq!(kept["posted"], "1.50");
}

#[test]
fn over_midnight_the_new_month_begins_at_zero_and_the_old_one_keeps_what_was_agreed() {
    for api in BOTH {
        let world = at(api, "2026-11-30T12:00:00Z");
        world.readings(&[november_job()]);
        world.flush().exits(0);
        world.now("2026-12-01T00:10:00Z");
        // Four hours over midnight of which 8 minutes are December's, and an hour that came in too late.
        let over = job("cpu_seconds", "over", "2026-11-30T20:08:00Z", "2026-12-01T00:08:00Z", "14400", &[]);
        world.readings(&[november_job(), late_job(), over]);
        world.flush().exits(65).says("stranded");
        // 8 min = 480 s = 0.1333 h.
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 0.13"], "{api}");
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 0.13"], "{api}");
        // 1.5 + 1 + 3.8666 = 6.3666 were used in November; the difference waits for a person.
        let november =
            world.agent(&["explain", A, "cpu_hours", "--period", "2026-11", "--json"]).exits(0).json();
        assert_eq!(november["posted"], "6.37", "{api}");
        assert_eq!(november["acknowledged"], json!(["1.50"]), "{api}");
        let mark = world.mark();
        world.flush().exits(65).says("Nothing was sent.");
        assert_eq!(world.posts_since(mark).len(), 0, "{api}");
    }
}

#[test]
fn a_server_that_honours_dates_is_told_up_to_the_last_seconds() {
    let world = at(CURRENT, "2026-11-30T12:00:00Z");
    world.readings(&[november_job()]);
    world.flush().exits(0);
    world.now("2026-11-30T23:59:50Z");
    world.readings(&[november_job(), late_job()]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    let call = world.posts_since(0).pop().unwrap();
    let date = call.body["date"].as_str().unwrap().to_owned();
    // An instant that is November in every time zone.
    assert_eq!(&date[..10], "2026-11-29", "{date}");
}

#[test]
fn a_classic_server_that_ignores_dates_is_found_out_and_no_longer_sent_any() {
    for (api, dated) in [(CLASSIC, false), (CURRENT, true)] {
        let world = at(api, "2026-11-22T12:00:00Z");
        world.readings(&[november_job()]);
        world.flush().exits(0);
        world.readings(&[november_job(), late_job()]);
        world.flush().exits(0);
        let calls = world.posts_since(0);
        assert_eq!(calls.last().unwrap().body.get("date").is_some(), dated, "{api}: {calls:#?}");
    }
}

#[test]
fn the_servers_clock_decides_when_it_is_ahead_of_ours() {
    for api in BOTH {
        let world = at(api, "2026-11-30T23:57:30Z");
        // The server has December already.
        world.sandbox_clock("2026-12-01T00:01:00Z");
        world.readings(&[november_job()]);
        world.flush().exits(65).says("stranded");
        assert_eq!(world.posts_since(0).len(), 0, "{api}");
    }
}

#[test]
fn the_servers_clock_decides_when_it_is_behind_ours() {
    for api in BOTH {
        let world = at(api, "2026-12-01T00:02:00Z");
        world.sandbox_clock("2026-11-30T23:55:00Z");
        let december = job("cpu_seconds", "dec", "2026-12-01T00:00:00Z", "2026-12-01T00:01:00Z", "3600", &[]);
        world.readings(&[november_job(), december]);
        // November can still be told; December has not begun there.
        world.flush_once().exits(75);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"], "{api}");
        world.now("2026-12-01T00:03:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 1.00"], "{api}");
    }
}

fn in_tallinn(now: &str) -> World {
    let world = World::of(Setting { now, zone: "Europe/Tallinn", ..Setting::default() });
    world.configure_with("billing_timezone: Europe/Tallinn", &cpu_hours_of_a());
    world
}

#[test]
fn months_are_those_of_the_servers_time_zone() {
    // Tallinn's November begins at 22:00 UTC.
    let world = in_tallinn(NOON);
    world.readings(&[job("cpu_seconds", "1", "2026-10-31T20:00:00Z", "2026-10-31T23:00:00Z", "10800", &[])]);
    world.flush().exits(65).says("stranded");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
}

#[test]
fn in_the_first_and_last_hour_of_tallinns_month_reports_land_in_it() {
    let world = in_tallinn("2026-11-30T21:40:00Z");
    world.readings(&[november_job()]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
    // 22:20 UTC is December there.
    world.now("2026-11-30T22:20:00Z");
    let over = job("cpu_seconds", "over", "2026-11-30T21:50:00Z", "2026-11-30T22:10:00Z", "7200", &[]);
    world.readings(&[november_job(), over]);
    world.flush().exits(65);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50", "cpu_hours 2026-12 1.00"]);
}

#[test]
fn a_report_that_landed_in_another_month_is_noticed_and_not_repeated() {
    // 02:30 UTC of 1 November is October still in New York, where the server bills.
    let world =
        World::of(Setting { now: "2026-11-01T02:30:00Z", zone: "America/New_York", ..Setting::default() });
    world.configure(&cpu_hours_of_a());
    world.readings(&[job("cpu_seconds", "1", "2026-11-01T01:00:00Z", "2026-11-01T02:00:00Z", "3600", &[])]);
    let done = world.flush().exits(65).says("keeps no row of it in that month");
    done.says("the latest is in 2026-10").says("billing_timezone: UTC").says("1 amount: held");
    assert_eq!(world.posts_since(0).len(), 1);
    world.agent(&["parked", "list"]).exits(65).says("wrong_month").says("set `billing_timezone`");
    let mark = world.mark();
    world.flush().exits(65);
    assert_eq!(world.posts_since(mark).len(), 0);
    assert_eq!(
        world.agent(&["status", "--json"]).exits(65).json()["statements"][0]["components"][0]["state"],
        "held"
    );
}

#[test]
fn each_months_first_report_is_read_back_in_its_month() {
    let world = at(CURRENT, "2026-11-22T12:00:00Z");
    world.readings(&[november_job()]);
    world.flush().exits(0);
    world.now("2026-12-02T12:00:00Z");
    let mark = world.mark();
    world.readings(&[
        november_job(),
        job("cpu_seconds", "dec", "2026-12-01T00:00:00Z", "2026-12-01T01:00:00Z", "3600", &[]),
    ]);
    world.flush().exits(0);
    let requests = world.requests_since(mark);
    let sent = requests.iter().position(|r| r.path.ends_with("/set_usage/")).unwrap();
    let read = |r: &Request| {
        r.path.starts_with("/api/marketplace-component-usages/?") && r.path.contains("2026-12-01")
    };
    assert!(requests[sent..].iter().any(read), "{requests:#?}");
}

#[test]
fn a_daemon_reports_by_itself_shortly_before_the_month_ends_and_nothing_old_after_it() {
    let world = World::of(Setting { api: CLASSIC, now: "2026-11-30T23:54:57Z", ..Setting::default() });
    let collector = world.collector("source", "readings", &cpu_hours_of_a());
    let head = world.head("");
    world
        .write("agent.yaml", &format!("{head}submit: {{ schedule: \"@hourly\" }}\ncollectors:\n{collector}"));
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    // Only then has it planned its next round, too.
    let looks = || world.agent(&["status", "--json"]).json()["collectors"][0]["last_run"].clone();
    until("the first look", || looks() == "2026-11-30T23:54:57Z");
    world.readings(&[november_job()]);
    world.now("2026-11-30T23:55:00Z");
    until("the report before the end", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    // No call is under way when the clocks of both sides are set.
    daemon.until_it_says("Reported 1 amount");
    world.readings(&[november_job(), late_job()]);
    world.now("2026-12-01T00:00:10Z");
    daemon.signal("USR1");
    until("the stranding", || world.agent(&["parked", "list"]).out.contains("period_ended"));
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

/// What was counted between the making of an amount and its acceptance is not in it, whatever the times say.
#[test]
fn a_late_reading_of_the_instant_of_the_last_report_is_no_rest_of_the_closing() {
    let world = at(CLASSIC, "2026-11-30T23:55:00Z");
    world.readings(&[november_job()]);
    world.flush().exits(0);
    world.readings(&[november_job(), late_job()]);
    world.agent(&["collect"]).exits(0);
    world.now("2026-12-01T00:00:10Z");
    world.flush().exits(65);
    let parked = world.agent(&["parked", "list"]);
    assert!(parked.out.contains("period_ended") && parked.out.contains("1.00"), "{}", parked.out);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

#[test]
fn the_closing_submission_waits_for_the_closing_look() {
    let world = World::of(Setting { api: CLASSIC, now: "2026-11-30T23:54:57Z", ..Setting::default() });
    let collector = world.collector("source", "readings", &cpu_hours_of_a());
    // A source that takes its time: longer than a submission.
    let file = world.path("readings").display().to_string();
    let collector = collector.replace(&format!("[cat, {file}]"), &format!("[sh, -c, 'cat {file}; sleep 1']"));
    let head = world.head("");
    world
        .write("agent.yaml", &format!("{head}submit: {{ schedule: \"@hourly\" }}\ncollectors:\n{collector}"));
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let looks = || world.agent(&["status", "--json"]).json()["collectors"][0]["last_run"].clone();
    until("the first look", || looks() == "2026-11-30T23:54:57Z");
    world.readings(&[november_job()]);
    world.now("2026-11-30T23:55:00Z");
    until("the report before the end", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
}

/// What calls were measured to take, as the ledger keeps it: their mean and the slowest, in milliseconds.
fn calls_take(world: &World, times: &str) {
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    let put = "INSERT OR REPLACE INTO server (key, value, at) VALUES ('call_time_ms', ?, 0)";
    assert_eq!(ledger.execute(put, [times]).unwrap(), 1);
}

#[test]
fn where_calls_take_their_time_closing_begins_earlier_and_the_guard_is_longer() {
    let world = World::of(Setting { api: CLASSIC, now: "2026-11-30T12:00:00Z", ..Setting::default() });
    let collector = world.collector("source", "readings", &cpu_hours_of_a());
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}submit: {{ schedule: \"@daily\" }}\ncollectors:\n{collector}"));
    world.readings(&[november_job()]);
    world.flush().exits(0);
    // Ten minutes a call, twice, 40 s for a first one, and a guard of five minutes: 25:40 before the end.
    calls_take(&world, "600000 600000");
    world.now("2026-11-30T23:34:17Z");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let looks = || world.agent(&["status", "--json"]).json()["collectors"][0]["last_run"].clone();
    until("the first look", || looks() == "2026-11-30T23:34:17Z");
    world.readings(&[november_job(), late_job()]);
    world.now("2026-11-30T23:34:20Z");
    until("the closing pass", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    drop(daemon);
    // In the last five minutes nothing is sent to a server that may take as long.
    calls_take(&world, "600000 600000");
    let another = job("cpu_seconds", "another", "2026-11-22T00:00:00Z", "2026-11-22T01:00:00Z", "3600", &[]);
    world.readings(&[november_job(), late_job(), another]);
    world.now("2026-11-30T23:55:10Z");
    world.flush_once().exits(75);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
}

#[test]
fn status_and_metrics_tell_how_far_a_month_has_come_and_what_is_stranded_beside_it() {
    let world = World::of(Setting { api: CLASSIC, now: "2026-11-30T12:00:00Z", ..Setting::default() });
    let collector = world.collector("source", "readings", &cpu_hours_of_a());
    let head = world.head("");
    world.write(
        "agent.yaml",
        &format!("{head}listen: 127.0.0.1:0\nsubmit: {{ schedule: \"@daily\" }}\ncollectors:\n{collector}"),
    );
    let november = |state: &str| {
        let status = world.agent(&["status", "--period", "2026-11", "--json"]).json();
        assert_eq!(status["statements"][0]["period_state"], state, "{status:#}");
        status["statements"][0].clone()
    };
    world.readings(&[november_job()]);
    world.flush().exits(0);
    november("open");
    world.now("2026-11-30T23:56:00Z");
    assert_eq!(november("agreed")["closed"], Value::Null);
    world.readings(&[november_job(), late_job()]);
    world.agent(&["collect"]).exits(0);
    november("closing");
    // Nobody flushes before the month is over.
    world.now("2026-12-01T00:00:30Z");
    world.flush().exits(65).says("stranded");
    let closed = november("closed");
    assert_eq!(closed["closed"], "2026-12-01T00:00:30Z");
    assert_eq!(closed["components"][0]["stranded"], "1.00");
    let shown = world.agent(&["status", "--all", "--period", "2026-11"]);
    shown.says("2026-11 closed").says("1.00 of 2026-11 was not reported before it ended");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Health and metrics at http://");
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    for line in [
        "waldur_usage_agent_periods{state=\"open\"} 0",
        "waldur_usage_agent_periods{state=\"closing\"} 0",
        "waldur_usage_agent_periods{state=\"agreed\"} 0",
        "waldur_usage_agent_periods{state=\"closed\"} 1",
        "waldur_usage_agent_stranded{component=\"cpu_hours\"} 1.0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// 200 resources with 3 components of 10 users each.
#[test]
fn two_hundred_resources_cost_no_more_requests_than_they_must() {
    let mut places = String::new();
    for index in 0..198 {
        places += &format!("  - {{ name: P{index}, backend_id: p{index}, offering: Cluster }}\n");
    }
    let world = World::of(Setting { marketplace: marketplace() + &places, ..Setting::default() });
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    user: \"{{user}}\"\n    meters:\n      \
         cpu_hours: {{ reading: a }}\n      gpu_hours: {{ reading: b }}\n      ram_gb_hours: {{ reading: c }}\n"
    ));
    let mut lines = Vec::new();
    let ids =
        (0..198).map(|index| format!("p{index}")).chain(["project-a".to_owned(), "project-b".to_owned()]);
    for account in ids {
        for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            for user in 0..10 {
                let (id, user) = (format!("{account} {user}"), format!("u{user}"));
                let (start, end) = ("2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z");
                lines.push(job(name, &id, start, end, value, &[("account", &account), ("user", &user)]));
            }
        }
    }
    world.readings(&lines);
    world.agent(&["flush", "--collect", "--deadline", "5m"]).exits(0).says("Sent 6,600 amounts of ");
    let cold = world.requests_since(0).len();
    // 200 reports, 600 bulk calls, 200 looks at plan periods, and 10 to find everything; and what is read before and after:
    // 600 rows and 6,000 shares, 300 on a page.
    assert!(cold <= 1_010 + 6 + 20, "{cold}");
    assert_eq!(
        world.rows("p7"),
        ["cpu_hours 2026-11 10.00", "gpu_hours 2026-11 20.00", "ram_gb_hours 2026-11 30.00"]
    );
    assert_eq!(world.shares("p197").len(), 30);
    let mark = world.mark();
    world.flush().exits(0).says("Nothing was sent.");
    let unchanged = world.requests_since(mark).len();
    assert!(unchanged <= 2, "{unchanged}");
}
