//! Hosts of a shared ledger that are not as they should be: a clock that is off, a look that is missing, a name that two have, a
//! source that two read, runs that were lost. What is used is billed once and in its month, or waits, and is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use agent::*;
use hosts::*;
use jiff::Timestamp;
use serde_json::{Value, json};
use server::Server;
use waldur_usage_agent::collectors::spool::Spool;
use waldur_usage_agent::config::clock::process_clock;
use waldur_usage_agent::config::place::Place;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome};
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::period::BillingZone;

/// A counter as it is now.
fn counter(value: &str) -> Value {
    json!({ "name": "cpu_seconds", "kind": "counter", "value": value })
}

/// What a host reads and sends at this time.
fn collect(world: &World, host: &str, now: &str, lines: &[Value]) -> Done {
    world.now(now);
    write_readings(world, host, lines);
    agent_of(world, &format!("{host}.yaml"), &["collect"])
}

fn write_readings(world: &World, host: &str, lines: &[Value]) {
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    world.write(&format!("{host}.readings"), &lines.concat());
}

fn texts(server: &Server, sql: &str) -> Vec<String> {
    server.connect("bill").query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// What `hv2` reads by a clock of its own, on a machine that has been up for so many seconds.
fn collect_by_its_clock(world: &World, clock: &str, up: u32, value: &str) -> Done {
    world.write("hv2.clock", clock);
    world.write("hv2.up", &up.to_string());
    write_readings(world, "hv2", &[counter(value)]);
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

/// The database was away meanwhile, and the clock is right when it is back.
#[test]
fn a_run_is_judged_by_how_far_its_hosts_clock_was_off_when_it_was_made() {
    let Some(mut server) = Server::start("a clock that was mended", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    world.now("2026-11-30T23:50:00Z");
    world.readings(&[counter("0")]);
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

/// Counters of two machines in one series would be taken for one that is reset again and again.
#[test]
fn of_two_hosts_with_one_name_the_second_sends_nothing_until_it_has_another() {
    let Some(server) = Server::start("two hosts with one name", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    let first = std::fs::read_to_string(world.path("hv2.yaml")).unwrap();
    let twin = first.replace("hv2.queue.db", "twin.queue.db").replace("hv2.readings", "twin.readings");
    world.write("twin.yaml", &twin);
    collect(&world, "hv2", "2026-11-10T12:00:00Z", &[counter("360000")]).exits(0);
    let refused = "another host sends to the ledger";
    collect(&world, "twin", "2026-11-10T12:01:00Z", &[counter("5")]).exits(78).says(refused).says("`agent:`");
    agent_of(&world, "twin.yaml", &["status"])
        .exits(75)
        .tells(&["Another host sends as the agent hv2", "1 run waiting"]);
    collect(&world, "hv2", "2026-11-10T12:02:00Z", &[counter("363600")]).exits(0).says_not(refused);
    collect(&world, "twin", "2026-11-10T12:03:00Z", &[counter("3605")]).exits(78).says(refused);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["status"]).exits(69).says("Host hv2: two hosts are called so");
    let list = world.agent(&["agents", "list"]).exits(69);
    list.tells(&["twice", "hv2: two hosts are called so"]);
    // Under another name all that waited is sent.
    let renamed = twin.replace("agent: hv2", "agent: hv3").replace("user=hv2", "user=hv3");
    world.write("twin.yaml", &renamed);
    collect(&world, "twin", "2026-11-10T12:04:00Z", &[counter("7205")]).exits(0).says_not(refused);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    // A host that is installed anew has a new file. It sends once the old one is known to be gone.
    world.write("anew.yaml", &twin.replace("twin", "anew"));
    collect(&world, "anew", "2026-11-10T12:05:00Z", &[counter("0")]).exits(78).says(refused);
    world.agent(&["agents", "retire", "hv2"]).exits(0);
    collect(&world, "anew", "2026-11-10T12:06:00Z", &[counter("1800")]).exits(0);
    world.write("later.yaml", &twin.replace("twin", "later"));
    collect(&world, "later", "2026-11-10T12:20:00Z", &[counter("0")]).exits(78).says(refused);
    collect(&world, "later", "2026-11-10T12:50:00Z", &[counter("0")]).exits(0);
    world.flush().exits(0);
    // Half an hour of the one that was installed anew.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.50"]);
}

/// What is usual for a host is known once two runs of it are counted, and maybe nobody counts now.
#[test]
fn how_long_a_name_is_a_hosts_own_goes_by_the_schedules_also_before_anything_is_counted() {
    let Some(server) = Server::start("a name before anything is counted", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let hourly = std::fs::read_to_string(world.path("hv2.yaml")).unwrap().replace("every 1s", "\"@hourly\"");
    world.write("hv2.yaml", &hourly);
    world.write(
        "twin.yaml",
        &hourly.replace("hv2.queue.db", "twin.queue.db").replace("hv2.read", "twin.read"),
    );
    collect(&world, "hv2", "2026-11-10T12:00:00Z", &[counter("0")]).exits(0);
    let refused = "another host sends to the ledger";
    collect(&world, "twin", "2026-11-10T12:20:00Z", &[counter("2000000")]).exits(78).says(refused);
    agent_of(&world, "twin.yaml", &["status"]).exits(75).says("Another host sends as the agent hv2");
    collect(&world, "hv2", "2026-11-10T13:00:00Z", &[counter("3600")]).exits(0).says_not(refused);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
}

#[test]
fn a_counter_that_two_hosts_read_of_one_source_is_told() {
    let Some(server) = Server::start("a counter that two hosts read", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3", "hv4"]);
    for (minute, value) in [(0, "3600"), (5, "5400"), (10, "7200")] {
        for host in ["hv2", "hv3"] {
            collect(&world, host, &format!("2026-11-10T11:{minute:02}:00Z"), &[counter(value)]).exits(0);
        }
        // Another machine, which does the same sort of work.
        let other = counter(&format!("1{value}"));
        collect(&world, "hv4", &format!("2026-11-10T11:{minute:02}:00Z"), &[other]).exits(0);
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
        collect(&world, host, NOON, &[hours(host, "3600")]).exits(0);
    }
    world.flush();
    // Of the first two: by this agent's rules.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
    world.agent(&["check"]).tells(&[
        "collector source: the file of hv3 has other rules",
        "collector another of hv4 counts nothing: this file does not know it",
    ]);
    change("hv3", "factor: 1/60", "factor: 1/3600");
    collect(&world, "hv3", "2026-11-10T12:05:00Z", &[hours("hv3", "3600")]).exits(0);
    world.flush();
    world.agent(&["check"]).says_not("the file of hv3");
    // A host that is gone is told of no more; one that was installed anew under its name is.
    world.agent(&["agents", "retire", "hv4"]).exits(0);
    world.agent(&["check"]).says_not("of hv4");
    change("hv4", "hv4.queue.db", "anew.queue.db");
    collect(&world, "hv4", "2026-11-10T12:10:00Z", &[hours("hv4", "3600")]).exits(0);
    world.flush();
    world.agent(&["check"]).says("collector another of hv4 counts nothing");
}

/// What was counted from the file must not be read, and counted, again as nobody's.
#[test]
fn what_is_run_once_for_all_stays_nobodys_when_a_file_moves_into_a_database() {
    let Some(server) = Server::start("moving what is run once", &[]) else { return };
    let database = server.url("bill", "usage");
    let world = world(&database);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let file = world.path("ledger.db").display().to_string();
    world.write("agent.yaml", &configured.replace(&database, &file));
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
        let outcome = RunOutcome::Seen {
            readings: Vec::new(),
            quarantined: Vec::new(),
            problems: Vec::new(),
            checkpoint: Some(at.to_string()),
            lists_everything: false,
            ended: Default::default(),
            history: Default::default(),
        };
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

/// A run of a host's file, as the host sends it; all up to `base` were sent under another name of the file.
fn send_as(server: &Server, host: &str, (file, number): (&str, i64), base: i64) {
    let head = format!(
        "{{\"collector\":\"source\",\"at\":1794312000000000,\"finished\":1794312000000000,\"outcome\":\"ok\",\
         \"message\":null,\"quarantined\":0,\"lists_everything\":false,\"scope\":\"{file}\",\"withheld\":\"[]\"}}"
    );
    let cover = format!(
        "{{\"head\":{head},\"quarantined\":[],\"ends\":[],\"since\":null,\"parts\":0,\"base\":{base}}}"
    );
    let sql =
        "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ($1, $2, $3, 0, 0, $4, 0)";
    server.connect_as("bill", host).execute(sql, &[&host, &file, &number, &cover]).unwrap();
}

/// What no check foresees (labels that are longer once they are written down) is that run's fault alone.
#[test]
fn a_run_that_can_not_be_recorded_stops_nobody_else_and_is_told() {
    let Some(server) = Server::start("a run that can't be recorded", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    let long: String = (0..3000).map(|_| fastrand::alphanumeric()).collect();
    let pair = || [char::from(fastrand::u8(14..32)), fastrand::alphanumeric()];
    let escaped = || (0..249).flat_map(|_| pair()).collect::<String>();
    let escaped = json!({ "a": escaped(), "b": escaped(), "c": escaped(), "d": escaped() });
    for (number, labels) in [(1, json!({ "a": long })), (2, escaped)] {
        let at = 1_794_312_000_000_000_i64;
        let head = json!({
            "collector": "source", "at": at, "finished": at, "outcome": "ok", "message": null, "quarantined": 0,
            "lists_everything": false, "scope": "", "withheld": "[]",
        });
        let ends = [json!(["g", labels.to_string(), at])];
        let cover =
            json!({ "head": head, "quarantined": [], "ends": ends, "since": null, "parts": 0, "base": 0 });
        let sql = "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ('hv2', 'f', $1, 0, 0, $2, 0)";
        let mut as_host = server.connect_as("bill", "hv2");
        as_host.execute(sql, &[&i64::from(number), &cover.to_string()]).unwrap();
    }
    collect(&world, "hv3", NOON, &[hours("1", "3600")]).exits(0);
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
fn runs_that_never_arrived_are_told_also_where_nothing_was_there_before() {
    let Some(server) = Server::start("runs that are missing", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    send_as(&server, "hv2", ("f", 5), 0);
    // Four that were sent under another name of its file are not missing.
    send_as(&server, "hv3", ("f", 5), 4);
    world.flush();
    let told = texts(&server, "SELECT words FROM event WHERE words LIKE '%missing%'");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("4 runs of the agent hv2 are missing"), "{told:?}");
}

/// The end of a gauge would be known before what it ends, and one host's thousands would keep out all others.
#[test]
fn of_a_host_that_was_installed_anew_the_old_file_is_taken_first_and_of_no_host_more_than_a_few_at_once() {
    let Some(server) = Server::start("a host's two files", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    for (file, runs) in [("z", 7), ("a", 3)] {
        for number in 1..=runs {
            send_as(&server, "hv2", (file, number), 0);
        }
    }
    send_as(&server, "hv3", ("f", 1), 0);
    world.flush().exits(0);
    let taken = texts(&server, "SELECT agent || ' ' || scope FROM run WHERE agent <> 'hv1' ORDER BY id");
    let (old, new) = ("hv2 z", "hv2 a");
    assert_eq!(taken, [old, old, old, old, old, "hv3 f", old, old, new, new, new]);
}

#[test]
fn a_ledger_does_not_move_into_a_file_before_all_that_hosts_have_sent_is_counted() {
    let Some(server) = Server::start("moving with an inbox", &[]) else { return };
    let database = server.url("bill", "usage");
    let world = world(&database);
    hosts(&server, &world, &["hv2"]);
    collect(&world, "hv2", NOON, &[hours("1", "3600")]).exits(0);
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
    collect(&world, "hv2", NOON, &[hours("2", "3600")]).exits(0);
    let brief = agent_of(&world, "hv2.yaml", &["status"]).exits(0);
    brief.tells(&["may only append", "nothing waits here", "12:00Z"]).says_not("SQLSTATE");
    let told = agent_of(&world, "hv2.yaml", &["status", "--json"]).exits(0).json();
    assert_eq!((&told["appends_only"], &told["waiting"]), (&json!(true), &json!(0)));
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
