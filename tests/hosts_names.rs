//! Whose what is that hosts of a shared ledger send: two hosts with one name, one host with two, copies of a host, and hosts
//! that were installed anew or put back. What is used is billed once, or waits, and is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "agent/hosts.rs"]
mod hosts;
#[path = "agent/postgres.rs"]
mod server;

use agent::*;
use hosts::*;
use serde_json::{Value, json};
use server::Server;

/// Counters of two machines in one series would be taken for one that is reset again and again.
#[test]
fn of_two_hosts_with_one_name_the_second_sends_nothing_until_it_has_another() {
    let Some(server) = Server::start("two hosts with one name", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    let first = std::fs::read_to_string(world.path("hv2.yaml")).unwrap();
    let twin = first.replace("hv2.queue.db", "twin.queue.db").replace("hv2.readings", "twin.readings");
    world.write("twin.yaml", &twin);
    collect_at(&world, "hv2", "2026-11-10T12:00:00Z", &[counter_now("360000")]).exits(0);
    let refused = "another host sends to the ledger";
    collect_at(&world, "twin", "2026-11-10T12:01:00Z", &[counter_now("5")])
        .exits(78)
        .says(refused)
        .says("`agent:`");
    agent_of(&world, "twin.yaml", &["status"])
        .exits(75)
        .tells(&["Another host sends as the agent hv2", "1 run waiting"]);
    collect_at(&world, "hv2", "2026-11-10T12:02:00Z", &[counter_now("363600")]).exits(0).says_not(refused);
    collect_at(&world, "twin", "2026-11-10T12:03:00Z", &[counter_now("3605")]).exits(78).says(refused);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["status"]).exits(69).says("Host hv2: two hosts use this name");
    let list = world.agent(&["agents", "list"]).exits(69);
    list.tells(&["twice", "hv2: two hosts use this name"]);
    // Under another name all that waited is sent.
    let renamed = twin.replace("agent: hv2", "agent: hv3").replace("user=hv2", "user=hv3");
    world.write("twin.yaml", &renamed);
    collect_at(&world, "twin", "2026-11-10T12:04:00Z", &[counter_now("7205")]).exits(0).says_not(refused);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    // A host that is installed anew has a new file. It sends once the old one is known to be gone.
    world.write("anew.yaml", &twin.replace("twin", "anew"));
    collect_at(&world, "anew", "2026-11-10T12:05:00Z", &[counter_now("0")]).exits(78).says(refused);
    world.agent(&["agents", "retire", "hv2"]).exits(0);
    collect_at(&world, "anew", "2026-11-10T12:06:00Z", &[counter_now("1800")]).exits(0);
    world.write("later.yaml", &twin.replace("twin", "later"));
    collect_at(&world, "later", "2026-11-10T12:20:00Z", &[counter_now("0")]).exits(78).says(refused);
    collect_at(&world, "later", "2026-11-10T12:50:00Z", &[counter_now("0")]).exits(0);
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
    collect_at(&world, "hv2", "2026-11-10T12:00:00Z", &[counter_now("0")]).exits(0);
    let refused = "another host sends to the ledger";
    collect_at(&world, "twin", "2026-11-10T12:20:00Z", &[counter_now("2000000")]).exits(78).says(refused);
    agent_of(&world, "twin.yaml", &["status"]).exits(75).says("Another host sends as the agent hv2");
    collect_at(&world, "hv2", "2026-11-10T13:00:00Z", &[counter_now("3600")]).exits(0).says_not(refused);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
}

/// A counter of a machine that tells when it was started.
fn counter_since(began: &str, value: &str) -> Value {
    json!({ "name": "cpu_seconds", "kind": "counter", "value": value, "began": began, "epoch": began })
}

/// The disk of `hv2` on another machine, whose configuration is `NAME.yaml`, under this agent's name.
fn copy_hv2(world: &World, name: &str, agent: &str) {
    copy_file(world, "hv2.queue.db", &format!("{name}.queue.db"));
    let text = std::fs::read_to_string(world.path("hv2.yaml")).unwrap();
    let text = text.replace("hv2.queue.db", &format!("{name}.queue.db"));
    let text = text.replace("hv2.readings", &format!("{name}.readings"));
    let text = text.replace("agent: hv2", &format!("agent: {agent}"));
    world.write(&format!("{name}.yaml"), &text.replace("user=hv2", &format!("user={agent}")));
}

