//! `export`: what an accountant gets of a month. Values worked out by hand; docs/export.md names the columns.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
mod docs_commands;

use std::io::Read;
use std::process::Stdio;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// The rows of a month, each with its values by the names of their columns.
fn rows(world: &World, month: &str, code: i32) -> Vec<std::collections::BTreeMap<String, String>> {
    let done = world.agent(&["export", "--period", month]).exits(code);
    let mut lines = done.out.split("\r\n");
    let names: Vec<String> = lines.next().unwrap().split(',').map(str::to_owned).collect();
    let rows = lines.filter(|line| !line.is_empty());
    rows.map(|line| names.iter().cloned().zip(line.split(',').map(str::to_owned)).collect()).collect()
}

/// These columns of each row.
fn shown(world: &World, month: &str, code: i32, columns: &[&str]) -> Vec<String> {
    let rows = rows(world, month, code);
    rows.iter().map(|row| columns.iter().map(|of| row[*of].as_str()).collect::<Vec<_>>().join("|")).collect()
}

#[test]
fn the_columns_of_the_page_are_those_of_the_program() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/export.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("| column | what it is |").unwrap();
    let told: Vec<&str> = table
        .split("\n\n")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    jobs(&world, NOON, &[five()]).exits(0);
    let csv = world.agent(&["export", "--period", "2026-11"]).exits(0).out;
    assert_eq!(csv.split("\r\n").next().unwrap(), told.join(","));
    let text = world.agent(&["export", "--period", "2026-11", "--json"]).exits(0).out;
    let mut last = 0;
    for column in told {
        let at = text.find(&format!("\"{column}\":")).unwrap_or_else(|| panic!("no {column} in {text}"));
        assert!(at > last, "{column} is not in its place: {text}");
        last = at;
    }
}

/// October: 12 h of alice's in time, and an hour that comes late. November: 5 h.
#[test]
fn a_month_is_exported_with_what_was_used_posted_and_left() {
    for (api, late) in [(CLASSIC, "hold"), (CURRENT, "hold"), (CURRENT, "carry_forward")] {
        let books = Books::of(api, late, &keys(CPU));
        let world = &books.world;
        books.at(LATER, &[late_hour()]);
        let columns = [
            "user",
            "used",
            "used_rounded",
            "carried",
            "posted",
            "waldur_holds",
            "stranded",
            "state",
            "call",
        ];
        let shares = if api == CLASSIC { "set_user_usage" } else { "set_user_usages" };
        let (code, october) = match late {
            "hold" => (
                65,
                [
                    "|13|13.00|0.00|13.00|12.00|1.00|stranded|set_usage".to_owned(),
                    format!("alice|13|13.00|0.00|13.00|12.00|1.00|stranded|{shares}"),
                ],
            ),
            _ => (
                0,
                [
                    "|13|13.00|-1.00|12.00|12.00||agreed|set_usage".to_owned(),
                    format!("alice|13|13.00|-1.00|12.00|12.00||agreed|{shares}"),
                ],
            ),
        };
        assert_eq!(shown(world, "2026-10", code, &columns), october, "{api} {late}");
        let november = match late {
            "hold" => ["|5|5.00|0.00|5.00|5.00||agreed|set_usage", "alice|5|5.00|0.00|5.00|5.00||agreed|"],
            _ => ["|5|5.00|1.00|6.00|6.00||agreed|set_usage", "alice|5|5.00|1.00|6.00|6.00||agreed|"],
        };
        assert_eq!(
            shown(world, "2026-11", 0, &columns),
            [november[0].to_owned(), format!("{}{shares}", november[1])],
            "{api} {late}"
        );
        let whose =
            ["period", "resource", "resource_uuid", "backend_id", "component", "unit", "plan_period_start"];
        let of_a = format!("2026-11|Project A|{A}|project-a|cpu|h|2026-11-01T00:00:00Z");
        assert_eq!(shown(world, "2026-11", 0, &whose), [of_a.clone(), of_a], "{api}");
        // The same in JSON.
        let json = world.agent(&["export", "--period", "2026-11", "--json"]).exits(0).json();
        assert_eq!(json[0]["used"], "5");
        assert_eq!(json[1]["user"], "alice");
        assert_eq!(json[0]["stranded"], Value::Null);
        assert_eq!(json[0]["reported_at"].as_str().unwrap().get(..7), Some("2026-11"));
        assert_eq!(json.as_array().unwrap().len(), 2);
    }
}

