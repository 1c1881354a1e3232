//! What stands in backticks in running text, in the documents and in what the program says: a command or a flag that it
//! names is one that there is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use waldur_usage_agent::cli::Cli;

/// A mark of YAML's, and a flag of sacct's.
const FOREIGN: &[&str] = &["---", "--allocations"];

/// What the sandbox says of its flags.
fn help_of_the_sandbox() -> String {
    let done =
        std::process::Command::new(env!("CARGO_BIN_EXE_waldur-sandbox")).arg("--help").output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

fn files(below: &str, ending: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let all = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap().into_path());
    all.filter(|path| path.extension().is_some_and(|kind| kind == ending)).collect()
}

/// What stands in backticks, outside of blocks.
fn spans(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            prose += line;
            prose.push(' ');
        } else {
            prose.push('\n');
        }
        if line.is_empty() {
            prose.push('\n');
        }
    }
    prose.lines().flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// Long flags that a command takes.
fn flags(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(clap::Arg::get_long).map(|name| format!("--{name}"));
    let all = own.chain(["--help".to_owned(), "--version".to_owned(), "--config".to_owned()]);
    all.collect()
}

fn every_flag(command: &Command) -> BTreeSet<String> {
    let mut all = flags(command);
    command.get_subcommands().for_each(|inner| all.extend(every_flag(inner)));
    all
}

/// What is wrong with a command, if it is one of ours.
fn wrong(whole: &Command, span: &str) -> Option<String> {
    let mut words = span.split_whitespace().peekable();
    let is_named = words.next_if_eq(&"waldur-usage-agent").is_some();
    let first = *words.peek()?;
    if first.starts_with("--") && !is_named {
        let flag = first.split('=').next().unwrap();
        return (!every_flag(whole).contains(flag)).then(|| format!("no command has {flag}"));
    }
    if whole.find_subcommand(first).is_none() {
        return (is_named && !first.starts_with('-')).then(|| format!("there is no command {first}"));
    }
    let mut command = whole;
    for word in words {
        if let Some(inner) = command.find_subcommand(word) {
            command = inner;
            continue;
        }
        let flag = word.split('=').next().unwrap();
        if flag.starts_with("--") && !flags(command).contains(flag) {
            return Some(format!("{} has no {flag}", command.get_name()));
        }
        let is_argument = command.get_positionals().next().is_some() || command.get_opts().next().is_some();
        if !word.starts_with('-') && !is_argument {
            return Some(format!("{} takes no {word}", command.get_name()));
        }
    }
    None
}

#[test]
fn every_command_in_running_text_is_one() {
    let (whole, sandbox) = (Cli::command(), help_of_the_sandbox());
    let mut pages = files("docs", "md");
    pages.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(PathBuf::from));
    let (mut mistakes, mut commands) = (Vec::new(), 0);
    for page in &pages {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        for span in spans(&text) {
            commands += usize::from(whole.find_subcommand(span.split(' ').next().unwrap()).is_some());
            let flag = span.split(' ').next().unwrap();
            let is_the_sandboxs = page.ends_with("docs/sandbox.md") && sandbox.contains(&format!("{flag} "));
            if FOREIGN.contains(&flag) || is_the_sandboxs {
                continue;
            }
            if let Some(why) = wrong(&whole, &span) {
                mistakes.push(format!("{}: `{span}`: {why}", page.display()));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(commands > 200, "{commands}");
}

/// In messages, too: a remedy is a command that there is.
#[test]
fn every_command_that_the_program_names_is_one() {
    let whole = Cli::command();
    let (mut mistakes, mut commands) = (Vec::new(), 0);
    for file in files("src", "rs").iter().filter(|path| !path.to_str().unwrap().contains("/bin/")) {
        let text = std::fs::read_to_string(file).unwrap();
        // Texts go on over a line's end; what is said in comments is for who reads the code.
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//") || line.trim_start().starts_with("///"));
        let whole_text: String =
            lines.map(|line| line.trim().trim_end_matches('\\').to_owned() + " ").collect();
        for span in whole_text.split('`').skip(1).step_by(2).filter(|span| span.len() < 80) {
            commands += usize::from(whole.find_subcommand(span.split(' ').next().unwrap()).is_some());
            let span = span.replace(['{', '}'], "").replace("  ", " ");
            if let Some(why) = wrong(&whole, &span).filter(|_| !FOREIGN.contains(&span.as_str())) {
                mistakes.push(format!("{}: `{span}`: {why}", file.display()));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(commands > 60, "{commands}");
}
