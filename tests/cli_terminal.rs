//! What commands do at a terminal, and not in a pipe: a question before all of something is decided, and a page that is
//! drawn over itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use agent::*;
use serde_json::json;

/// What a command writes to a terminal where somebody types this.
fn at_a_terminal(world: &World, command: &str, typed: &str) -> String {
    at_a_terminal_with(world, command, typed, &[("TERM", "xterm")])
}

fn at_a_terminal_with(world: &World, command: &str, typed: &str, environment: &[(&str, &str)]) -> String {
    let line = format!("{} {command}", env!("CARGO_BIN_EXE_waldur-usage-agent"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    script.env("WALDUR_USAGE_AGENT_CONFIG", world.path("agent.yaml")).envs(environment.iter().copied());
    script.env("WALDUR_USAGE_AGENT_CLOCK_FILE", world.path("clock"));
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// Both projects are in conflict: Waldur holds 32.00 of each, and the ledger has 1.50.
fn in_conflict() -> World {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters:\n      \
         cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n"
    ));
    let (start, end) = ("2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z");
    let hours = |id, project| job("cpu_seconds", id, start, end, "5400", &[("project", project)]);
    world.readings(&[hours("1", "project-a"), hours("2", "project-b")]);
    for resource in [A, B] {
        let row = json!({ "resource": resource, "type": "cpu_hours", "usage": "32.00", "billing_period": "2026-11-01" });
        world.post("rows", row);
    }
    world.flush().exits(65);
    world
}

#[test]
fn resolve_all_asks_at_a_terminal_and_goes_on_without_one() {
    let world = in_conflict();
    let said = at_a_terminal(&world, "resolve --all overwrite", "no\n");
    assert!(said.contains("Decide so for 2 resources? (yes or no) [no]:"), "{said:?}");
    assert!(said.contains("Nothing was decided.") && !said.contains("carries it out"), "{said:?}");
    // What would become of each number was said before.
    let unfolded = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(unfolded.matches("cpu_hours: 32.00 becomes 1.50").count(), 2, "{said:?}");
    world.flush().exits(65);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 32.00"]);
    let said = at_a_terminal(&world, "resolve --all overwrite", "yes\n");
    assert!(said.contains("The next submission carries it out."), "{said:?}");
    world.flush().exits(0);
    assert_eq!([world.rows(A), world.rows(B)], [["cpu_hours 2026-11 1.50"]; 2]);
    // Where nobody can answer, and where nobody wants to be asked, it goes on.
    for decide in [
        (|world: &World| world.agent(&["resolve", "--all", "overwrite"]).exits(0).all())
            as fn(&World) -> String,
        |world| at_a_terminal(world, "resolve --all overwrite --yes", ""),
    ] {
        let said = decide(&in_conflict());
        assert!(
            said.contains("The next submission carries it out.") && !said.contains("yes or no"),
            "{said:?}"
        );
    }
}

#[test]
fn watch_draws_over_itself_at_a_terminal_and_repeats_in_a_pipe() {
    let world = in_conflict();
    // Until it has drawn twice.
    let watch = |terminal: &str, drawn: &str| {
        let agent = env!("CARGO_BIN_EXE_waldur-usage-agent");
        let line = format!("exec timeout {} {agent} status --watch", PATIENCE.as_secs());
        let mut command = match terminal {
            "" => Command::new("sh"),
            _ => Command::new("script"),
        };
        match terminal {
            "" => command.args(["-c", &line]),
            _ => command.args(["-qec", &line, "/dev/null"]),
        };
        let (term, no_colour) = terminal.split_once(' ').unwrap_or((terminal, ""));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", term);
        if !no_colour.is_empty() {
            command.env(no_colour, "1");
        }
        command.env("WALDUR_USAGE_AGENT_CONFIG", world.path("agent.yaml"));
        command.env("WALDUR_USAGE_AGENT_CLOCK_FILE", world.path("clock"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        while String::from_utf8_lossy(&seen).matches(drawn).count() < 2 {
            let length = stdout.read(&mut some).unwrap();
            assert!(length > 0, "{:?}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&some[..length]);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        String::from_utf8(seen).unwrap()
    };
    let seen = watch("xterm", "2 resources: 2 held.");
    assert!(seen.matches("\u{1b}[H").count() >= 2, "{seen:?}");
    assert!(seen.contains("2 resources: 2 held.\u{1b}[K"), "{seen:?}");
    for terminal in ["", "dumb", "xterm NO_COLOR"] {
        let seen = watch(terminal, "2 resources: 2 held.");
        assert!(!seen.contains('\u{1b}'), "{seen:?}");
        assert!(seen.matches("2 resources: 2 held.").count() >= 2, "{seen:?}");
    }
}

/// What a terminal shows: lines as they stand in the end, without what moves the cursor or gives a colour.
fn lines_of(said: &str) -> Vec<String> {
    let mut plain = String::new();
    let said = said.replace("\r\n", "\n");
    let mut characters = said.chars();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' => drop(characters.by_ref().find(char::is_ascii_alphabetic)),
            // It is drawn over.
            '\r' => plain.truncate(plain.rfind('\n').map_or(0, |end| end + 1)),
            c => plain.push(c),
        }
    }
    plain.lines().map(str::to_owned).collect()
}

/// What goes wrong is told in 80 columns to who sits there: by each command, whatever it is.
#[test]
fn what_goes_wrong_is_told_in_80_columns() {
    let long = "a-name-that-is-as-long-as-names-of-projects-and-their-folders-come-to-be-where-nobody-looks";
    let mut world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {A}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}, nope: {{ reading: cpu_seconds }} }}\n"
    ));
    world.readings(&counter(&["0", "3600"], &[]));
    let right = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let told = |world: &World, command: &str, words: &str| {
        let said = at_a_terminal(world, command, "");
        let lines = lines_of(&said);
        let all = lines.iter().flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ");
        assert!(all.contains(words), "`{command}` does not say `{words}`: {said:?}");
        for line in &lines {
            // What has no blanks can't be folded.
            assert!(line.chars().count() <= 80 || !line.trim().contains(' '), "`{command}`: {line}");
        }
        lines
    };
    let refused = "WARN Project A (5e2f0000-0000-4000-8000-000000000001), nope, 2026-11: parked: POST set_usage: refused:";
    let lines = told(&world, "flush --collect --deadline 1s", refused);
    // No time, which is now, and what goes on stands further in.
    let first = lines.iter().position(|line| line.starts_with("WARN Project A (5e2f")).unwrap();
    assert!(lines[first + 1].starts_with("  "), "{lines:#?}");
    for (command, words) in [
        ("flsh", "unrecognized subcommand 'flsh'"),
        ("status --stat held", "unexpected argument '--stat' found"),
        ("explain nobody cpu_hours", "nobody"),
        (&format!("explain project-a {long}"), "cpu_hours"),
        (&format!("parked drop {long}"), long),
        (&format!("resolve {long} adopt"), long),
        ("agents retire hv17", "there is no agent `hv17`; `agents list` names them"),
        ("usages list --field nope", "there is no field `nope`; there are: "),
        ("usages show 5e2f0000-0000-4000-8000-00000000ffff", "5e2f0000"),
        ("collect nothing", "nothing"),
        ("diff --period 2026-13", "2026-13"),
        ("export --period 2026-13", "2026-13"),
        (&format!("ledger copy {long} {long}.db"), long),
        (
            &format!(
                "init --url https://waldur.example.com --token-file {long} --offline --output {long}.yaml"
            ),
            long,
        ),
        (&format!("check --config {long}"), long),
    ] {
        told(&world, command, words);
    }
    // A server that is away, a token that is not there, a file with mistakes, a ledger that is none.
    world.server_goes_away();
    world.readings(&counter(&["0", "3600", "7200"], &[]));
    for command in ["check", "flush --collect --deadline 1s", "usages list", "diff"] {
        told(&world, command, "cannot reach the server");
    }
    let commands = [
        "check",
        "collect",
        "flush",
        "run",
        "status",
        "explain project-a cpu_hours",
        "diff",
        "export --period 2026-11",
        "resolve project-a adopt",
        "parked list",
        "usages list",
        "recount",
        "agents list",
    ];
    world.write("agent.yaml", &right.replace("factor:", "facter:"));
    for command in commands {
        told(&world, command, "unknown key `facter`");
    }
    world.write("agent.yaml", &right.replace("ledger.db", "token"));
    for command in commands.iter().filter(|command| !["usages list"].contains(command)) {
        told(&world, command, "/token");
    }
    let token = world.path("token").display().to_string();
    world.write(
        "agent.yaml",
        &right.replace(&format!("token_file: {token}"), &format!("token_file: /nowhere/{long}")),
    );
    for command in ["check", "flush", "usages list", "diff"] {
        told(&world, command, long);
    }
}

/// Help and errors have no colours at all; what moves is for terminals that can, and people who want it.
#[test]
fn nothing_is_coloured_or_moved_where_nobody_wants_it() {
    let world = in_conflict();
    for environment in [[("TERM", "dumb"), ("A", "")], [("TERM", "xterm"), ("NO_COLOR", "1")]] {
        for command in [
            "--help",
            "-h",
            "status --help",
            "status",
            "status --all",
            "flsh",
            "flush",
            "check",
            "parked list",
        ] {
            let said = at_a_terminal_with(&world, command, "", &environment);
            assert!(said.len() > 20 && !said.contains('\u{1b}'), "{command} {environment:?}: {said:?}");
        }
    }
    for command in [&["--help"][..], &["status", "--help"], &["status"], &["flsh"], &["flush"], &["check"]] {
        let done = world.agent(command);
        assert!(!done.all().contains('\u{1b}') && !done.all().is_empty(), "{done:#?}");
    }
}
