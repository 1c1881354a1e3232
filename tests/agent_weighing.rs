//! Which series a meter counts, and at which weight: through the binary, to what the sandbox holds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, too")]

mod agent;

use agent::{A, CURRENT, World, job};

const JOBS: &str = "    user: \"{user}\"\n    meters:\n      cpu_hours:\n        reading: cpu_seconds\n        factor: 1/3600\n";

/// A job of an hour from ten o'clock.
fn hour(id: &str, user: &str, partition: &str, state: &str) -> serde_json::Value {
    let labels = [("user", user), ("partition", partition), ("state", state)];
    job("cpu_seconds", id, "2026-11-10T10:00:00Z", "2026-11-10T11:00:00Z", "3600", &labels)
}

fn configure(world: &World, rules: &str) {
    world.configure(&format!("    resource: {A}\n{JOBS}{rules}"));
}

fn jobs() -> [serde_json::Value; 5] {
    [
        hour("1", "alice", "gpu", "COMPLETED"),
        hour("2", "alice", "gpu-long", "COMPLETED"),
        hour("3", "bob", "gpu", "FAILED"),
        hour("4", "bob", "main", "COMPLETED"),
        hour("5", "bob", "gpu", "RUNNING"),
    ]
}

const RULES: &str = "        only_if: { partition: [gpu, gpu-long] }\n        \
                     weights: { partition: { gpu-long: 1.5 }, state: { FAILED: 0, RUNNING: 1/2 } }\n";

#[test]
fn labels_decide_what_a_job_counts_and_users_sum_to_the_total() {
    let world = World::new(CURRENT);
    configure(&world, RULES);
    world.readings(&jobs());
    world.flush().exits(0);
    // alice 1 + 1.5; bob 0 for what failed, 0.5 for what runs, and the main partition is not counted here.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 2.50", "bob cpu_hours 2026-11 0.50"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_job_that_fails_after_all_is_weighed_as_what_it_is_now() {
    let world = World::new(CURRENT);
    configure(&world, RULES);
    world.readings(&jobs());
    world.flush().exits(0);
    // Job 2 failed, job 5 ended well: 1 for alice, 1 for bob.
    let [one, _, three, four, _] = jobs();
    let (two, five) = (hour("2", "alice", "gpu-long", "FAILED"), hour("5", "bob", "gpu", "COMPLETED"));
    world.readings(&[one, two, three, four, five]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 1.00", "bob cpu_hours 2026-11 1.00"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_changed_rule_is_carried_out_on_what_is_known() {
    let world = World::new(CURRENT);
    configure(&world, "");
    world.readings(&jobs());
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00"]);
    for (rules, hours) in [
        (RULES, "3.00"),
        ("        not_if: { state: [FAILED, RUNNING] }\n", "3.00"),
        ("        weights: { user: { alice: 1/3 } }\n", "3.67"),
        ("        only_if: { partition: nowhere }\n", "0.00"),
        ("", "5.00"),
    ] {
        configure(&world, rules);
        world.flush().exits(0);
        assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {hours}")], "{rules}");
        world.agent(&["recount"]).exits(0);
    }
}

/// `at_most` is what the component gets by the hour, so it is compared with what is weighed.
#[test]
fn what_a_meter_takes_at_most_is_what_is_billed() {
    let world = World::new(CURRENT);
    let rules = |gpu: &str| {
        format!("        at_most: 10\n        weights: {{ partition: {{ gpu: {gpu}, cheap: 0.1 }} }}\n")
    };
    let in_an_hour = |id: &str, partition: &str, hours: u32| {
        let labels = [("user", "alice"), ("partition", partition), ("state", "")];
        let seconds = (3600 * hours).to_string();
        job("cpu_seconds", id, "2026-11-10T10:00:00Z", "2026-11-10T11:00:00Z", &seconds, &labels)
    };
    configure(&world, &rules("4"));
    // 5 x 4 = 20 are too much; 50 x 0.1 = 5 and 8 are not.
    world.readings(&[in_an_hour("1", "gpu", 5), in_an_hour("2", "cheap", 50), in_an_hour("3", "main", 8)]);
    world.flush();
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 13.00"]);
    world.agent(&["explain", A, "cpu_hours"]).exits(0).says("held");
    world.agent(&["recount"]).exits(0);
    // 5 x 2 = 10 are just what may be.
    configure(&world, &rules("2"));
    world.flush();
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 23.00"]);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn collect_and_explain_tell_what_counts_and_how_much() {
    let world = World::new(CURRENT);
    configure(&world, RULES);
    world.readings(&jobs());
    let rule = "only if partition is gpu or gpu-long, weighed by partition (gpu-long 1.5), weighed by state (FAILED 0, RUNNING 0.5)";
    world
        .agent(&["collect", "--dry-run"])
        .exits(0)
        .says(&format!("cpu_hours counts 4 of 5 readings of cpu_seconds: {rule}"));
    let dry = world.agent(&["collect", "--dry-run", "--json"]).exits(0).json();
    assert_eq!(dry["collectors"][0]["weighing"]["cpu_hours"], rule);
    world.flush().exits(0);
    let explained = world.agent(&["explain", A, "cpu_hours"]).exits(0);
    let explained = explained.says("cpu_seconds: sum, x factor 1/3600").says(&format!("counts {rule}"));
    let explained = explained.says("1.5 1 3600 x weight 1.5").says("does not count");
    // 5400 weighed seconds are 1.5 h, and so on: what is shown adds up.
    explained.says("total");
    let json = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
    let mut weights: Vec<String> = json["series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|series| format!("{} {} {}", series["labels"]["partition"], series["weight"], series["amount"]))
        .collect();
    weights.sort();
    assert_eq!(
        weights,
        [
            r#""gpu" "0" "0""#,
            r#""gpu" "0.5" "0.5""#,
            r#""gpu" "1" "1""#,
            r#""gpu-long" "1.5" "1.5""#,
            r#""main" null "0""#,
        ]
    );
    assert_eq!(
        json["readings"].as_array().unwrap().len(),
        4,
        "what does not count is no reading of the amount's"
    );
}

#[test]
fn check_finds_a_label_that_the_collector_does_not_have() {
    let world = World::new(CURRENT);
    let head = world.head("");
    let collector = "collectors:\n  cluster:\n    plugin: slurm\n    schedule: \"@hourly\"\n";
    world.write(
        "agent.yaml",
        &format!(
            "{head}{collector}    resource: {A}\n    meters:\n      \
             cpu_hours: {{ reading: cpu_seconds, only_if: {{ queue: gpu }}, weights: {{ top_account: {{ a: 2 }} }} }}\n"
        ),
    );
    let done = world.agent(&["check", "--offline"]).exits(78);
    let done = done.says(
        "line 10: collectors.cluster.meters: the meter cpu_hours looks at a label `queue`, which is none",
    );
    // Only with `account_level` is there one.
    done.says("the meter cpu_hours looks at a label `top_account`");

    // What only running it tells: a value that nothing has.
    configure(&world, "        only_if: { partition: gup }\n");
    world.readings(&jobs());
    world.agent(&["check"]).says("none of 5 counts; is a label or value misspelt?");
}
