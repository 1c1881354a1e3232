//! Completions, made of the command line's own types as the packages have them, complete in the shell itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

#[path = "skip/mod.rs"]
mod skipping;

use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use clap_complete::Shell;
use waldur_usage_agent::cli::Cli;

const NAME: &str = "waldur-usage-agent";

#[test]
fn zsh_completes_commands_flags_and_values() {
    if !Command::new("zsh").args(["-fc", "zmodload zsh/zpty"]).status().is_ok_and(|status| status.success()) {
        return skipping::skip("zsh_completes_commands_flags_and_values", "zsh");
    }
    let made = tempfile::tempdir().unwrap();
    clap_complete::generate_to(Shell::Zsh, &mut Cli::command(), NAME, made.path()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/complete.zsh");
    for (typed, completed) in [
        ("rec", "recount "),
        ("parked ret", "parked retry "),
        ("status --wat", "status --watch "),
        ("status --state hel", "status --state held "),
        ("flush --dead", "flush --deadline="),
        ("agents li", "agents list "),
        ("check --as", "check --as-service "),
    ] {
        let mut zsh = Command::new("zsh");
        zsh.arg("-f").arg(&script).arg(made.path()).arg(format!("{NAME} {typed}"));
        let done = zsh.env("HOME", made.path()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(said, format!("{NAME} {completed}\n"), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
