//! `check` tries each collector and says what it would report, for whom, and in which unit beside Waldur's own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::{Value, json};

/// A reading now, with its unit.
fn now(name: &str, kind: &str, value: &str, unit: &str, labels: &[(&str, &str)]) -> Value {
    let mut reading = reading(name, kind, NOON, value, labels);
    reading["unit"] = unit.into();
    reading
}

#[test]
fn it_shows_what_would_be_reported_for_whom_and_in_which_unit() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&[now("cpu_seconds", "counter", "160", "s", &[("user", "alice")])]);
    world
        .agent(&["check"])
        .exits(0)
        .says("collector source: 1 reading of cpu_seconds (counter, s) make cpu_hours by increase x 1/3600")
        .says("would report cpu_hours for Project A, of 1 reading, in `s` x 1/3600, beside Waldur's `h`")
        .says("\n           Project A: 160 s of alice\n")
        .says_not("warning  collector");
    // Nothing was recorded, nothing sent.
    assert!(!world.path("ledger.db").exists());
    assert_eq!(world.posts_since(0).len(), 0);
}

#[test]
fn it_warns_where_the_units_plainly_disagree_and_nowhere_else() {
    let world = World::new(CURRENT);
    let account = |account: &'static str| [("account", account)];
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      \
         cpu_hours: {{ reading: cpu }}\n      gpu_hours: {{ reading: gpu, factor: 2/3600 }}\n      \
         ram_gb_hours: {{ reading: ram, aggregate: last, factor: 1/1000000000 }}\n"
    ));
    world.readings(&[
        now("cpu", "counter", "160", "s", &account("project-a")),
        now("cpu", "counter", "7", "s", &account("project-b")),
        now("gpu", "counter", "5", "s", &account("project-b")),
        now("ram", "gauge", "1000000000", "B", &account("project-b")),
    ]);
    let check = world.agent(&["check"]).exits(0);
    let check = check
        .says("would report cpu_hours for Project A, Project B, of 2 readings, in `s` x 1, beside Waldur's `h`")
        .says("\n           Project A: 160 s\n           Project B: 7 s\n")
        .says(
            "warning  collector source: what it would report of cpu_hours is in `s` x 1, and Waldur measures it in `h`: it \
             looks 3600 times too much; `factor: 1/3600` makes h of s",
        )
        .says("would report gpu_hours for Project B, of 1 reading")
        .says("`GB*h` is by time, and `B` is not");
    assert_eq!(
        check.out.matches("what it would report").count(),
        2,
        "a weight of 2 is no mistake: {}",
        check.out
    );
}

#[test]
fn each_collector_is_tried_and_each_failure_told_at_once() {
    let world = World::new(CURRENT);
    let program = |name: &str, command: &str| {
        format!(
            "  {name}:\n    plugin: exec\n    schedule: \"@hourly\"\n    command: {command}\n{}",
            cpu_hours_of_a()
        )
    };
    let good = world.collector("good", "readings", &cpu_hours_of_a());
    let collectors = [
        program("absent", "[/nowhere/program]"),
        program("forbidden", &format!("[{}]", world.path("token").display())),
        program("broken", "[sh, -c, \"echo licence server is down >&2; exit 3\"]"),
        program("garbage", "[echo, hello]"),
        good,
    ];
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}collectors:\n{}", collectors.concat()));
    world.readings(&[now("cpu_seconds", "counter", "160", "s", &[])]);
    let check = world.agent(&["check"]).exits(69);
    let check = check
        .says("collector absent: ")
        .says("/nowhere/program")
        .says("collector forbidden: ")
        .says("Permission denied")
        .says("licence server is down")
        .says("collector garbage: the one line or value that it found could not be read: line 1: ")
        .says("collector good: would report cpu_hours for Project A");
    for collector in ["absent", "forbidden", "broken"] {
        assert!(check.out.contains(&format!("problem  collector {collector}: ")), "{}", check.out);
    }
}

#[test]
fn it_tells_what_would_be_counted_twice() {
    let world = World::new(CURRENT);
    let one = world.collector("one", "readings", &cpu_hours_of_a());
    let two = world.collector("two", "readings", &cpu_hours_of_a());
    let head = world.head("");
    world.write("agent.yaml", &format!("{head}collectors:\n{one}{two}"));
    world.readings(&[now("cpu_seconds", "counter", "160", "s", &[])]);
    world.agent(&["check"]).exits(0).says(
        "warning  collectors one and two both count `cpu_seconds` into cpu_hours of the same resources, and count the same \
         twice: 1 reading the same",
    );
    let twice = cpu_hours_of_a() + "      more: { component: cpu_hours, reading: cpu_seconds }\n";
    world.write("agent.yaml", &format!("{head}collectors:\n{}", world.collector("one", "readings", &twice)));
    world
        .agent(&["check", "--offline"])
        .exits(0)
        .says("warning  collector one: two meters count `cpu_seconds` into cpu_hours, and may count the same series");
}

