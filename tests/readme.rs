//! What README.md shows of ./demo is what it says. Numbers, times and ids are of the day.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

use std::path::Path;
use std::process::{Command, Stdio};

/// A line without what is of the day: every number is one digit, and every space one space.
fn of_any_day(line: &str) -> String {
    let mut plain = String::new();
    for word in line.split_whitespace() {
        let is_number = word.chars().any(|c| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || ".:-Z/,)".contains(c));
        plain += if is_number { "0" } else { word };
        plain.push(' ');
    }
    plain
}

/// What cargo sets, and not whoever called it.
fn is_cargos_own(name: &str) -> bool {
    ["CARGO", "OUT_DIR"].contains(&name)
        || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
            .iter()
            .any(|begins| name.starts_with(begins))
}

#[test]
fn what_is_shown_of_the_demo_is_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let shown = readme.split("\n```console\n").nth(1).unwrap().split("\n```").next().unwrap();
    let mut demo = Command::new("./demo");
    // What cargo tells a test of its package would make the demo's cargo build what it finds built.
    for (name, _) in std::env::vars().filter(|(name, _)| is_cargos_own(name)) {
        demo.env_remove(name);
    }
    let done = demo.current_dir(root).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let said: Vec<String> = said.lines().map(of_any_day).filter(|line| !line.is_empty()).collect();
    let mut at = 0;
    let mut follows = false;
    for line in shown.lines().filter(|line| !line.is_empty()) {
        if line == "[...]" {
            follows = false;
            continue;
        }
        let line = of_any_day(line);
        let found = match follows {
            true => said.get(at).filter(|next| **next == line).map(|_| at),
            false => said.iter().skip(at).position(|next| *next == line).map(|skip| at + skip),
        };
        let rest = &said[at.min(said.len())..];
        at = found.unwrap_or_else(|| {
            panic!("README.md shows `{line}`, and ./demo goes on with\n{}", rest.join("\n"))
        }) + 1;
        follows = true;
    }
}
