//! Taking over from another reporter in mid-month: the recipes of docs/takeover.md, run as they stand there, with literal
//! amounts; and what must not be adopted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../docs/takeover.md");

/// The blocks in this language under a heading of the page.
fn blocks(heading: &str, language: &str) -> Vec<String> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let blocks = section.split("\n```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.split_once('\n')).filter(|(name, _)| *name == language);
    blocks.map(|(_, text)| text.to_owned()).collect()
}

/// The commands of the n-th block of shell under a heading, each as its arguments.
fn recipe(heading: &str, block: usize) -> Vec<Vec<String>> {
    let text = blocks(heading, "sh").swap_remove(block);
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let commands = text.lines().map(|line| words(line.strip_prefix("waldur-usage-agent ").unwrap()));
    commands.collect()
}

#[test]
fn every_block_of_the_page_is_run_here() {
    let count = |language: &str| PAGE.matches(&format!("\n```{language}\n")).count();
    // One of the first and third recipe each, two of the second; the first's and third's configuration.
    assert_eq!((count("sh"), count("yaml"), PAGE.matches("\n```").count()), (4, 2, 12));
}

/// Runs a recipe's commands; they end with these codes.
#[track_caller]
fn follow(world: &World, heading: &str, block: usize, codes: &[i32]) -> Vec<Done> {
    let commands = recipe(heading, block);
    assert_eq!(commands.len(), codes.len(), "{commands:?}");
    let run = |(command, code): (&Vec<String>, &i32)| {
        let mut words: Vec<&str> = command.iter().map(String::as_str).collect();
        if words[0] == "flush" {
            words.extend(["--deadline", "3s"]);
        }
        world.agent(&words).exits(*code)
    };
    commands.iter().zip(codes).map(run).collect()
}

/// The world with `submit:` as given.
fn configure(world: &World, submit: &str, collector: &str) {
    let collector = world.collector("source", "readings", collector);
    world.write("agent.yaml", &format!("{}{submit}\ncollectors:\n{collector}", world.head("")));
}

fn by_user(meter: &str) -> String {
    format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    user: \"{{user}}\"\n    meters:\n      {meter}\n"
    )
}

const JOBS: &str = "cpu_hours: { reading: cpu_seconds, factor: 1/3600 }";

fn of_alice(at: &str, value: &str) -> Value {
    reading("cpu_seconds", "counter", at, value, &[("account", "project-a"), ("user", "alice")])
}

/// What another reporter has left: 40 h, 25 of alice's and 10 of bob's, at 11:00.
fn other_hand(world: &World) {
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "40.00", "modified_by": 77, "date": "2026-11-10T11:00:00Z",
                "users": { "alice": "25.00", "bob": "10.00" } }),
    );
}

fn removed_ledger(world: &World) {
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.submit", "ledger.db.lock"] {
        let _ = std::fs::remove_file(world.path(name));
    }
}

#[track_caller]
fn agrees(world: &World) {
    world.agent(&["recount"]).exits(0).says("The ledger agrees with its readings.");
    let mark = world.mark();
    world.flush().exits(0).says("Nothing was sent.");
    world.flush().exits(0).says("Nothing was sent.");
    assert_eq!(world.posts_since(mark).len(), 0);
}

#[test]
fn a_source_with_full_history_overwrites() {
    for api in BOTH {
        let world = World::new(api);
        configure(&world, "", &by_user(JOBS));
        other_hand(&world);
        let job = |id: &str, user: &str, day: &str, value: &str| {
            let (start, end) = (format!("2026-11-{day}T00:00:00Z"), format!("2026-11-{day}T10:00:00Z"));
            job("cpu_seconds", id, &start, &end, value, &[("account", "project-a"), ("user", user)])
        };
        // The whole month: 26.5 h of alice's and 15 h of bob's; the other reporter had missed some.
        world.readings(&[
            job("1", "alice", "02", "93600"),
            job("2", "bob", "03", "54000"),
            job("3", "alice", "10", "1800"),
        ]);
        let done = follow(&world, "A source with full history", 0, &[65, 65, 0, 0, 0]);
        assert!(
            done[0].all().contains("Waldur holds 40.00, written by another (modified by 77"),
            "{done:#?}"
        );
        assert!(done[1].out.contains("resolve RESOURCE adopt"), "{done:#?}");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 41.50"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 26.50", "bob cpu_hours 2026-11 15.00"]);
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 41.50"]);
        assert!(done[4].out.contains("posted    41.50 h"), "{}", done[4].out);
        agrees(&world);
    }
}

