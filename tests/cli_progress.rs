//! What long work says while it goes on, and how `flush` sums up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::process::Command;

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// A world whose collector `slow` takes its time.
fn slow(seconds: u32) -> World {
    let world = world(CURRENT, NOON);
    lines(&world, "slow", &[five()]);
    let (keys, lines) = (keys(CPU), world.path("slow.lines"));
    let command = format!("[sh, -c, \"sleep {seconds}; cat {}\"]", lines.display());
    let collector =
        format!("  slow:\n    plugin: exec\n    schedule: \"@hourly\"\n    command: {command}\n{keys}");
    world.write("agent.yaml", &format!("{}collectors:\n{collector}", world.head("")));
    world
}

/// What a command writes to a terminal.
fn at_a_terminal(world: &World, command: &str, environment: &[(&str, &str)]) -> String {
    let line = format!("{} {command}", env!("CARGO_BIN_EXE_waldur-usage-agent"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    script.env("WALDUR_USAGE_AGENT_CONFIG", world.path("agent.yaml"));
    script.env("WALDUR_USAGE_AGENT_CLOCK_FILE", world.path("clock"));
    script.envs(environment.iter().copied()).stdin(std::process::Stdio::null());
    String::from_utf8(script.output().unwrap().stdout).unwrap()
}

#[test]
fn at_a_terminal_a_line_tells_what_is_waited_for() {
    let world = slow(1);
    let terminal = [("TERM", "xterm")];
    let said = at_a_terminal(&world, "check", &terminal);
    for words in ["Waiting for collector slow", "Waiting for http://", "\u{1b}["] {
        assert!(said.contains(words), "`{words}` in {said:?}");
    }
    let said = at_a_terminal(&world, "collect", &terminal);
    assert!(said.contains("Collector slow: measuring"), "{said:?}");
    world.fault(json!({ "match": { "path": "/set_usage/" }, "action": { "hang": 1000 }, "times": 1 }));
    let said = at_a_terminal(&world, "flush --collect", &terminal);
    assert!(
        said.contains("Collector slow: measuring") && said.contains("Reporting totals: 0 of 1"),
        "{said:?}"
    );
    let said = at_a_terminal(&world, "recount", &terminal);
    assert!(said.contains("Counting all readings again"), "{said:?}");
    // Beside rows on the same terminal there is no room for it.
    let said = at_a_terminal(&world, "export --period 2026-11", &terminal);
    assert!(!said.contains("Exporting"), "{said:?}");
    let said = at_a_terminal(&world, "export --period 2026-11 >/dev/null", &terminal);
    assert!(said.contains("Exporting"), "{said:?}");
    // Not where nobody wants it, nor where it can't be.
    for environment in [[("TERM", "dumb"), ("A", "")], [("TERM", "xterm"), ("NO_COLOR", "1")]] {
        let said = at_a_terminal(&world, "check", &environment);
        assert!(!said.contains("Waiting for") && !said.contains('\u{1b}'), "{environment:?}: {said:?}");
    }
}

#[test]
fn in_a_pipe_nothing_moves_and_work_that_is_long_says_so_in_plain_lines() {
    let world = slow(0);
    for command in [
        &["check"][..],
        &["collect"],
        &["flush", "--collect"],
        &["recount"],
        &["export", "--period", "2026-11"],
    ] {
        let done = world.agent(command);
        for sign in ["\u{1b}", "Waiting", "measuring", "Exporting", "Counting all", "⠋"] {
            assert!(!done.all().contains(sign), "`{sign}`: {done:#?}");
        }
        assert!(!done.err.contains('\r'), "{done:#?}");
    }
    // Ten seconds are long: a line says so, in the log's form, and not among what is printed.
    let long: [(&[&str], &str); 3] = [
        (&["check"], "INFO Waiting for collector slow (10 s)"),
        (&["collect"], "INFO Collector slow: measuring (10 s)"),
        (&["flush", "--collect"], "INFO Collector slow: measuring (10 s)"),
    ];
    std::thread::scope(|scope| {
        for (command, words) in long {
            scope.spawn(move || {
                let done = slow(11).agent(command);
                assert_eq!(done.err.matches(words).count(), 1, "{command:?}: {done:#?}");
                assert!(!done.out.contains("Waiting") && !done.out.contains("measuring"), "{done:#?}");
                assert!(!done.all().contains(['\r', '\u{1b}']), "{done:#?}");
            });
        }
    });
}

#[test]
fn flush_shows_what_was_and_sums_up_what_is_too_much_to_show() {
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    let of = |user: usize, id: &str, end: &str, used: &str| {
        on("project-a", &format!("user-{user:02}"), &format!("{user}{id}"), "11-05T00:00", end, used)
    };
    let first: Vec<Value> = (0..50).map(|user| of(user, "a", "11-05T01:00", "1")).collect();
    let done = jobs(&world, NOON, &first).exits(0);
    let done = done.line_with(&["Project A", "2026-11", "cpu", "(total)", "-", "50.00"]);
    done.says("... and 11 more (--json has all)").says("Sent 51 amounts of 1 resource.");
    let more = [first, vec![of(7, "b", "11-05T03:00", "2.5")]].concat();
    let done = jobs(&world, "2026-11-10T13:00:00Z", &more).exits(0);
    let done = done.line_with(&["(total)", "50.00", "52.50"]).line_with(&["user-07", "1.00", "3.50"]);
    assert!(done.out.lines().all(|line| line.chars().count() <= 80), "{done:#?}");
    let more = [more, vec![of(8, "b", "11-05T03:00", "1")]].concat();
    lines(&world, "source", &more);
    world.now("2026-11-10T14:00:00Z");
    let json = world.agent(&["flush", "--collect", "--json"]).exits(0).json();
    let total = json["sent"].as_array().unwrap().iter().find(|one| one["user"].is_null()).unwrap();
    assert_eq!((&total["was"], &total["amount"]), (&"52.50".into(), &"53.50".into()));
}
