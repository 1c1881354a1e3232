//! A ledger belongs to one Waldur: where the configuration names another one, nothing is sent there and nothing is believed of
//! it, what is measured is kept, and a person says whether it is the same server under a new address.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use agent::*;
use hosts::{agent_of, configure, daemon_of, hours, texts};
use serde_json::json;
use server::Server;

const OTHER: &str = "other_server.rs: a ledger for two servers";

/// Points the agent's file at this address.
fn point(world: &World, to: &str) {
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let lines = text.lines().map(|line| match line.starts_with("  url: ") {
        true => format!("  url: {to}\n"),
        false => format!("{line}\n"),
    });
    world.write("agent.yaml", &lines.collect::<String>());
}

/// An hour and a half of project A's is reported, and then the file names another server with the same resources.
fn moved() -> (World, World) {
    let (world, other) = (World::new(CURRENT), World::new(CURRENT));
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
    point(&world, &other.url());
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    (world, other)
}

#[test]
fn nothing_is_sent_to_another_server_and_what_is_measured_meanwhile_is_kept() {
    let (world, other) = moved();
    let (here, there) = (world.mark(), other.mark());
    let words = format!("ledger reports to {}/api/", world.url());
    world.agent(&["check"]).exits(78).says(&words).says("ledger server --renamed");
    world.flush().exits(78).says(&words).says("Nothing was sent.").says("name a new ledger");
    world.agent(&["status"]).exits(78).says(&words).says("what is measured is kept");
    let status = world.agent(&["status", "--json"]).exits(78).json();
    assert_eq!(status["server"]["other_server"]["of_ledger"], format!("{}/api/", world.url()));
    world.agent(&["diff"]).exits(78).says(&words);
    world.agent(&["ledger", "server"]).exits(78).says(&format!("`waldur.url` names {}/api/", other.url()));
    assert_eq!(world.posts_since(here).len(), 0);
    // `check` has asked who the token's user is; nothing was written.
    assert_eq!(other.posts_since(there).len(), 0);
    assert_eq!(other.rows(A), [""; 0]);
    // What was measured meanwhile is reported where it belongs, once.
    world.readings(&[]);
    point(&world, &world.url());
    world.agent(&["check"]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    assert_eq!(world.reports(), ["cpu_hours=1.50", "cpu_hours=2.50"]);
    world.agent(&["diff"]).exits(0);
    world.agent(&["ledger", "server"]).exits(0).says(&words);
}

#[test]
fn an_address_that_is_written_otherwise_is_no_other_server() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    for form in ["/", "/api", "/api/"] {
        point(&world, &(world.url() + form));
        world.flush().exits(0);
    }
    // Another name may be another server.
    point(&world, &world.url().replace("127.0.0.1", "localhost"));
    world.flush().exits(78);
}

#[test]
fn the_same_server_under_a_new_address_goes_on_where_it_was_once_a_person_says_so() {
    let (world, other) = moved();
    // It holds what was reported to it under its old address.
    other.post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": "1.50" }));
    world.flush().exits(78);
    assert_eq!(other.rows(A), ["cpu_hours 2026-11 1.50"]);
    let renamed = || world.agent(&["ledger", "server", "--renamed"]);
    renamed().exits(0).says("knows 2 of 2 resources of the ledger's");
    world.flush().exits(0).says("1.50").says("2.50");
    assert_eq!(other.rows(A), ["cpu_hours 2026-11 2.50"]);
    assert_eq!(other.reports(), ["cpu_hours=2.50"]);
    renamed().exits(0).says("reports to").says("already");
    // And the old address is another server now.
    point(&world, &world.url());
    world.flush().exits(78);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

/// What the new address holds is not what this ledger had reported: that is somebody's to decide.
#[test]
fn a_copy_of_the_server_that_others_have_written_to_since_is_not_overwritten() {
    let (world, other) = moved();
    other.post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": "40.00", "modified_by": 77 }));
    world.agent(&["ledger", "server", "--renamed"]).exits(0);
    world.flush().exits(65).says("held");
    assert_eq!(other.rows(A), ["cpu_hours 2026-11 40.00"]);
    assert_eq!(other.reports(), [""; 0]);
}

#[test]
fn a_server_that_knows_none_of_the_ledgers_resources_is_not_taken_for_the_same() {
    let world = World::new(CURRENT);
    let (known, unknown) = ("5e2f0000-0000-4000-8000-00000000000", "77770000-0000-4000-8000-00000000000");
    let other =
        World::of(Setting { marketplace: marketplace().replace(known, unknown), ..Setting::default() });
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    point(&world, &other.url());
    let done = world.agent(&["ledger", "server", "--renamed"]).exits(78);
    done.says("knows none of 2 resources that this ledger reports for").says("Nothing was changed");
    world.flush().exits(78);
    assert_eq!(other.posts_since(0).len(), 0);
}

/// An address where no Waldur answers is nobody's: it may be put right.
#[test]
fn an_address_at_which_nobody_has_answered_yet_binds_the_ledger_to_nothing() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    point(&world, "http://127.0.0.1:9");
    world.flush().exits(75);
    world.agent(&["ledger", "server"]).exits(0).says("has reported to no Waldur yet");
    point(&world, &world.url());
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

#[test]
fn a_shadow_is_not_compared_with_another_server_and_marks_no_month() {
    let (world, other) = moved();
    let live = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &(live + "submit: { report: shadow }\n"));
    world.agent(&["flush", "--deadline", "1s"]).exits(78).says("the ledger reports to").says_not("Different");
    assert_eq!(engine::rows(world.folder.path(), "SELECT period FROM shadow"), Vec::<Vec<String>>::new());
    assert_eq!(other.requests_since(0).len(), 0);
}

