//! What `status` says: all of it under names for machines, and one screen of it for people, worst first.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::collections::BTreeSet;

use agent::fields::{documented, fields};
use agent::table::*;
use agent::*;
use serde_json::{Value, json};

/// What only a shared ledger has: tests/hosts.rs looks at that.
fn is_of_a_shared_ledger(field: &str) -> bool {
    let hosts = ["agents[].", "hosts_told[]."].iter().any(|begin| field.starts_with(begin));
    // Of a host whose role may only append.
    hosts
        || ["agent", "appends_only", "waiting", "last_look", "name_is_taken_twice", "failing"]
            .contains(&field)
        || field.starts_with("failing[].")
}

/// docs/status.md lists the fields of `status --json`, each of them and no other.
#[test]
fn the_fields_for_machines_are_those_that_are_documented() {
    let mut found = BTreeSet::new();
    let mut look = |world: &World| {
        let status = world.agent(&["status", "--json"]);
        let object = status.json();
        assert_eq!(object["exit"], status.code, "{object:#}");
        found.extend(fields(&object));
        object
    };
    // Another writer's number that is adopted, and users.
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    another_writes(&world, "32.00");
    world.flush().exits(65);
    look(&world);
    world.agent(&["resolve", A, "adopt"]).exits(0);
    world.flush();
    look(&world);
    // Ids that Waldur does not know or that two resources have, labels that are not there, more than can be believed, a line that
    // can't be read, runs that were missed.
    let mut world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, \
         at_most: 1 }} }}\n"
    ));
    world.post(&format!("resources/{B}"), json!({ "backend_id": "project-a" }));
    world.post("resources", json!({ "name": "Project C", "backend_id": "project-c", "offering": "Cluster" }));
    let of = |id: &str, value: &str, labels: &[(&str, &str)]| {
        job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T01:00:00Z", value, labels)
    };
    let mut lines = vec![
        of("1", "1", &[("project", "gone")]),
        of("2", "1", &[("user", "eve")]),
        of("3", "1", &[("project", "project-a")]),
        of("4", "99", &[("project", "project-c")]),
    ];
    lines.push(json!({ "name": "cpu_seconds", "kind": "delta", "value": "much" }));
    world.readings(&lines);
    world.flush_once();
    world.now("2026-11-10T18:00:00Z");
    world.flush_once();
    let object = look(&world);
    assert_eq!(object["ambiguous_backend_ids"][0]["backend_id"], "project-a", "{object:#}");
    assert_eq!(object["collectors"][0]["missed"]["runs"], 5, "{object:#}");
    // A token that may not report.
    world.write("token", "stranger-token");
    world.now("2026-11-11T18:00:00Z");
    world.flush_once().exits(77);
    let object = look(&world);
    assert_eq!(object["server"]["offerings_without_role"][0]["name"], "Cluster", "{object:#}");
    // Another server than the ledger's.
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let other = World::new(CURRENT);
    world.write("agent.yaml", &text.replace(&world.url(), &other.url()));
    world.flush_once().exits(78);
    let object = look(&world);
    assert_eq!(object["server"]["other_server"]["of_ledger"], format!("{}/api/", world.url()), "{object:#}");
    world.write("agent.yaml", &text);
    // A server that is away.
    world.server_goes_away();
    world.write("token", TOKEN);
    world.now("2026-11-12T18:00:00Z");
    world.flush_once();
    let object = look(&world);
    assert_eq!(object["server"]["paused_reason"], "unreachable", "{object:#}");
    // Nothing that can be read.
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("ledger.db", "nowhere/ledger.db"));
    let object = look(&world);
    assert_eq!(object["exit"], 78, "{object:#}");
    world.write("agent.yaml", "waldur: {}\n");
    look(&world);
    for object in [all_that_is_posted_is_refused(), a_reload_that_is_refused(), by_the_clock()] {
        found.extend(fields(&object));
    }
    let listed: BTreeSet<String> =
        documented().into_iter().filter(|field| !is_of_a_shared_ledger(field)).collect();
    assert!(listed.len() > 100, "{listed:?}");
    assert_eq!(found.difference(&listed).collect::<Vec<_>>(), [""; 0], "not documented");
    assert_eq!(listed.difference(&found).collect::<Vec<_>>(), [""; 0], "documented, and not there");
}

