//! What each command prints, word by word, in 80 columns: a month with a conflict, a refusal, an unmatched id and users'
//! shares, kept in tests/golden/output/. Instants of the test's own clock stay; what differs from run to run is filtered.
//! `UPDATE_GOLDEN=1 cargo test --test cli_golden` writes them anew, to be looked at.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::path::{Path, PathBuf};

use agent::*;
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/output").join(name)
}

/// Without what another run would say otherwise: the port, the folder, rows' UUIDs and instants of the sandbox.
fn filtered(world: &World, text: &str) -> String {
    let text =
        text.replace(&world.address, "WALDUR").replace(world.folder.path().to_str().unwrap(), "FOLDER");
    let mut filtered = String::new();
    for line in text.lines() {
        let words = line.split_inclusive([' ', ',', ')', '(', ';']).map(|word| {
            let bare = word.trim_end_matches([' ', ',', ')', '(', ';']);
            let rest = &word[bare.len()..];
            let is_row = bare.len() == 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
            match bare {
                _ if is_row => format!("ROW-ROW-ROW-ROW-ROW-ROW-ROW-ROW-{rest}"),
                // The sandbox waits a moment before it answers, and tells fractions of a second.
                _ if bare.starts_with("11:59:") => format!("11:59:ssZ{rest}"),
                _ if bare.starts_with("20")
                    && bare.contains('T')
                    && bare.contains('.')
                    && bare.ends_with('Z') =>
                {
                    format!("{}.ffffffZ{rest}", &bare[..19])
                }
                _ => word.to_owned(),
            }
        });
        filtered.extend(words);
        filtered.push('\n');
    }
    filtered
}

struct Golden {
    world: World,
    wrong: Vec<String>,
}

impl Golden {
    /// Runs a command and compares what it prints.
    fn of(&mut self, name: &str, exit: i32, arguments: &[&str]) {
        let done = self.world.agent(arguments);
        assert_eq!(done.code, exit, "{arguments:?}: {done:#?}");
        let text = filtered(&self.world, &done.out);
        for line in text.lines() {
            // What has no blanks can't be folded.
            let foldable = line.trim().contains(' ');
            assert!(
                line.chars().count() <= 80 || !foldable,
                "{arguments:?} is wider than 80 columns: {line}"
            );
            assert_eq!(line, line.trim_end(), "{arguments:?} ends in blanks");
        }
        assert!(!text.contains('\u{1b}'), "{arguments:?} has colours in a pipe");
        let text = format!("$ waldur-usage-agent {}\n{text}[exit code {exit}]\n", arguments.join(" "));
        let file = golden(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != text {
            self.wrong.push(format!("{} differs from what it says now:\n{text}", file.display()));
        }
    }
}

fn hours(reading: &str, id: &str, seconds: &str, project: &str, user: &str) -> Value {
    let labels = [("project", project), ("user", user)];
    job(reading, id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", seconds, &labels)
}

#[test]
fn every_command_says_what_was_looked_at_in_80_columns() {
    let world = World::new(CURRENT);
    let meters = "cpu_hours: { reading: cpu_seconds, factor: 1/3600 }, gpu_hours: { reading: gpu_seconds, factor: 1/3600 }, \
                  nope: { reading: nope_seconds, factor: 1/3600 }";
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    user: \"{{user}}\"\n    meters: {{ {meters} }}\n"
    ));
    let mut lines = vec![
        hours("cpu_seconds", "1", "5400", "project-a", "alice"),
        hours("cpu_seconds", "2", "100", "project-a", "bob"),
        hours("gpu_seconds", "3", "7200", "project-a", "alice"),
        hours("cpu_seconds", "4", "60", "project-b", "alice"),
        hours("nope_seconds", "5", "60", "project-b", "alice"),
        hours("cpu_seconds", "6", "60", "newcomer", "alice"),
    ];
    world.readings(&lines);
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "32.00", "billing_period": "2026-11-01" }),
    );
    let mut golden = Golden { world, wrong: Vec::new() };
    golden.of("collect-dry-run", 0, &["collect", "--dry-run"]);
    golden.of("collect", 0, &["collect"]);
    golden.of("flush", 65, &["flush", "--deadline", "1s"]);
    golden.of("status", 65, &["status"]);
    golden.of("status-all", 65, &["status", "--all"]);
    golden.of("status-users", 65, &["status", "--users", "project-a"]);
    golden.of("status-parked", 65, &["status", "--state", "parked"]);
    golden.of("parked-list", 65, &["parked", "list"]);
    golden.of("resolve-hold", 0, &["resolve", "project-a", "hold"]);
    golden.of("resolve-overwrite", 0, &["resolve", "project-a", "overwrite"]);
    golden.of("resolve-nothing", 0, &["resolve", "--all", "adopt"]);
    golden.of("parked-retry", 0, &["parked", "retry"]);
    golden.of("flush-again", 65, &["flush", "--deadline", "1s"]);
    golden.of("parked-drop", 0, &["parked", "drop", "project-b", "nope"]);
    golden.of("parked-none", 0, &["parked", "list"]);
    golden.of("explain", 0, &["explain", "project-a", "cpu_hours"]);
    golden.of("explain-readings", 0, &["explain", "project-a", "cpu_hours", "--readings"]);
    golden.of("explain-user", 0, &["explain", "project-a", "cpu_hours", "--user", "bob"]);
    golden.of("usages-list", 0, &["usages", "list", "--o", "usage"]);
    golden.of(
        "usages-list-fields",
        0,
        &["usages", "list", "--field", "usage,resource_name", "--o", "-usage"],
    );
    golden.of("recount", 0, &["recount"]);
    golden.of("status-well", 0, &["status"]);
    // A correction: what is there already is shown beside what comes.
    lines[1] = hours("cpu_seconds", "2", "200", "project-a", "bob");
    golden.world.readings(&lines);
    golden.of("collect-correction", 0, &["collect", "--dry-run"]);
    golden.world.readings(&[json!({ "name": "cpu_seconds", "kind": "delta", "value": "much" })]);
    golden.of("collect-failed", 69, &["collect"]);
    golden.of("status-failed", 69, &["status"]);
    assert!(golden.wrong.is_empty(), "{}", golden.wrong.join("\n"));
}

/// A field that there is none of is refused, whichever server it is; and an order.
#[test]
fn usages_list_refuses_fields_and_orders_that_there_are_none_of() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_of_a());
        world.readings(&[hours("cpu_seconds", "1", "5400", "project-a", "alice")]);
        world.flush().exits(0);
        world.agent(&["usages", "list", "--field", "usage,uuid"]).exits(0).says("1.50");
        let done = world.agent(&["usages", "list", "--field", "usage,usages"]).exits(64);
        done.says("there is no field `usages`; there are: billing_period, ").says("resource_name");
        world.agent(&["usages", "list", "--o", "-used"]).exits(64).says("used");
        world.agent(&["usages", "list", "--json", "--field", "nope"]).exits(64).says("no field `nope`");
        world.agent(&["usages", "list", "--o", "-usage"]).exits(0);
    }
}