#[test]
fn a_source_with_full_history_overwrites_by_configuration() {
    let world = World::new(CURRENT);
    configure(&world, &blocks("A source with full history", "yaml")[0], &by_user(JOBS));
    other_hand(&world);
    let labels = [("account", "project-a"), ("user", "alice")];
    world.readings(&[job(
        "cpu_seconds",
        "1",
        "2026-11-02T00:00:00Z",
        "2026-11-02T10:00:00Z",
        "9000",
        &labels,
    )]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
}

#[test]
fn a_source_of_samples_adopts_what_is_held_and_goes_on_from_there() {
    for api in BOTH {
        let world = World::new(api);
        configure(&world, "", &by_user(JOBS));
        other_hand(&world);
        // It looked already while the other still reported: an hour before 11:00 that both have seen. From 10:00 to 12:00
        // alice used 4 h, 2 of them after 11:00.
        world.readings(&[of_alice("2026-11-10T10:00:00Z", "500"), of_alice("2026-11-10T12:00:00Z", "14900")]);
        let done = follow(&world, "A source that only knows what it has seen", 0, &[65, 65, 0, 0, 0, 0]);
        assert!(done[2].out.contains("becomes the opening balance"), "{done:#?}");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 42.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 27.00", "bob cpu_hours 2026-11 10.00"]);
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 42.00"]);
        let told = &done[4].out;
        assert!(told.contains("with      opening balance 40.00 of 2026-11-10T11:00:00Z"), "{told}");
        assert!(told.contains("modified by 77"), "{told}");
        assert!(told.contains("usage before that instant is not counted again"), "{told}");
        // The balance and what the readings add after it are the amount.
        let explained = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
        assert_eq!((&explained["amount"], &explained["series"][0]["amount"]), (&json!("42"), &json!("2")));
        assert_eq!(explained["readings"][1]["in_opening_balance"], true, "{explained:#}");
        // 5 h of the total are nobody's.
        assert!(told.contains("(unattributed)"), "{told}");
        agrees(&world);
        // It goes on: 3 minutes more are 0.05 h.
        world.now("2026-11-10T12:30:00Z");
        world.readings(&[
            of_alice("2026-11-10T10:00:00Z", "500"),
            of_alice("2026-11-10T12:00:00Z", "14900"),
            of_alice("2026-11-10T12:30:00Z", "15080"),
        ]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 42.05"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 27.05", "bob cpu_hours 2026-11 10.00"]);
        agrees(&world);
        // And December begins at nothing: an hour over midnight, half of it December's.
        world.now("2026-12-01T00:30:00Z");
        world.readings(&[
            of_alice("2026-11-10T12:30:00Z", "15080"),
            of_alice("2026-11-30T23:30:00Z", "15080"),
            of_alice("2026-12-01T00:30:00Z", "18680"),
        ]);
        world.flush();
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 42.05", "cpu_hours 2026-12 0.50"], "{api}");
    }
}

#[test]
fn a_person_who_knows_the_instant_better_says_it() {
    let world = World::new(CURRENT);
    configure(&world, "", &by_user(JOBS));
    other_hand(&world);
    world.readings(&[of_alice("2026-11-10T10:00:00Z", "500"), of_alice("2026-11-10T12:00:00Z", "14900")]);
    world.flush().exits(65);
    world.agent(&["resolve", A, "adopt", "--at", "2026-11-10T13:00:00Z"]).exits(64).says("in the future");
    world
        .agent(&["resolve", A, "adopt", "--at", "2026-10-10T13:00:00Z"])
        .exits(64)
        .says("in conflict in 2026-11");
    world.agent(&["resolve", A, "overwrite", "--at", "2026-11-10T11:00:00Z"]).exits(64);
    follow(&world, "A source that only knows what it has seen", 1, &[0]);
    world.flush().exits(0);
    // Half an hour at 2 h an hour.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 41.00"]);
    let explained = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
    assert_eq!(explained["amount"], "41", "{explained:#}");
    assert_eq!(explained["adjustments"][0]["at"], "2026-11-10T11:30:00Z");
    agrees(&world);
}

