//! Runs with more readings than memory should hold, and history that is read again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, too")]

mod agent;

use agent::{A, CURRENT, World, cpu_hours_of_a, job, reading};

/// What lies outside of memory counts like what lies in it, in whatever order it comes, and is counted in parts that give
/// the same as the whole: a recount finds nothing.
#[test]
fn thousands_of_readings_in_any_order_make_the_amounts_that_they_are() {
    let world = World::new(CURRENT);
    world.configure(
        &(cpu_hours_of_a()
            + "      gpu_hours: { reading: gpu_seconds, factor: 1/3600 }\n    user: \"{user}\"\n"),
    );
    let mut lines = Vec::new();
    // 12,000 jobs of 3 seconds each by three users: 10 hours.
    for number in 0..12_000 {
        let user = ["alice", "bob", "carol"][number % 3];
        let (start, id) = ("2026-11-10T10:00:00Z", number.to_string());
        lines.push(job("gpu_seconds", &id, start, "2026-11-10T10:00:03Z", "3", &[("user", user)]));
    }
    // A counter that rises by 2 each second for an hour and a half: 3 hours. Seen from the middle outwards, so that most
    // readings come late.
    let at = |second: usize| {
        format!("2026-11-10T{:02}:{:02}:{:02}Z", 10 + second / 3600, second / 60 % 60, second % 60)
    };
    for step in 0..=5_400usize {
        let second = if step % 2 == 0 { 2_700 + step / 2 } else { 2_700 - step.div_ceil(2) };
        lines.push(reading(
            "cpu_seconds",
            "counter",
            &at(second),
            &(2 * second).to_string(),
            &[("user", "alice")],
        ));
    }
    world.readings(&lines);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00", "gpu_hours 2026-11 10.00"]);
    world.agent(&["recount"]).exits(0);
    // Again: nothing is new. Corrected: 3 hours more.
    world.agent(&["collect"]).exits(0).says("17401 readings: 0 were new, 0 were corrected");
    let corrected = lines.iter().map(|line| {
        let mut line = line.clone();
        if line["id"].as_str().is_some_and(|id| id.parse::<u32>().unwrap() < 3_600) {
            line["value"] = "6".into();
        }
        line
    });
    let corrected: Vec<_> = corrected.collect();
    world.readings(&corrected);
    world.agent(&["collect"]).exits(0).says("0 were new, 3600 were corrected");
    world.agent(&["flush", "--deadline", "3s"]).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00", "gpu_hours 2026-11 13.00"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn readings_that_can_not_be_kept_fail_the_run_and_none_counts() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let lines: Vec<_> = (0..5_000)
        .map(|number: u32| {
            job(
                "cpu_seconds",
                &number.to_string(),
                "2026-11-10T10:00:00Z",
                "2026-11-10T11:00:00Z",
                "3600",
                &[],
            )
        })
        .collect();
    world.readings(&lines);
    let mut command = world.command(&["collect"]);
    let done: agent::Done = command.env("TMPDIR", world.path("nowhere")).output().unwrap().into();
    let place = world.path("nowhere");
    done.exits(69).says(&format!(
        "failed: its readings are too many for memory, and could not be kept in a temporary file in {}: ",
        place.display()
    ));
    world.agent(&["explain", A, "cpu_hours"]).says("the ledger has no amount");
    world.agent(&["collect"]).exits(0).says("5000 readings: 5000 were new");
}

#[test]
fn history_is_read_again_from_where_a_person_says_but_never_with_a_hole() {
    let world = World::new(CURRENT);
    let collector =
        "    resource: 5e2f0000-0000-4000-8000-000000000001\n    meters: { cpu_hours: { reading: seen } }\n";
    let script = r#"echo \"since $WALDUR_USAGE_SINCE after ${WALDUR_USAGE_CHECKPOINT-nothing}\" >> asked; echo '{\"checkpoint\":\"here\"}'"#;
    let text = format!(
        "{}collectors:\n  source:\n    plugin: exec\n    schedule: \"@hourly\"\n    command: [bash, -c, \"cd {}; {script}\"]\n{collector}",
        world.head(""),
        world.folder.path().display(),
    );
    world.write("agent.yaml", &text);
    world.agent(&["collect"]).exits(0);
    world.agent(&["collect"]).exits(0);
    world.agent(&["collect", "--since", "2026-10-01T00:00:00Z"]).exits(0);
    let asked = std::fs::read_to_string(world.path("asked")).unwrap();
    assert_eq!(
        asked.lines().collect::<Vec<_>>(),
        [
            "since 2026-11-01T00:00:00Z after nothing",
            "since 2026-11-01T00:00:00Z after here",
            "since 2026-10-01T00:00:00Z after nothing",
        ]
    );
    world.now("2026-11-12T00:00:00Z");
    world
        .agent(&["collect", "--since", "2026-11-11T00:00:00Z"])
        .exits(64)
        .says("the collector `source` last looked at 2026-11-10T12:00:00Z: what lies between that and 2026-11-11T00:00:00Z would be left out");
    assert_eq!(std::fs::read_to_string(world.path("asked")).unwrap(), asked, "it was not even asked");
}
