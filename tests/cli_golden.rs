//! What each command prints, word by word, in 80 columns: a month with a conflict, a refusal, an unmatched id and users'
//! shares, kept in tests/golden/output/. Instants of the test's own clock stay; what differs from run to run is filtered.
//! `UPDATE_GOLDEN=1 cargo test --test cli_golden` writes them anew, to be looked at.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agent::*;
use clap::CommandFactory;
use serde_json::{Value, json};
use waldur_usage_agent::cli::Cli;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/output").join(name)
}

/// Without what another run would say otherwise: the port, the folder, rows' UUIDs and instants of the sandbox.
fn filtered(world: &World, text: &str) -> String {
    let period = world.held(A)["plan_periods"][0]["uuid"].as_str().unwrap_or("-").to_owned();
    let text = text.replace(&period, "PLAN-PERIOD");
    let text =
        text.replace(&world.address, "WALDUR").replace(world.folder.path().to_str().unwrap(), "FOLDER");
    let mut filtered = String::new();
    let mut of_host = false;
    for line in text.lines() {
        if line.starts_with("  \"ledger_free_bytes\": ") {
            filtered.push_str("  \"ledger_free_bytes\": n,\n");
            continue;
        }
        // What a host has differs; how many rows a ledger has is not what is looked at.
        of_host = line.starts_with("This host has:") || of_host && !line.is_empty();
        match line {
            _ if line.starts_with("This host has:") => filtered.push_str("This host has: ...\n"),
            _ if line.starts_with("Copied ") => {
                filtered.push_str("Copied n rows of n tables; both sides count the same.\n")
            }
            _ => {}
        }
        if of_host || line.starts_with("Copied ") {
            continue;
        }
        let words = line.split_inclusive([' ', ',', ')', '(', ';']).map(|word| {
            let bare = word.trim_end_matches([' ', ',', ')', '(', ';', '"']);
            let quote = bare.len() - bare.trim_start_matches('"').len();
            let rest = &word[bare.len()..];
            let is_row = bare.replace('-', "").len() == 32
                && bare.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
                && !bare.starts_with("5e2f")
                && !bare.starts_with("91ab");
            match bare {
                _ if is_row => format!("ROW-ROW-ROW-ROW-ROW-ROW-ROW-ROW-{rest}"),
                // The sandbox waits a moment before it answers, and tells fractions of a second.
                _ if bare.starts_with("11:59:") => format!("11:59:ssZ{rest}"),
                _ if bare[quote..].starts_with("20")
                    && bare.contains('T')
                    && bare.contains('.')
                    && bare.ends_with('Z') =>
                {
                    format!("{}.ffffffZ{rest}", &bare[..quote + 19])
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
    /// The commands that were looked at: `parked list`.
    seen: BTreeSet<String>,
}

/// Every command there is.
fn commands() -> BTreeSet<String> {
    fn below(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        let inner: Vec<_> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
        if inner.is_empty() {
            found.insert(path.trim().to_owned());
        }
        for inner in inner {
            below(inner, &format!("{path} {}", inner.get_name()), found);
        }
    }
    let mut found = BTreeSet::new();
    below(&Cli::command(), "", &mut found);
    found
}

impl Golden {
    /// Runs a command and compares what it prints.
    fn of(&mut self, name: &str, exit: i32, arguments: &[&str]) {
        let done = self.world.agent(arguments);
        assert_eq!(done.code, exit, "{arguments:?}: {done:#?}");
        self.compare(name, exit, arguments, &done.out);
    }

    /// The same with what it says of what went wrong.
    fn of_both(&mut self, name: &str, exit: i32, arguments: &[&str]) {
        let done = self.world.agent(arguments);
        assert_eq!(done.code, exit, "{arguments:?}: {done:#?}");
        self.compare(name, exit, arguments, &done.all());
    }

    fn compare(&mut self, name: &str, exit: i32, arguments: &[&str], text: &str) {
        let words = arguments.join(" ");
        let command =
            commands().into_iter().find(|command| format!("{words} ").starts_with(&format!("{command} ")));
        self.seen.extend(command);
        let text = filtered(&self.world, text);
        for line in text.lines() {
            // What has no blanks can't be folded, and what is for machines is not.
            let foldable =
                line.trim().contains(' ') && !words.contains(" --csv") && !words.contains(" --json");
            if line.chars().count() > 80 && foldable {
                self.wrong.push(format!("{arguments:?} is wider than 80 columns: {line}"));
            }
            if line != line.trim_end() {
                self.wrong.push(format!("{arguments:?} ends in blanks: {line}"));
            }
        }
        assert!(!text.contains('\u{1b}'), "{arguments:?} has colours in a pipe");
        let text = format!(
            "$ waldur-usage-agent {}\n{text}[exit code {exit}]\n",
            filtered(&self.world, &words).trim_end()
        );
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
    let mut golden = Golden { world, wrong: Vec::new(), seen: BTreeSet::new() };
    golden.of("check", 65, &["check"]);
    golden.of("collect-dry-run", 0, &["collect", "--dry-run"]);
    golden.of("collect", 0, &["collect"]);
    golden.of("flush", 65, &["flush", "--deadline", "1s"]);
    golden.of("status", 65, &["status"]);
    golden.of("status-all", 65, &["status", "--all"]);
    golden.of("status-json", 65, &["status", "--json"]);
    golden.of("status-users", 65, &["status", "--users", "project-a"]);
    golden.of("status-parked", 65, &["status", "--state", "parked"]);
    golden.of("parked-list", 65, &["parked", "list"]);
    golden.of("diff", 65, &["diff"]);
    golden.of("diff-all", 65, &["diff", "--all"]);
    let (text, new) =
        (std::fs::read_to_string(golden.world.path("agent.yaml")).unwrap(), golden.world.path("new.yaml"));
    std::fs::write(&new, text.replacen("1/3600", "1/1800", 1)).unwrap();
    golden.of("diff-config", 65, &["diff", "--config", new.to_str().unwrap()]);
    golden.of("export-csv", 65, &["export", "--period", "2026-11", "--csv"]);
    golden.of("export-json", 65, &["export", "--period", "2026-11", "--json"]);
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
    let row = golden.world.held(A)["rows"][0]["uuid"].as_str().unwrap().to_owned();
    golden.of("usages-show", 0, &["usages", "show", &row]);
    golden.of("recount", 0, &["recount"]);
    golden.of("status-well", 0, &["status"]);
    // A correction: what is there already is shown beside what comes.
    lines[1] = hours("cpu_seconds", "2", "200", "project-a", "bob");
    golden.world.readings(&lines);
    golden.of("collect-correction", 0, &["collect", "--dry-run"]);
    golden.world.readings(&[json!({ "name": "cpu_seconds", "kind": "delta", "value": "much" })]);
    golden.of("collect-failed", 69, &["collect"]);
    golden.of("status-failed", 69, &["status"]);
    golden.of("flush-failed", 69, &["flush", "--collect", "--deadline", "1s"]);
    // Another ledger, another file, and a file that is wrong.
    let (from, to) = (golden.world.path("ledger.db"), golden.world.path("copy.db"));
    golden.world.write("agent.yaml", &format!("agent: node-1\n{text}"));
    golden.of("ledger-copy", 0, &["ledger", "copy", from.to_str().unwrap(), to.to_str().unwrap()]);
    golden.world.write("agent.yaml", &text.replace(&golden.world.url(), "https://new.example.com"));
    golden.of("ledger-server", 78, &["ledger", "server"]);
    golden.of("flush-other-server", 78, &["flush", "--deadline", "1s"]);
    golden.of("status-other-server", 78, &["status"]);
    golden.world.write("agent.yaml", &format!("agent: node-1\n{text}"));
    golden.of("agents-list", 0, &["agents", "list"]);
    golden.of_both("agents-retire", 64, &["agents", "retire", "hv17"]);
    golden.world.write("agent.yaml", &text.replace("ledger.db", "new.db"));
    golden.of("ledger-init", 0, &["ledger", "init"]);
    let (url, token, made) = (golden.world.url(), golden.world.path("token"), golden.world.path("made.yaml"));
    let (token, made) = (token.to_str().unwrap(), made.to_str().unwrap());
    golden.of(
        "init",
        0,
        &["init", "--url", &url, "--token-file", token, "--source", "slurm", "--output", made, "--offline"],
    );
    golden.world.write("agent.yaml", &text.replace("factor:", "facter:"));
    golden.of_both("run-mistake", 78, &["run"]);
    golden.of("check-mistakes", 78, &["check", "--offline"]);
    golden.of_both("status-mistake", 78, &["status"]);
    let left_out: Vec<String> = commands().difference(&golden.seen).cloned().collect();
    assert!(left_out.is_empty(), "no golden output of {left_out:?}");
    assert!(golden.wrong.is_empty(), "{}", golden.wrong.join("\n"));
}

/// A counter that was reset and one with a gap, an amount that was adopted, a ledger that is not what its readings make, and
/// a waldur-site-agent's file.
#[test]
fn what_is_rarer_says_so_in_80_columns_too() {
    let world = World::new(CURRENT);
    let meters = "cpu_hours: { reading: cpu_seconds, factor: 1/3600 }, ram_gb_hours: { reading: memory_gb, aggregate: integral, max_gap: 1h }";
    world.configure(&format!("    resource: {A}\n    meters: {{ {meters} }}\n"));
    let mut lines = counter(&["3600", "7200", "1800", "5400"], &[]);
    let level =
        |at: &str, value: &str| reading("memory_gb", "gauge", &format!("2026-11-10T{at}:00Z"), value, &[]);
    lines.extend([level("06:00", "4"), level("06:30", "4"), level("09:30", "2"), level("10:00", "2")]);
    world.readings(&lines);
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "32.00", "billing_period": "2026-11-01" }),
    );
    let mut golden = Golden { world, wrong: Vec::new(), seen: BTreeSet::new() };
    golden.world.flush().exits(65);
    golden.of("diff-json", 65, &["diff", "--json"]);
    golden.of("resolve-adopt", 0, &["resolve", "project-a", "adopt"]);
    golden.world.flush();
    golden.of("explain-adopted", 0, &["explain", "project-a", "cpu_hours"]);
    golden.of("explain-gap", 0, &["explain", "project-a", "ram_gb_hours"]);
    let ledger = rusqlite::Connection::open(golden.world.path("ledger.db")).unwrap();
    ledger
        .execute("UPDATE line SET exact = '7/2', posted = '3.50' WHERE component = 'ram_gb_hours'", [])
        .unwrap();
    drop(ledger);
    golden.of("recount-differs", 1, &["recount"]);
    golden.of("recount-write", 1, &["recount", "--write"]);
    golden.of("recount-repaired", 0, &["recount"]);
    let file = format!(
        "timezone: UTC\noffering: none\nofferings:\n  - name: Cluster\n    waldur_api_url: {}/api/\n    waldur_api_token: {TOKEN}\n    \
         waldur_offering_uuid: {OFFERING}\n    reporting_backend: slurm\n    backend_type: slurm\n    backend_components:\n      \
         cpu: {{ measured_unit: h, unit_factor: 60, accounting_type: usage, label: CPU }}\n      \
         odd: {{ measured_unit: h, unit_factor: 60, accounting_type: usage, label: Odd }}\n",
        golden.world.url()
    );
    golden.world.write("site-agent.yaml", &file);
    let (from, made) = (golden.world.path("site-agent.yaml"), golden.world.path("made.yaml"));
    let (from, made) = (from.to_str().unwrap(), made.to_str().unwrap());
    golden.of("init-from-site-agent", 0, &["init", "--from-site-agent", from, "--output", made, "--offline"]);
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
