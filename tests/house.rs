//! The rules of the house that no compiler knows, checked on the text of the sources.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

use std::collections::{BTreeMap, BTreeSet};
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

/// The folders and files of the ledger, in the order in which data goes through it (src/ledger/mod.rs).
const LEDGER: [&str; 5] = ["db", "queue", "books", "sent", "views"];

#[test]
fn inside_the_ledger_a_file_imports_only_what_stands_above_it() {
    let place = |module: &[String]| {
        let name = module.get(1)?;
        (module[0] == "ledger")
            .then(|| LEDGER.iter().position(|of| of == name).unwrap_or_else(|| panic!("{name}")))
    };
    for (module, imported) in imports("src", &[]) {
        let Some(own) = place(&module) else { continue };
        for other in imported {
            assert!(place(&other).is_none_or(|other| other <= own), "{module:?} must not know {other:?}");
        }
    }
}

#[test]
fn no_two_files_import_each_other_in_a_circle() {
    for (directory, root) in [("src", &[][..]), ("src/bin/waldur-sandbox", &["main"][..])] {
        let imports = imports(directory, root);
        assert!(
            imports.values().map(BTreeSet::len).sum::<usize>() > 50,
            "{directory}: hardly an import was found"
        );
        for module in imports.keys() {
            if let Some(circle) = circle(&imports, module) {
                panic!("they import each other: {circle:#?}");
            }
        }
    }
}

/// By module, the modules below the same directory that it names, each by the names on its path. What a file shares with the
/// one that it is a part of (`mod.rs`, `main.rs`) is left out: a whole knows its parts, and a part its whole.
fn imports(directory: &str, root: &[&str]) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let mut texts: BTreeMap<Vec<String>, String> = BTreeMap::new();
    for (file, text) in sources(directory) {
        let path = file.strip_prefix(directory).unwrap().trim_start_matches('/').trim_end_matches(".rs");
        let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|name| name == "mod") || module == *root {
            module.pop();
        }
        let is_of = |name: &str| module.iter().any(|part| part == name);
        if !(is_of("tests") || directory == "src" && is_of("bin")) {
            texts.insert(module, text);
        }
    }
    let known = |mut path: Vec<String>| {
        while !path.is_empty() && !texts.contains_key(&path) {
            path.pop();
        }
        path
    };
    let imports = texts.iter().map(|(module, text)| {
        let imported = paths_in(text).into_iter().filter_map(|path| {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let base = match path[0].as_str() {
                "crate" => Vec::new(),
                "super" => module[..module.len().checked_sub(ups)?].to_vec(),
                _ => module.clone(),
            };
            let rest =
                path.into_iter().skip_while(|part| ["crate", "super", "self"].contains(&part.as_str()));
            let other = known(base.into_iter().chain(rest).collect());
            (!module.starts_with(&other) && !other.starts_with(module)).then_some(other)
        });
        (module.clone(), imported.collect())
    });
    imports.collect()
}

/// The paths in a text that begin with `crate`, `super` or `self`, those of groups one by one.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n").replace("(in crate::", "(in ");
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut paths = Vec::new();
    for head in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(head) {
            if !code[..at].chars().next_back().is_some_and(|c| is_word(c) || c == ':') {
                let mut rest = &code[at..];
                paths.extend(tree(&mut rest));
            }
        }
    }
    paths
}

/// Takes a path with its groups from the beginning of a text.
fn tree(text: &mut &str) -> Vec<Vec<String>> {
    *text = text.trim_start();
    if let Some(rest) = text.strip_prefix('{') {
        *text = rest;
        let mut all = Vec::new();
        loop {
            all.extend(tree(text));
            // `as another`, and what stands between one and the next.
            let Some(next) = text.find([',', '}']) else { return all };
            let ends = text[next..].starts_with('}');
            *text = &text[next + 1..];
            if ends || text.trim_start().starts_with('}') {
                if !ends {
                    *text = &text.trim_start()[1..];
                }
                return all;
            }
        }
    }
    let word: String = text.chars().take_while(|c| is_word(*c)).collect();
    *text = &text[word.len()..];
    let Some(rest) = text.strip_prefix("::").filter(|_| !word.is_empty()) else {
        return vec![if word.is_empty() { Vec::new() } else { vec![word] }];
    };
    *text = rest;
    let below = tree(text).into_iter();
    below.map(|path| [vec![word.clone()], path].concat()).collect()
}

/// A way from a module back to itself, if there is one.
fn circle(
    imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
    module: &Vec<String>,
) -> Option<Vec<Vec<String>>> {
    let mut ways = vec![vec![module.clone()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for next in imports.get(way.last()?).into_iter().flatten() {
            let further = [way.clone(), vec![next.clone()]].concat();
            if next == module {
                return Some(further);
            }
            if seen.insert(next.clone()) {
                ways.push(further);
            }
        }
    }
    None
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
        assert!(may_ask || !mentions(&text, "reqwest"), "{file}");
    }
}

#[test]
fn the_ledger_speaks_to_its_engine_in_one_place() {
    for (file, text) in sources("src") {
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_test = file.starts_with("src/ledger/tests");
        if !is_test && !file.starts_with("src/ledger/db/") {
            assert!(!mentions(text, "rusqlite"), "{file} names an engine; ledger/db/sql is what to use");
        }
    }
}

#[test]
fn the_ledgers_sql_is_one_that_both_engines_take() {
    const SQLITE_ONLY: [&str; 9] = [
        "INSERT OR ",
        "REPLACE INTO",
        "ifnull(",
        "rowid",
        "json_each",
        "group_concat",
        " GLOB ",
        " REAL)",
        "typeof(",
    ];
    for (file, text) in sources("src/ledger") {
        if !file.starts_with("src/ledger/db/") && !file.starts_with("src/ledger/tests") {
            for words in SQLITE_ONLY {
                assert!(
                    !text.contains(words),
                    "{file}: `{words}` is SQLite's alone (src/ledger/db/sql/mod.rs)"
                );
            }
        }
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
