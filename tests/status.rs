//! What `status` says: all of it under names for machines, and one screen of it for people, worst first.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::table::hours;
use agent::*;
use serde_json::{Value, json};

/// Every name in the JSON of `status` is in docs/status.md.
#[test]
fn the_fields_for_machines_are_documented() {
    fn names(value: &Value, found: &mut std::collections::BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.insert(name.clone());
                    names(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }
    let mut world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "32.00", "billing_period": "2026-11-01" }),
    );
    world.flush().exits(65);
    world.agent(&["resolve", A, "adopt"]).exits(0);
    world.flush();
    let mut found = std::collections::BTreeSet::new();
    let mut look = |world: &World| names(&world.agent(&["status", "--json"]).json(), &mut found);
    look(&world);
    // Ids that Waldur does not know and labels that are not there, a source that fails, a server that is away.
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds }} }}\n"
    ));
    let of = |id: &str, labels: &[(&str, &str)]| {
        job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "1", labels)
    };
    world.readings(&[of("1", &[("project", "gone")]), of("2", &[("user", "eve")])]);
    world.flush_once();
    look(&world);
    world.write("readings", "garbage\n");
    world.flush_once();
    look(&world);
    world.server_goes_away();
    world.agent_clock("2026-11-10T14:00:00Z");
    world.flush_once();
    look(&world);
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md");
    let page = std::fs::read_to_string(page).unwrap();
    let missing: Vec<_> = found.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty() && found.len() > 50, "{missing:?} of {found:?}");
}

/// What 2,000 resources in conflict look like: one screen.
#[test]
fn two_thousand_resources_with_trouble_fit_one_screen() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    // Made in the ledger itself: it is what is shown that counts here.
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    ledger
        .execute_batch(&format!(
            "BEGIN;
             CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                SELECT i, printf('5e2f0000-0000-4000-9000-%012d', i) AS uuid FROM n;
             INSERT INTO resource SELECT n.uuid, offering, 'Tenant ' || i, 'tenant-' || i, 'tenant-' || i, state, plan, customer, project, refreshed
                FROM n, resource WHERE resource.uuid = '{A}';
             INSERT INTO statement SELECT n.uuid, period, part, changed, closed, counted FROM n, statement WHERE resource = '{A}';
             INSERT INTO line SELECT n.uuid, period, part, component, username, exact, used, posted, problem, held, held_words
                FROM n, line WHERE resource = '{A}';
             INSERT INTO blocked SELECT n.uuid, period, part, component, '', 'held', 'conflict', 'Waldur holds 32.00', '32.00', 0
                FROM n, line WHERE resource = '{A}' AND username = '';
             COMMIT;"
        ))
        .unwrap();
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
