//! Help and logs as people see them: what there is to do first, one line each, in 80 columns. Each page of help is kept in tests/golden/help/
//! and compared; `UPDATE_GOLDEN=1 cargo test --test cli_help` writes them anew, to be looked at.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod skip;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use skip::skip;
use waldur_usage_agent::cli::Cli;

/// Each command with its own, as words: `parked`, `parked list`.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        found.push(path.to_vec());
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            below(inner, &[path, &[inner.get_name().to_owned()]].concat(), found);
        }
    }
    let mut found = Vec::new();
    below(&Cli::command(), &[], &mut found);
    found
}

/// As in a pipe, whatever this machine's environment says.
fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waldur-usage-agent"));
    command.args(arguments).env_clear();
    command
}

fn said(arguments: &[&str]) -> String {
    let output = agent(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help").join(name)
}

#[test]
fn every_help_page_is_the_one_that_was_looked_at_and_has_80_columns() {
    for words in commands() {
        for (flag, kind) in [("-h", "short"), ("--help", "long")] {
            let arguments: Vec<&str> = words.iter().map(String::as_str).chain([flag]).collect();
            let text = said(&arguments);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{arguments:?}: {line}");
            }
            assert!(!text.contains('\u{1b}'), "{arguments:?} has colours in a pipe");
            let name = [&["agent".to_owned()], words.as_slice()].concat().join("-");
            let file = golden(&format!("{name}.{kind}"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(&file, &text).unwrap();
            }
            let wanted = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(
                text == wanted,
                "{} differs from what `{}` says now:\n{text}",
                file.display(),
                arguments.join(" ")
            );
        }
    }
}

#[test]
fn the_first_page_has_the_commands_first_one_line_each() {
    let text = said(&["-h"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[2], "Commands:", "{text}");
    for (line, words) in
        lines[3..].iter().zip(commands().into_iter().skip(1).filter(|words| words.len() == 1))
    {
        assert!(line.starts_with(&format!("  {} ", words[0])), "`{line}` is not the one line of {words:?}");
    }
}

#[test]
fn the_version_names_the_commit() {
    let text = said(&["--version"]);
    let commit = text.strip_prefix(&format!("waldur-usage-agent {} (commit ", env!("CARGO_PKG_VERSION")));
    let commit = commit.and_then(|rest| rest.strip_suffix(")\n")).unwrap_or_else(|| panic!("{text}"));
    let git =
        Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let Some(head) = git.ok().filter(|git| git.status.success()) else { return assert!(!commit.is_empty()) };
    let head = String::from_utf8(head.stdout).unwrap();
    assert!(head.starts_with(commit), "{commit} is not the beginning of {head}");
}

/// A configuration whose only collector fails, in a folder of its own.
fn failing() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.yaml");
    let ledger = folder.path().join("ledger.db");
    let text = format!(
        "waldur: {{ url: 'http://127.0.0.1:1', token_env: T }}\nledger: {}\ncollectors:\n  one:\n    plugin: exec\n    \
         command: [sh, -c, 'echo first >&2; exit 3']\n    schedule: '@hourly'\n    \
         resource: 5e2f0000-0000-4000-8000-000000000001\n    meters: {{ c: {{ reading: r, aggregate: last }} }}\n",
        ledger.display()
    );
    std::fs::write(&config, text).unwrap();
    (folder, config)
}

/// What is logged at a terminal, as `script` gives one, with these variables.
fn logged(variables: &[(&str, &str)]) -> Option<String> {
    let (_folder, config) = failing();
    let agent = env!("CARGO_BIN_EXE_waldur-usage-agent");
    let command = format!("{agent} flush --collect --deadline 1s --config {}", config.display());
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    script.env("T", "token").env("SHELL", "/bin/sh").envs(variables.iter().copied());
    let output = script.stdin(std::process::Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn colours_are_for_terminals_that_have_them_and_people_who_want_them() {
    let with = [("TERM", "xterm")];
    let Some(text) = logged(&with) else {
        // ./test names at its end what it had to leave out.
        return skip("colours", "`script` is missing");
    };
    assert!(text.contains("collector") || text.contains("Collector"), "{text}");
    assert!(text.contains('\u{1b}'), "no colours at a terminal: {text}");
    for without in [&[("TERM", "xterm"), ("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
        let text = logged(without).unwrap();
        assert!(!text.contains('\u{1b}'), "{without:?}: {text:?}");
    }
}

#[test]
fn the_journal_gets_each_lines_priority_and_a_file_does_not() {
    let run = |stream: &dyn Fn(&std::fs::Metadata) -> String, format: &str| {
        let (folder, config) = failing();
        let file = folder.path().join("journal");
        let stderr = std::fs::File::create(&file).unwrap();
        let stream = stream(&stderr.metadata().unwrap());
        let mut command =
            agent(&["flush", "--collect", "--deadline", "1s", "--log-format", format, "--config"]);
        command.arg(&config).env("PATH", std::env::var_os("PATH").unwrap()).env("T", "token");
        command.env("JOURNAL_STREAM", stream).stderr(stderr).output().unwrap();
        std::fs::read_to_string(&file).unwrap()
    };
    use std::os::unix::fs::MetadataExt;
    let ours = |data: &std::fs::Metadata| format!("{}:{}", data.dev(), data.ino());
    let text = run(&ours, "text");
    let failed = text.lines().find(|line| line.contains("paused until")).unwrap_or_else(|| panic!("{text}"));
    assert!(failed.starts_with("<4>") || failed.starts_with("<3>"), "{text}");
    let logged = |line: &&str| !line.starts_with("waldur-usage-agent:");
    assert!(text.lines().filter(logged).all(|line| line.starts_with('<')), "{text}");
    assert!(!text.contains("WARN") && !text.contains(">2026-") && !text.contains('\u{1b}'), "{text}");
    let json = run(&ours, "json");
    let line = json.lines().find(|line| line.starts_with("<4>{") || line.starts_with("<3>{"));
    serde_json::from_str::<serde_json::Value>(&line.unwrap_or_else(|| panic!("{json}"))[3..]).unwrap();
    // Its stderr goes elsewhere than the journal that the variable speaks of.
    let text = run(&|_| "8:1".to_owned(), "text");
    assert!(!text.contains("<4>") && !text.contains("<3>") && text.contains("paused until"), "{text}");
}