#[test]
fn a_daemon_whose_file_names_another_server_says_so_measures_on_and_goes_on_when_it_is_put_right() {
    let (world, other) = moved();
    point(&world, &world.url());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let every = text.replace("\"@hourly\"", "every 1s");
    world.write("agent.yaml", &format!("listen: 127.0.0.1:0\nsubmit: {{ schedule: every 1s }}\n{every}"));
    world.readings(&[hours("1", "5400")]);
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: 1 collector");
    point(&world, &other.url());
    daemon.signal("HUP");
    let says = |words: &str| daemon.log().contains(words);
    world.in_time("the error", || says("nothing is sent, what is measured is kept"));
    let log = daemon.log();
    let address = log.rsplit("Health and metrics at http://").next().unwrap().split('/').next().unwrap();
    let (status, words) = get(address, "/ready");
    assert_eq!(status, 503);
    assert!(words.contains("the ledger reports to"), "{words}");
    let metrics = get(address, "/metrics").1;
    let reason = "waldur_usage_agent_waldur_paused_reason{reason=\"other_server\"} 1";
    assert!(metrics.contains(reason), "{metrics}");
    world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    world.in_time("the second hour is measured", || {
        let state = engine::rows(world.folder.path(), "SELECT CAST(count(*) AS TEXT) FROM reading");
        state == [["2"]]
    });
    assert_eq!(other.posts_since(0).len(), 0);
    point(&world, &world.url());
    daemon.signal("HUP");
    world.in_time("what was measured is reported", || world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    assert_eq!(other.posts_since(0).len(), 0);
}

/// Two agents of a shared ledger name different servers: the one with the ledger's submits, the other never has the turn, also
/// when the first is gone; what its host measures waits in the database until the first is back.
#[test]
fn of_two_agents_of_a_shared_ledger_only_the_one_with_its_server_submits() {
    let Some(server) = Server::start(OTHER, &[]) else { return };
    let database = server.url("bill", "usage");
    let world = hosts::world(&database);
    let other = World::new(CURRENT);
    world.agent(&["ledger", "init"]).exits(0);
    world.readings(&[hours("1", "5400")]);
    let mut first = daemon_of(&world, "agent.yaml");
    world.in_time("the first hour and a half", || world.rows(A) == ["cpu_hours 2026-11 1.50"]);
    configure(&world, "hv2.yaml", "hv2", "hv2.readings", &database);
    let text = std::fs::read_to_string(world.path("hv2.yaml")).unwrap();
    world.write("hv2.yaml", &text.replace(&world.url(), &other.url()));
    hosts::write_readings(&world, "hv2", &[hours("2", "3600")]);
    agent_of(&world, "hv2.yaml", &["flush", "--collect", "--deadline", "3s"])
        .exits(78)
        .says("the ledger reports to");
    agent_of(&world, "hv2.yaml", &["check"]).exits(78).says("the ledger reports to");
    let second = daemon_of(&world, "hv2.yaml");
    second.until_it_says("nothing is sent, what is measured is kept");
    first.kill();
    // Its hour is in the database; another one comes while nobody may report.
    hosts::write_readings(&world, "hv2", &[hours("2", "3600"), hours("3", "1800")]);
    world.in_time("what hv2 measures arrives", || {
        texts(&server, "SELECT count(*)::text FROM inbox WHERE agent = 'hv2' AND part > 0") != ["0"]
    });
    assert!(!second.log().contains("At work"), "{}", second.log());
    assert_eq!(other.posts_since(0).len(), 0);
    let first = daemon_of(&world, "agent.yaml");
    world.in_time("both hosts' hours", || world.rows(A) == ["cpu_hours 2026-11 3.00"]);
    assert_eq!(other.posts_since(0).len(), 0);
    // The server has moved to where the second is pointed: the first gives its turn up, and the second goes on.
    other.post("rows", json!({ "resource": A, "type": "cpu_hours", "usage": "3.00" }));
    agent_of(&world, "hv2.yaml", &["ledger", "server", "--renamed"]).exits(0);
    hosts::write_readings(&world, "hv2", &[hours("2", "3600"), hours("3", "1800"), hours("4", "1800")]);
    let both = |world: &World, other: &World, now: &str| {
        world.now(now);
        other.now(now);
    };
    until("the second reports", || {
        let seconds = world.seconds.get() + 2;
        world.seconds.set(seconds);
        both(&world, &other, &after(NOON, seconds));
        other.rows(A) == ["cpu_hours 2026-11 3.50"]
    });
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    first.until_it_says("nothing is sent, what is measured is kept");
    let old = world.address.clone();
    let to_old = std::fs::read_to_string(world.path("hv2.yaml")).unwrap().replace(&other.address, &old);
    drop((first, second));
    let flush = || agent_of(&world, "hv2.yaml", &["flush", "--collect", "--deadline", "3s"]);
    until("nothing waits", || flush().code == 0);
    // The record of the server moves with the ledger.
    let file = world.path("moved.db").display().to_string();
    agent_of(&world, "hv2.yaml", &["ledger", "copy", &database, &file]).exits(0);
    world.write("hv2.yaml", &to_old.replace(&database, &file));
    agent_of(&world, "hv2.yaml", &["flush", "--deadline", "1s"]).exits(78).says("the ledger reports to");
}
