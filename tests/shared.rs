//! The ledger in PostgreSQL, from outside: the same answers, what is said when the database can't be used, two agents at
//! one ledger, moves between a file and a database, and a server that is killed. Each test has a server of its own, on a
//! socket; tests/with-postgres runs all other suites over this engine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/postgres.rs"]
mod server;

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use agent::*;
use serde_json::{Value, json};
use server::Server;

/// Another hour, used up on the 9th.
fn hours(id: &str, seconds: &str) -> Value {
    job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", seconds, &[])
}

/// The usual world, with its ledger there.
fn world(ledger: &str) -> World {
    let world = World::new(CURRENT);
    let collector =
        world.collector("source", "readings", &cpu_hours_of_a()).replace("\"@hourly\"", "every 1s");
    let head: String = world
        .head("")
        .lines()
        .filter(|line| !line.starts_with("ledger"))
        .fold(String::new(), |head, line| head + line + "\n");
    world.write(
        "agent.yaml",
        &format!("{head}ledger: {ledger}\nsubmit: {{ schedule: every 1s }}\ncollectors:\n{collector}"),
    );
    world
}

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
fn a_role_that_reads_sees_everything_and_changes_nothing() {
    let Some(server) = Server::start("a role that reads", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    let grants = world.agent(&["ledger", "init"]).exits(0).out;
    server.sql("bill", "CREATE ROLE reader LOGIN; CREATE ROLE submitter LOGIN");
    server.sql("bill", &grants);
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &configured.replace("user=usage", "user=reader"));
    world.agent(&["status"]).exits(0);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("1.50");
    world.agent(&["collect"]).exits(78).says("SQLSTATE 42501").says("the role `reader` may not do that");
    world.write("agent.yaml", &configured.replace("user=usage", "user=submitter"));
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
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
fn a_ledger_moves_into_a_database_and_back_and_is_the_same() {
    let Some(server) = Server::start("moving a ledger", &[]) else { return };
    let database = server.url("bill", "usage");
    let world = world(&database);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let file = world.path("ledger.db").display().to_string();
    world.write("agent.yaml", &configured.replace(&database, &file));
    world.readings(&[hours("1", "5400"), hours("2", "1800")]);
    world.flush().exits(0);
    // Not while a daemon is at work.
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: 1 collectors");
    world.agent(&["ledger", "copy", &file, &database]).exits(75).says("a daemon is at work");
    drop(daemon);
    world.agent(&["ledger", "copy", &file, &database]).exits(0).says("both sides count the same");
    // Not over anything.
    world.agent(&["ledger", "copy", &file, &database]).exits(78).says("it holds something already");
    world.write("agent.yaml", &configured);
    let mark = world.mark();
    world.flush().exits(0);
    assert_eq!(world.posts_since(mark).len(), 0, "nothing is sent twice");
    // It goes on counting where it was, with ids of its own.
    world.readings(&[hours("1", "5400"), hours("2", "1800"), hours("3", "3600")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    let back = world.path("back.db").display().to_string();
    let held = server.connect("bill");
    world.agent(&["ledger", "copy", &database, &back]).exits(0);
    drop(held);
    world.write("agent.yaml", &configured.replace(&database, &back));
    let mark = world.mark();
    world.flush().exits(0);
    assert_eq!(world.posts_since(mark).len(), 0, "nothing is sent twice");
    world.agent(&["recount"]).exits(0);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("3.00");
}

/// The totals are not answered, and not even begun with, until the faults are cleared.
fn hold_totals(world: &World) {
    world.fault(json!({ "match": { "path": "set_usage/" }, "when": "before", "action": "hang", "times": 1 }));
}

fn waits_for_an_answer(world: &World) -> bool {
    world.posts_since(0).iter().any(|request| request.path.ends_with("/set_usage/") && request.status == 0)
}

#[test]
fn when_the_agent_that_submits_is_killed_another_goes_on_within_ten_seconds() {
    let Some(server) = Server::start("two agents that submit", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400")]);
    hold_totals(&world);
    let mut first = world.daemon(&[], &[]);
    world.in_time("a call on its way", || waits_for_an_answer(&world));
    let mut second = world.command(&["run"]);
    let log = std::fs::File::create(world.path("second.log")).unwrap();
    let second = second.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let second = Daemon { child: second, log: world.path("second.log") };
    let pid = first.child.id();
    second.until_it_says("Standing by: ");
    assert!(second.log().contains(&format!("process {pid} on ")), "{}", second.log());
    // A third hand is told the same.
    world.flush_once().exits(75).says("is submitting for this ledger");
    let died = Instant::now();
    first.kill();
    world.in_time("the report of the other", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    assert!(died.elapsed().as_secs() < 10, "{:?}", died.elapsed());
    drop(second);
    until("its turn is over", || world.flush_once().code == 0);
    assert_eq!(world.reports(), ["cpu_hours=1.50"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn an_agent_that_was_stopped_stands_by_for_the_one_that_took_its_place_and_goes_on_after_it() {
    let Some(server) = Server::start("an agent that is followed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400")]);
    let first = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    let log = std::fs::File::create(world.path("second.log")).unwrap();
    let second = world.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let mut second = Daemon { child: second, log: world.path("second.log") };
    second.until_it_says("Standing by: ");
    first.signal("STOP");
    second.until_it_says("Ready: 1 collectors");
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.in_time("the report of the second", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    first.signal("CONT");
    world.in_time("the first sees it", || first.log().contains("Standing by: "));
    second.kill();
    world.readings(&[hours("1", "5400"), hours("2", "3600"), hours("3", "3600")]);
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

#[test]
fn a_server_that_is_killed_and_comes_back_loses_and_doubles_nothing() {
    let Some(mut server) = Server::start("a server that is killed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    world.agent(&["ledger", "init"]).exits(0);
    let mut lines = vec![hours("0", "3600")];
    world.readings(&lines);
    let daemon = world.daemon(&[], &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    for round in 1..=3 {
        server.kill();
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
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00"]);
    let reports = world.reports();
    assert_eq!(reports, ["cpu_hours=1.00", "cpu_hours=2.00", "cpu_hours=3.00", "cpu_hours=4.00"]);
}