fn another_writes(world: &World, amount: &str) {
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": amount, "billing_period": "2026-11-01" }),
    );
}

/// Nothing else is to be posted, and others of the offering were taken before.
fn all_that_is_posted_is_refused() -> Value {
    let world = World::new(CURRENT);
    let cpu_of = |resource: &str| {
        format!(
            "    resource: {resource}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }} }}\n"
        )
    };
    world.configure(&cpu_of(A));
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("{text}{}", world.collector("other", "others", &cpu_of(B))));
    world.write("others", &format!("{}\n", hours("b", "3600")));
    world.readings(&[hours("1", "3600")]);
    world.flush().exits(0);
    world.write("token", "stranger-token");
    world.readings(&[hours("1", "3600"), hours("2", "3600")]);
    world.flush_once().exits(77);
    let object = world.agent(&["status", "--json"]).exits(77).json();
    assert_eq!(object["server"]["reports_refused"]["since"], "2026-11-10T12:00:00Z", "{object:#}");
    object
}

fn a_reload_that_is_refused() -> Value {
    let at = begin(&cpu()).reported();
    let right = std::fs::read_to_string(at.world.path("agent.yaml")).unwrap();
    at.world.write("agent.yaml", "waldur: {}\n");
    at.daemon.signal("HUP");
    at.daemon.until_it_says("The new configuration is not used");
    at.world.write("agent.yaml", &right);
    let told = || at.world.agent(&["status", "--json"]).json();
    until("the daemon's file", || !told()["daemon"]["reload_refused"].is_null());
    told()
}

/// What is of a month that has not begun at Waldur, and what comes too late for the one that runs.
fn by_the_clock() -> Value {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let hour = |id: &str, day: &str| {
        job("cpu_seconds", id, &format!("{day}T00:00:00Z"), &format!("{day}T01:00:00Z"), "3600", &[])
    };
    world.readings(&[hour("1", "2026-11-29"), hour("2", "2026-12-02")]);
    world.fault(json!({ "match": { "path": "/set_usage/" }, "action": { "status": 503 } }));
    world.agent_clock("2026-12-05T10:00:00Z");
    world.sandbox_clock("2026-11-30T23:59:58Z");
    world.flush_once();
    let status = world.agent(&["status"]).exits(75);
    let status = status.says("2026-12 has not begun at Waldur: 1 statement of it waits until then.");
    status.says("2026-11: 1 statement of it is not sent any more");
    let object = world.agent(&["status", "--json"]).exits(75).json();
    assert_eq!(object["not_begun"], json!([{ "period": "2026-12", "statements": 1 }]), "{object:#}");
    assert_eq!(object["too_late"], json!([{ "period": "2026-11", "statements": 1 }]), "{object:#}");
    object
}

/// A marketplace whose names are in another order than the troubles that its resources come to have.
const IN_TROUBLE: [(&str, &str); 5] =
    [("Alpha", "5"), ("Whiskey", "4"), ("Xray", "3"), ("Yankee", "2"), ("Zulu", "1")];

