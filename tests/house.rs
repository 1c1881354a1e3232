//! The rules of the house that no compiler knows, checked on the text of the sources.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

use std::fs;
use std::path::Path;

/// In the order in which data flows.
const ROOMS: [&str; 9] =
    ["config", "metering", "wire", "collectors", "ledger", "waldur", "submitter", "daemon", "cli"];

/// All of the project's Rust files below a directory: path relative to the project, and text.
fn sources(directory: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources: Vec<_> = walkdir::WalkDir::new(root.join(directory))
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    sources.sort();
    assert!(!sources.is_empty(), "{directory} has no sources");
    sources
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the text has this word (not as a part of a longer one) outside of comments.
fn mentions(text: &str, word: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.map(|line| line.split("// ").next().unwrap_or(line)).any(|line| {
        line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
    })
}

/// The rooms that a text names after `crate::`, also in a group: `use crate::{config, ledger}`.
fn rooms_named(text: &str) -> Vec<&'static str> {
    let mut named = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if rest.starts_with('{') {
            let group = rest.split('}').next().unwrap_or_default();
            named.extend(ROOMS.into_iter().filter(|room| mentions(group, room)));
        } else {
            let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
            named.extend(ROOMS.into_iter().filter(|room| *room == word));
        }
    }
    named
}

#[test]
fn a_room_imports_only_rooms_above_it() {
    for (place, room) in ROOMS.into_iter().enumerate() {
        for (file, text) in sources(&format!("src/{room}")) {
            for named in rooms_named(&text) {
                let named_place = ROOMS.iter().position(|room| *room == named).unwrap();
                assert!(named_place <= place, "{file} is in {room}, which must not know {named}");
            }
        }
    }
}

#[test]
fn every_room_is_in_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.trim_end_matches(".rs");
        assert!(ROOMS.contains(&name) || ["bin", "lib", "main"].contains(&name), "src/{name} is no room");
    }
}

#[test]
fn the_sandbox_shares_nothing_with_the_agent() {
    for (file, text) in sources("src/bin/waldur-sandbox") {
        assert!(!mentions(&text, "waldur_usage_agent"), "{file}: one misreading could hide in both");
    }
}

#[test]
fn money_is_never_a_float() {
    for room in ["metering", "ledger", "submitter"] {
        for (file, text) in sources(&format!("src/{room}")) {
            for float in ["f32", "f64"] {
                assert!(!mentions(&text, float), "{file} speaks of {float}");
            }
        }
    }
}

#[test]
fn only_the_clock_asks_the_system_for_the_time() {
    for (file, text) in sources("src") {
        // The sandbox has a clock of its own, since it shares nothing.
        if ["src/config/clock.rs", "src/bin/waldur-sandbox/clock.rs"].contains(&file.as_str()) {
            continue;
        }
        for call in ["SystemTime::now", "Timestamp::now", "Zoned::now", "Utc::now", "Local::now"] {
            assert!(!mentions(&text, call), "{file} asks {call}; it must be handed a Clock");
        }
    }
}

#[test]
fn metering_is_pure() {
    for (file, text) in sources("src/metering") {
        for word in ["async", "await", "tokio", "std::fs", "std::net", "std::env", "std::process", "tracing"]
        {
            assert!(!mentions(&text, word), "{file} uses {word}");
        }
    }
}

#[test]
fn collectors_know_nothing_of_waldur() {
    for (file, text) in sources("src/collectors") {
        // Whoever of them asks over HTTP does so through one of them.
        let may_ask = file.starts_with("src/collectors/web");
        assert!((may_ask || !mentions(&text, "reqwest")) && !mentions(&text, "rusqlite"), "{file}");
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for directory in ["src", "tests"] {
        for (file, text) in sources(directory) {
            assert!(text.starts_with("//!"), "{file} does not open with //!");
        }
    }
}