#[test]
fn a_host_that_was_installed_again_goes_on_where_the_lost_ledger_was() {
    for api in BOTH {
        let world = World::new(api);
        configure(&world, "", &by_user(JOBS));
        let bob = |at: &str, value: &str| {
            reading("cpu_seconds", "counter", at, value, &[("account", "project-a"), ("user", "bob")])
        };
        world.readings(&[
            of_alice("2026-11-10T10:00:00Z", "0"),
            of_alice("2026-11-10T12:00:00Z", "27000"),
            bob("2026-11-10T10:00:00Z", "0"),
            bob("2026-11-10T12:00:00Z", "9000"),
        ]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 10.00"]);
        assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 7.50", "bob cpu_hours 2026-11 2.50"]);

        removed_ledger(&world);
        world.now("2026-11-20T09:00:00Z");
        configure(&world, &blocks("A host that was installed again", "yaml")[0], &by_user(JOBS));
        // The counters went on while nobody looked; then alice uses half an hour, and carol is new.
        let carol = |at: &str, value: &str| {
            reading("cpu_seconds", "counter", at, value, &[("account", "project-a"), ("user", "carol")])
        };
        world.readings(&[
            of_alice("2026-11-20T08:00:00Z", "99000"),
            of_alice("2026-11-20T09:00:00Z", "100800"),
            carol("2026-11-20T08:00:00Z", "0"),
            carol("2026-11-20T09:00:00Z", "3600"),
        ]);
        let done = follow(&world, "A host that was installed again", 0, &[0, 0, 0]);
        assert!(done[0].all().contains("10.00 is the opening balance of 2026-11-10T"), "{done:#?}");
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 11.50"], "{api}");
        assert_eq!(
            world.shares(A),
            ["alice cpu_hours 2026-11 8.00", "bob cpu_hours 2026-11 2.50", "carol cpu_hours 2026-11 1.00"]
        );
        assert_eq!(world.billed(A), ["cpu_hours 2026-11 11.50"]);
        assert!(done[1].out.contains("opening balance 10.00 of 2026-11-10T"), "{}", done[1].out);
        agrees(&world);
        let status = world.agent(&["status", "--json"]).exits(0).json();
        let opening = &status["statements"][0]["components"][0]["adjustments"][0];
        assert_eq!(
            (&opening["kind"], &opening["amount"]),
            (&json!("opening balance"), &json!("10")),
            "{status:#}"
        );
        let of_bob = world.agent(&["explain", A, "cpu_hours", "--user", "bob", "--json"]).exits(0).json();
        assert_eq!((&of_bob["amount"], &of_bob["posted"]), (&json!("2.5"), &json!("2.50")));
        assert_eq!(of_bob["adjustments"][0]["amount"], "2.5");
        // A crash just after it was recorded changes nothing.
        removed_ledger(&world);
        world.flush_killed_at("after an opening balance is recorded").exits(128 + 9);
        world.flush().exits(0);
        world.agent(&["recount"]).exits(0);
        // 11.50 was reported at 09:00, and nothing was seen after it.
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 11.50"], "{api}");
    }
}

#[test]
fn by_itself_it_adopts_once_and_then_holds() {
    let world = World::new(CURRENT);
    configure(&world, "submit: { on_conflict: adopt }", &by_user(JOBS));
    other_hand(&world);
    world.readings(&[of_alice("2026-11-10T11:00:00Z", "0"), of_alice("2026-11-10T12:00:00Z", "3600")]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 41.00"]);
    // The other was not stopped.
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "43.00", "modified_by": 77, "date": "2026-11-10T18:00:00Z",
                "users": { "alice": "28.00", "bob": "10.00" } }),
    );
    world.now("2026-11-10T19:00:00Z");
    world.readings(&[of_alice("2026-11-10T12:00:00Z", "3600"), of_alice("2026-11-10T19:00:00Z", "16200")]);
    world.flush().exits(65).says("Waldur holds 43.00").says("41.00");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 43.00"]);
    // A person may: of the 3.5 h since noon a seventh, half an hour, was after 18:00.
    world.agent(&["resolve", "--all", "adopt"]).exits(0);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 43.50"]);
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 28.50", "bob cpu_hours 2026-11 10.00"]);
    agrees(&world);
}

#[test]
fn the_conflict_says_whose_hand_it_looks_like() {
    let world = World::new(CURRENT);
    let meters = "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 }, gpu_hours: { reading: gpu_seconds, factor: 1/3600 } }";
    world.configure(&format!("    resource: {A}\n    meters: {meters}\n"));
    for (component, date) in
        [("cpu_hours", "2026-11-10T11:00:00.1Z"), ("gpu_hours", "2026-11-10T11:00:00.4Z")]
    {
        let row = json!({ "resource": A, "type": component, "usage": "7.00", "modified_by": 77, "date": date,
                          "description": "by the old script" });
        world.post("rows", row);
    }
    let mut lines = counter(&["0", "3600"], &[]);
    lines.extend(series("gpu_seconds", "counter", &["0", "3600"], &[]));
    world.readings(&lines);
    let done = world.flush().exits(65).says("modified by 77, 2026-11-10T11:00:00.1Z");
    done.says("described as `by the old script`")
        .says("looks like another agent: 2 components in the same second");
}