/// Whichever of the two comes first, no level of a counter is billed for being another machine's.
#[test]
fn a_copy_of_a_host_that_is_renamed_later_bills_no_level_of_a_counter() {
    let Some(server) = Server::start("a copy of a host", &[]) else { return };
    let refused = "another host sends to the ledger";
    let [first, second] = ["2026-11-01T00:00:00Z", "2026-11-10T11:59:00Z"];
    for copy_comes_first in [false, true] {
        server.sql("postgres", "DROP DATABASE bill");
        server.sql("postgres", "CREATE DATABASE bill OWNER usage");
        let world = world(&server.url("bill", "usage"));
        for role in ["reader", "submitter", "appender", "hv2", "hv3"] {
            server.sql("bill", &format!("DROP ROLE IF EXISTS {role}"));
        }
        hosts(&server, &world, &["hv2", "hv3"]);
        collect_at(&world, "hv2", "2026-11-10T11:50:00Z", &[counter_since(first, "360000")]).exits(0);
        collect_at(&world, "hv2", "2026-11-10T12:00:00Z", &[counter_since(first, "363600")]).exits(0);
        copy_hv2(&world, "copy", "hv2");
        let goes_on = if copy_comes_first {
            // The machine that it was is away for a while.
            collect_at(&world, "copy", "2026-11-10T12:01:00Z", &[counter_since(second, "60")]).exits(0);
            world.flush().exits(0);
            // What the copy has used since it began, an hour of the first, and nothing else.
            assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.02"]);
            let waits = collect_at(&world, "hv2", "2026-11-10T12:02:00Z", &[counter_since(first, "363720")]);
            waits.exits(78).says(refused).says("was put back to an earlier state");
            "2026-11-10T12:20:00Z"
        } else {
            collect_at(&world, "hv2", "2026-11-10T12:01:00Z", &[counter_since(first, "363660")]).exits(0);
            let waits = collect_at(&world, "copy", "2026-11-10T12:02:00Z", &[counter_since(second, "120")]);
            waits.exits(78).says(refused).says("was put back to an earlier state");
            "2026-11-10T12:03:00Z"
        };
        world.flush();
        world.agent(&["status"]).exits(69).says("Host hv2: two hosts use this name");
        let renamed = std::fs::read_to_string(world.path("copy.yaml")).unwrap();
        let renamed = renamed.replace("agent: hv2", "agent: hv3").replace("user=hv2", "user=hv3");
        world.write("copy.yaml", &renamed);
        collect_at(&world, "copy", "2026-11-10T12:03:00Z", &[counter_since(second, "180")]).exits(0);
        collect_at(&world, "hv2", goes_on, &[counter_since(first, "367200")]).exits(0);
        collect_at(&world, "hv2", "2026-11-10T12:30:00Z", &[counter_since(first, "370800")]).exits(0);
        collect_at(&world, "copy", "2026-11-10T12:30:00Z", &[counter_since(second, "3780")]).exits(0);
        world.flush();
        // The first: 3 h and the copy's minute from 12:02 to 12:03 and its 1 h. The second: what the first machine used from
        // 12:00 to 12:02 can't be told, 10,680 s are left; of the copy the first 60 s, and 1 h since 12:03.
        let (billed, held) = match copy_comes_first {
            false => ("cpu_hours 2026-11 4.02", false),
            true => ("cpu_hours 2026-11 3.98", true),
        };
        assert_eq!(world.rows(A), [billed]);
        let explained = world.agent(&["explain", A, "cpu_hours"]);
        match held {
            true => explained.says("held: 363720 of it is not counted"),
            false => explained.says_not("held: "),
        };
        world.agent(&["recount"]).exits(0);
    }
}

/// What waits on a machine when it is copied waits twice.
#[test]
fn what_waited_on_a_host_that_was_copied_is_billed_once_whoever_sends_it_first() {
    let Some(mut server) = Server::start("what waited on a copy", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3", "hv4"]);
    let reads = |seconds: &str, value: &str| {
        let id = format!("until {seconds}");
        [hours(&id, seconds), json!({ "name": "other", "kind": "counter", "value": value })]
    };
    collect_at(&world, "hv2", "2026-11-10T12:00:00Z", &reads("3600", "0")).exits(0);
    server.kill();
    collect_at(&world, "hv2", "2026-11-10T12:05:00Z", &reads("1800", "10")).exits(75);
    collect_at(&world, "hv2", "2026-11-10T12:10:00Z", &reads("900", "20")).exits(75);
    copy_hv2(&world, "copy", "hv3");
    server.restart();
    // The copy is the first to send what waited: it is its original's.
    let told = "was that of the agent hv2";
    collect_at(&world, "copy", "2026-11-10T12:11:00Z", &reads("60", "7")).exits(0).says(told);
    until("its turn is over", || world.flush_once().code == 0);
    // 1 h, 30 min, 15 min and the copy's minute.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.77"]);
    collect_at(&world, "hv2", "2026-11-10T12:15:00Z", &reads("7200", "30")).exits(0).says_not("put back");
    // One that is copied later sends nothing again but what is known.
    copy_hv2(&world, "late", "hv4");
    collect_at(&world, "late", "2026-11-10T12:16:00Z", &reads("36", "7")).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.78"]);
    let runs = "SELECT agent || ' ' || count(*) FROM run WHERE agent <> 'hv1' GROUP BY agent ORDER BY 1";
    assert_eq!(texts(&server, runs), ["hv2 4", "hv3 1", "hv4 1"]);
    let told = "SELECT words FROM event WHERE words LIKE '%send from one file%' ORDER BY id";
    let told = texts(&server, told);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("hv3 and hv2 send from one file: a host was renamed, or its disk"),
        "{told:?}"
    );
    world.agent(&["recount"]).exits(0);
}