#[test]
fn a_collector_none_of_whose_ids_is_a_resources_is_a_problem() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"x-{{account}}\" }}\n    meters:\n      \
         cpu_hours: {{ reading: cpu, factor: 1/3600 }}\n"
    ));
    let cpu = |account| now("cpu", "counter", "160", "s", &[("account", account)]);
    world.readings(&[cpu("project-a"), cpu("project-b")]);
    world.agent(&["check"]).exits(65).says(
        "problem  collector source: none of its 2 backend ids is a resource's (x-project-a and so on), so that nothing is \
         billed",
    );
    // One that is makes it no alarm.
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      \
         cpu_hours: {{ reading: cpu, factor: 1/3600 }}\n"
    ));
    world.readings(&[cpu("project-a"), cpu("nobody")]);
    world.agent(&["check"]).exits(0).says("no resource has the backend id nobody: unmatched");
}

#[test]
fn a_resource_that_waldur_would_not_bill_is_told_where_it_is_found_by_its_backend_id_too() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      \
         cpu_hours: {{ reading: cpu, factor: 1/3600 }}\n"
    ));
    world.readings(&[
        now("cpu", "counter", "160", "s", &[("account", "project-a")]),
        now("cpu", "counter", "160", "s", &[("account", "project-b")]),
    ]);
    world.agent(&["check"]).exits(0).says_not("problem");
    world.post(&format!("resources/{A}"), serde_json::json!({ "plan": false }));
    world.post(&format!("resources/{B}"), serde_json::json!({ "state": "Erred" }));
    let check = world.agent(&["check"]).exits(65);
    let check = check.says(&format!("backend id project-a: Project A ({A}) has no plan"));
    check.says(&format!("backend id project-b: Project B ({B}) is Erred: Waldur refuses reports"));
    // One that lives has the id, whatever became of others.
    world.post(&format!("resources/{A}"), serde_json::json!({ "plan": true, "backend_id": "project-b" }));
    world.agent(&["check"]).exits(0).says("no resource has the backend id project-a");
    world.post(&format!("resources/{B}"), serde_json::json!({ "state": "OK" }));
    let check = world.agent(&["check"]).exits(65);
    check.says("nobody can say which is meant").says(A).says(B);
}

/// One that has ended, one that has erred, one without a plan and an id that two have: each is told by name, all at once, whether
/// it is named by its UUID or found by its backend id.
#[test]
fn each_resource_that_waldur_would_not_bill_is_told_by_name() {
    let names = ["Ended", "Broken", "Planless", "First twin", "Second twin"];
    let ids = ["ended", "broken", "planless", "twins", "twins"];
    let uuid = |number: usize| format!("5e2f0000-0000-4000-8000-00000000000{}", number + 1);
    let market = marketplace();
    let (head, _) = market.split_once("resources:").unwrap();
    let more = ["state: Terminated", "state: Erred", "plan: false", "state: OK", "state: OK"];
    let resource = |number: usize| {
        let (name, id, more) = (names[number], ids[number], more[number]);
        format!(
            "  - {{ uuid: {}, name: {name}, backend_id: {id}, offering: Cluster, {more} }}\n",
            uuid(number)
        )
    };
    let resources: String = (0..5).map(resource).collect();
    let marketplace = format!("{head}resources:\n{resources}");
    let world = World::of(Setting { marketplace, ..Setting::default() });
    let cpu = |account: &str| now("cpu", "counter", "160", "s", &[("account", account)]);
    world.readings(&["ended", "broken", "planless", "twins"].map(cpu));
    let meters = "    meters: { cpu_hours: { reading: cpu, factor: 1/3600 } }\n";
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n{meters}"
    ));
    let problems = |done: &Done| done.out.lines().filter(|line| line.starts_with("problem ")).count();
    let by_id = world.agent(&["check"]).exits(65);
    assert_eq!(problems(&by_id), 4, "{by_id:#?}");
    let refuses = "Waldur refuses reports for it";
    by_id
        .says(&format!("backend id ended: Ended ({}) is Terminated: {refuses}", uuid(0)))
        .says(&format!("backend id broken: Broken ({}) is Erred: {refuses}", uuid(1)))
        .says(&format!("backend id planless: Planless ({}) has no plan: Waldur can't bill it; give it one", uuid(2)))
        .says(&format!(
            "backend id twins: it is that of First twin ({}) and of Second twin ({}), and nobody can say which is meant",
            uuid(3),
            uuid(4)
        ));
    // The same by their UUIDs, where an id of two is no trouble.
    let collectors: String = (0..5)
        .map(|number| {
            world.collector(names[number], "readings", &format!("    resource: {}\n{meters}", uuid(number)))
        })
        .collect::<String>()
        .replace(" twin:", "-twin:");
    world.write("agent.yaml", &format!("{}collectors:\n{collectors}", world.head("")));
    world.readings(&[cpu("any")]);
    let by_uuid = world.agent(&["check"]).exits(65);
    assert_eq!(problems(&by_uuid), 3, "{by_uuid:#?}");
    by_uuid
        .says(&format!("resource Ended ({}) is Terminated: {refuses}", uuid(0)))
        .says(&format!("resource Broken ({}) is Erred: {refuses}", uuid(1)))
        .says(&format!("resource Planless ({}) has no plan: Waldur can't bill it; give it one", uuid(2)));
}

