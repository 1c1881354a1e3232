//! Each command as scripts and people use it: help, stable JSON, where the configuration comes from.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::{Value, json};

fn reported() -> World {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world.flush().exits(0);
    world
}

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    for key in keys {
        assert!(object.contains_key(*key), "no `{key}` in {value:#}");
    }
}

#[test]
fn every_command_teaches_its_use() {
    let world = World::new(CURRENT);
    let commands = [
        "", "run", "flush", "collect", "check", "status", "explain", "recount", "parked", "resolve", "usages",
    ];
    let nested = ["parked list", "parked retry", "parked drop", "usages list", "usages show"];
    for command in commands.iter().chain(&nested) {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.push("--help");
        world.agent(&words).exits(0).says("Usage: waldur-usage-agent").says("--config");
    }
    world.agent(&["--help"]).exits(0).says("Exit codes").says("78").says("stranded");
    world.agent(&["--version"]).exits(0).says("waldur-usage-agent 0.");
    world.agent(&["flsh"]).exits(64).says("flush");
    world.agent(&[]).exits(64);
}

#[test]
fn status_json_has_what_scripts_need() {
    let world = reported();
    let status = world.agent(&["status", "--json"]).exits(0).json();
    assert_keys(&status, &["ledger", "collectors", "statements", "unmatched", "server", "exit"]);
    assert_keys(
        &status["collectors"][0],
        &["name", "schedule", "last_run", "outcome", "message", "readings", "quarantined", "last_success"],
    );
    let statement = &status["statements"][0];
    assert_keys(statement, &["resource", "name", "backend_id", "period", "state", "components"]);
    assert_eq!((&statement["resource"], &statement["period"]), (&json!(A), &json!("2026-11")));
    let component = &statement["components"][0];
    assert_keys(
        component,
        &["component", "amount", "posted", "acknowledged", "acknowledged_at", "state", "users"],
    );
    assert_eq!(component["amount"], "11/360");
    assert_eq!((&component["posted"], &component["acknowledged"]), (&json!("0.03"), &json!("0.03")));
    assert_eq!(component["state"], "agreed");
    assert_eq!(component["users"][0]["user"], "alice");
    assert_eq!(component["users"][0]["amount"], "0.025");
    assert_eq!(component["users"][0]["posted"], "0.02");
    assert_eq!(status["exit"], 0);
    world.agent(&["status", "--all"]).exits(0).says("Project A").says("0.030556").says("0.03").says("agreed");
    world.agent(&["status", "--users"]).exits(0).says("alice").says("bob");
}

#[test]
fn flush_json_says_what_was_sent_and_what_is_left() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    let flushed = world.agent(&["flush", "--collect", "--json"]).exits(0).json();
    assert_keys(
        &flushed,
        &[
            "sent",
            "requests",
            "pending",
            "held",
            "parked",
            "stranded",
            "unmatched",
            "collector_failures",
            "exit",
        ],
    );
    assert_eq!(
        flushed["sent"][0],
        json!({ "resource": A, "period": "2026-11", "component": "cpu_hours", "user": null, "amount": "0.03", "was": null })
    );
    assert_eq!(flushed["sent"].as_array().unwrap().len(), 3);
    assert_eq!(flushed["requests"].as_u64().unwrap() as usize, world.requests_since(0).len());
    assert_eq!((&flushed["pending"], &flushed["exit"]), (&json!(0), &json!(0)));
}

#[test]
fn collect_shows_readings_and_the_amounts_they_make_and_a_dry_run_keeps_nothing() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    for _ in 0..2 {
        let tried = world.agent(&["collect", "--dry-run", "--json"]).exits(0).json();
        assert_eq!(tried["dry_run"], true);
        let source = &tried["collectors"][0];
        assert_keys(
            source,
            &["name", "outcome", "error", "readings", "new", "corrected", "quarantined", "changes"],
        );
        assert_eq!((&source["new"], source["readings"].as_array().unwrap().len()), (&json!(6), 6));
        let total = source["changes"].as_array().unwrap().iter().find(|change| change["user"] == json!(null));
        assert_eq!(total.unwrap()["after"], json!({ "amount": "11/360", "posted": "0.03" }));
    }
    world.agent(&["collect", "--dry-run"]).exits(0).says("6 would be new").says("0.030556").says("0.03");
    world.agent(&["collect"]).exits(0).says("6 were new");
    world.agent(&["collect", "source"]).exits(0).says("0 were new").says("no amount changed");
    world.agent(&["collect", "sauce"]).exits(64).says("no collector `sauce`; there are: source");
    // Nothing is sent by looking.
    assert_eq!(world.requests_since(0).len(), 0);
}

