//! The table of keys (docs/keys.yaml) and what is made of it: the program knows these keys and no others, the committed
//! reference and schema are those that the table makes, and the schema takes what the program takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

#[path = "../examples/generate/reference.rs"]
#[allow(dead_code, reason = "the generator uses all of it")]
mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use reference::Section;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn table() -> Vec<Section> {
    reference::read(&std::fs::read_to_string(root().join("docs/keys.yaml")).unwrap()).unwrap()
}

fn schema() -> Value {
    reference::schema(&table())
}

/// What the program finds wrong with a configuration, and how it ends.
fn check(text: &str) -> (Vec<String>, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.yaml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_waldur-usage-agent"))
        .args(["check", "--offline", "--json", "--config"])
        .arg(&file)
        .env_clear()
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = said["findings"].as_array().unwrap();
    let problems = findings.iter().filter(|finding| finding["result"] == "problem");
    (problems.map(|finding| finding["message"].as_str().unwrap().to_owned()).collect(), output.status.code())
}

/// Like no key, so that the program lists those that it knows where it stands.
fn odd() -> String {
    "x".repeat(80)
}

/// For each section of the table a place where it stands in a configuration, with an odd key in it.
fn place(section: &str) -> String {
    let odd = odd();
    let base = "waldur: { url: 'https://w.example.com' }\ncollectors:\n  c:\n    schedule: '@daily'\n    \
                resource: 5e2f0000-0000-4000-8000-000000000001\n    meters: { m: { reading: r, aggregate: last } }\n";
    let plugin = |plugin: &str, more: &str| format!("{base}    plugin: {plugin}\n    {more}\n");
    let web = |more: &str| {
        plugin("openmetrics", &format!("url: 'https://x.example.com'\n    metrics: a\n    {more}"))
    };
    let request = |more: &str| {
        plugin(
            "http",
            &format!(
                "url: 'https://x.example.com'\n    requests: {{ q: {{ readings: {{ v: {{ kind: gauge, value: v }} }}, {more} }} }}"
            ),
        )
    };
    match section {
        "" => format!("{base}    plugin: cgroup\n    slices: self\n{odd}: 1\n"),
        "waldur" => base.replace("example.com'", &format!("example.com', {odd}: 1")),
        // The schedule is asked for only where there is one.
        "queue" => format!("queue: {{ {odd}: 1 }}\n{base}"),
        "submit" => format!("submit: {{ schedule: '@daily', {odd}: 1 }}\n{base}"),
        "metrics" => format!("metrics: {{ {odd}: 1 }}\n{base}"),
        "page" => format!("page: {{ listen: 'unix:/x', {odd}: 1 }}\n{base}"),
        "resource" => base.replace("5e2f0000-0000-4000-8000-000000000001", &format!("{{ {odd}: 1 }}")),
        "meter" => base.replace("aggregate: last", &format!("{odd}: 1")),
        "cgroup" => plugin("cgroup", &format!("slices: self\n    {odd}: 1")),
        "exec" => plugin("exec", &format!("command: x\n    {odd}: 1")),
        "filesystem" => plugin("filesystem", &format!("mounts: /x\n    {odd}: 1")),
        "slurm" => plugin("slurm", &format!("{odd}: 1")),
        "openmetrics" => web(&format!("{odd}: 1")),
        "auth" => web(&format!("auth: {{ {odd}: 1 }}")),
        "basic" | "oauth2" | "login" | "aws" => web(&format!("auth: {{ {section}: {{ {odd}: 1 }} }}")),
        "tls" => web(&format!("tls: {{ {odd}: 1 }}")),
        "http" => request("").replace("    requests", &format!("    {odd}: 1\n    requests")),
        "request" => request(&format!("{odd}: 1")),
        "paging" => request(&format!("paging: {{ {odd}: 1 }}")),
        "value" => request("").replace("value: v", &format!("value: v, {odd}: 1")),
        "prometheus" => {
            let query = "{ r: { query: a, kind: gauge } }";
            plugin("prometheus", &format!("url: 'https://x.example.com'\n    queries: {query}\n    {odd}: 1"))
        }
        "query" => plugin(
            "prometheus",
            &format!("url: 'https://x.example.com'\n    queries: {{ r: {{ {odd}: 1 }} }}"),
        ),
        other => {
            panic!("docs/keys.yaml has a section `{other}`: say here where it stands in a configuration")
        }
    }
}

