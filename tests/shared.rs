//! The ledger in PostgreSQL, from outside: the same answers, what is said when the database can't be used, two agents at
//! one ledger, and a server that is killed. Moves: shared_moves.rs; what roles may do: shared_rights.rs. Each test has a server of its own, on a
//! socket; tests/with-postgres runs all other suites over this engine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use std::path::Path;
use std::time::Instant;

use agent::*;
use hosts::*;
use jiff::Timestamp;
use serde_json::json;
use server::{Pooler, Server};
use waldur_usage_agent::config::clock::process_clock;
use waldur_usage_agent::config::place::Place;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading, Span};

#[test]
fn a_ledger_in_a_database_answers_as_one_in_a_file_does() {
    let Some(server) = Server::start("a ledger in a database", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["collect"]).exits(78).says("ledger init");
    world.agent(&["ledger", "init"]).exits(0).says("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;");
    // Once more changes nothing.
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400"), hours("2", "1800")]);
    world.flush().exits(0).says("Sent 1 amount of 1 resource.");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.flush().exits(0);
    assert_eq!(world.reports(), ["cpu_hours=2.00", "cpu_hours=2.50"]);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("2.50");
    world.agent(&["check"]).exits(0).says("usage: whole");
    world.agent(&["recount"]).exits(0).says("The ledger agrees with its readings.");
    assert_eq!(world.agent(&["status", "--json"]).exits(0).json()["ledger"], server.url("bill", "usage"));
}

#[test]
fn what_is_wrong_with_the_database_is_said_with_the_servers_code_and_what_to_do() {
    let Some(server) = Server::start("what is wrong with the database", &["-c", "max_connections=8"]) else {
        return;
    };
    let world = world(&server.url("bill", "usage"));
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let with = |ledger: &str| {
        world.write("agent.yaml", &configured.replace(&server.url("bill", "usage"), ledger));
        world.agent(&["collect"])
    };
    with(&server.url("bill", "nemo")).exits(78).says("SQLSTATE 28000").says("pg_hba.conf");
    with(&server.url("gone", "usage")).exits(78).says("SQLSTATE 3D000").says("createdb -O ROLE DATABASE");
    with("postgresql:///bill?host=/nowhere&user=usage").exits(75).says("can't be reached");
    with("postgresql://usage:hunter2@db.example.com/bill")
        .exits(78)
        .says("`ledger_password_file`")
        .says_not("hunter2");
    with(&server.url("bill", "usage")).exits(78).says("ledger init");
    world.agent(&["ledger", "init"]).exits(0);
    server.sql("bill", "ALTER ROLE usage SET default_transaction_read_only = on");
    world.agent(&["collect"]).exits(75).says("SQLSTATE 25006").says("nothing was lost");
    server.sql("bill", "ALTER ROLE usage RESET default_transaction_read_only");
    let others: Vec<_> = (0..5).map(|_| server.connect("bill")).collect();
    world.agent(&["collect"]).exits(75).says("SQLSTATE 53300").says("max_connections");
    drop(others);
    // Of somebody's own, in the tables' place.
    server.sql("bill", "UPDATE ledger_version SET version = 99");
    world.agent(&["collect"]).exits(78).says("was written by a newer waldur-usage-agent (format 99");
}

#[test]
fn a_password_is_read_where_it_is_kept_and_shown_nowhere() {
    let Some(server) = Server::start("a password", &[]) else { return };
    server.sql("bill", "ALTER ROLE usage PASSWORD 'hunter2'");
    server.demand_passwords_of("usage");
    let world = world(&server.url("bill", "usage"));
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world
        .agent(&["ledger", "init"])
        .exits(78)
        .says("the server asks for a password")
        .says("`ledger_password_file`");
    world.write("password", "hunter3\n");
    let file = format!("ledger_password_file: {}\n", world.path("password").display());
    world.write("agent.yaml", &format!("{configured}{file}"));
    world.agent(&["ledger", "init"]).exits(78).says("SQLSTATE 28P01").says_not("hunter3");
    world.write("password", "hunter2\n");
    world.agent(&["ledger", "init"]).exits(0).says_not("hunter2");
    let mut command = world.command(&["--log", "trace", "collect"]);
    Done::from(command.output().unwrap()).exits(0).says_not("hunter2");
}