#[test]
fn a_dry_run_counts_what_waits_in_the_queue_before_it_and_keeps_nothing_of_that_either() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let hour = |id: &str, start: &str, end: &str| {
        job(
            "cpu_seconds",
            id,
            &format!("2026-11-05T{start}:00Z"),
            &format!("2026-11-05T{end}:00Z"),
            "3600",
            &[],
        )
    };
    // Of three hours that were read and committed nothing is counted: the agent dies before.
    world.readings(&[hour("1", "00:00", "01:00"), hour("2", "01:00", "02:00"), hour("3", "02:00", "03:00")]);
    let mut command = world.command(&["collect"]);
    let dead = command.env("WALDUR_USAGE_AGENT_FAIL_POINT", "before a count is committed").output().unwrap();
    Done::from(dead).exits(137);
    // Two more hours are seen now.
    world.readings(&[hour("4", "03:00", "04:00"), hour("5", "04:00", "05:00")]);
    for _ in 0..2 {
        let tried = world.agent(&["collect", "--dry-run", "--json"]).exits(0).json();
        let source = &tried["collectors"][0];
        assert_eq!(source["new"], 2);
        assert_eq!(source["changes"][0]["after"], json!({ "amount": "5", "posted": "5.00" }));
    }
    // What waited is counted once, and what a rehearsal saw is not kept.
    world.readings(&[]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
}

#[test]
fn check_json_lists_findings_and_sends_nothing() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    let checked = world.agent(&["check", "--json"]).exits(0).json();
    assert_eq!(checked["exit"], 0);
    for finding in checked["findings"].as_array().unwrap() {
        assert_keys(finding, &["result", "message"]);
    }
    assert_eq!(world.posts_since(0).len(), 0);
    assert!(!world.path("ledger.db").exists(), "a look leaves no ledger behind");
    let check = world.agent(&["check"]).exits(0);
    check.says("1 collector, 1 meter, no mistakes").says("make cpu_hours by").says("billed by usage, in h");
    let mark = world.mark();
    world.agent(&["check", "--offline"]).exits(0);
    assert_eq!(world.requests_since(mark).len(), 0);
}

#[test]
fn explain_json_leads_from_the_amount_to_readings_and_calls() {
    let world = reported();
    let explained = world.agent(&["explain", "project-a", "cpu_hours", "--json"]).exits(0).json();
    assert_keys(
        &explained,
        &[
            "resource",
            "component",
            "period",
            "user",
            "amount",
            "posted",
            "unit",
            "factor",
            "rounding",
            "readings",
            "calls",
        ],
    );
    assert_eq!(explained["amount"], "11/360");
    assert_eq!(explained["posted"], "0.03");
    assert_eq!(explained["unit"], "h");
    assert_eq!(explained["factor"], "1/3600");
    assert_eq!(explained["rounding"], "half_even");
    let readings = explained["readings"].as_array().unwrap();
    assert_eq!(readings.len(), 6);
    // Alice's third reading is the reset: all of it counts.
    let reset = readings.iter().find(|reading| reading["reset"] == true).unwrap();
    assert_eq!((&reset["value"], &reset["adds"]), (&json!("20"), &json!("20")));
    let calls = explained["calls"].as_array().unwrap();
    assert_eq!((&calls[0]["call"], &calls[0]["outcome"]), (&json!("set_usage"), &json!("accepted")));
    assert!(calls[0]["amounts"].as_str().unwrap().contains("cpu_hours 0.03"));
    let bobs = world.agent(&["explain", A, "cpu_hours", "--user", "bob", "--json"]).exits(0).json();
    assert_eq!((&bobs["amount"], &bobs["posted"]), (&json!("1/180"), &json!("0.01")));
    // However the resource is called.
    for name in [A.to_uppercase(), A.replace('-', ""), "Project A".to_owned()] {
        world.agent(&["explain", &name, "cpu_hours"]).exits(0).says("posted    0.03").says("reset");
    }
    world.agent(&["explain", "nobody", "cpu_hours"]).exits(64).says("nobody");
    world.agent(&["explain", A, "gpu_hours"]).exits(64).says("no amount of gpu_hours");
}