#[test]
fn the_program_knows_the_keys_of_the_table_and_no_others() {
    let sections = table();
    let plugins: Vec<&str> =
        waldur_usage_agent::collectors::PLUGINS.iter().map(|plugin| plugin.name).collect();
    for section in &sections {
        // Those stand in others, where they are asked for.
        if ["collector", "web"].contains(&section.name.as_str()) {
            continue;
        }
        let (said, _) = check(&place(&section.name));
        let mark = format!("unknown key `{}`; known here: ", odd());
        let list = said.iter().find_map(|message| message.split_once(&mark)).map(|(_, list)| list);
        let list = list.unwrap_or_else(|| panic!("{}: {said:?}", section.name));
        let known: BTreeSet<&str> = list.split(", ").map(|key| key.trim_matches('`')).collect();
        let mut table: BTreeSet<&str> =
            reference::keys(&sections, &section.name).iter().map(|key| key.name.as_str()).collect();
        if plugins.contains(&section.name.as_str()) {
            table.extend(reference::keys(&sections, "collector").iter().map(|key| key.name.as_str()));
        }
        assert_eq!(
            known, table,
            "section `{}`: the program's keys, and those of docs/keys.yaml",
            section.name
        );
    }
    let collector = sections.iter().find(|section| section.name == "collector").unwrap();
    let plugin = collector.keys.iter().find(|key| key.name == "plugin").unwrap();
    assert_eq!(plugin.choices().unwrap(), plugins);
    for plugin in plugins {
        assert!(
            sections.iter().any(|section| section.name == plugin),
            "{plugin} has no section in docs/keys.yaml"
        );
    }
}

#[test]
fn the_program_takes_the_choices_of_the_table_and_no_others() {
    for section in table() {
        if ["collector", "web"].contains(&section.name.as_str()) {
            continue;
        }
        for key in &section.keys {
            let Some(choices) = key.choices() else { continue };
            let with = |value: &str| {
                let asked = format!("{}: {value}", key.name);
                // Where the place has the key already, it is that one's value.
                let text = match (section.name.as_str(), key.name.as_str()) {
                    ("value", "kind") => place(&section.name).replace("kind: gauge", &asked),
                    _ => place(&section.name).replace(&format!("{}: 1", odd()), &asked),
                };
                check(&text).0
            };
            let refused = |said: &[String]| said.iter().any(|message| message.contains("zzz"));
            assert!(refused(&with("zzz")), "{}.{}: {:?}", section.name, key.name, with("zzz"));
            for choice in choices {
                let said = with(&choice);
                let about = format!("`{choice}` is no");
                assert!(!said.iter().any(|message| message.contains(&about)), "{}: {said:?}", key.name);
            }
        }
    }
}

#[test]
fn what_is_committed_is_what_the_table_makes() {
    let again = "cargo run --example generate -- target/assets docs";
    let made = format!("{:#}\n", schema());
    let kept = std::fs::read_to_string(root().join("docs/agent.schema.json")).unwrap_or_default();
    assert!(made == kept, "docs/agent.schema.json is not of docs/keys.yaml any more: {again}");
    let kept = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap_or_default();
    assert!(
        reference::page(&table()) == kept,
        "docs/configuration.md is not of docs/keys.yaml any more: {again}"
    );
}

#[test]
fn every_key_of_the_annotated_example_is_in_the_table() {
    let text = std::fs::read_to_string(root().join("config/agent.yaml")).unwrap();
    let example: serde_json::Value =
        serde_json::to_value(serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap()).unwrap();
    assert_eq!(problems(&schema(), &schema(), &example, "agent.yaml"), Vec::<String>::new());
    // And what stands there as a comment, too.
    let keys: BTreeSet<String> =
        table().iter().flat_map(|section| section.keys.iter().map(|key| key.name.clone())).collect();
    let comments = text.lines().filter_map(|line| line.trim().strip_prefix("# ")?.split_once(": "));
    let mut seen = BTreeMap::new();
    // A sentence of its own.
    let comments = comments.filter(|(key, _)| *key != "gauge");
    for (key, _) in comments.filter(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
        seen.insert(key.to_owned(), keys.contains(key));
    }
    assert!(seen.len() >= 5 && seen.values().all(|known| *known), "{seen:?}");
}