/// Every kind of trouble at once, on one screen: worst first, whatever the names are.
#[test]
fn troubles_of_all_kinds_are_told_worst_first() {
    let uuid = |number: &str| format!("5e2f0000-0000-4000-8000-00000000000{number}");
    let market = marketplace();
    let (head, _) = market.split_once("resources:").unwrap();
    let resource = |(name, number): &(&str, &str)| {
        format!(
            "  - {{ uuid: {}, name: {name}, backend_id: {}, offering: Cluster }}\n",
            uuid(number),
            name.to_lowercase()
        )
    };
    let resources: String = IN_TROUBLE.iter().map(resource).collect();
    let marketplace = format!("{head}resources:\n{resources}");
    let world = World::of(Setting { marketplace, ..Setting::default() });
    let keys = format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, \
         factor: 1/3600, at_most: 50 }}, nope: {{ reading: nope_seconds, factor: 1/3600 }} }}\n"
    );
    let collectors: String =
        ["source", "broken"].iter().map(|name| world.collector(name, name, &keys)).collect();
    world.write("agent.yaml", &format!("{}collectors:\n{collectors}", world.head("")));
    let of = |reading: &str, project: &str, seconds: &str| {
        let (start, end) = ("2026-11-09T00:00:00Z", "2026-11-09T01:00:00Z");
        job(reading, &format!("{reading}{project}{seconds}"), start, end, seconds, &[("project", project)])
    };
    let names = IN_TROUBLE.map(|(name, _)| name.to_lowercase());
    let mut lines: Vec<Value> = names.iter().map(|name| of("cpu_seconds", name, "3600")).collect();
    lines.push(of("nope_seconds", "yankee", "7200"));
    lines.push(of("cpu_seconds", "nobodys", "3600"));
    // 100 hours in an hour.
    lines.push(of("cpu_seconds", "alpha", "360000"));
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    world.write("source", &lines.concat());
    world.write("broken", "garbage\n");
    world.post(
        "rows",
        json!({ "resource": uuid("1"), "type": "cpu_hours", "usage": "32.00", "modified_by": 77 }),
    );
    world.post(&format!("resources/{}", uuid("3")), json!({ "state": "Terminated" }));
    let simple = uuid("4").replace('-', "");
    world.fault(json!({
        "match": { "path": "/set_usage/", "body": simple }, "action": { "status": 503, "body": "out of order" },
    }));
    world.flush_once().exits(69);
    let status = world.agent(&["status"]).exits(69);
    let told: Vec<&str> = status.out.lines().filter(|line| !line.starts_with(' ')).collect();
    let begins = [
        "Daemon: none is running.",
        "Waldur: http://",
        "Collector broken: the one line or value that it found could not be read: ",
        "Held: ",
        "Zulu, 2026-11, held: Waldur holds cpu_hours 32.00 (",
        "Yankee, 2026-11, parked: nope 2.00: ",
        "Xray (terminated), 2026-11, stranded: cpu_hours 1.00: ",
        "Whiskey, pending: tried again at 12:0",
        "Unmatched: 1 backend id that Waldur knows no resource for: nobodys",
        "5 resources: 1 agreed, 1 pending, 1 held, 1 parked, 1 stranded.",
    ];
    assert_eq!(told.len(), begins.len(), "{status:#?}");
    for (line, begin) in told.iter().zip(begins) {
        assert!(line.starts_with(begin), "`{line}` does not begin with `{begin}`: {status:#?}");
    }
    let json = world.agent(&["status", "--json"]).exits(69).json();
    let states: Vec<&str> =
        json["statements"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["held", "parked", "stranded", "pending", "agreed"]);
    assert_eq!(
        json["summary"],
        json!({ "held": 1, "parked": 1, "stranded": 1, "pending": 1, "agreed": 1, "unused": 0, "shadow": 0 })
    );
    // What can't be recorded at all comes before the server.
    let free = world.agent(&["status", "--all"]).exits(69);
    free.says("Held: ").says("Zulu (zulu), 2026-11 open");
}