#[test]
fn over_the_network_the_server_is_verified() {
    let Some(mut server) = Server::start("a server over TLS", &[]) else { return };
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client_tls").join(name);
    let port = server.serve_tls(&file("server.pem"), &file("server.key"));
    let verified = format!("postgresql://usage@localhost:{port}/bill?sslmode=verify-full");
    let trusting = |name: &str| format!("{verified}&sslrootcert={}", file(name).display());
    let init = |ledger: &str| world(ledger).agent(&["ledger", "init"]);
    init(&trusting("ca.pem")).exits(0).says("is made");
    // The certificate is another authority's, or names another host; nothing goes on without.
    init(&trusting("other.pem")).exits(75).says("invalid peer certificate");
    init(&verified).exits(75).says("invalid peer certificate");
    init(&trusting("nowhere.pem")).exits(78).says("nowhere.pem");
    // A server that speaks in the open only is not believed to be the one that was meant.
    let open = format!("postgresql://usage@127.0.0.1:{port}/bill?sslmode=disable");
    init(&open).exits(0);
    server.serve_no_tls();
    init(&trusting("ca.pem")).exits(75).says("server does not support TLS");
    init(&open).exits(0);
}

#[test]
fn every_host_collects_with_a_role_that_may_append_and_one_submits() {
    let Some(mut server) = Server::start("every host collects", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    // The same ids on two hosts are two readings.
    world.readings(&[hours("1", "3600")]);
    world.write("hv2.readings", &format!("{}\n", hours("1", "1800")));
    agent_of(&world, "hv2.yaml", &["check"]).exits(0).says("agent hv2: appends to the ledger");
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0).says("1 reading");
    // What one host may not do.
    agent_of(&world, "hv2.yaml", &["flush"]).exits(78).says("this agent only collects");
    agent_of(&world, "hv2.yaml", &["recount"]).exits(78).says("the role `hv2` may not do that");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
    let submits = world.daemon(&[], &[]);
    let host = daemon_of(&world, "hv3.yaml");
    submits.until_it_says("At work: ");
    host.until_it_says("Ready: 1 collector");
    world.write("hv3.readings", &format!("{}\n", hours("7", "7200")));
    world.in_time("what the third has", || world.rows(A) == ["cpu_hours 2026-11 3.50"]);
    // While the database is away, hosts go on; what they have seen is sent when it is there again.
    server.kill();
    world.write("hv3.readings", &format!("{}\n{}\n", hours("7", "7200"), hours("8", "3600")));
    world.in_time("the host notices", || host.log().contains("waits on this host"));
    world.write("hv3.readings", "");
    server.restart();
    world.in_time("what the third had", || world.rows(A) == ["cpu_hours 2026-11 4.50"]);
    drop((submits, host));
    until("its turn is over", || world.flush_once().code == 0);
    world.agent(&["recount"]).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.50"]);
}

