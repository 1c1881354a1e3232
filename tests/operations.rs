//! The commands of the pages for operators, run in the world that the tutorial makes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod docs_commands;
#[path = "skip/mod.rs"]
mod skipping;

use std::process::Command;

/// A sandbox, two projects' directories, a configuration and a first report; the sandbox ends with the shell.
const WORLD: &str = r#"
waldur-sandbox --listen 127.0.0.1:8099 >sandbox.log &
sandbox=$!
trap 'kill $sandbox' EXIT
until grep -q listening sandbox.log; do :; done
(umask 077 && echo sandbox-token >token)
mkdir backup etc && cp token etc/
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
    run_in(page, WORLD);
}

/// With what the system has in these places in the page's directory.
fn run_in(page: &str, world: &str) {
    let directory = tempfile::tempdir().unwrap();
    let port = docs_commands::free_port().to_string();
    let place = |name: &str| directory.path().join(name).display().to_string();
    let (etc, state, backup, site_agent) = (place("etc/"), place(""), place("backup/"), place("site-agent/"));
    let credentials = format!("CREDENTIALS_DIRECTORY={etc}");
    let replace = [
        ("8099", port.as_str()),
        ("/etc/waldur-usage-agent/", etc.as_str()),
        ("CREDENTIALS_DIRECTORY=/etc/waldur-usage-agent", credentials.as_str()),
        ("/var/lib/waldur-usage-agent/", state.as_str()),
        ("/backup/", backup.as_str()),
        ("/etc/waldur/", site_agent.as_str()),
    ];
    docs_commands::run(page, directory.path(), &replace, &world.replace("8099", &port));
    for (file, of) in [("backup/ledger.db", "operations.md"), ("etc/agent.yaml", "from-site-agent.md")] {
        assert!(of != page || directory.path().join(file).exists(), "{page} makes no {file}");
    }
}

#[test]
fn every_command_of_the_documents_is_run_or_says_where() {
    docs_commands::elsewhere::every_command_is_run_or_says_where();
}

#[test]
fn the_commands_of_operations_work() {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        return skipping::skip("the_commands_of_operations_work", "sqlite3");
    }
    run("operations.md");
}

#[test]
fn the_commands_of_shadow_mode_work() {
    run_in("shadow.md", &WORLD.replace("collectors:", "submit: { report: shadow }\ncollectors:"));
}

#[test]
fn the_commands_of_waldurs_side_work() {
    run("waldur-side.md");
}

/// A sandbox that runs in a terminal of its own, and is asked from another: what is refused is an error.
const SANDBOX: &str = r#"
curl() { command curl --fail-with-body --silent --show-error "$@"; }
waldur-sandbox() {
    # What the one before has said says nothing of the next, which has its port only when that one is gone.
    [ -z "${sandbox:-}" ] || { kill "$sandbox"; wait "$sandbox" || true; }
    : >sandbox.log
    command waldur-sandbox --listen 127.0.0.1:8099 "$@" >sandbox.log &
    sandbox=$!
    until grep -q listening sandbox.log; do kill -0 "$sandbox"; done
}
trap 'kill $sandbox' EXIT
"#;

#[test]
fn the_commands_of_the_sandboxs_page_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skipping::skip("the_commands_of_the_sandboxs_page_work", "curl");
    }
    // The marketplace that the page shows is the one that it starts with.
    let page = include_str!("../docs/sandbox.md");
    let marketplace = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    run_in("sandbox.md", &format!("cat >my.yaml <<'END'\n{marketplace}END\n{SANDBOX}"));
}

/// A file of a waldur-site-agent's. What `init` makes of it is whole, and its check tells that there is no SLURM here.
const SITE_AGENT: &str = r#"
mkdir site-agent
cat >site-agent/waldur-site-agent-config.yaml <<END
timezone: UTC
offerings:
  - name: Cluster
    waldur_api_url: http://127.0.0.1:8099/api/
    waldur_api_token: sandbox-token
    waldur_offering_uuid: 91ab0000-0000-4000-8000-000000000001
    reporting_backend: slurm
    backend_type: slurm
    backend_components: { cpu: { measured_unit: h, unit_factor: 60, accounting_type: usage, label: CPU } }
END
export WALDUR_USAGE_AGENT_CONFIG=$PWD/etc/agent.yaml
waldur-usage-agent() {
    if [ "$1" != init ]; then
        command waldur-usage-agent "$@"
        return
    fi
    command waldur-usage-agent "$@" || [ $? = 78 ]
    grep -q 'cpu: { reading: cpu_seconds, factor: 1/3600' "$WALDUR_USAGE_AGENT_CONFIG"
    echo "ledger: $PWD/ledger.db" >>"$WALDUR_USAGE_AGENT_CONFIG"
    command waldur-usage-agent flush
}
"#;

#[test]
fn the_commands_for_who_comes_from_waldur_site_agent_work() {
    run_in("from-site-agent.md", &format!("mkdir etc\n{SANDBOX}\nwaldur-sandbox\n{SITE_AGENT}"));
}