/// What a spreadsheet would run, or take for a date, has an apostrophe before it; JSON has it as it is.
#[test]
fn nothing_in_the_csv_is_a_formula_or_a_date() {
    let market = market().replace("name: Project A", "name: '=HYPERLINK(\"http://x\",\"y\")'");
    let world = World::of(Setting { api: CURRENT, now: NOON, zone: "UTC", marketplace: market });
    configure(&world, "late: hold", "", &[("source", keys("cpu: { reading: sec, factor: 1/3 }"))]);
    let job = json!({
        "name": "sec", "kind": "delta", "id": "1", "start": "2026-11-05T00:00:00Z", "end": "2026-11-05T00:00:01Z",
        "value": "1", "labels": { "project": "project-a", "user": "@alice, the \"first\"" },
    });
    jobs(&world, NOON, &[job]).exits(0);
    let done = world.agent(&["export", "--period", "2026-11", "--csv"]).exits(0);
    let resource =
        format!("2026-11,Customer,Project,\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\",{A},project-a,cpu,");
    let row = done.out.split("\r\n").nth(2).unwrap();
    let (whose, amounts) = row.split_once(",h,").unwrap();
    let (of_project, rest) = resource.split_once("2026-11,Customer,Project,").unwrap();
    assert!(of_project.is_empty() && whose.contains(rest), "{row}");
    let user = "\"'@alice, the \"\"first\"\"\"";
    assert!(
        amounts.starts_with(&format!("{user},0.333333333333,'1/3,0.33,0.00,0.33,0.33,,agreed,")),
        "{row}"
    );
    let json = world.agent(&["export", "--period", "2026-11", "--json"]).exits(0).json();
    assert_eq!(json[1]["user"], "@alice, the \"first\"");
    assert_eq!(json[1]["used_exactly"], "1/3");
}

#[test]
fn each_plan_period_of_a_month_has_rows_of_its_own() {
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    let ten = hours("1", "11-05T00:00", "11-05T10:00", "10");
    jobs(&world, NOON, std::slice::from_ref(&ten)).exits(0);
    world.now("2026-11-10T13:00:00Z");
    world.post(&format!("resources/{A}"), json!({ "renew_plan": true }));
    let two = hours("2", "11-10T14:00", "11-10T16:00", "2");
    jobs(&world, "2026-11-10T17:00:00Z", &[ten, two]).exits(0);
    let columns = ["user", "posted", "waldur_holds", "plan_period_start"];
    let first = "10.00|10.00|2026-11-01T00:00:00Z";
    let second = "2.00|2.00|2026-11-10T13:00:00Z";
    let each =
        [format!("|{first}"), format!("alice|{first}"), format!("|{second}"), format!("alice|{second}")];
    assert_eq!(shown(&world, "2026-11", 0, &columns), each);
    let periods = shown(&world, "2026-11", 0, &["plan_period_uuid"]);
    assert!(periods[0].len() == 36 && periods[2].len() == 36 && periods[0] != periods[2], "{periods:?}");
}

#[test]
fn the_exit_code_says_how_the_month_stands_and_the_rows_come_all_the_same() {
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    lines(&world, "source", &[five()]);
    world.agent(&["collect"]).exits(0);
    // Nothing is known of Waldur yet: no resource, and so no statement.
    world.agent(&["export", "--period", "2026-11"]).exits(0).says("2026-11: the ledger has no amounts.");
    world.flush().exits(0);
    world.now("2026-11-10T13:00:00Z");
    lines(&world, "source", &[five(), hours("2", "11-10T12:00", "11-10T13:00", "1")]);
    world.agent(&["collect"]).exits(0);
    let done = world.agent(&["export", "--period", "2026-11"]).exits(75);
    assert!(done.out.contains(",6,6,6.00,0.00,6.00,5.00,,pending,"), "{done:#?}");
    assert_eq!(done.err, "2026-11: 2 amounts pending.\n");
    world.agent(&["export", "--period", "2026-13"]).exits(64);
    world.agent(&["export"]).exits(64);
    world.agent(&["export", "--period", "2026-11", "--csv", "--json"]).exits(64);
    std::fs::write(world.path("ledger.db"), "no ledger").unwrap();
    world.agent(&["export", "--period", "2026-11"]).exits(78);
}

