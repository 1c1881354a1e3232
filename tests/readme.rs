//! README.md: what it shows of ./demo is what that says (numbers, times and ids are of the day), what it says to do works in the
//! order in which it says it, and its table of exit codes is the program's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod docs_commands;

use std::path::Path;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use waldur_usage_agent::cli::Cli;
use waldur_usage_agent::cli::exit::Exit;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

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
    let readme = readme();
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

/// Each code once, and the first that applies first.
#[test]
fn the_exit_codes_are_those_of_the_program() {
    let readme = readme();
    let table = readme.split("\n### Exit codes\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows =
        table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()?.parse::<u8>().ok());
    assert_eq!(rows.collect::<Vec<_>>(), [78, 77, 69, 75, 65, 64, 1, 0]);
    let of_the_program = Exit::ALL.map(Exit::code);
    assert_eq!(of_the_program, [78, 77, 69, 75, 65, 64, 1, 0]);
    assert!(Exit::ALL.is_sorted(), "of several the least is taken");
    // And `--help` has them, too.
    let help = Cli::command().render_long_help().to_string();
    let codes = help.split("Exit codes;").nth(1).unwrap().lines();
    let codes = codes.filter_map(|line| line.split_whitespace().next()?.parse::<u8>().ok());
    assert_eq!(codes.collect::<Vec<_>>(), [78, 77, 69, 75, 65, 64, 1, 0]);
}

/// A system as the package leaves it: the programs, the directory, a systemd that knows the unit. What Waldur has is the
/// sandbox's; and this machine's own control group is measured, because it may have no users.
const SYSTEM: &str = r#"
mkdir etc
echo sandbox-token >token
cat >etc/agent.yaml <<'END'
CONFIGURATION
END
waldur-sandbox --listen 127.0.0.1:8099 >sandbox.log 2>&1 &
sandbox=$!
daemon=
trap 'kill $sandbox $daemon' EXIT
is_there() { for _ in $(seq 600); do grep -q "$1" "$2" 2>/dev/null && return; sleep 0.1; done; cat "$2"; return 1; }
is_there listening sandbox.log
export WALDUR_USAGE_AGENT_CONFIG=$PWD/etc/agent.yaml
systemctl() {
    [ "$*" = "enable --now waldur-usage-agent" ] || return 1
    CREDENTIALS_DIRECTORY=$PWD/etc waldur-usage-agent run >daemon.log 2>&1 &
    daemon=$!
    is_there "Ready: " daemon.log
}
"#;

#[test]
fn what_it_says_to_do_works_in_its_order() {
    let readme = readme();
    let configuration = readme.split("\n```yaml\n").find(|block| block.starts_with("waldur:\n")).unwrap();
    let configuration = configuration.split("\n```").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).display().to_string();
    let (etc, ledger) = (place("etc/"), place("ledger.db"));
    let own = [
        ("https://waldur.example.com", "http://127.0.0.1:8099"),
        ("/etc/waldur-usage-agent/", etc.as_str()),
        ("slices: user.slice/user-*.slice", "slices: self"),
        ("5e2f1c7a-9d3b-4c60-a1b2-c3d4e5f60718", "5e2f0000-0000-4000-8000-000000000002"),
        ("    user: \"{user}\"\n", ""),
    ];
    let mut configuration = configuration.to_owned();
    for (from, to) in own {
        assert!(configuration.contains(from), "{from}: {configuration}");
        configuration = configuration.replace(from, to);
    }
    let port = docs_commands::free_port().to_string();
    let system =
        SYSTEM.replace("CONFIGURATION", &format!("ledger: {ledger}\n{configuration}")).replace("8099", &port);
    docs_commands::run("README.md", directory.path(), &[("/etc/waldur-usage-agent/", &etc)], &system);
    let said = std::fs::read_to_string(directory.path().join(".log")).unwrap();
    // In this order: what would be measured, what was sent, and a daemon at work.
    let words =
        ["1 would be new", "Nothing was sent", "etc/token, which the service gets", "Daemon: process "];
    let places: Vec<_> = words.iter().map(|words| said.find(words)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {said}");
    let token = std::fs::metadata(directory.path().join("etc/token")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&token.permissions()) & 0o777, 0o600);
}