/// 1,999 resources, of which four need to be looked at.
#[test]
fn what_is_pending_is_counted_among_what_is_agreed() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    many(
        &world,
        1998,
        "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words, current, counted)
            SELECT n.uuid, period, part, component, username, amount, call, at, turn, outcome, words, current, counted
            FROM n, sent WHERE resource = 'AAA' AND i > 3;
         INSERT INTO blocked SELECT n.uuid, period, part, component, '', 'parked', 'refused', 'It is too odd.', '1.50', 0
            FROM n, line WHERE resource = 'AAA' AND username = '' AND i = 4;
         UPDATE sent SET amount = '1.00' WHERE resource = (SELECT uuid FROM n WHERE i = 4);",
    );
    let status = world.agent(&["status"]).exits(75);
    let lines: Vec<&str> = status.out.lines().collect();
    assert_eq!(lines[lines.len() - 1], "1,999 resources: 1,995 agreed, 3 pending, 1 parked.", "{status:#?}");
    let told = "Tenant 4, 2026-11, parked: cpu_hours 1.50: It is too odd.\n  mend what the server says, then `parked retry tenant-4`\n";
    assert!(status.out.contains(told), "{status:#?}");
    let pending = world.agent(&["status", "--state", "pending"]).exits(75);
    let names: Vec<&str> = pending.out.lines().filter(|line| line.starts_with("Tenant")).collect();
    let of = [
        "Tenant 1 (tenant-1), 2026-11 open",
        "Tenant 2 (tenant-2), 2026-11 open",
        "Tenant 3 (tenant-3), 2026-11 open",
    ];
    assert_eq!(names, of, "{pending:#?}");
    let summary = world.agent(&["status", "--json", "--state", "parked"]).exits(75).json();
    assert_eq!([&summary["summary"]["agreed"], &summary["summary"]["pending"]], [&json!(1995), &json!(3)]);
    assert_eq!(summary["statements"].as_array().unwrap().len(), 1);
}

/// So many more resources like A, made in the ledger itself: it is what is shown that counts here. Then `sql`, in which n has
/// their numbers and UUIDs.
fn many(world: &World, number: usize, sql: &str) {
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    let more = sql.replace("AAA", A);
    ledger
        .execute_batch(&format!(
            "BEGIN;
             CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})
                SELECT i, printf('5e2f0000-0000-4000-9000-%012d', i) AS uuid FROM n;
             INSERT INTO resource SELECT n.uuid, offering, 'Tenant ' || i, 'tenant-' || i, 'tenant-' || i, state, plan, customer, project, refreshed
                FROM n, resource WHERE resource.uuid = '{A}';
             INSERT INTO statement SELECT n.uuid, period, part, changed, closed, counted FROM n, statement WHERE resource = '{A}';
             INSERT INTO line SELECT n.uuid, period, part, component, username, exact, used, posted, problem, held, held_words, too_much
                FROM n, line WHERE resource = '{A}';
             {more}
             COMMIT;"
        ))
        .unwrap();
}

/// What 2,000 resources in conflict look like: one screen.
#[test]
fn two_thousand_resources_with_trouble_fit_one_screen() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    many(
        &world,
        2000,
        "INSERT INTO blocked SELECT n.uuid, period, part, component, '', 'held', 'conflict', 'Waldur holds 32.00', '32.00', 0
            FROM n, line WHERE resource = 'AAA' AND username = '';",
    );
    let status = world.agent(&["status"]).exits(65);
    // A quarter of a second in a debug build. What others do on this machine meanwhile does not count.
    let seconds = processor_seconds(&world, "status");
    assert!(seconds < 1.0, "{seconds}");
    let lines: Vec<&str> = status.out.lines().collect();
    assert!(lines.len() <= 24, "{status:#?}");
    assert!(status.out.contains("Tenant 1, 2026-11, held: Waldur holds cpu_hours 32.00; the ledger has 1.50.\n  `resolve tenant-1 adopt | overwrite`\n"), "{status:#?}");
    assert_eq!(lines[lines.len() - 2], "  and 1,995 more: `status --state held`");
    assert_eq!(lines[lines.len() - 1], "2,001 resources: 1 agreed, 2,000 held.");
    let held = world.agent(&["status", "--state", "held"]).exits(65);
    assert_eq!(held.out.matches("2026-11 open\n").count(), 2000);
    assert!(!held.out.contains("Project A"), "the one that is agreed");
    world
        .agent(&["status", "tenant-7"])
        .exits(65)
        .says("Tenant 7 (tenant-7), 2026-11 open")
        .says_not("Tenant 8");
}

/// How long the processors worked for a command, as the shell tells of its children.
fn processor_seconds(world: &World, command: &str) -> f64 {
    let words = world.command(&[command]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "\"$@\" >/dev/null; times", "sh"]).arg(words.get_program()).args(words.get_args());
    for (name, value) in words.get_envs() {
        shell.env(name, value.unwrap());
    }
    let times = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
    };
    times.lines().nth(1).unwrap().split(' ').map(seconds).sum()
}