/// One resource's rows made those of so many, as the ledger has them.
fn grow(world: &World, resources: u32) {
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    let n = format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {resources})");
    let uuid = "printf('5e2f0000-0000-4000-9000-%012d', i)";
    ledger
        .execute_batch(&format!(
            "{n} INSERT INTO resource SELECT {uuid}, offering, name || ' ' || i, backend_id || i, folded_id || i, state, plan, customer,
                project, refreshed FROM resource, n WHERE uuid = '{A}';
             {n} INSERT INTO statement SELECT {uuid}, period, part, changed, closed, counted FROM statement, n WHERE resource = '{A}';
             {n} INSERT INTO line SELECT {uuid}, period, part, component, username, exact, used, posted, problem, held,
                held_words, too_much FROM line, n WHERE resource = '{A}';
             {n} INSERT INTO sent SELECT NULL, {uuid}, period, part, component, username, amount, call, at, turn, outcome,
                words, current, counted FROM sent, n WHERE resource = '{A}';"
        ))
        .unwrap();
}

/// The most memory that the export had, and how many rows it wrote.
fn memory_of_export(world: &World, format: &str) -> (u64, usize) {
    let mut export = world.command(&["export", "--period", "2026-11", format]);
    let mut child = export.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut out, mut buffer) = (child.stdout.take().unwrap(), vec![0; 32 * 1024]);
    let (mut most, mut rows) = (0, 0);
    loop {
        // It waits for us with a full pipe, so that the last look is near its end.
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", child.id())) {
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
            most = peak.unwrap_or(most).max(most);
        }
        match out.read(&mut buffer).unwrap() {
            0 => break,
            read => rows += buffer[..read].iter().filter(|byte| **byte == b'\n').count(),
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    (most, rows)
}

#[test]
fn ten_thousand_resources_take_no_more_memory_than_a_thousand_and_a_closed_pipe_is_no_error() {
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    jobs(&world, NOON, &[five()]).exits(0);
    grow(&world, 1_000);
    let few = memory_of_export(&world, "--csv");
    grow_to_ten_thousand(&world);
    for format in ["--csv", "--json"] {
        let many = memory_of_export(&world, format);
        assert!(many.1 >= 20_000, "{many:?}");
        // SQLite's own cache and sorter are bounded, and small.
        assert!(many.0 < few.0 + 6 * 1024, "{format}: {} KiB after {} KiB", many.0, few.0);
        let head = format!(
            "set -o pipefail; {} export --period 2026-11 {format} | head -n 1",
            env!("CARGO_BIN_EXE_waldur-usage-agent")
        );
        let done = std::process::Command::new("bash")
            .args(["-c", &head])
            .env("WALDUR_USAGE_AGENT_CONFIG", world.path("agent.yaml"))
            .env("WALDUR_USAGE_AGENT_CLOCK_FILE", world.path("clock"))
            .output();
        let done = Done::from(done.unwrap()).exits(0);
        assert_eq!((done.out.lines().count(), done.err.as_str()), (1, ""));
    }
}

fn grow_to_ten_thousand(world: &World) {
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    for table in ["resource", "statement", "line", "sent"] {
        let column = if table == "resource" { "uuid" } else { "resource" };
        ledger
            .execute(&format!("DELETE FROM {table} WHERE {column} LIKE '5e2f0000-0000-4000-9000-%'"), [])
            .unwrap();
    }
    drop(ledger);
    grow(world, 10_000);
}

#[test]
fn the_commands_of_the_page_work() {
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    jobs(&world, NOON, &[five()]).exits(0);
    let directory = tempfile::tempdir().unwrap();
    let before = format!(
        "export MONTH=2026-11 WALDUR_USAGE_AGENT_CONFIG='{}' WALDUR_USAGE_AGENT_CLOCK_FILE='{}'",
        world.path("agent.yaml").display(),
        world.path("clock").display()
    );
    docs_commands::run("export.md", directory.path(), &[], &before);
    let csv = std::fs::read_to_string(directory.path().join("usage.csv")).unwrap();
    assert!(csv.lines().count() == 3, "{csv}");
}