#[test]
fn parked_list_json_has_reason_words_and_remedy() {
    let world = World::new(CURRENT);
    world.configure(&format!("    resource: {A}\n    meters:\n      nope: {{ reading: cpu_seconds }}\n"));
    world.readings(&counter(&["0", "5"], &[]));
    world.flush().exits(65);
    let list = world.agent(&["parked", "list", "--json"]).exits(65).json();
    let keys =
        ["resource", "period", "component", "user", "amount", "state", "reason", "words", "since", "remedy"];
    assert_keys(&list[0], &keys);
    assert_eq!(list[0]["amount"], "5.00");
    let empty = reported();
    assert_eq!(empty.agent(&["parked", "list", "--json"]).exits(0).json(), json!([]));
    empty.agent(&["parked", "list"]).exits(0).says("Nothing is held, parked or stranded.");
}

#[test]
fn usages_are_listed_and_shown_as_waldur_holds_them() {
    for api in BOTH {
        let world = World::new(api);
        world.configure(&cpu_hours_of_a());
        world.readings(&counter(&["0", "3600"], &[]));
        world.flush().exits(0);
        world.post(
            "rows",
            json!({ "resource": B, "type": "gpu_hours", "usage": "7.5", "billing_period": "2026-10-01" }),
        );
        let all = world.agent(&["usages", "list", "--json"]).exits(0).json();
        assert_eq!(all.as_array().unwrap().len(), 2, "{api}");
        let filtered = |filter: &[&str]| {
            let words = [&["usages", "list", "--json"], filter].concat();
            let rows = world.agent(&words).exits(0).json();
            rows.as_array()
                .unwrap()
                .iter()
                .map(|row| row["usage"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(filtered(&["--type", "cpu_hours"]), ["1.00"], "{api}");
        assert_eq!(filtered(&["--billing-period", "2026-10"]), ["7.50"], "{api}");
        // Filters that an old server ignores are applied here.
        assert_eq!(
            filtered(&["--billing_period_month", "10", "--billing_period_year", "2026"]),
            ["7.50"],
            "{api}"
        );
        assert_eq!(filtered(&["--resource-uuid", B]), ["7.50"], "{api}");
        assert_eq!(filtered(&["--o=-usage"]), ["7.50", "1.00"], "{api}");
        assert_eq!(filtered(&["--o", "usage"]), ["1.00", "7.50"], "{api}");
        assert_eq!(filtered(&["--offering-uuid", B]).len(), 0, "{api}");
        let uuid = all[0]["uuid"].as_str().unwrap();
        let one = world.agent(&["usages", "show", uuid, "--json"]).exits(0).json();
        assert_keys(&one, &["uuid", "usage", "type", "billing_period", "date"]);
        world.agent(&["usages", "show", A]).exits(65);
        world.agent(&["usages", "list"]).exits(0).says("cpu_hours").says("1.00");
        world.agent(&["usages", "list", "--page-size", "1", "--json"]).exits(0);
    }
}

#[test]
fn the_configuration_is_named_before_or_after_the_command_or_by_the_environment() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let file = world.path("agent.yaml").display().to_string();
    let without = |arguments: &[&str]| -> Done {
        world.command(arguments).env_remove("WALDUR_USAGE_AGENT_CONFIG").output().unwrap().into()
    };
    without(&["--config", &file, "check", "--offline"]).exits(0).says(&file);
    without(&["check", "--offline", "--config", &file]).exits(0).says(&file);
    world.agent(&["check", "--offline"]).exits(0).says(&file);
    // The flag wins over the environment.
    world.agent(&["check", "--offline", "--config", "/nowhere.yaml"]).exits(78).says("/nowhere.yaml");
    without(&["check", "--offline"]).exits(78).says("/etc/waldur-usage-agent/agent.yaml").says("WALDUR_URL");
}

#[test]
fn the_configuration_may_be_json() {
    let world = World::new(CURRENT);
    let text = json!({
        "waldur": { "url": world.url(), "token_file": world.path("token") },
        "ledger": world.path("ledger.db"),
        "collectors": { "source": {
            "plugin": "exec", "schedule": "*/5 * * * *", "command": ["cat", world.path("readings")],
            "resource": A, "meters": { "cpu_hours": { "reading": "cpu_seconds", "factor": "1/3600" } }
        } }
    });
    world.write("agent.yaml", &format!("{text:#}"));
    world.readings(&counter(&["100", "160", "20", "50"], &[]));
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
}

#[test]
fn a_sidecar_is_configured_by_the_environment_alone() {
    for (name, value) in [("WALDUR_TOKEN", TOKEN), ("WALDUR_TOKEN_FILE", "")] {
        let world = World::new(CURRENT);
        let root = world.path("cgroup");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("cgroup.controllers"), "cpu memory\n").unwrap();
        let cpu = |seconds: u64| {
            let text = format!("usage_usec {0}\nuser_usec {0}\nsystem_usec 0\n", seconds * 1_000_000);
            std::fs::write(root.join("cpu.stat"), text).unwrap();
        };
        let token_file = world.path("token").display().to_string();
        let sidecar = |arguments: &[&str]| -> Done {
            let mut command = world.command(arguments);
            command
                .env_remove("WALDUR_USAGE_AGENT_CONFIG")
                .env("WALDUR_URL", world.url())
                .env("WALDUR_RESOURCE", A)
                .env("WALDUR_METERS", "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }")
                .env("WALDUR_LEDGER", world.path("ledger.db"))
                .env("WALDUR_CGROUP_ROOT", &root)
                .env(name, if value.is_empty() { &token_file } else { value });
            command.output().unwrap().into()
        };
        cpu(1_000);
        sidecar(&["check"]).exits(0).says("the environment: 1 collector, 1 meter, no mistakes");
        // What the container used before anybody looked is a baseline.
        sidecar(&["flush", "--collect"]).exits(0).says("Nothing was sent.");
        world.now("2026-11-10T12:01:00Z");
        cpu(1_000 + 9_000);
        sidecar(&["flush", "--collect"]).exits(0);
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
    }
}

#[test]
fn a_collectors_program_never_sees_the_token() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let text = text.replace("command: [cat,", "command: [sh, -c, 'env >&2; exit 1',");
    let file = world.path("token").display().to_string();
    let text = text.replace(&format!("token_file: {file}"), "token_env: MY_SECRET");
    world.write("agent.yaml", &text);
    let done: Done =
        world.command(&["collect"]).env("MY_SECRET", TOKEN).env("HARMLESS", "seen").output().unwrap().into();
    done.exits(69).says("seen").says_not(TOKEN);
}

