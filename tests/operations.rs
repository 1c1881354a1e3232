//! The commands of the pages for operators, run in the world that the tutorial makes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod docs_commands;

/// A sandbox, two projects' directories, a configuration and a first report; the sandbox ends with the shell.
const WORLD: &str = r#"
waldur-sandbox --listen 127.0.0.1:8099 >sandbox.log &
sandbox=$!
trap 'kill $sandbox' EXIT
until grep -q listening sandbox.log; do :; done
(umask 077 && echo sandbox-token >token)
mkdir -p projects/project-a
truncate -s 2G projects/project-a/data
cat >agent.yaml <<END
waldur: { url: "http://127.0.0.1:8099", token_file: $PWD/token }
ledger: $PWD/ledger.db
collectors:
  projects:
    plugin: filesystem
    schedule: "*/5 * * * *"
    directories: $PWD/projects/*
    resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: "{name}" }
    meters: { storage_gb: { reading: directory_apparent_bytes, aggregate: last, factor: 1/1073741824 } }
END
export WALDUR_USAGE_AGENT_CONFIG=$PWD/agent.yaml
waldur-usage-agent flush --collect
"#;

fn run(page: &str) {
    let directory = tempfile::tempdir().unwrap();
    let port = docs_commands::free_port().to_string();
    docs_commands::run(page, directory.path(), ("8099", &port), &WORLD.replace("8099", &port));
}

#[test]
fn the_commands_of_operations_work() {
    run("operations.md");
}

#[test]
fn the_commands_of_shadow_mode_work() {
    let directory = tempfile::tempdir().unwrap();
    let port = docs_commands::free_port().to_string();
    let world =
        WORLD.replace("8099", &port).replace("collectors:", "submit: { report: shadow }\ncollectors:");
    docs_commands::run("shadow.md", directory.path(), ("8099", &port), &world);
}

#[test]
fn the_commands_of_waldurs_side_work() {
    run("waldur-side.md");
}
