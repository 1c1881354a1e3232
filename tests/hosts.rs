//! Hosts of a shared ledger that are not as they should be: a clock that is off, a look that is missing, a name that two have, a
//! source that two read, runs that were lost. What is used is billed once and in its month, or waits, and is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use std::sync::Arc;

use agent::*;
use hosts::*;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use server::Server;
use waldur_usage_agent::collectors::spool::Spool;
use waldur_usage_agent::config::clock::{Clock, SharedClock, Steady, process_clock};
use waldur_usage_agent::config::place::Place;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::period::BillingZone;

/// What `hv2` reads by a clock of its own, on a machine that has been up for so many seconds.
fn collect_by_its_clock(world: &World, clock: &str, up: u32, value: &str) -> Done {
    world.write("hv2.clock", clock);
    world.write("hv2.up", &up.to_string());
    write_readings(world, "hv2", &[counter_now(value)]);
    let config = world.path("hv2.yaml").display().to_string();
    let mut command = world.command(&["--config", &config, "collect"]);
    command.env("WALDUR_USAGE_AGENT_CLOCK_FILE", world.path("hv2.clock"));
    command.output().unwrap().into()
}

/// To a clock of years later all would be old.
#[test]
fn what_a_host_has_sent_is_kept_while_its_clock_is_wrong() {
    let Some(server) = Server::start("what was sent by a wrong clock", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let kept = || {
        let queue = rusqlite::Connection::open(world.path("hv2.queue.db")).unwrap();
        let kept =
            queue.query_row("SELECT min(id), count(*) FROM run", [], |row| Ok((row.get(0)?, row.get(1)?)));
        let kept: (i64, i64) = kept.unwrap();
        kept
    };
    collect_by_its_clock(&world, "2020-01-01T00:00:00Z", 0, "0").exits(0);
    collect_by_its_clock(&world, "2090-01-01T00:00:00Z", 60, "3600").exits(0);
    assert_eq!(kept(), (1, 2));
    collect_by_its_clock(&world, &process_clock().now().to_string(), 120, "7200").exits(0);
    assert_eq!(kept(), (2, 2), "the first is older than 7 days");
}

/// As of several series of one host: what each had at its highest, or last, adds up.
#[test]
fn levels_that_hosts_read_of_one_resource_add_up() {
    for (aggregate, wanted) in [("max", "12.00"), ("last", "6.00"), ("integral, max_gap: 2h", "19.00")] {
        let Some(server) = Server::start("levels of several hosts", &[]) else { return };
        let world = world(&server.url("bill", "usage"));
        hosts(&server, &world, &["hv2", "hv3"]);
        let meter = "cpu_hours: { reading: cpu_seconds, factor: 1/3600";
        for name in ["agent.yaml", "hv2.yaml", "hv3.yaml"] {
            let text = std::fs::read_to_string(world.path(name)).unwrap();
            assert!(text.contains(meter), "{text}");
            let level = format!("cpu_hours: {{ reading: cpu_seconds, aggregate: {aggregate}, factor: 1");
            world.write(name, &text.replace(meter, &level));
        }
        for (now, hv2, hv3) in [("12:00", "3", "8"), ("13:00", "4", "4"), ("14:00", "1", "5")] {
            let level = |value: &str| json!({ "name": "cpu_seconds", "kind": "gauge", "value": value });
            let now = format!("2026-11-10T{now}:00Z");
            collect_at(&world, "hv2", &now, &[level(hv2)]).exits(0);
            collect_at(&world, "hv3", &now, &[level(hv3)]).exits(0);
        }
        world.flush().exits(0);
        // 4 + 8; 1 + 5; (3 + 4) + (8 + 4) hours.
        assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {wanted}")], "{aggregate}");
    }
}

/// The database was away meanwhile, and the clock is right when it is back.
#[test]
fn a_run_is_judged_by_how_far_its_hosts_clock_was_off_when_it_was_made() {
    let Some(mut server) = Server::start("a clock that was mended", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    world.now("2026-11-30T23:50:00Z");
    world.readings(&[counter_now("0")]);
    world.flush().exits(0);
    collect_by_its_clock(&world, "2026-11-30T23:56:00Z", 0, "0").exits(0);
    server.kill();
    // A second later somebody sets it seven minutes ahead, and back again before the database is there.
    collect_by_its_clock(&world, "2026-12-01T00:03:00Z", 1, "3600").exits(75);
    server.restart();
    collect_by_its_clock(&world, "2026-11-30T23:57:30Z", 60, "5400").exits(0);
    world.now("2026-11-30T23:57:00Z");
    until("its turn is over", || world.flush_once().code == 0);
    let held = texts(&server, "SELECT reason FROM quarantine WHERE agent = 'hv2'");
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(
        held[0].starts_with("hv2's clock says 2026-12-01T00:03:00Z, the server's 2026-11-30T23:5"),
        "{held:?}"
    );
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

#[test]
fn the_months_end_waits_for_each_collector_of_a_host_not_for_its_quickest() {
    let Some(server) = Server::start("a month's end over collectors", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    for name in ["agent.yaml", "hv2.yaml"] {
        let text = std::fs::read_to_string(world.path(name)).unwrap().replace("every 1s", "\"@hourly\"");
        let slow = world.collector("slow", "slow.readings", &cpu_hours_of_a());
        let slow = match name {
            "agent.yaml" => slow.replace("    plugin: exec\n", "    plugin: exec\n    elsewhere: true\n"),
            _ => slow,
        };
        world.write(name, &(text + &slow));
    }
    world.write("slow.readings", "");
    world.now("2026-11-30T23:50:00Z");
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    let submits = world.daemon(&[], &[]);
    submits.until_it_says("At work: ");
    world.now("2026-11-30T23:55:00Z");
    agent_of(&world, "hv2.yaml", &["collect", "source"]).exits(0);
    submits.until_it_says("The closing of 2026-11 waits for ");
    world.now("2026-11-30T23:56:00Z");
    submits.until_it_says(
        "The closing of 2026-11 goes without slow of hv2 (nothing since 2026-11-30T23:50:00Z): ",
    );
}

#[test]
fn a_counter_that_two_hosts_read_of_one_source_is_told() {
    let Some(server) = Server::start("a counter that two hosts read", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3", "hv4"]);
    for (minute, value) in [(0, "3600"), (5, "5400"), (10, "7200")] {
        for host in ["hv2", "hv3"] {
            collect_at(&world, host, &format!("2026-11-10T11:{minute:02}:00Z"), &[counter_now(value)])
                .exits(0);
        }
        // Another machine, which does the same sort of work.
        let other = counter_now(&format!("1{value}"));
        collect_at(&world, "hv4", &format!("2026-11-10T11:{minute:02}:00Z"), &[other]).exits(0);
    }
    world.flush().exits(0);
    let told = "the collector source reads the same `cpu_seconds` on hv2 and on hv3";
    world.agent(&["check"]).says(told).says_not("hv4 ");
    world.now("2026-11-10T12:00:00Z");
    let daemon = world.daemon(&[], &[]);
    world.in_time("it is told", || daemon.log().contains(told));
    assert_eq!(daemon.log().matches(told).count(), 1, "{}", daemon.log());
}

#[test]
fn rules_of_a_host_that_are_not_those_that_count_are_told() {
    let Some(server) = Server::start("a host's own rules", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3", "hv4"]);
    let change = |host: &str, from: &str, to: &str| {
        let name = format!("{host}.yaml");
        let text = std::fs::read_to_string(world.path(&name)).unwrap();
        world.write(&name, &text.replace(from, to));
    };
    change("hv3", "factor: 1/3600", "factor: 1/60");
    change("hv4", "  source:\n", "  another:\n");
    for host in ["hv2", "hv3", "hv4"] {
        collect_at(&world, host, NOON, &[hours(host, "3600")]).exits(0);
    }
    world.flush();
    // Of the first two: by this agent's rules.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
    world.agent(&["check"]).tells(&[
        "collector source: the file of hv3 has other rules",
        "collector another of hv4 counts nothing: this file does not know it",
    ]);
    change("hv3", "factor: 1/60", "factor: 1/3600");
    collect_at(&world, "hv3", "2026-11-10T12:05:00Z", &[hours("hv3", "3600")]).exits(0);
    world.flush();
    world.agent(&["check"]).says_not("the file of hv3");
    // A host that is gone is told of no more; one that was installed anew under its name is.
    world.agent(&["agents", "retire", "hv4"]).exits(0);
    world.agent(&["check"]).says_not("of hv4");
    change("hv4", "hv4.queue.db", "anew.queue.db");
    collect_at(&world, "hv4", "2026-11-10T12:10:00Z", &[hours("hv4", "3600")]).exits(0);
    world.flush();
    world.agent(&["check"]).says("collector another of hv4 counts nothing");
}

/// What was counted from the file must not be read, and counted, again as nobody's.
#[test]
fn what_is_run_once_for_all_stays_nobodys_when_a_file_moves_into_a_database() {
    let Some(server) = Server::start("moving what is run once", &[]) else { return };
    let database = server.url("bill", "usage");
    let (world, configured, file) = world_before_the_move(&database);
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    world
        .write("agent.yaml", &configured.replace("    plugin: exec\n", "    plugin: exec\n    once: true\n"));
    world.agent(&["ledger", "copy", &file, &database]).exits(0);
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    for table in ["run", "series", "identity", "collector"] {
        assert_eq!(texts(&server, &format!("SELECT DISTINCT agent FROM {table}")), [""], "{table}");
    }
    // And on the way back.
    let back = world.path("back.db").display().to_string();
    world.agent(&["ledger", "copy", &database, &back]).exits(0);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let with_file = configured.replace(&database, &back).replace("    once: true\n", "");
    world.write("agent.yaml", &with_file);
    let mark = world.mark();
    world.flush().exits(0);
    assert_eq!(world.posts_since(mark).len(), 0, "nothing is counted twice");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
}

#[test]
fn a_host_whose_clock_was_ahead_reads_its_history_again_once_what_it_saw_has_arrived() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::File(folder.path().join("queue.db"));
    let rulebook = Rulebook { zone: BillingZone::utc(), rules: Vec::new() };
    let mut queue = Ledger::open_queue(&place, rulebook, &process_clock()).unwrap();
    let now: Timestamp = "2026-11-10T12:00:00Z".parse().unwrap();
    let mut append = |collector: &str, at: &str| {
        let at: Timestamp = at.parse().unwrap();
        let outcome = RunOutcome::Seen(Seen {
            readings: Vec::new(),
            checkpoint: Some(at.to_string()),
            ..Seen::default()
        });
        let run = Run { collector: collector.to_owned(), at, finished: at, scope: String::new(), outcome };
        queue.append(run, &mut Spool::default()).unwrap()
    };
    append("right", "2026-11-10T11:00:00Z");
    let ahead = append("jobs", "2027-11-10T11:00:00Z");
    // What waits is sent as it is first.
    assert_eq!(queue.forget_future(ahead - 1, now).unwrap(), [""; 0]);
    assert_eq!(queue.forget_future(ahead, now).unwrap(), ["jobs"]);
    assert_eq!(queue.checkpoint("jobs").unwrap(), None);
    assert_eq!(queue.checkpoint("right").unwrap().as_deref(), Some("2026-11-10T11:00:00Z"));
    assert_eq!(queue.forget_future(ahead, now).unwrap(), [""; 0], "once");
}

/// What no check foresees (a row that the database does not take) is that run's fault alone.
#[test]
fn a_run_that_can_not_be_recorded_stops_nobody_else_and_is_told() {
    let Some(server) = Server::start("a run that can't be recorded", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    let long = json!({ "a": "x".repeat(3000) }).to_string();
    let at = 1_794_312_000_000_000_i64;
    send_as(&server, "hv2", ("f", 1), json!({ "ends": [["g", long, at]] }));
    send_as(&server, "hv2", ("f", 2), json!({ "message": "too long" }));
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'too long' \
                  USING ERRCODE = '54000'; END $$";
    let on = "CREATE TRIGGER refuse BEFORE INSERT ON run FOR EACH ROW WHEN (NEW.message = 'too long')";
    server.sql("bill", &format!("{refuse}; {on} EXECUTE FUNCTION refuse()"));
    collect_at(&world, "hv3", NOON, &[hours("1", "3600")]).exits(0);
    world.flush();
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    let told =
        texts(&server, "SELECT words FROM event WHERE words LIKE 'run % of the host hv2 %' ORDER BY words");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("an end: a name, label, unit or id has more than 500 bytes"), "{told:?}");
    assert!(told[1].starts_with("run 2 of the host hv2 can't be read"), "{told:?}");
    world.agent(&["status"]).exits(69).says("Host hv2");
}

#[test]
fn a_ledger_does_not_move_into_a_file_before_all_that_hosts_have_sent_is_counted() {
    let Some(server) = Server::start("moving with an inbox", &[]) else { return };
    let database = server.url("bill", "usage");
    let world = world(&database);
    hosts(&server, &world, &["hv2"]);
    collect_at(&world, "hv2", NOON, &[hours("1", "3600")]).exits(0);
    let file = world.path("file.db").display().to_string();
    let copy = || world.agent(&["ledger", "copy", &database, &file]);
    copy().exits(75).says("1 runs that hosts have sent").says("`flush` there");
    world.flush().exits(0);
    copy().exits(0);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &configured.replace(&database, &file));
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("1.00");
}

#[test]
fn parts_of_a_run_whose_beginning_never_came_are_swept_after_seven_days() {
    let Some(server) = Server::start("parts without a beginning", &[]) else { return };
    let place = Place::parse(&server.url("bill", "usage")).unwrap();
    Ledger::make(&place).unwrap();
    for (number, days) in [(1, 8), (2, 6)] {
        server.sql(
            "bill",
            &format!(
                "INSERT INTO inbox (agent, file, number, part, at, body, sent, arrived) SELECT 'hv2', 'f', {number}, 1, 0, '[]', 0, \
                 CAST(extract(epoch FROM now() - interval '{days} days') * 1000000 AS BIGINT)"
            ),
        );
    }
    let mut ledger = Ledger::open(&place, Rulebook { zone: BillingZone::utc(), rules: Vec::new() }).unwrap();
    ledger.sweep_inbox().unwrap();
    assert_eq!(texts(&server, "SELECT CAST(number AS TEXT) FROM inbox"), ["2"]);
}

#[test]
fn each_role_sees_what_it_may_and_is_told_what_that_is() {
    let Some(server) = Server::start("what each role sees", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    world.readings(&[hours("1", "5400")]);
    collect_at(&world, "hv2", NOON, &[hours("2", "3600")]).exits(0);
    let brief = agent_of(&world, "hv2.yaml", &["status"]).exits(0);
    brief.tells(&["may only append", "nothing waits here", "12:00Z"]).says_not("SQLSTATE");
    let told = agent_of(&world, "hv2.yaml", &["status", "--json"]).exits(0).json();
    assert_eq!((&told["appends_only"], &told["waiting"]), (&json!(true), &json!(0)));
    assert_eq!((&told["daemon"]["running"], &told["last_look"]), (&json!(false), &json!(NOON)));
    let (found, listed) = (agent::fields::fields(&told), agent::fields::documented());
    assert_eq!(found.difference(&listed).collect::<Vec<_>>(), [""; 0]);
    world.flush().exits(0);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("reader.yaml", &configured.replace("user=usage", "user=reader"));
    let reads = |arguments: &[&str]| agent_of(&world, "reader.yaml", arguments);
    reads(&["status", "--all"]).exits(0).says("2.50");
    reads(&["explain", A, "cpu_hours"]).exits(0).says("2.50");
    reads(&["export", "--period", "2026-11"]).exits(0).says("2.50");
    reads(&["diff"]).exits(0).says("equal: 1 resource, 1 amount");
    reads(&["agents", "list"]).exits(0).says("hv2");
    // It counts in a transaction of its own, which it takes back.
    reads(&["recount"]).exits(78).says("the role `reader` may not do that");
}

/// On any host, without a token of Waldur and without a right to write.
#[test]
fn a_role_that_reads_sees_the_page_and_the_status_and_writes_nothing() {
    let Some(server) = Server::start("a page of a reading role", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    collect_at(&world, "hv2", NOON, &[hours("1", "5400")]).exits(0);
    world.flush().exits(0);
    configure_host(&world, "reader", &server.url("bill", "reader"));
    let text = std::fs::read_to_string(world.path("reader.yaml")).unwrap();
    let socket = world.path("page.sock");
    let page = format!("page: {{ listen: \"unix:{}\" }}\n", socket.display());
    let text = text.replace("    plugin: exec\n", "    plugin: exec\n    elsewhere: true\n");
    world.write("reader.yaml", &(page + &text));
    let daemon = daemon_of(&world, "reader.yaml");
    daemon.until_it_says("Ready: ");
    let overview = get_from_socket(&socket, "/");
    assert!(overview.starts_with("HTTP/1.1 200 "), "{overview}");
    for words in ["Usage in 2026-11", "Project A", "1.50", "agreed"] {
        assert!(overview.contains(words), "`{words}` in {overview}");
    }
    let one = get_from_socket(&socket, &format!("/resource/{A}"));
    assert!(one.starts_with("HTTP/1.1 200 ") && one.contains("set_usage"), "{one}");
    agent_of(&world, "reader.yaml", &["status", "--all"]).exits(0).tells(&["Project A", "1.50"]);
    // A run that waits to be counted is no reason to write: it is shown what is stated.
    collect_at(&world, "hv2", "2026-11-10T12:05:00Z", &[hours("1", "5400"), hours("2", "3600")]).exits(0);
    agent_of(&world, "reader.yaml", &["status", "--all"]).says("1.50");
    assert!(get_from_socket(&socket, "/").contains("1.50"));
    assert_eq!(texts(&server, "SELECT agent FROM inbox"), ["hv2"; 2]);
    assert!(!daemon.log().contains("SQLSTATE"), "{}", daemon.log());
}

/// The clock of the agent that counts says nothing of a host's: not as it is, nor as it was.
#[test]
fn a_clock_of_the_counting_agent_that_is_mended_makes_no_hosts_run_doubtful() {
    let Some(server) = Server::start("a counting agent's clock", &[]) else { return };
    let place = Place::parse(&server.url("bill", "usage")).unwrap();
    Ledger::make(&place).unwrap();
    let mut ledger = Ledger::open(&place, Rulebook { zone: BillingZone::utc(), rules: Vec::new() }).unwrap();
    let really = process_clock().now();
    let clock = |ahead: i64, boot: &str| -> SharedClock {
        let now = really + SignedDuration::from_mins(ahead);
        Arc::new(SetClock { now, up: SignedDuration::from_hours(5), boot: boot.to_owned() })
    };
    let waldur = |ledger: &Ledger| -> i64 {
        let (micros, _) = ledger.server_fact("skew_us").unwrap().unwrap();
        (micros.parse::<i64>().unwrap() + 500_000).div_euclid(60_000_000)
    };
    // Seven minutes ahead of Waldur's, which is the database's.
    ledger.measure_database_clock(&clock(7, "a")).unwrap();
    ledger.put_server_fact("skew_us", "-420000000", really).unwrap();
    ledger.measure_database_clock(&clock(7, "a")).unwrap();
    assert_eq!(waldur(&ledger), -7);
    // It is mended, and Waldur not asked yet.
    ledger.measure_database_clock(&clock(0, "a")).unwrap();
    assert_eq!(waldur(&ledger), 0);
    // Another agent takes over, whose clock is three minutes behind.
    ledger.measure_database_clock(&clock(-3, "b")).unwrap();
    assert_eq!(waldur(&ledger), 3);
}

/// A clock that was set, of a machine that has been up for so long.
#[derive(Debug)]
struct SetClock {
    now: Timestamp,
    up: SignedDuration,
    boot: String,
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn steady(&self) -> Option<Steady> {
        Some(Steady { boot: self.boot.clone(), up: self.up })
    }
}

/// What a clock that was ahead has recorded is not lost with the database that had it.
#[test]
fn what_was_recorded_by_a_clock_that_was_ahead_is_sent_again_as_it_was() {
    let Some(server) = Server::start("a clock that was ahead, and a failover", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let now = process_clock().now();
    let ahead = (now + SignedDuration::from_mins(20)).to_string();
    world.write("hv2.clock", &ahead);
    write_readings(&world, "hv2", &[hours("1", "3600")]);
    let config = world.path("hv2.yaml").display().to_string();
    let collect = |clock: &str| {
        world.write("hv2.clock", clock);
        let mut command = world.command(&["--config", &config, "collect"]);
        command.env("WALDUR_USAGE_AGENT_CLOCK_FILE", world.path("hv2.clock"));
        Done::from(command.output().unwrap()).exits(0)
    };
    collect(&ahead);
    write_readings(&world, "hv2", &[]);
    collect(&process_clock().now().to_string()).says("This host's clock was ahead");
    // A server takes over that never had them.
    server.sql("bill", "DELETE FROM inbox; DELETE FROM agent");
    collect(&process_clock().now().to_string()).says_not("This host's clock was ahead");
    let sent = "SELECT count(*)::text || ' ' || max(body::json #>> '{0,2}') FROM inbox
                WHERE number = 1 AND part = 1";
    assert_eq!(texts(&server, sent), ["1 3600"]);
    let outcome = "SELECT body::json #>> '{head,outcome}' FROM inbox WHERE number = 1 AND part = 0";
    assert_eq!(texts(&server, outcome), ["ok"]);
}

/// What one host reads later reaches back into a month that was another's to report there; its neighbour's stays.
#[test]
fn what_reaches_back_before_a_host_was_read_is_not_counted_for_its_neighbours_sake() {
    let Some(server) = Server::start("since when each host is read", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    let late = std::fs::read_to_string(world.path("hv3.yaml")).unwrap();
    world.write("hv3.yaml", &late.replace(&format!("since: {LONG_AGO}"), "since: 2026-11-01T00:00:00Z"));
    let over =
        |id: &str| job("cpu_seconds", id, "2026-10-31T22:00:00Z", "2026-11-01T02:00:00Z", "14400", &[]);
    collect_at(&world, "hv2", NOON, &[over("1")]).exits(0);
    collect_at(&world, "hv3", NOON, &[over("2")]).exits(0);
    world.flush();
    world.agent(&["explain", A, "cpu_hours", "--period", "2026-10"]).says("2.00");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00"]);
}

/// A month is a ledger's to report where somebody looked while it ran: on a host that measured the resource, not on any.
#[test]
fn what_a_new_host_reads_of_a_month_that_is_over_is_not_carried_because_another_host_was_there() {
    let Some(server) = Server::start("since when each host is there", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    for name in ["agent.yaml", "hv2.yaml", "hv3.yaml"] {
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        let by_label = format!("resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}");
        let text = text.replace(&format!("resource: {A}"), &by_label);
        world.write(name, &text.replace("schedule: every 1s }", "schedule: every 1s, late: carry_forward }"));
    }
    let used = |project: &str, id: &str, day: &str| {
        let (start, end) = (format!("{day}T00:00:00Z"), format!("{day}T02:00:00Z"));
        job("cpu_seconds", id, &start, &end, "7200", &[("project", project)])
    };
    collect_at(&world, "hv2", "2026-10-20T12:00:00Z", &[used("project-a", "1", "2026-10-10")]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-10 2.00"]);
    let late = [used("project-a", "1", "2026-10-10"), used("project-a", "2", "2026-10-11")];
    collect_at(&world, "hv2", NOON, &late).exits(0);
    collect_at(
        &world,
        "hv3",
        NOON,
        &[used("project-b", "1", "2026-10-10"), used("project-b", "2", "2026-11-09")],
    )
    .exits(0);
    world.flush();
    // What the first brings late is carried into the month that runs; what the other did in October is not.
    assert_eq!(world.rows(A), ["cpu_hours 2026-10 2.00", "cpu_hours 2026-11 2.00"]);
    assert_eq!(world.rows(B), ["cpu_hours 2026-11 2.00"]);
}

/// Two hosts reach one page of metrics, or one host has two names: the first look says so.
#[test]
fn a_life_that_two_hosts_read_of_one_counter_is_told() {
    let Some(server) = Server::start("a life that two hosts read", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3", "hv4"]);
    let began = |began: &str, value: &str| json!({ "name": "page", "kind": "counter", "value": value, "began": began });
    // A machine's start, and the number of a group in it.
    let epoch = |start: &str, value: &str| {
        let id = format!("0b8c4a2e-7d5f-4c1b-9a3e-{start}/4711");
        json!({ "name": "group", "kind": "counter", "value": value, "epoch": id })
    };
    let hour = |host: &str, minute: u32, lines: &[Value]| {
        collect_at(&world, host, &format!("2026-11-10T11:{minute:02}:00Z"), lines).exits(0);
    };
    hour("hv2", 0, &[began("2026-11-10T08:00:00Z", "5"), epoch("0123456789ab", "7")]);
    hour("hv3", 5, &[began("2026-11-10T08:00:00Z", "9"), epoch("fedcba987654", "7")]);
    hour("hv4", 5, &[began("2026-11-10T08:00:01Z", "9"), epoch("0123456789ab", "8")]);
    world.flush().exits(0);
    let told = |name: &str, other: &str| {
        format!("the collector source reads the same `{name}` on hv2 and on {other}")
    };
    world.agent(&["check"]).tells(&[&told("page", "hv3"), &told("group", "hv4")]);
}

/// `hv2` and `hv3` read a level, which is billed as it was last.
fn bill_last_levels(world: &World) {
    let meter = "cpu_hours: { reading: cpu_seconds, factor: 1/3600";
    for name in ["agent.yaml", "hv2.yaml", "hv3.yaml"] {
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        assert!(text.contains(meter), "{text}");
        let level = "cpu_hours: { reading: cpu_seconds, aggregate: last, factor: 1";
        world.write(name, &text.replace(meter, level));
    }
}

fn disk(value: &str) -> Value {
    json!({ "name": "cpu_seconds", "kind": "gauge", "value": value, "labels": { "vm": "a" } })
}

/// A hypervisor died, and its guests were started on another.
#[test]
fn levels_of_a_host_that_is_retired_no_longer_count_beside_those_of_the_host_that_has_them_now() {
    let Some(server) = Server::start("levels of a host that is retired", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    bill_last_levels(&world);
    for minute in ["00", "05", "10"] {
        let now = format!("2026-11-10T12:{minute}:00Z");
        collect_at(&world, "hv2", &now, &[disk("500")]).exits(0);
        collect_at(&world, "hv3", &now, &[]).exits(0);
    }
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 500.00"]);
    for minute in ["15", "20"] {
        collect_at(&world, "hv3", &format!("2026-11-10T12:{minute}:00Z"), &[disk("500")]).exits(0);
    }
    // Whether they are two can't be known: it is told.
    let both = ["counts for hv2, which looked last at 2026-11-10T12:10:00Z", "for hv3", "agents retire hv2"];
    world.flush().exits(0).tells(&both);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1000.00"]);
    world.agent(&["check"]).tells(&both);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).tells(&["vm=a on hv2", "vm=a on hv3"]);
    world.agent(&["agents", "retire", "hv2"]).exits(0).says("1 level end");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 500.00"]);
    world.agent(&["check"]).exits(0).says_not("counts for hv2");
    world.agent(&["recount"]).exits(0);
    // Where it is back, it counts.
    collect_at(&world, "hv2", "2026-11-10T12:30:00Z", &[disk("20")]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 520.00"]);
}

#[test]
fn levels_of_a_host_that_is_renamed_go_on_under_its_new_name_alone() {
    let Some(server) = Server::start("levels of a host that is renamed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    bill_last_levels(&world);
    for minute in ["00", "05", "10"] {
        collect_at(&world, "hv2", &format!("2026-11-10T12:{minute}:00Z"), &[disk("500")]).exits(0);
    }
    world.flush().exits(0);
    let text = std::fs::read_to_string(world.path("hv3.yaml")).unwrap();
    world.write("hv3.yaml", &text.replace("hv3.queue.db", "hv2.queue.db"));
    for (minute, value) in [("15", "500"), ("20", "510")] {
        collect_at(&world, "hv3", &format!("2026-11-10T12:{minute}:00Z"), &[disk(value)]).exits(0);
        world.flush().exits(0);
        assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {value}.00")]);
    }
    world.now("2026-11-11T12:20:00Z");
    collect_on(&world, "hv3", &[disk("510")]).exits(0);
    world.flush().exits(0);
    world.agent(&["status"]).exits(0).says_not("Host hv2");
    world.agent(&["recount"]).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 510.00"]);
}

/// What was sent is gone from the host after 7 days, and from the ledger with a restore.
#[test]
fn what_of_a_host_is_not_billed_is_a_warning_and_stands_in_the_status() {
    let Some(server) = Server::start("what of a host is not billed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    send_as(&server, "hv2", ("f", 1), json!({}));
    send_as(&server, "hv2", ("f", 4), json!({}));
    world.flush().exits(0).says("WARN 2 runs of the agent hv2 are missing");
    world.agent(&["status"]).exits(65).says("2 runs of the agent hv2 are missing");
    let machine = world.agent(&["status", "--json"]).exits(65).json();
    assert_eq!(machine["hosts_not_billed"], true, "{machine:#}");
    assert!(machine["hosts_told"][0]["at"].is_string(), "{machine:#}");
    let words = machine["hosts_told"][0]["words"].as_str().unwrap();
    assert!(words.starts_with("2 runs of the agent hv2 are missing"), "{words}");
    // A collector that the agent that submits does not know.
    server.sql("bill", "DELETE FROM event");
    world.agent(&["status"]).exits(0);
    let text = std::fs::read_to_string(world.path("hv3.yaml")).unwrap();
    world.write("hv3.yaml", &text.replace("  source:\n", "  sauce:\n"));
    collect_on(&world, "hv3", &[hours("1", "3600")]).exits(0);
    let told = ["collector sauce of hv3 counts nothing", "`elsewhere: true`"];
    world.flush().tells(&told).says("WARN");
    world.agent(&["status"]).exits(65).tells(&told);
    assert_eq!(world.rows(A), Vec::<String>::new());
    let machine = world.agent(&["status", "--json"]).exits(65).json();
    assert_eq!(machine["hosts_told"][0]["at"], Value::Null, "it is so now: {machine:#}");
    let words = machine["hosts_told"][0]["words"].as_str().unwrap();
    assert!(words.starts_with("the collector sauce of hv3 counts nothing"), "{words}");
    // docs/status.md lists what only a shared ledger has, too.
    let (found, listed) = (agent::fields::fields(&machine), agent::fields::documented());
    assert_eq!(found.difference(&listed).collect::<Vec<_>>(), [""; 0]);
    for field in listed.iter().filter(|field| field.starts_with("agents[].") && !field.contains("failing[]"))
    {
        assert!(found.contains(field), "{field} is documented, and not there: {found:?}");
    }
}

/// It failed when it looked last, and looks no more.
#[test]
fn a_collector_that_a_host_no_longer_has_does_not_fail_for_ever() {
    let Some(server) = Server::start("a collector that is taken out", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let text = std::fs::read_to_string(world.path("hv2.yaml")).unwrap();
    let other = world.collector("other", "other.readings", &cpu_hours_of_a());
    for name in ["hv2.yaml", "agent.yaml"] {
        let text = std::fs::read_to_string(world.path(name)).unwrap();
        let other = if name == "agent.yaml" {
            other.replace("    plugin", "    elsewhere: true\n    plugin")
        } else {
            other.clone()
        };
        world.write(name, &(text + &other));
    }
    write_readings(&world, "hv2", &[]);
    world.write("other.readings", "no JSON\n");
    world.now("2026-11-10T12:00:00Z");
    agent_of(&world, "hv2.yaml", &["collect"]).exits(69);
    world.flush();
    world.agent(&["status"]).exits(69).says("Host hv2: collector other failed");
    world.write("hv2.yaml", &text);
    let known = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", known.split("  other:").next().unwrap());
    collect_at(&world, "hv2", "2026-11-10T12:05:00Z", &[]).exits(0);
    world.flush();
    world.agent(&["status"]).exits(69);
    collect_at(&world, "hv2", "2026-11-10T14:00:00Z", &[]).exits(0);
    world.flush().exits(0);
    world.agent(&["status"]).exits(0).says_not("other failed");
    world.agent(&["agents", "list"]).exits(0);
}

/// It was read by a clock that is 200 days ahead once.
#[test]
fn a_run_of_a_clock_that_was_ahead_is_not_a_hosts_last_for_months() {
    let Some(server) = Server::start("a run far ahead", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let sent = |number: i64, days: i64, outcome: &str| {
        let at = 1_794_312_000_000_000_i64 + days * 86_400_000_000;
        let keys = json!({ "at": at, "finished": at, "outcome": outcome, "message": "it failed" });
        send_as(&server, "hv2", ("f", number), keys);
    };
    sent(1, 200, "failed");
    world.flush();
    world.agent(&["agents", "list"]).exits(69).says("it failed");
    sent(2, 0, "ok");
    world.flush();
    world.agent(&["agents", "list"]).says_not("it failed");
}

/// Deltas and totals without ids, as gauges and counters are told.
#[test]
fn deltas_without_ids_that_two_hosts_read_of_one_source_are_told() {
    let Some(server) = Server::start("deltas of one source", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    let delta = |hour: u32, value: &str| {
        json!({
            "name": "cpu_seconds", "kind": "delta", "value": value,
            "start": format!("2026-11-10T{hour:02}:00:00Z"), "end": format!("2026-11-10T{:02}:00:00Z", hour + 1),
        })
    };
    let lines = [delta(6, "1801.5"), delta(7, "1802.5"), delta(8, "1796")];
    for host in ["hv2", "hv3"] {
        collect_at(&world, host, "2026-11-10T12:00:00Z", &lines).exits(0);
    }
    world.flush().exits(0);
    world.agent(&["check"]).exits(0).tells(&["reads the same `cpu_seconds` on hv2 and on hv3", "once: true"]);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
}
