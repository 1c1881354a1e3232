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
    let line = format!("{} {command}", env!("CARGO_BIN_EXE_waldur-usage-agent"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    script.env("WALDUR_USAGE_AGENT_CONFIG", world.path("agent.yaml")).env("TERM", "xterm");
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
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", terminal);
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
    for terminal in ["", "dumb"] {
        let seen = watch(terminal, "2 resources: 2 held.");
        assert!(!seen.contains('\u{1b}'), "{seen:?}");
        assert!(seen.matches("2 resources: 2 held.").count() >= 2, "{seen:?}");
    }
}