#[test]
fn recount_finds_a_ledger_that_was_tampered_with_and_repairs_it() {
    let world = reported();
    world.agent(&["recount"]).exits(0).says("The ledger agrees with its readings.");
    let path = world.path("ledger.db");
    let python = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n\
                  c.execute(\"UPDATE line SET exact = '7', posted = '7.00' WHERE username = ''\")\nc.commit()\n";
    let tampered =
        std::process::Command::new("python3").args(["-c", python, path.to_str().unwrap()]).status();
    if !tampered.is_ok_and(|status| status.success()) {
        return skip("recount_finds_a_ledger_that_was_tampered_with_and_repairs_it", "python3 with sqlite3");
    }
    world.agent(&["recount"]).exits(1).says("11/360").says("--write repairs");
    world.agent(&["recount", "--write"]).exits(1).says("repaired");
    world.agent(&["recount"]).exits(0);
    let posted =
        world.agent(&["status", "--json"]).json()["statements"][0]["components"][0]["posted"].clone();
    assert_eq!(posted, "0.03");
}

#[test]
fn every_request_carries_what_the_server_needs() {
    use std::io::{Read, Write};
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&counter(&["0", "3600"], &[]));
    // A server that listens, and passes each request on to the sandbox.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (real, text) = (world.address.clone(), std::fs::read_to_string(world.path("agent.yaml")).unwrap());
    world.write("agent.yaml", &text.replace(&world.url(), &format!("http://{address}")));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let mut there = std::net::TcpStream::connect(&real).unwrap();
            // One request a connection.
            let once = head.replacen("http/1.1\r\n", "HTTP/1.1\r\nconnection: close\r\n", 1);
            let once = once.replacen("post ", "POST ", 1).replacen("get ", "GET ", 1);
            let once = once.replace("authorization: token ", "authorization: Token ");
            there.write_all(once.as_bytes()).unwrap();
            there.write_all(&body).unwrap();
            let mut answer = Vec::new();
            there.read_to_end(&mut answer).unwrap();
            stream.write_all(&answer).unwrap();
            tell.send(head).unwrap();
        }
    });
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    let heads: Vec<String> = told.try_iter().collect();
    assert!(heads.len() >= 3, "{heads:#?}");
    for head in heads {
        assert!(head.contains("accept-language: en\r\n"), "{head}");
        assert!(head.contains("user-agent: waldur-usage-agent/"), "{head}");
        let path = head.split(' ').nth(1).unwrap();
        assert!(path.split('?').next().unwrap().ends_with('/'), "{path}");
        if head.starts_with("post") {
            assert!(head.contains("content-length: ") && !head.contains("transfer-encoding"), "{head}");
        }
    }
}