#[test]
fn what_can_not_be_adopted_stays_held_and_says_why_and_the_rest_goes_on() {
    let world = World::new(CURRENT);
    let meters = "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 }, gpu_hours: { reading: used }, \
                  ram_gb_hours: { reading: memory, aggregate: mean }, storage_gb: { reading: disk, aggregate: max } }";
    let collector = format!("    resource: {A}\n    meters: {meters}\n");
    configure(&world, "submit: { on_conflict: adopt }", &collector);
    for component in ["cpu_hours", "gpu_hours", "ram_gb_hours", "storage_gb"] {
        let date = "2026-11-10T10:02:30Z";
        world.post(
            "rows",
            json!({ "resource": A, "type": component, "usage": "7.00", "modified_by": 77, "date": date }),
        );
    }
    // From 10:00 to 10:05 an hour was used, half of it after 10:02:30.
    let mut lines = counter(&["0", "3600"], &[]);
    lines.extend(series("used", "total", &["4", "9"], &[]));
    lines.extend(series("memory", "gauge", &["4", "9"], &[]));
    lines.extend(series("disk", "gauge", &["90", "6"], &[]));
    world.readings(&lines);
    world.flush().exits(65);
    // The 90 held until 10:05, so also after the instant.
    assert_eq!(
        world.rows(A),
        [
            "cpu_hours 2026-11 7.50",
            "gpu_hours 2026-11 7.00",
            "ram_gb_hours 2026-11 7.00",
            "storage_gb 2026-11 90.00"
        ]
    );
    let parked = world.agent(&["parked", "list", "--json"]).exits(65).json();
    let why = |component: &str| {
        let list = parked.as_array().unwrap();
        list.iter().find(|one| one["component"] == component).unwrap()["words"].as_str().unwrap().to_owned()
    };
    assert!(
        why("gpu_hours").contains("It can't be adopted: its source states the sum of the month by itself"),
        "{parked:#}"
    );
    assert!(why("ram_gb_hours").contains("It can't be adopted: it is a mean"), "{parked:#}");
    world.agent(&["resolve", A, "overwrite"]).exits(0);
    world.flush().exits(0);
    // 9 of the source's own; the mean of five minutes at 4.
    assert_eq!(
        world.rows(A),
        [
            "cpu_hours 2026-11 7.50",
            "gpu_hours 2026-11 9.00",
            "ram_gb_hours 2026-11 4.00",
            "storage_gb 2026-11 90.00"
        ]
    );
    world.agent(&["recount"]).exits(0);
}

#[test]
fn users_that_are_more_than_their_total_are_not_adopted() {
    let world = World::new(CURRENT);
    configure(&world, "submit: { on_conflict: adopt }", &by_user(JOBS));
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "5.00", "modified_by": 77, "date": "2026-11-10T11:00:00Z",
                "users": { "alice": "4.00", "bob": "2.00" } }),
    );
    world.readings(&[of_alice("2026-11-10T11:00:00Z", "0"), of_alice("2026-11-10T12:00:00Z", "3600")]);
    world.flush().exits(65).says("Waldur holds 6.00 of its users, which is more than the total of 5.00");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 5.00"]);
    assert_eq!(world.posts_since(0).len(), 0);
}

#[test]
fn a_server_that_does_not_answer_while_it_is_adopted_is_not_written_over() {
    let world = World::new(CURRENT);
    configure(&world, "submit: { on_conflict: adopt }", &by_user(JOBS));
    other_hand(&world);
    world.readings(&[of_alice("2026-11-10T11:00:00Z", "0"), of_alice("2026-11-10T12:00:00Z", "3600")]);
    world.fault(json!({ "match": { "path": "component-user-usages" }, "action": { "status": 502 } }));
    world.flush_once().exits(75);
    assert_eq!(world.posts_since(0).len(), 0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 40.00"]);
    world.no_faults();
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 41.00"]);
    agrees(&world);
}

#[test]
fn rows_that_only_name_a_day_or_the_month_are_taken_up_to_their_last_instant() {
    for (date, amount) in [
        // The end of the 9th is the start of the jobs: all of them are new.
        ("2026-11-09T00:00:00Z", "50.00"),
        // Of the month only, and of today: up to noon, when it was read.
        ("2026-11-01T00:00:00Z", "42.00"),
        ("2026-11-10T00:00:00Z", "42.00"),
    ] {
        let world = World::new(CURRENT);
        configure(&world, "", &by_user(JOBS));
        world.post(
            "rows",
            json!({ "resource": A, "type": "cpu_hours", "usage": "40.00", "modified_by": 77, "date": date }),
        );
        // 8 h of work from midnight to noon, and 2 h after it.
        let labels = [("account", "project-a"), ("user", "alice")];
        let one = |id, start: &str, end: &str, value| {
            let (start, end) = (format!("2026-11-10T{start}:00:00Z"), format!("2026-11-10T{end}:00:00Z"));
            job("cpu_seconds", id, &start, &end, value, &labels)
        };
        world.readings(&[one("1", "00", "12", "28800")]);
        world.flush().exits(65);
        world.agent(&["resolve", "project-a", "adopt"]).exits(0);
        world.flush().exits(0);
        world.now("2026-11-10T14:00:00Z");
        world.readings(&[one("1", "00", "12", "28800"), one("2", "12", "14", "7200")]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {amount}")], "{date}");
        agrees(&world);
    }
}
