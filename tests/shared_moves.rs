//! A ledger that moves between a file and a database, by `ledger copy`: it says the same there, sends nothing twice, and nothing
//! is at work on either side meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
mod docs_commands;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use agent::*;
use hosts::*;
use serde_json::json;
use server::Server;

#[test]
fn a_ledger_moves_into_a_database_and_back_and_is_the_same() {
    let Some(server) = Server::start("moving a ledger", &[]) else { return };
    let database = server.url("bill", "usage");
    let (world, configured, file) = world_before_the_move(&database);
    world.readings(&[hours("1", "5400"), hours("2", "1800")]);
    world.flush().exits(0);
    // Not while a daemon is at work.
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: 1 collector");
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

/// An agent of another role has the database at work, too. One of a host only appends: it waits for nobody.
#[test]
fn a_ledger_does_not_move_while_any_agent_that_may_submit_is_at_work_in_the_database() {
    let Some(server) = Server::start("a move beside an agent at work", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    let (database, back) = (server.url("bill", "usage"), world.path("back.db").display().to_string());
    let copy = || world.agent(&["ledger", "copy", &database, &back]);
    for role in ["usage", "submitter"] {
        let name = format!("{role}.yaml");
        configure(&world, &name, "hv9", "none", &server.url("bill", role));
        world.write("none", "");
        let mut daemon = daemon_of(&world, &name);
        daemon.until_it_says("At work: ");
        // The way back is refused as well: nothing may be written there that is then left behind.
        copy().exits(75).says("another agent is connected");
        daemon.signal("TERM");
        daemon.ends();
    }
    // What they sent is counted first.
    world.flush().exits(0);
    let host = server.connect_as("bill", "hv2");
    copy().exits(0);
    drop(host);
}

#[test]
fn what_a_file_measured_is_whose_it_is_said_to_be_in_a_database() {
    let Some(mut server) = Server::start("a move in another agent's name", &[]) else { return };
    let database = server.url("bill", "usage");
    let (world, configured, file) = world_before_the_move(&database);
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    world.agent(&["ledger", "copy", &file, &database, "--agent", "hv7"]).exits(0);
    assert_eq!(texts(&server, "SELECT DISTINCT agent FROM run"), ["hv7"]);
    world.write("agent.yaml", &configured);
    hosts(&server, &world, &["hv7"]);
    // The same job of hv7's is known; of hv1, which had nothing to do with it, it is another.
    collect_on(&world, "hv7", &[hours("1", "5400"), hours("2", "3600")]).exits(0);
    world.readings(&[]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    // What waits on this host would be left behind.
    server.kill();
    world.readings(&[hours("9", "3600")]);
    world.agent(&["collect"]).exits(75).says("nothing was lost");
    server.restart();
    let back = world.path("back.db").display().to_string();
    world.agent(&["ledger", "copy", &database, &back]).exits(75).says("1 runs of this host wait");
}

/// A closed month, a carried hour, users' shares, a conflict that was decided and one that was not: an accountant, a person in
/// a dispute and the operator are told the same in the file, in the database and in the file again.
#[test]
fn a_ledger_with_a_history_says_the_same_wherever_it_is() {
    let Some(server) = Server::start("moving a history", &[]) else { return };
    let database = server.url("bill", "usage");
    let world = world(&database);
    let head: String = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let head = head
        .split("collectors:\n")
        .next()
        .unwrap()
        .replace("every 1s", "\"*/15 * * * *\", late: carry_forward");
    let of = "    resource: { offering: 0ff00000-0000-4000-8000-000000000001, backend_id: \"{account}\" }\n    user: \"{user}\"\n";
    let meters = "    meters:\n      cpu_hours: { reading: cpu_seconds, factor: 1/3600 }\n";
    let collector = world.collector(
        "source",
        "readings",
        &format!("{}{meters}", of.replace("0ff00000-0000-4000-8000-000000000001", OFFERING)),
    );
    let configured = format!("{head}collectors:\n{collector}");
    let at = |place: &str| world.write("agent.yaml", &configured.replace(&database, place));
    let file = world.path("ledger.db").display().to_string();
    at(&file);
    let job = |id: &str, day: &str, value: &str, account: &str, user: &str| {
        let (start, end) = (format!("2026-{day}T00:00:00Z"), format!("2026-{day}T06:00:00Z"));
        job("cpu_seconds", id, &start, &end, value, &[("account", account), ("user", user)])
    };
    let mut lines = vec![
        job("1", "10-20", "18000", "project-a", "alice"),
        job("2", "10-20", "10800", "project-a", "bob"),
        job("3", "10-21", "7200", "project-b", "alice"),
    ];
    world.now("2026-10-22T12:00:00Z");
    world.readings(&lines);
    world.flush().exits(0);
    world.now("2026-11-01T00:30:00Z");
    world.flush();
    world.now("2026-11-09T12:00:00Z");
    lines.push(job("4", "11-09", "5400", "project-a", "alice"));
    lines.push(job("5", "11-09", "3600", "project-b", "bob"));
    // An hour late.
    lines.push(job("6", "10-23", "3600", "project-a", "bob"));
    world.readings(&lines);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-10 8.00", "cpu_hours 2026-11 2.50"]);
    // Another writer's numbers: one is adopted, the other waits.
    for resource in [A, B] {
        let row = json!({ "resource": resource, "type": "cpu_hours", "usage": "50.00", "modified_by": 77 });
        world.post("rows", row);
    }
    lines.push(job("7", "11-09", "3600", "project-a", "bob"));
    lines.push(job("8", "11-09", "3600", "project-b", "bob"));
    world.readings(&lines);
    world.now("2026-11-09T13:30:00Z");
    world.flush().exits(65);
    world.agent(&["resolve", A, "adopt"]).exits(0);
    let said = || {
        let commands: [&[&str]; 8] = [
            &["status", "--all", "--json"],
            &["export", "--period", "2026-10", "--json"],
            &["export", "--period", "2026-11", "--csv"],
            &["explain", A, "cpu_hours", "--json"],
            &["explain", A, "cpu_hours", "--period", "2026-10", "--user", "bob"],
            &["explain", B, "cpu_hours", "--json"],
            &["parked", "list", "--json"],
            &["recount"],
        ];
        commands.map(|command| {
            let done = world.agent(command);
            let out =
                [&file, &database].iter().fold(done.out, |out, place| out.replace(place.as_str(), "LEDGER"));
            // How much room there is can be told of this machine only.
            let out: Vec<_> = out.lines().filter(|line| !line.contains("ledger_free_bytes")).collect();
            format!("{command:?} {} {}{}", done.code, done.err, out.join("\n"))
        })
    };
    let in_the_file = said();
    assert!(in_the_file[0].contains("conflict"), "{}", in_the_file[0]);
    assert!(in_the_file[1].contains("8.00"), "{}", in_the_file[1]);
    world.agent(&["ledger", "copy", &file, &database]).exits(0);
    at(&database);
    for (there, here) in said().iter().zip(&in_the_file) {
        assert_eq!(there, here);
    }
    let back = world.path("back.db").display().to_string();
    world.agent(&["ledger", "copy", &database, &back]).exits(0);
    std::fs::rename(world.path("back.db"), world.path("ledger.db")).unwrap();
    at(&file);
    for (there, here) in said().iter().zip(&in_the_file) {
        assert_eq!(there, here);
    }
}

/// As an administrator makes roles and database, and with the ledger of this test in the places of the page's.
#[test]
fn the_commands_of_its_page_work() {
    let Some(server) = Server::start("the page of many hosts", &[]) else { return };
    server.sql("postgres", "DROP DATABASE bill");
    server.sql("postgres", "DROP ROLE usage");
    let database = server.url("usage", "usage");
    let (world, configured, file) = world_before_the_move(&database);
    world.readings(&[hours("1", "5400"), hours("2", "1800")]);
    world.flush().exits(0);
    world.write("agent.yaml", &configured);
    let before = format!(
        "export PGHOST='{}' PGUSER=postgres PGDATABASE=postgres WALDUR_USAGE_AGENT_CONFIG='{}' \
         WALDUR_USAGE_AGENT_CLOCK_FILE='{}'",
        server.socket().parent().unwrap().display(),
        world.path("agent.yaml").display(),
        world.path("clock").display()
    );
    let replace = [
        ("postgresql://usage@db.example.com/usage", format!("'{database}'")),
        ("/var/lib/waldur-usage-agent/ledger.db", file),
    ];
    let replace = replace.each_ref().map(|(from, to)| (*from, to.as_str()));
    docs_commands::run("many-hosts.md", world.folder.path(), &replace, &before);
    let roles = server.connect("usage").query_one(
        "SELECT count(*) FROM pg_auth_members WHERE roleid = 'appender'::regrole AND member = 'hv17'::regrole",
        &[],
    );
    assert_eq!(roles.unwrap().get::<_, i64>(0), 1);
    world.agent(&["recount"]).exits(0);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("2.00");
}