/// A collector of twelve meters: what is well is summed up, what is not is told one by one, and machines are told all.
#[test]
fn what_is_well_is_summed_up_where_there_is_much_of_it() {
    let world = World::new(CURRENT);
    let meters: String = (0..12)
        .map(|meter| {
            format!("      meter-{meter:02}: {{ component: cpu_hours, reading: reading-{meter:02} }}\n")
        })
        .collect();
    world.configure(&format!("    resource: {A}\n    meters:\n{meters}"));
    let name = "x".repeat(200);
    let lines: Vec<Value> = (0..12)
        .map(|meter| now(&format!("reading-{meter:02}"), "counter", "160", "h", &[("user", &name)]))
        .collect();
    world.readings(&lines);
    let check = world.agent(&["check"]).exits(0);
    assert_eq!(check.out.matches("would report cpu_hours").count(), 8, "{check:#?}");
    let check = check
        .says("ok       and 4 more meters that were tried (`check --json` has all)")
        .says("ok       and 4 more meters that would report (`check --json` has all)");
    for line in check.out.lines() {
        assert!(line.chars().count() <= 80 || !line.trim().contains(' '), "{line}");
    }
    let all = world.agent(&["check", "--json"]).exits(0);
    assert_eq!(all.out.matches("would report cpu_hours for Project A, of 1 reading").count(), 12);
}

#[test]
fn a_changed_file_is_told_once_an_amount_and_what_would_be_held_is_not_said_to_change() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    let mut jobs = vec![job(
        "cpu_seconds",
        "1",
        "2026-11-03T00:00:00Z",
        "2026-11-03T01:00:00Z",
        "3600",
        &[("user", "alice")],
    )];
    jobs.push(job(
        "cpu_seconds",
        "2",
        "2026-11-03T00:00:00Z",
        "2026-11-03T01:00:00Z",
        "7200",
        &[("user", "bob")],
    ));
    world.readings(&jobs);
    world.flush().exits(0);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let (new, removed) = (world.path("new.yaml"), world.path("removed.yaml"));
    std::fs::write(&new, text.replace("1/3600", "1/1800")).unwrap();
    let check = |file: &std::path::Path| {
        let out = world.agent(&["--config", file.to_str().unwrap(), "check"]).out;
        out.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let said = check(&new);
    for change in
        ["2026-11, cpu_hours: 3.00 becomes 6.00", "of alice: 1.00 becomes 2.00", "of bob: 2.00 becomes 4.00"]
    {
        assert_eq!(said.matches(change).count(), 1, "{change} in {said}");
    }
    assert_eq!(said.matches("becomes").count(), 3, "{said}");
    std::fs::write(&removed, text.replace("cpu_hours: {", "gpu_hours: {")).unwrap();
    let said = check(&removed);
    assert!(said.contains("cpu_hours: would be held: the rules were changed"), "{said}");
    assert!(!said.contains("becomes 0.00"), "{said}");
}

#[test]
fn very_many_changes_are_summed_up() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters: {{ cpu_hours: {{ reading: \
         cpu_seconds, factor: 1/3600 }} }}\n"
    ));
    let mut jobs = Vec::new();
    for n in 0..20 {
        let account = format!("many-{n}");
        world.post("resources", json!({ "name": account, "backend_id": account, "offering": "Cluster" }));
        let (start, end) = ("2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z");
        jobs.push(job("cpu_seconds", &n.to_string(), start, end, "3600", &[("account", &account)]));
    }
    world.readings(&jobs);
    world.flush().exits(0);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("1/3600", "1/1800"));
    let check = world.agent(&["check"]);
    check
        .says("2026-11, cpu_hours of 20 resources: 20.00 becomes 40.00 in all")
        .says("and 12 more amounts that would change (`check --json` has all)");
}