/// An image of a machine on which the agent has measured, and which never reached this ledger.
#[test]
fn what_waited_in_an_image_that_many_hosts_are_made_of_is_billed_once() {
    let Some(server) = Server::start("an image of many hosts", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3", "hv4", "hv5"]);
    let image = std::fs::read_to_string(world.path("hv2.yaml")).unwrap();
    world.write("hv2.yaml", &image.replace("/bill?", "/nowhere?"));
    collect_at(&world, "hv2", "2026-11-10T12:00:00Z", &[hours("1", "3600")]).exits(78);
    world.write("hv2.yaml", &image);
    for (minute, name) in [(1, "hv3"), (2, "hv4"), (3, "hv5")] {
        copy_hv2(&world, name, name);
        collect_at(&world, name, &format!("2026-11-10T12:0{minute}:00Z"), &[hours(name, "1800")]).exits(0);
    }
    world.flush().exits(0);
    // The hour of the image, and half an hour of each.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    // Also if it is a host of its own after all.
    collect_at(&world, "hv2", "2026-11-10T12:04:00Z", &[hours("2", "3600")]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.50"]);
}

/// Nobody can add to another's numbers by naming it: only from its own file.
#[test]
fn a_host_that_claims_to_have_been_another_adds_nothing_to_it() {
    let Some(server) = Server::start("a host that claims another's name", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    collect_at(&world, "hv2", NOON, &[hours("1", "3600")]).exits(0);
    world.flush().exits(0);
    send_as(&server, "hv3", ("its own", 1), json!({ "was": "hv2" }));
    world.flush().exits(0);
    let runs = "SELECT agent || ' ' || coalesce(scope, '') FROM run WHERE scope = 'its own'";
    assert_eq!(texts(&server, runs), ["hv3 its own"]);
}

#[test]
fn runs_that_never_arrived_are_told_also_where_nothing_was_there_before() {
    let Some(server) = Server::start("runs that are missing", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    send_as(&server, "hv2", ("f", 5), json!({}));
    // Four that were sent under another name of its file are not missing.
    send_as(&server, "hv3", ("g", 5), json!({ "base": 4 }));
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
            send_as(&server, "hv2", (file, number), json!({}));
        }
    }
    send_as(&server, "hv3", ("f", 1), json!({}));
    world.flush().exits(0);
    let taken = texts(&server, "SELECT agent || ' ' || scope FROM run WHERE agent <> 'hv1' ORDER BY id");
    let (old, new) = ("hv2 z", "hv2 a");
    assert_eq!(taken, [old, old, old, old, old, "hv3 f", old, old, new, new, new]);
}

/// What the host `hv2` reads and sends at this minute past noon.
fn collect_on_hv2(world: &World, minute: u32, lines: &[Value]) -> Done {
    world.now(&format!("2026-11-10T12:{minute:02}:00Z"));
    collect_on(world, "hv2", lines)
}

/// As a machine is put back to a snapshot: its file gives numbers again that the database knows. It can't be told from a
/// copy of it while the other may still send.
#[test]
fn a_host_that_is_put_back_to_a_snapshot_loses_nothing_of_what_it_sees_then() {
    let Some(server) = Server::start("a host that is put back", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    collect_on_hv2(&world, 0, &[hours("1", "3600")]).exits(0);
    world.flush().exits(0);
    copy_file(&world, "hv2.queue.db", "kept.db");
    for minute in 1..=3 {
        collect_on_hv2(&world, minute, &[hours("1", "3600"), hours("2", "7200")]).exits(0);
    }
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    copy_file(&world, "kept.db", "hv2.queue.db");
    let put_back = "was put back to an earlier state";
    collect_on_hv2(&world, 4, &[hours("3", "3600")]).exits(78).says(put_back).says("sends to the ledger");
    collect_on_hv2(&world, 17, &[hours("3", "3600"), hours("4", "3600")]).exits(78).says_not(put_back);
    collect_on_hv2(&world, 18, &[hours("4", "3600")]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00"]);
    // A database that has lost all since noon is sent what was recorded under either id.
    server.sql(
        "bill",
        "DELETE FROM agent WHERE name = 'hv2'; UPDATE run SET readings = -1 WHERE agent = 'hv2'",
    );
    collect_on_hv2(&world, 19, &[hours("4", "3600")]).exits(0);
    world.flush().exits(0);
    let again = "SELECT to_char(to_timestamp(at / 1000000) AT TIME ZONE 'UTC', 'MI') FROM run
                 WHERE agent = 'hv2' AND readings >= 0 ORDER BY id";
    assert_eq!(texts(&server, again), ["00", "04", "17", "18", "19"]);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00"]);
}

/// The first contact comes before the first new run: the numbers that are given then were given before.
#[test]
fn a_host_that_is_put_back_and_has_seen_nothing_yet_loses_nothing_of_what_it_sees_later() {
    let Some(server) = Server::start("a host that is put back at rest", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2"]);
    collect_on_hv2(&world, 1, &[hours("1", "3600")]).exits(0);
    copy_file(&world, "hv2.queue.db", "kept.db");
    for minute in 2..=4 {
        collect_on_hv2(&world, minute, &[hours("1", "3600")]).exits(0);
    }
    world.flush().exits(0);
    copy_file(&world, "kept.db", "hv2.queue.db");
    world.now("2026-11-10T12:05:00Z");
    // A daemon makes contact when it starts; it looks, too, at a file that has nothing new.
    let mut host = daemon_of(&world, "hv2.yaml");
    host.until_it_says("was put back to an earlier state");
    host.signal("TERM");
    host.ends();
    // Whoever knows that there is no other need not wait.
    world.agent(&["agents", "retire", "hv2"]).exits(0);
    collect_on_hv2(&world, 6, &[hours("2", "7200")]).exits(0).says_not("was put back");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
}

/// What was sent under the old name is not sent again under the new one.
#[test]
fn a_host_that_is_renamed_bills_nothing_again() {
    let Some(server) = Server::start("a host that is renamed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv9"]);
    world.write("hv2.readings", &format!("{}\n", hours("1", "3600")));
    agent_of(&world, "hv2.yaml", &["collect"]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    let text = std::fs::read_to_string(world.path("hv9.yaml")).unwrap();
    world.write("hv9.yaml", &text.replace("hv9.queue.db", "hv2.queue.db"));
    world.now("2026-11-10T12:01:00Z");
    world.write("hv9.readings", &format!("{}\n", hours("2", "7200")));
    let done = agent_of(&world, "hv9.yaml", &["collect"]).exits(0);
    done.tells(&["was that of the agent hv2", "what comes is of the agent hv9"]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    agent_of(&world, "hv9.yaml", &["collect"]).exits(0).says_not("was that of");
}

/// A job of project A's that runs on: since midnight of the 9th.
fn running(id: &str, until: u32, seconds: &str) -> Value {
    let end = format!("2026-11-09T{until:02}:00:00Z");
    job("cpu_seconds", id, "2026-11-09T00:00:00Z", &end, seconds, &[])
}

/// What a host reads again under its new name is what it read under the old one, also where there is more of it by now.
#[test]
fn what_runs_on_while_its_host_is_renamed_is_billed_once() {
    let Some(server) = Server::start("what runs on while its host is renamed", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv9"]);
    collect_on(&world, "hv2", &[running("1", 2, "3600"), running("2", 2, "1800")]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
    let text = std::fs::read_to_string(world.path("hv9.yaml")).unwrap();
    world.write("hv9.yaml", &text.replace("hv9.queue.db", "hv2.queue.db"));
    // The first has run on, the second has ended as it was, and a third is new.
    let lines = [running("1", 4, "7200"), running("2", 2, "1800"), running("3", 4, "900")];
    collect_at(&world, "hv9", "2026-11-10T12:01:00Z", &lines).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.75"]);
    // And corrected once more.
    let lines = [running("1", 5, "9000"), running("2", 2, "1800"), running("3", 4, "900")];
    collect_at(&world, "hv9", "2026-11-10T12:02:00Z", &lines).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.25"]);
    world.agent(&["recount"]).exits(0);
}

/// Whether another host goes on with what a retired one measured can't be known: where it reads the same job, more of it, a person
/// decides.
#[test]
fn what_another_host_reads_on_of_a_retired_ones_is_held() {
    let Some(server) = Server::start("what runs on after its host is retired", &[]) else { return };
    let world = world(&server.url("bill", "usage"));
    hosts(&server, &world, &["hv2", "hv3"]);
    collect_on(&world, "hv2", &[running("1", 2, "3600")]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["agents", "retire", "hv2"]).exits(0);
    collect_at(&world, "hv3", "2026-11-10T12:01:00Z", &[running("1", 4, "7200")]).exits(0);
    world.flush().exits(65).says("reads the same on hv2 and on hv3");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["status"]).exits(65).says("counted twice");
}
