//! No secret in any log, error or dump.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::json;

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

/// Nothing in the folder but the token's own file, and the sandbox's, holds the token.
#[track_caller]
fn assert_no_file_holds_the_token(world: &World) {
    for entry in std::fs::read_dir(world.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() && !["token", "marketplace.yaml"].contains(&name.as_str()) {
            assert!(!holds(&std::fs::read(&path).unwrap(), TOKEN), "{name} holds the token");
        }
    }
}

#[test]
fn no_command_tells_the_token_even_with_everything_logged() {
    for (api, format) in [(CLASSIC, "text"), (CURRENT, "json")] {
        let world = World::new(api);
        world.configure(&cpu_hours_by_user());
        world.readings(&alice_and_bob());
        let commands: [&[&str]; 11] = [
            &["check"],
            &["check", "--json"],
            &["collect", "--json"],
            &["flush", "--collect", "--json"],
            &["flush"],
            &["status", "--json"],
            &["explain", A, "cpu_hours", "--json"],
            &["parked", "list"],
            &["usages", "list", "--json"],
            &["recount"],
            &["nonsense"],
        ];
        for command in commands {
            let log = [command, &["--log", "trace", "--log-format", format]].concat();
            world.agent(&log).says_not(TOKEN);
        }
        assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
        assert_no_file_holds_the_token(&world);
    }
}

#[test]
fn no_error_tells_the_token() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    let echo = format!("you said Authorization: Token {TOKEN}");
    for status in [400, 401, 403, 404, 500, 502] {
        for body in [echo.clone(), json!({ "detail": echo }).to_string(), json!([echo]).to_string()] {
            world.fault(json!({ "action": { "status": status, "body": body } }));
            for command in [&["flush", "--collect", "--deadline", "1s"][..], &["check"], &["usages", "list"]]
            {
                world.agent(&[command, &["--log", "trace"]].concat()).says_not(TOKEN);
            }
        }
    }
    assert_no_file_holds_the_token(&world);
}

#[test]
fn the_daemons_log_and_metrics_do_not_tell_the_token() {
    let world = World::new(CURRENT);
    let head = world.head("");
    let collector = world.collector("source", "readings", &cpu_hours_by_user());
    world.write("agent.yaml", &format!("{head}submit: {{ schedule: every 1s }}\ncollectors:\n{collector}"));
    world.readings(&alice_and_bob());
    let mut daemon = world.daemon(&["--log", "trace"], &[]);
    daemon.until_it_says("Ready");
    world.now("2026-11-10T12:00:05Z");
    until("the report", || world.shares(A).len() == 2);
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), 0);
    assert!(!daemon.log().contains(TOKEN));
    assert_no_file_holds_the_token(&world);
}

#[test]
fn a_secret_written_into_the_configuration_is_refused_and_not_repeated() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let file = format!("token_file: {}", world.path("token").display());
    for instead in [format!("token: {TOKEN}"), format!("token_env: {TOKEN}"), format!("tokn: {TOKEN}")] {
        world.write("agent.yaml", &text.replace(&file, &instead));
        world.agent(&["check", "--log", "trace"]).exits(78).says("line 3").says_not(TOKEN);
    }
    let with_password = world.url().replace("http://", "http://me:hunter2@");
    world.write("agent.yaml", &text.replace(&world.url(), &with_password));
    world.agent(&["check"]).exits(78).says_not("hunter2");
}

#[test]
fn the_ledger_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&counter(&["0", "3600"], &[]));
    world.flush().exits(0);
    for entry in std::fs::read_dir(world.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("ledger.db") {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        }
    }
}

/// Neither the agent nor what it starts shows the token to whoever lists processes.
#[test]
fn no_list_of_processes_tells_the_token() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    // The program that is started lists what is to be seen of all processes, its own environment included.
    let list = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\ncat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' > seen\n\
                env >> seen\necho '{\"name\":\"cpu_seconds\",\"kind\":\"counter\",\"value\":1}'\n";
    world.write("list", list);
    let program = world.path("list");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let command = format!("command: [cat, {}]", world.path("readings").display());
    let text = text.replace(&command, &format!("command: [{}]", program.display()));
    let file = format!("token_file: {}", world.path("token").display());
    for (source, environment) in [(file.as_str(), None), ("token_env: THE_TOKEN", Some(("THE_TOKEN", TOKEN)))]
    {
        world.write("agent.yaml", &text.replace(&file, source));
        let mut command = world.command(&["flush", "--collect"]);
        command.envs(environment);
        let done: Done = command.output().unwrap().into();
        done.exits(0);
        let seen = std::fs::read_to_string(world.path("seen")).unwrap();
        assert!(seen.contains("flush --collect") && !seen.contains(TOKEN), "{source}: {seen}");
    }
}

/// A core would hold the token: the kernel makes none of this process.
#[test]
fn a_crash_leaves_no_core() {
    use std::os::unix::process::ExitStatusExt;
    const TEST: &str = "a_crash_leaves_no_core";
    let world = World::new(CURRENT);
    let crash = |program: &str| {
        let script = format!("ulimit -c unlimited 2>/dev/null; cd \"$FOLDER\"; {program}");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]).env("FOLDER", world.folder.path());
        command.env("AGENT", env!("CARGO_BIN_EXE_waldur-usage-agent"));
        command
            .env("WALDUR_USAGE_AGENT_CONFIG", world.path("agent.yaml"))
            .stderr(std::process::Stdio::null());
        command
    };
    // Does this machine make cores at all?
    if !crash("kill -ABRT $$").status().unwrap().core_dumped() {
        return skip(TEST, "a kernel that makes cores (ulimit -c, kernel.core_pattern)");
    }
    world.configure(&cpu_hours_of_a());
    let mut agent = crash("exec \"$AGENT\" run 2> daemon.log").spawn().unwrap();
    until("Ready", || {
        std::fs::read_to_string(world.path("daemon.log")).is_ok_and(|log| log.contains("Ready"))
    });
    let pid = nix::unistd::Pid::from_raw(agent.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).unwrap();
    let status = agent.wait().unwrap();
    assert!(status.signal() == Some(6) && !status.core_dumped(), "{status:?}");
}

#[test]
fn what_is_given_to_programs_is_no_shell_string() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    let made = world.path("made");
    let user = format!("$(touch {0});`touch {0}`;touch {0}", made.display());
    world.readings(&counter(&["0", "3600"], &[("user", &user)]));
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let argument = format!("; touch {}", made.display());
    let readings = world.path("readings").display().to_string();
    world
        .write("agent.yaml", &text.replace(&format!("{readings}]"), &format!("{readings}, \"{argument}\"]")));
    // No such file: the argument is one argument.
    world.flush().exits(69).says("touch");
    world.write("agent.yaml", &text);
    world.flush().exits(0);
    assert_eq!(world.shares(A), [format!("{user} cpu_hours 2026-11 1.00")]);
    assert!(!made.exists());
}