/// Run by a timer, not as a daemon: a level that was not read while the database was away would never be known.
#[test]
fn what_one_command_measures_while_the_database_is_away_is_kept_and_counted_later() {
    let Some(mut server) = Server::start("commands while the database is away", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    let level = |value: &str| json!({ "name": "cpu_seconds", "kind": "gauge", "value": value });
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let meter = "cpu_hours: { reading: cpu_seconds, factor: 1/3600";
    assert!(text.contains(meter), "{text}");
    let integral = "cpu_hours: { reading: cpu_seconds, aggregate: integral, max_gap: 2h, factor: 1";
    world.write("agent.yaml", &text.replace(meter, integral));
    for (now, away, command, value) in [
        ("12:00", false, "flush", "2"),
        ("13:00", true, "flush", "4"),
        ("14:00", true, "collect", "8"),
        ("15:00", false, "flush", "16"),
    ] {
        world.now(&format!("2026-11-10T{now}:00Z"));
        world.readings(&[level(value)]);
        match now {
            "13:00" => server.kill(),
            "15:00" => server.restart(),
            _ => {}
        }
        let done = if command == "flush" { world.flush() } else { world.agent(&[command]) };
        done.exits(if away { 75 } else { 0 });
    }
    // 2 for an hour, 4 for another, 8 for the third.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 14.00"]);
}

/// What one collector can't send now keeps no other from being read.
#[test]
fn all_collectors_of_a_host_are_measured_while_the_database_is_away() {
    let Some(mut server) = Server::start("all collectors while the database is away", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    for name in ["agent.yaml", "hv2.yaml"] {
        let other = world.collector("other", "other.readings", &cpu_hours_of_a());
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        world.write(name, &(text + &other));
    }
    write_readings(&world, "hv2", &[hours("1", "3600")]);
    write_readings(&world, "other", &[hours("2", "1800")]);
    server.kill();
    agent_of(&world, "hv2.yaml", &["collect"]).exits(75).tells(&["source (exec)", "other (exec)"]);
    // What they read then is nowhere else.
    write_readings(&world, "hv2", &[]);
    write_readings(&world, "other", &[]);
    server.restart();
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

/// Nothing would be reported, and nobody would say so.
#[test]
fn an_agent_in_shadow_never_takes_the_turn_of_those_that_report() {
    let Some(server) = Server::start("an agent in shadow", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    configure(&world, "trial.yaml", "hv2", "hv2.readings", &server.url("bill", "usage"));
    let text = std::fs::read_to_string(world.path("trial.yaml")).unwrap();
    world.write("trial.yaml", &text.replace("every 1s }\n", "every 1s, report: shadow }\n"));
    world.write("hv2.readings", "");
    // Alone it only compares.
    let trial = daemon_of(&world, "trial.yaml");
    trial.until_it_says("At work: ");
    world.readings(&[hours("1", "3600")]);
    // The one that reports takes its place.
    let live = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    trial.until_it_says("one with `report: shadow` would stop them");
    drop(live);
    // While that one is away, too.
    agent_of(&world, "trial.yaml", &["flush"]).exits(78).says("report: shadow");
    agent_of(&world, "trial.yaml", &["check"]).exits(78).says("report: shadow");
    assert_eq!(trial.log().matches("At work: ").count(), 1, "{}", trial.log());
    world.readings(&[hours("1", "3600"), hours("2", "21600")]);
    let _live = world.daemon(&[], &[]);
    world.in_time("the next report", || world.rows(A) == ["cpu_hours 2026-11 7.00"]);
}

/// The last holder's time would not be over for as long as the clock was set back.
#[test]
fn a_database_whose_clock_was_set_back_keeps_nobody_from_taking_over() {
    let Some(server) = Server::start("a clock that was set back", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    let mut first = in_mid_call_with_a_second(&server, &world);
    first.kill();
    server.sql("bill", "UPDATE lease SET process = 'there pid:[1] 7 9', until = until + 3600000000");
    let began = Instant::now();
    let second = daemon_of(&world, "second.yaml");
    second.until_it_says("At work: ");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    world.in_time("the report", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
}

/// One host's token, proxy or network is not everybody's.
#[test]
fn an_agent_that_can_not_report_lets_another_try() {
    let Some(server) = Server::start("an agent that can't report", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    let url = server.url("bill", "usage");
    configure(&world, "refused.yaml", "hv2", "hv2.readings", &url);
    world.write("hv2.readings", &format!("{}\n", hours("1", "3600")));
    world.write("refused", "no-such-token");
    let text = std::fs::read_to_string(world.path("refused.yaml")).unwrap();
    let token = text.lines().find(|line| line.contains("token")).unwrap().to_owned();
    let refused = format!("  token_file: {}", world.path("refused").display());
    world.write("refused.yaml", &text.replace(&token, &refused));
    let unable = daemon_of(&world, "refused.yaml");
    world.in_time("the refusal", || unable.log().contains("Reporting is paused"));
    let able = world.daemon(&[], &[]);
    able.until_it_says("Standing by: ");
    world.agent(&["status"]).exits(77).says(&format!("process {} on ", unable.child.id()));
    // Within a minute, and what the other takes to look.
    let began = Instant::now();
    world.in_time("the report of the other", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    assert!((30..120).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    unable.until_it_says("another agent waits");
    unable.until_it_says("Standing by: ");
}

#[test]
fn a_pooler_that_gives_each_transaction_another_connection_is_told() {
    const TEST: &str = "a pooler by the transaction";
    let Some(server) = Server::start(TEST, &[]) else { return };
    for mode in ["transaction", "statement"] {
        let Some(pooler) = Pooler::in_mode(mode, &server, TEST, &["usage"]) else { return };
        let world = world(&pooler.url("usage"));
        // At once, before anything has gone wrong.
        world.agent(&["ledger", "init"]).exits(78).says("pool_mode = session");
        world.agent(&["check"]).exits(78).says("pool_mode = session");
        assert_eq!(
            texts(&server, "SELECT relname::text FROM pg_class WHERE relname = 'ledger_version'"),
            [""; 0]
        );
    }
    let Some(pooler) = Pooler::before(&server, TEST, &["usage"]) else { return };
    let world = world(&pooler.url("usage"));
    world.agent(&["ledger", "init"]).exits(0);
    world.agent(&["check"]).says_not("pool_mode");
    world.agent(&["ledger", "init"]).exits(0);
    // It was put right once, and is wrong again.
    let Some(lending) = Pooler::in_mode("transaction", &server, TEST, &["usage"]) else { return };
    let world = hosts::world(&lending.url("usage"));
    world.agent(&["check"]).exits(78).says("each transaction gets another connection");
}

/// A configuration of two agents that submit, whose collector is `once`.
fn configure_once(world: &World, server: &Server) {
    for (name, agent) in [("agent.yaml", "hv1"), ("second.yaml", "hv2")] {
        configure(world, name, agent, "readings", &server.url("bill", "usage"));
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        world.write(name, &text.replace("    plugin: exec\n", "    plugin: exec\n    once: true\n"));
    }
}

#[test]
fn what_several_agents_can_reach_is_read_by_one_and_by_another_when_that_is_gone() {
    let Some(server) = Server::start("a source of all hosts", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    configure_once(&world, &server);
    world.readings(&[hours("1", "3600")]);
    let mut first = world.daemon(&[], &[]);
    first.until_it_says("Collector source: run by this agent.");
    let second = daemon_of(&world, "second.yaml");
    second.until_it_says("Collector source: run by process");
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    agent_of(&world, "second.yaml", &["collect"]).exits(75).says("the collector source is run by process");
    agent_of(&world, "second.yaml", &["flush", "--collect", "--deadline", "1s"]).says("run by process");
    let died = Instant::now();
    first.kill();
    world.readings(&[hours("1", "3600"), hours("2", "1800")]);
    second.until_it_says("Collector source: run by this agent.");
    assert!(died.elapsed().as_secs() < 10, "{:?}", died.elapsed());
    world.in_time("the report of the other", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    drop(second);
    until("its turn is over", || world.flush_once().code == 0);
    world.agent(&["recount"]).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
    // Neither host has measured it: they are no agents of it.
    let counted = server.connect("bill").query("SELECT DISTINCT agent FROM run", &[]).unwrap();
    assert_eq!(counted.iter().map(|row| row.get(0)).collect::<Vec<String>>(), [""]);
}

/// A host that was stopped while it read, and goes on when another has taken over.
#[test]
fn an_older_lock_adds_what_is_not_known_replaces_nothing_and_moves_no_checkpoint() {
    let Some(server) = Server::start("an older lock", &[]) else { return };
    let place = Place::parse(&server.url("bill", "usage")).unwrap();
    Ledger::make(&place).unwrap();
    let open = || Ledger::open(&place, Rulebook { zone: BillingZone::utc(), rules: Vec::new() }).unwrap();
    let run = |at: &str, checkpoint: &str, jobs: &[(&str, i64)]| {
        let at: Timestamp = at.parse().unwrap();
        let reading = |(id, value): &(&str, i64)| Reading {
            id: Some((*id).to_owned()),
            span: Span::Interval {
                start: "2026-11-09T00:00:00Z".parse().unwrap(),
                end: "2026-11-09T02:00:00Z".parse().unwrap(),
            },
            ..Reading::new("cpu_seconds", Kind::Delta, (*value).into(), at)
        };
        let outcome = RunOutcome::Seen(Seen {
            readings: jobs.iter().map(reading).collect(),
            checkpoint: Some(checkpoint.to_owned()),
            ..Seen::default()
        });
        Run { collector: "source".to_owned(), at, finished: at, scope: String::new(), outcome }
    };
    server.sql("bill", "INSERT INTO lease VALUES ('collector source', 'hv1', '', 1, 0)");
    let clock = process_clock();
    let mut older = open().of_collector("source", 1, &clock);
    older.record(run("2026-11-10T10:00:00Z", "ten", &[("1", 3600)])).unwrap();
    server.sql("bill", "UPDATE lease SET holder = 'hv2', number = number + 1");
    let mut newer = open().of_collector("source", 2, &clock);
    newer.record(run("2026-11-10T11:00:00Z", "eleven", &[("1", 5400)])).unwrap();
    older.record(run("2026-11-10T10:30:00Z", "half past ten", &[("1", 3600), ("9", 60)])).unwrap();
    open().count_queued().unwrap();
    assert_eq!(newer.checkpoint("source").unwrap().as_deref(), Some("eleven"));
    let kept = server.connect("bill").query("SELECT id, value FROM reading ORDER BY id", &[]).unwrap();
    let kept: Vec<(String, String)> = kept.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(kept, [("1".to_owned(), "5400".to_owned()), ("9".to_owned(), "60".to_owned())]);
}

#[test]
fn one_source_that_two_hosts_read_is_held_and_told() {
    let Some(server) = Server::start("a source that two hosts read", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    world.readings(&[hours("1", "3600")]);
    world.flush().exits(0);
    world.write("hv2.readings", &format!("{}\n", hours("1", "3600")));
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    world.flush().exits(65).says("once: true");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["status"]).exits(65).says("held");
    world.agent(&["check"]).exits(65).says("`cpu_seconds` of the collector source has come from two hosts");
}

#[test]
fn a_host_that_is_away_is_named_until_it_is_retired_and_its_usage_stays() {
    let Some(server) = Server::start("a host that is away", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv17"]);
    world.agent(&["agents", "list"]).exits(0).says("No host has appended");
    world.write("hv17.readings", &format!("{}\n", hours("1", "3600")));
    world.now("2026-11-10T05:10:00Z");
    agent_of(&world, "hv17.yaml", &["collect"]).exits(0);
    world.now("2026-11-10T05:20:00Z");
    world.flush().exits(0);
    world.agent(&["agents", "list"]).exits(0).says("hv17").says("05:10Z");
    world.now("2026-11-10T05:26:00Z");
    world.flush().exits(0);
    world.agent(&["status"]).exits(69).says("Host hv17: nothing since 05:10Z");
    let listed = world.agent(&["agents", "list", "--json"]).exits(69).json();
    let hv17 = listed["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == "hv17").unwrap();
    assert_eq!((&hv17["away"], &hv17["last_look"]), (&json!(true), &json!("2026-11-10T05:10:00Z")));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("{configured}listen: 127.0.0.1:{port}\n"));
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("At work: ");
    let metric = |line: &str| {
        let page = get(&format!("127.0.0.1:{port}"), "/metrics").1;
        page.lines().any(|of| of == format!("waldur_usage_agent_{line}"))
    };
    until("the host is away", || metric("host_away{agent=\"hv17\"} 1"));
    world.agent(&["agents", "retire", "hv18"]).exits(64).says("there is no agent `hv18`");
    world.agent(&["agents", "retire", "hv17"]).exits(0).says("what it measured stays");
    until("it is missed no more", || !metric("host_away{agent=\"hv17\"} 1"));
    drop(daemon);
    until("its turn is over", || world.flush_once().code == 0);
    world.agent(&["status"]).exits(0).says_not("hv17");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["agents", "list"]).exits(0).says("retired");
    // What fails there is told here.
    world.write("hv17.readings", "no JSON\n");
    agent_of(&world, "hv17.yaml", &["collect"]).exits(69);
    world.flush().exits(0);
    world.agent(&["status"]).exits(69).says("Host hv17: collector source failed");
}

/// What one host sends stops no other's bill.
#[test]
fn a_run_that_can_not_be_read_stops_nobody_else() {
    let Some(server) = Server::start("a run that is no run", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    let mut as_host = server.connect_as("bill", "hv3");
    let head = "{\"collector\":\"source\",\"at\":1794312000000000,\"finished\":1794312000000000,\"outcome\":\"ok\",\
                \"message\":null,\"quarantined\":9223372036854775807,\"lists_everything\":false,\"scope\":\"\",\"withheld\":\"[]\"}";
    let cover = format!("{{\"head\":{head},\"quarantined\":[],\"ends\":[],\"since\":null,\"parts\":0}}");
    for (number, body) in [(1, cover.as_str()), (2, "no JSON")] {
        as_host
            .execute(
                "INSERT INTO inbox (agent, file, number, part, at, body, sent)
                 VALUES ('hv3', 'f', $1, 0, 0, $2, -9223372036854775808)",
                &[&i64::from(number), &body],
            )
            .unwrap();
    }
    world.write("hv2.readings", &format!("{}\n", hours("1", "3600")));
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    world.flush();
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["status"]).exits(69).tells(&["Host hv3", "can't be read"]);
}

#[test]
fn who_is_killed_between_two_steps_of_sending_and_taking_loses_and_doubles_nothing() {
    let Some(server) = Server::start("kills while runs are sent", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let config = world.path("hv2.yaml").display().to_string();
    let mut lines = String::new();
    let steps = [
        ("collect", "before a run is committed"),
        ("collect", "after a run is committed"),
        ("collect", "before a run is sent"),
        ("collect", "after a run is sent"),
        ("flush", "before arrived runs are taken"),
        ("flush", "before a count is committed"),
    ];
    for (number, (command, point)) in steps.iter().enumerate() {
        lines += &format!("{}\n", hours(&number.to_string(), "3600"));
        world.write("hv2.readings", &lines);
        let arguments: &[&str] = match *command {
            "collect" => &["--config", &config, "collect"],
            _ => {
                agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
                &["flush", "--deadline", "1s"]
            }
        };
        let mut killed = world.command(arguments);
        killed.env("WALDUR_USAGE_AGENT_FAIL_POINT", point);
        assert_eq!(Done::from(killed.output().unwrap()).code, 137, "{point}");
        agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
        until("the turn of the killed one is over", || world.agent(&["flush", "--deadline", "1s"]).code == 0);
        assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {}.00", number + 1)], "{point}");
    }
    world.agent(&["recount"]).exits(0);
}

/// What is measured and submitted hourly has a last look of its own before the month's end.
#[test]
fn a_month_closes_with_what_hosts_saw_and_says_whom_it_goes_without() {
    let Some(server) = Server::start("a month's end over hosts", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    for name in ["agent.yaml", "hv2.yaml"] {
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        world.write(name, &text.replace("every 1s", "\"@hourly\""));
    }
    world.now("2026-11-30T23:50:00Z");
    agent_of(&world, "hv3.yaml", &["collect"]).exits(0);
    let submits = world.daemon(&[], &[]);
    submits.until_it_says("At work: ");
    let host = daemon_of(&world, "hv2.yaml");
    let looks = |agent: &str, at: &str| {
        let list = world.agent(&["agents", "list", "--json"]).json();
        let agents = list["agents"].as_array().unwrap().clone();
        agents.iter().any(|one| one["name"] == agent && one["last_look"].as_str() >= Some(at))
    };
    until("both have looked", || {
        looks("hv1", "2026-11-30T23:50:00Z") && looks("hv2", "2026-11-30T23:50:00Z")
    });
    world.now("2026-11-30T23:55:00Z");
    submits.until_it_says("The closing of 2026-11 waits for ");
    let both = |at: &str| looks("hv1", at) && looks("hv2", at);
    until("they have looked", || both("2026-11-30T23:55:00Z"));
    world.now("2026-11-30T23:56:00Z");
    submits.until_it_says(
        "The closing of 2026-11 goes without source of hv3 (nothing since 2026-11-30T23:50:00Z)",
    );
    host.signal("STOP");
    world.write("hv2.readings", &format!("{}\n", hours("1", "3600")));
    world.now("2026-11-30T23:58:00Z");
    until("it waits again", || submits.log().matches("The closing of 2026-11 waits for ").count() == 2);
    host.signal("CONT");
    until("the last look", || looks("hv2", "2026-11-30T23:58:00Z"));
    assert_eq!(world.rows(A), Vec::<String>::new());
    world.now("2026-11-30T23:58:46Z");
    until("what the host saw last", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    assert!(
        !submits.log().contains("source of hv2 (nothing since 2026-11-30T23:55:00Z)")
            || !submits.log().contains("goes without source of hv2"),
        "{}",
        submits.log()
    );
    // What the host that was missed brings later is late usage, as ever.
    drop((submits, host));
    until("its turn is over", || world.flush_once().code != 75);
    world.write("hv3.readings", &format!("{}\n", hours("1", "7200")));
    world.now("2026-12-01T00:20:00Z");
    agent_of(&world, "hv3.yaml", &["collect"]).exits(0);
    world.flush().exits(65);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["status"]).exits(65).says("2.00");
}

/// After a restore, or where a server took over that had lagged.
#[test]
fn what_the_database_has_lost_is_sent_again() {
    let Some(server) = Server::start("a database that is restored", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    world.write("hv2.readings", &format!("{}\n", hours("1", "3600")));
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    server.sql("postgres", "CREATE DATABASE copy TEMPLATE bill");
    world.write("hv2.readings", &format!("{}\n{}\n", hours("1", "3600"), hours("2", "7200")));
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    server.sql("postgres", "DROP DATABASE bill");
    server.sql("postgres", "ALTER DATABASE copy RENAME TO bill");
    world.write("hv2.readings", "");
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    // Read back, found to be what the readings make.
    world.flush();
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("3.00");
    world.agent(&["recount"]).exits(0);
}

/// The totals are not answered, and not even begun with, until the faults are cleared.
fn hold_totals(world: &World) {
    world.fault(json!({ "match": { "path": "set_usage/" }, "when": "before", "action": "hang", "times": 1 }));
}

fn waits_for_an_answer(world: &World) -> bool {
    world.posts_since(0).iter().any(|request| request.path.ends_with("/set_usage/") && request.status == 0)
}

/// An agent that waits for the answer to its first total, 1.50; the file of a second one, which measures nothing, is there.
/// The database's clock.
const NOW: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";

fn in_mid_call_with_a_second(server: &Server, world: &World) -> Daemon {
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400")]);
    hold_totals(world);
    let first = world.daemon(&[], &[]);
    world.in_time("a call on its way", || waits_for_an_answer(world));
    configure(world, "second.yaml", "hv2", "none", &server.url("bill", "usage"));
    world.write("none", "");
    first
}

#[test]
fn when_the_agent_that_submits_is_killed_another_goes_on_within_ten_seconds() {
    let Some(server) = Server::start("two agents that submit", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    let mut first = in_mid_call_with_a_second(&server, &world);
    let second = daemon_of(&world, "second.yaml");
    let pid = first.child.id();
    second.until_it_says("Standing by: ");
    assert!(second.log().contains(&format!("process {pid} on ")), "{}", second.log());
    // A third hand is told the same.
    world.flush_once().exits(75).says("is submitting for this ledger");
    // As it was on another machine: from here nobody can tell that it is gone.
    server.sql("bill", "UPDATE lease SET process = 'there pid:[1] 7 9'");
    first.kill();
    let died = server.number("bill", NOW);
    second.until_it_says("At work: ");
    // By the database's clock, which is a turn's number: what the report takes on this machine is another matter.
    let began = server.number("bill", "SELECT number FROM lease WHERE name = 'agent'");
    assert!(began - died < 10_000_000, "{} us", began - died);
    world.in_time("the report of the other", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    drop(second);
    until("its turn is over", || world.flush_once().code == 0);
    assert_eq!(world.reports(), ["cpu_hours=1.50"]);
    world.agent(&["recount"]).exits(0);
}

/// The turn is a row, no lock of a connection's: one that the pooler keeps open holds nothing.
#[test]
fn behind_a_pooler_one_agent_follows_another_within_ten_seconds() {
    const TEST: &str = "behind a pooler";
    let Some(server) = Server::start(TEST, &[]) else { return };
    let Some(pooler) = Pooler::before(&server, TEST, &["usage"]) else { return };
    let world = world(&pooler.url("usage"));
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400")]);
    let mut first = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    configure(&world, "second.yaml", "hv2", "hv2.readings", &pooler.url("usage"));
    world.write("hv2.readings", &format!("{}\n", hours("2", "3600")));
    let second = daemon_of(&world, "second.yaml");
    second.until_it_says("Standing by: ");
    server.sql("bill", "UPDATE lease SET process = 'there pid:[1] 7 9'");
    first.kill();
    let died = server.number("bill", NOW);
    second.until_it_says("At work: ");
    let began = server.number("bill", "SELECT number FROM lease WHERE name = 'agent'");
    assert!(began - died < 10_000_000, "{} us", began - died);
    world.in_time("the report of the other", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    drop(second);
    until("its turn is over", || world.flush_once().code == 0);
    world.agent(&["recount"]).exits(0);
    assert_eq!(world.reports(), ["cpu_hours=1.50", "cpu_hours=2.50"]);
}

#[test]
fn an_agent_that_is_started_again_where_it_was_killed_is_at_work_at_once() {
    let Some(server) = Server::start("an agent that is started again", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    let mut first = in_mid_call_with_a_second(&server, &world);
    first.kill();
    let again = daemon_of(&world, "second.yaml");
    again.until_it_says("At work: ");
    world.in_time("the report", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    for waits in ["Standing by", "is submitting for this ledger"] {
        assert!(!again.log().contains(waits), "{}", again.log());
    }
    drop(again);
    // And so is a command.
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.flush_once().exits(0);
    assert_eq!(world.reports(), ["cpu_hours=1.50", "cpu_hours=2.50"]);
}

#[test]
fn an_agent_that_was_stopped_stands_by_for_the_one_that_took_its_place_and_goes_on_after_it() {
    let Some(server) = Server::start("an agent that is followed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400")]);
    let first = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    configure(&world, "second.yaml", "hv2", "hv2.readings", &server.url("bill", "usage"));
    world.write("hv2.readings", "");
    let mut second = daemon_of(&world, "second.yaml");
    second.until_it_says("Standing by: ");
    first.signal("STOP");
    second.until_it_says("At work: ");
    world.write("hv2.readings", &format!("{}\n", hours("2", "3600")));
    world.in_time("the report of the second", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    first.signal("CONT");
    world.in_time("the first sees it", || first.log().contains("Standing by: "));
    second.kill();
    world.readings(&[hours("1", "5400"), hours("3", "3600")]);
    world.in_time("the first again", || world.rows(A) == ["cpu_hours 2026-11 3.50"]);
    drop(first);
    until("its turn is over", || world.flush_once().code == 0);
    assert_eq!(world.reports(), ["cpu_hours=1.50", "cpu_hours=2.50", "cpu_hours=3.50"]);
    world.agent(&["recount"]).exits(0);
}

/// Stopped after its check, woken when another has reported: its old call lands late, and is put right.
#[test]
fn an_agent_that_was_stopped_finds_that_its_turn_is_over() {
    let Some(server) = Server::start("an agent that is stopped", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400")]);
    hold_totals(&world);
    let daemon = world.daemon(&[], &[]);
    world.in_time("a call on its way", || waits_for_an_answer(&world));
    daemon.signal("STOP");
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    until("the other may", || world.flush_once().code == 0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    world.no_faults();
    until("the old number lands", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    daemon.signal("CONT");
    daemon.until_it_says("another process has taken over submitting for this ledger");
    world.in_time("the newer number again", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    drop(daemon);
    world.agent(&["recount"]).exits(0);
}

/// Stopped after its check, its call lands when another is at work: that one knows it for what it is.
#[test]
fn a_call_of_an_older_turn_that_arrives_after_the_takeover_is_put_right_by_who_took_over() {
    let Some(server) = Server::start("a call of an older turn", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    let first = in_mid_call_with_a_second(&server, &world);
    first.signal("STOP");
    let second = daemon_of(&world, "second.yaml");
    second.until_it_says("At work: ");
    world.write("none", &format!("{}\n", hours("2", "3600")));
    world.in_time("the report of the second", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    let before = world.reports().len();
    world.no_faults();
    until("the old number lands", || world.reports().len() > before);
    world.in_time("the newer number again", || world.reports().len() == before + 2);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    world.agent(&["status"]).exits(0).says_not("held");
    assert!(!second.log().contains("another writer"), "{}", second.log());
    drop((first, second));
    until("its turn is over", || world.flush_once().code == 0);
    assert_eq!(world.reports().len(), before + 2);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_server_that_is_killed_and_comes_back_loses_and_doubles_nothing() {
    let Some(mut server) = Server::start("a server that is killed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    let mut lines = vec![hours("0", "3600")];
    world.readings(&lines);
    let daemon = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    for round in 1..=4 {
        match round {
            // In order, as an administrator does: whoever is connected is sent away.
            4 => server.stop(),
            _ => server.kill(),
        }
        lines.push(hours(&round.to_string(), "3600"));
        world.readings(&lines);
        world.agent(&["status"]).exits(75).says("can't be reached");
        server.restart();
        let wanted = format!("cpu_hours 2026-11 {}.00", round + 1);
        world.in_time(&wanted, || world.rows(A) == [wanted.as_str()]);
    }
    // Whether it was at work there when the server was killed, or asked it while it was away.
    let told = ["can't be used now", "can't be reached"];
    assert!(told.iter().any(|words| daemon.log().contains(words)), "{}", daemon.log());
    drop(daemon);
    until("its turn is over", || world.flush_once().code == 0);
    world.agent(&["recount"]).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00"]);
    let reports = world.reports();
    assert_eq!(
        reports,
        ["cpu_hours=1.00", "cpu_hours=2.00", "cpu_hours=3.00", "cpu_hours=4.00", "cpu_hours=5.00"]
    );
}

/// What every host can reach would be counted by each.
#[test]
fn a_source_that_every_host_reaches_wants_it_said_who_reads_it() {
    let world = World::new(CURRENT);
    let text = "agent: hv2\nledger: postgresql://hv2@127.0.0.1/bill\nqueue: { file: /nowhere/queue.db }\ncollectors:\n  jobs:\n    \
                plugin: slurm\n    schedule: \"@hourly\"\nONCE    resource: 5e2f0000-0000-4000-8000-000000000001\n    meters:\n      \
                cpu: { reading: cpu_seconds, factor: 1/3600 }\n";
    world.write("said.yaml", &text.replace("ONCE", ""));
    let done = agent_of(&world, "said.yaml", &["check", "--offline"]).exits(78);
    done.says(
        "collectors.jobs.once: is missing: several hosts of a shared ledger can reach what `slurm` reads",
    );
    for once in ["true", "false"] {
        world.write("said.yaml", &text.replace("ONCE", &format!("    once: {once}\n")));
        agent_of(&world, "said.yaml", &["check", "--offline"]).says_not("several hosts");
    }
}
