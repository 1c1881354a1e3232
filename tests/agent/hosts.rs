//! A shared ledger's agents in tests: their configurations, their roles, and what they are asked to do.
#![allow(dead_code, reason = "not every test needs all of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::process::Stdio;

use serde_json::{Value, json};

use super::agent::*;
use super::server::Server;

/// Another hour, used up on the 9th.
pub(crate) fn hours(id: &str, seconds: &str) -> Value {
    job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", seconds, &[])
}

/// The usual world, with its ledger there.
pub(crate) fn world(ledger: &str) -> World {
    let world = World::new(CURRENT);
    configure(&world, "agent.yaml", "hv1", "readings", ledger);
    world
}

/// The usual world, with its ledger in a file that is to move there; its configuration once that is done, and the file.
pub(crate) fn world_before_the_move(database: &str) -> (World, String, String) {
    let world = world(database);
    let configured = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let file = world.path("ledger.db").display().to_string();
    world.write("agent.yaml", &configured.replace(database, &file));
    (world, configured, file)
}

/// The configuration of an agent that submits, whose collector prints a file.
pub(crate) fn configure(world: &World, name: &str, agent: &str, readings: &str, ledger: &str) {
    let waldur = world.head("").lines().take(3).fold(String::new(), |head, line| head + line + "\n");
    let submit = "submit: { schedule: every 1s }\n";
    write_config(world, name, agent, readings, &format!("{waldur}ledger: {ledger}\n{submit}"));
}

/// The configuration of an agent that only collects.
pub(crate) fn configure_host(world: &World, agent: &str, ledger: &str) {
    let (name, readings) = (format!("{agent}.yaml"), format!("{agent}.readings"));
    world.write(&readings, "");
    write_config(world, &name, agent, &readings, &format!("ledger: {ledger}\n"));
}

pub(crate) fn write_config(world: &World, name: &str, agent: &str, readings: &str, head: &str) {
    let collector = world.collector("source", readings, &cpu_hours_of_a()).replace("\"@hourly\"", "every 1s");
    world.write(name, &format!("{head}{}collectors:\n{collector}", world.shared(agent)));
}

/// A command of the agent with this configuration.
pub(crate) fn agent_of(world: &World, config: &str, arguments: &[&str]) -> Done {
    let config = world.path(config).display().to_string();
    world.agent(&[&["--config", &config], arguments].concat())
}

/// What the collector of a host prints from now on.
pub(crate) fn write_readings(world: &World, host: &str, lines: &[Value]) {
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    world.write(&format!("{host}.readings"), &lines.concat());
}

/// What a host reads and sends now.
pub(crate) fn collect_on(world: &World, host: &str, lines: &[Value]) -> Done {
    write_readings(world, host, lines);
    agent_of(world, &format!("{host}.yaml"), &["collect"])
}

/// What a host reads and sends at this time.
pub(crate) fn collect_at(world: &World, host: &str, now: &str, lines: &[Value]) -> Done {
    world.now(now);
    collect_on(world, host, lines)
}

/// A counter as it is now.
pub(crate) fn counter_now(value: &str) -> Value {
    json!({ "name": "cpu_seconds", "kind": "counter", "value": value })
}

/// A run of a host's file, as the host sends it, with these keys of its cover.
pub(crate) fn send_as(server: &Server, host: &str, (file, number): (&str, i64), keys: Value) {
    let at = 1_794_312_000_000_000_i64;
    let head = json!({
        "collector": "source", "at": at, "finished": at, "outcome": "ok", "message": null, "quarantined": 0,
        "lists_everything": false, "scope": file, "withheld": "[]",
    });
    let mut cover =
        json!({ "head": head, "quarantined": [], "ends": [], "since": null, "parts": 0, "base": 0 });
    for (key, value) in keys.as_object().unwrap() {
        // Of the head, where the cover has no such key.
        let of = if cover.get(key).is_some() || key == "was" { &mut cover } else { &mut cover["head"] };
        of[key] = value.clone();
    }
    let sql =
        "INSERT INTO inbox (agent, file, number, part, at, body, sent) VALUES ($1, $2, $3, 0, 0, $4, 0)";
    let mut as_host = server.connect_as("bill", host);
    as_host.execute(sql, &[&host, &file, &number, &cover.to_string()]).unwrap();
}

/// Texts that a query finds in the database.
pub(crate) fn texts(server: &Server, sql: &str) -> Vec<String> {
    server.connect("bill").query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Makes one file of SQLite's another, as it is.
pub(crate) fn copy_file(world: &World, from: &str, to: &str) {
    let (from, to) = (world.path(from), world.path(to));
    for beside in ["-wal", "-shm", ""] {
        drop(std::fs::remove_file(format!("{}{beside}", to.display())));
    }
    let copied = rusqlite::Connection::open(from).unwrap();
    copied.execute("VACUUM INTO ?", [to.to_str().unwrap()]).unwrap();
}

/// A daemon of the agent with this configuration.
pub(crate) fn daemon_of(world: &World, config: &str) -> Daemon {
    let path = world.path(config).display().to_string();
    let log = world.path(&format!("{config}.log"));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let mut command = world.command(&["--config", &path, "run"]);
    let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
    Daemon { child, log }
}

/// Roles for hosts of these names, who may append and nothing else.
pub(crate) fn hosts(server: &Server, world: &World, names: &[&str]) {
    let grants = world.agent(&["ledger", "init"]).exits(0).out;
    server.sql("bill", "CREATE ROLE reader LOGIN; CREATE ROLE submitter LOGIN; CREATE ROLE appender");
    server.sql("bill", &grants);
    for name in names {
        server.sql("bill", &format!("CREATE ROLE {name} LOGIN; GRANT appender TO {name}"));
        configure_host(world, name, &server.url("bill", name));
    }
}
