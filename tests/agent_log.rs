//! What the daemon's log tells of bills: each total that changed, by name, with what it was and is; those that fell as
//! warnings; no more than twenty of a cycle; and what changed in the rules, once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;

fn hours(id: &str, seconds: &str, labels: &[(&str, &str)]) -> serde_json::Value {
    job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", seconds, labels)
}

fn configure(world: &World, keys: &str) {
    let collector = format!(
        "  source:\n    plugin: exec\n    schedule: every 10s\n    command: [cat, {}]\n{keys}    since: {LONG_AGO}\n",
        world.path("readings").display()
    );
    world.write(
        "agent.yaml",
        &format!("{}submit: {{ schedule: every 10s }}\ncollectors:\n{collector}", world.head("")),
    );
}

/// The lines of the log that have these words, without their time.
fn lines(daemon: &Daemon, words: &str) -> Vec<String> {
    let log = daemon.log();
    let found = log.lines().filter(|line| line.contains(words));
    found.map(|line| line.split_once(' ').unwrap().1.trim().to_owned()).collect()
}

#[test]
fn each_bill_that_changed_is_told_by_name_with_what_it_was() {
    let world = World::new(CURRENT);
    configure(&world, &cpu_hours_of_a());
    world.readings(&[hours("1", "5400", &[])]);
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: ");
    for (seconds, rows) in [("5400", "1.50"), ("9000", "2.50"), ("3600", "1.00")] {
        world.readings(&[hours("1", seconds, &[])]);
        let row = format!("cpu_hours 2026-11 {rows}");
        world.in_time(&row, || world.rows(A) == [row.as_str()]);
        world.in_time("it is told", || lines(&daemon, " posted").iter().any(|line| line.contains(rows)));
    }
    let place = format!("Project A ({A}), cpu_hours, 2026-11:");
    assert_eq!(
        lines(&daemon, " posted"),
        [
            format!("INFO {place} 1.50 posted, the first"),
            format!("INFO {place} 1.50 -> 2.50 posted"),
            format!("WARN {place} 2.50 -> 1.00 posted: it fell"),
        ]
    );
}

/// Its outcome was not known: what the row that is read back proves is told all the same.
#[test]
fn what_a_lost_answer_changed_is_told() {
    let world = World::new(CURRENT);
    configure(&world, &cpu_hours_of_a());
    world.readings(&[hours("1", "5400", &[])]);
    world.fault(serde_json::json!({ "match": { "path": "/set_usage/" }, "times": 1, "action": "drop" }));
    let daemon = world.daemon(&[], &[]);
    world.in_time("it is told", || !lines(&daemon, " posted").is_empty());
    assert_eq!(
        lines(&daemon, " posted"),
        [format!("INFO Project A ({A}), cpu_hours, 2026-11: 1.50 posted, the first")]
    );
}

#[test]
fn of_many_that_changed_in_a_cycle_twenty_are_told_and_the_others_counted() {
    let ids: Vec<String> = (0..25).map(|n| format!("5e2f0000-0000-4000-8000-0000000001{n:02}")).collect();
    let more: String = ids
        .iter()
        .enumerate()
        .map(|(n, id)| {
            format!("  - {{ uuid: {id}, name: Many {n}, backend_id: many-{n}, offering: Cluster }}\n")
        })
        .collect();
    let world = World::of(Setting { marketplace: marketplace() + &more, ..Setting::default() });
    let target = format!("    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n");
    configure(&world, &(target + "    meters: { cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }\n"));
    let all = |seconds: [&str; 2]| -> Vec<serde_json::Value> {
        let of = |n: usize| {
            hours(&n.to_string(), seconds[usize::from(n >= 22)], &[("project", &format!("many-{n}"))])
        };
        (0..25).map(of).collect()
    };
    world.readings(&all(["3600", "3600"]));
    let daemon = world.daemon(&[], &[]);
    world.in_time("the first", || lines(&daemon, "more amounts").len() == 1);
    assert_eq!(lines(&daemon, " posted").len(), 20);
    let of_more = "5 more amounts changed, none of which fell (`export` shows each).";
    assert_eq!(lines(&daemon, "more amounts"), [format!("INFO {of_more}")]);
    // 22 rise and three fall: those that fell are among what is told.
    world.readings(&all(["7200", "1800"]));
    world.in_time("the second", || lines(&daemon, "more amounts").len() == 2);
    assert_eq!(lines(&daemon, "1.00 -> 2.00 posted").len(), 17);
    assert_eq!(lines(&daemon, "1.00 -> 0.50 posted: it fell").len(), 3);
    // All fall: of more than are told, how many.
    world.readings(&all(["360", "360"]));
    world.in_time("the third", || lines(&daemon, "more amounts").len() == 3);
    assert_eq!(
        lines(&daemon, "more amounts")[2],
        "WARN 5 more amounts changed, of which 5 fell (`export` shows each)."
    );
}

#[test]
fn what_changed_in_the_rules_is_told_once_with_a_reload_and_with_a_start() {
    let world = World::new(CURRENT);
    configure(&world, &cpu_hours_of_a());
    world.readings(&[hours("1", "5400", &[])]);
    let mut daemon = world.daemon(&[], &[]);
    world.in_time("the first report", || !lines(&daemon, " posted").is_empty());
    configure(&world, &cpu_hours_of_a().replace("1/3600", "1/1800"));
    daemon.signal("HUP");
    daemon.until_it_says("Reloaded: ");
    world.in_time("by the new rules", || world.rows(A) == ["cpu_hours 2026-11 3.00"]);
    world.in_time("it is told", || lines(&daemon, "1.50 -> 3.00 posted").len() == 1);
    let factor = |is: &str, was: &str| {
        format!(
            "WARN 2026-11: the rules were changed: source: the factor of cpu_hours is {is} instead of {was}, from 2026-11 on"
        )
    };
    assert_eq!(lines(&daemon, "the factor of"), [factor("1/1800", "1/3600")]);
    daemon.kill();
    configure(&world, &cpu_hours_of_a());
    let daemon = world.daemon(&[], &[]);
    world.in_time("the old rules again", || lines(&daemon, "3.00 -> 1.50 posted").len() == 1);
    assert_eq!(
        lines(&daemon, "the factor of"),
        [factor("1/1800", "1/3600"), factor("1/3600", "1/1800")],
        "the log is that of both processes"
    );
}