#[test]
fn the_schema_takes_what_the_program_takes() {
    let schema = schema();
    let mut seen = 0;
    for text in configurations() {
        let value: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        let value = serde_json::to_value(value).unwrap();
        assert_eq!(problems(&schema, &schema, &value, ""), Vec::<String>::new(), "{text}");
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let schema = schema();
    let good = "waldur: { url: 'https://w.example.com' }\ncollectors:\n  c:\n    plugin: cgroup\n    slices: self\n    \
                schedule: '@daily'\n    resource: 5e2f0000-0000-4000-8000-000000000001\n    \
                meters: { m: { reading: cpu_seconds, factor: 1/3600 } }\n";
    let judged = |text: &str| {
        let value: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
        (
            problems(&schema, &schema, &serde_json::to_value(value).unwrap(), "").is_empty(),
            check(text).1 == Some(0),
        )
    };
    assert_eq!(judged(good), (true, true));
    for (from, to) in [
        ("url:", "urls:"),
        ("https://", "ftp://"),
        ("slices: self", "slice: self"),
        ("plugin: cgroup", "plugin: cgroups"),
        ("slices: self", "command: x"),
        ("reading: cpu_seconds", "raeding: cpu_seconds"),
        ("factor: 1/3600", "aggregate: maximum"),
        ("factor: 1/3600", "recurring: maybe"),
        ("schedule: '@daily'", "since: '2026-01-01T00:00:00Z'"),
        ("slices: self", "slices: { a: b }"),
        ("waldur:", "submit: { late: never }\nwaldur:"),
        ("'https://w.example.com'", "'https://w.example.com', max_in_flight: 9"),
        ("resource: 5e2f0000-0000-4000-8000-000000000001", "resource: { offering: 5e2f, backend_id: a }"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        assert_eq!(judged(&text), (false, false), "{text}");
    }
}

/// The configurations in config/, and those in the documents.
fn configurations() -> Vec<String> {
    let mut texts = Vec::new();
    let pages =
        walkdir::WalkDir::new(root().join("docs")).into_iter().map(|entry| entry.unwrap().into_path());
    let pages: Vec<PathBuf> = pages.chain([root().join("README.md")]).collect();
    for page in pages.iter().filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        for block in text.split("\n```").skip(1).step_by(2) {
            if let Some(block) = block.strip_prefix("yaml\n").filter(|block| block.contains("waldur:\n  url"))
            {
                texts.push(block.to_owned());
            }
        }
    }
    for entry in std::fs::read_dir(root().join("config")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let other = name == "sandbox.yaml" || name.starts_with("kubernetes-");
        if name.ends_with(".yaml") && !other {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    texts
}

/// What of a value is not as the schema has it: those words of JSON Schema that ours uses, and a panic at any other.
fn problems(schema: &Value, whole: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (word, said) in schema.as_object().unwrap() {
        match word.as_str() {
            "$schema" | "title" | "description" | "$defs" | "then" => {}
            "$ref" => {
                let name = said.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                let of = whole["$defs"].get(name).unwrap_or_else(|| panic!("no $defs/{name}"));
                found.extend(problems(of, whole, value, at));
            }
            "type" => {
                let is = |kind: &str| match kind {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    other => panic!("type {other}"),
                };
                let kinds: Vec<&str> = match said {
                    Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
                    kind => vec![kind.as_str().unwrap()],
                };
                if !kinds.into_iter().any(is) {
                    found.push(format!("{at}: {value} is not {said}"));
                }
            }
            "enum" => {
                if !said.as_array().unwrap().contains(value) {
                    found.push(format!("{at}: {value} is none of {said}"));
                }
            }
            "const" => {
                if said != value {
                    found.push(format!("{at}: {value} is not {said}"));
                }
            }
            "minimum" | "maximum" => {
                let (number, limit) = (value.as_i64().unwrap_or_default(), said.as_i64().unwrap());
                if (word == "minimum" && number < limit) || (word == "maximum" && number > limit) {
                    found.push(format!("{at}: {number} against {word} {limit}"));
                }
            }
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                let fits = match said.as_str().unwrap() {
                    "^https?://" => text.starts_with("http://") || text.starts_with("https://"),
                    // A UUID.
                    _ => text.parse::<uuid::Uuid>().is_ok(),
                };
                if !fits {
                    found.push(format!("{at}: {text} is not as it should be"));
                }
            }
            "required" => {
                for key in said.as_array().unwrap() {
                    if value.is_object() && value.get(key.as_str().unwrap()).is_none() {
                        found.push(format!("{at}: {key} is missing"));
                    }
                }
            }
            "properties" | "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, inner) in value.as_object().into_iter().flatten() {
                    let at = format!("{at}.{key}");
                    match (word.as_str(), known.and_then(|known| known.get(key))) {
                        ("properties", Some(of)) => found.extend(problems(of, whole, inner, &at)),
                        ("additionalProperties", None) if *said == false => {
                            found.push(format!("{at} is unknown"))
                        }
                        ("additionalProperties", None) => found.extend(problems(said, whole, inner, &at)),
                        _ => {}
                    }
                }
            }
            "items" => {
                for inner in value.as_array().into_iter().flatten() {
                    found.extend(problems(said, whole, inner, at));
                }
            }
            "anyOf" => {
                let ways = said.as_array().unwrap().iter().map(|way| problems(way, whole, value, at));
                if ways.clone().all(|problems| !problems.is_empty()) {
                    found.extend(ways.flatten());
                }
            }
            "allOf" => {
                for one in said.as_array().unwrap() {
                    found.extend(problems(one, whole, value, at));
                }
            }
            "if" => {
                if problems(said, whole, value, at).is_empty() {
                    found.extend(problems(&schema["then"], whole, value, at));
                }
            }
            other => panic!("the schema says `{other}`, which is not tried here"),
        }
    }
    found
}
