//! `init` makes a file that the agent takes: of what Waldur says, and of a waldur-site-agent's configuration.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use agent::*;

fn init(world: &World, arguments: &[&str]) -> Done {
    let mut command = world.command(&["init"]);
    command.args(arguments).env_remove("WALDUR_USAGE_AGENT_CONFIG");
    // No host of a test is to be found out about.
    command.env("PATH", "/nonexistent").output().unwrap().into()
}

/// What was made, of 80 columns.
fn made(world: &World) -> String {
    let text = std::fs::read_to_string(world.path("made.yaml")).unwrap();
    let folder = world.folder.path().to_str().unwrap();
    for line in text.lines().filter(|line| !line.contains(folder)) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    text
}

/// What stands below `waldur:`, without the lines that differ from run to run.
fn below_collectors(text: &str) -> &str {
    text.split_once("collectors:\n").unwrap().1.split_once("\n\n# Health").unwrap().0
}

#[test]
fn of_what_waldur_says_a_file_is_made_with_the_factors_of_the_units() {
    let world = World::new(CURRENT);
    let (url, token, file) = (world.url(), world.path("token"), world.path("made.yaml"));
    let arguments = [
        "--url",
        &url,
        "--token-file",
        token.to_str().unwrap(),
        "--source",
        "slurm",
        "--output",
        file.to_str().unwrap(),
        "--offline",
    ];
    let done = init(&world, &arguments).exits(0);
    let done = done
        .says("user provider; the token does not expire")
        .says(&format!("Offering Cluster ({OFFERING})"))
        .says("cpu_hours            h, usage           cpu_seconds x 1/3600")
        .says("Resources: Project A, Project B")
        .says("1 collector, 3 meters).")
        .says("no mistakes")
        .says("Next: ");
    for line in done.out.lines() {
        assert!(line.chars().count() <= 80 || line.contains("made.yaml"), "{line}");
    }
    let wanted = format!(
        r#"  # Cluster: What the jobs of each account used, from sacct. The backend id of a
  # resource is the name of its account; SLURM keeps them in small letters.
  cluster:
    plugin: slurm
    schedule: "*/10 * * * *"
    ignore: [root]
    resource:
      offering: {OFFERING}
      backend_id: "{{account}}"
      ignore_case: true
    user: "{{user}}"
    meters:
      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}
      gpu_hours: {{ reading: gpu_seconds, factor: 1/3600 }}
      ram_gb_hours: {{ reading: memory_byte_seconds, factor: 1/3865470566400 }}
      # capped (without a unit, billed by usage): its name does not say what it
      # is of; choose a reading
      # storage_gb (in GB, billed by limit): its name does not say what it is
      # of; choose a reading
      # fee (without a unit, billed by fixed): Waldur takes no usage of it"#
    );
    assert_eq!(below_collectors(&made(&world)), wanted);
    assert!(!made(&world).contains(TOKEN));
    assert_eq!(world.posts_since(0).len(), 0);
    // What is there is not replaced by itself.
    init(&world, &arguments).exits(64).says("is there already").says("--force");
    init(&world, &[&arguments[..], &["--force"]].concat()).exits(0);
}

#[test]
fn control_groups_are_billed_to_a_resource_that_a_person_named() {
    let world = World::new(CURRENT);
    let (url, token, file) = (world.url(), world.path("token"), world.path("made.yaml"));
    let arguments = [
        "--url",
        &url,
        "--token-file",
        token.to_str().unwrap(),
        "--source",
        "cgroup",
        "--output",
        file.to_str().unwrap(),
        "--offline",
    ];
    init(&world, &arguments)
        .exits(64)
        .says("say which with --resource")
        .says(&format!("{A}  Project A"))
        .says(B);
    assert!(!file.exists(), "nothing is guessed");
    init(&world, &[&arguments[..], &["--resource", OFFERING]].concat())
        .exits(64)
        .says("none of the resources");
    init(&world, &[&arguments[..], &["--resource", B]].concat()).exits(0);
    let text = made(&world);
    assert!(text.contains(&format!("  project-b:\n    plugin: cgroup\n    schedule: every 1m\n    slices: user.slice/user-*.slice\n    resource: {B}\n")), "{text}");
    assert!(
        text.contains(
            "      ram_gb_hours:\n        { reading: memory_working_set_bytes, aggregate: integral,\n          factor: 1/1073741824 }\n"
        ),
        "{text}"
    );
}

#[test]
fn a_prometheus_server_that_is_named_is_the_source() {
    let world = World::new(CURRENT);
    let (url, token) = (world.url(), world.path("token"));
    let shown = init(
        &world,
        &[
            "--url",
            &url,
            "--token-file",
            token.to_str().unwrap(),
            "--prometheus",
            "https://prometheus.example.com",
            "--offering",
            "Cluster",
            "--output",
            "-",
        ],
    )
    .exits(0);
    let text = shown.out.split_once("# Made by").unwrap().1.to_owned();
    world.write("made.yaml", &format!("# {text}"));
    let checked = world.agent(&["check", "--offline", "--config", world.path("made.yaml").to_str().unwrap()]);
    checked.exits(0).says("1 collector, 2 meters, no mistakes");
}

#[test]
fn what_is_missing_is_said_and_nothing_is_written() {
    let world = World::new(CURRENT);
    let (url, token, file) = (world.url(), world.path("token"), world.path("made.yaml"));
    let (token, file) = (token.to_str().unwrap(), file.to_str().unwrap());
    let with = |more: &[&str]| init(&world, &[&["--output", file, "--source", "slurm"], more].concat());
    with(&[]).exits(64).says("Say --url");
    with(&["--url", "http://waldur.example.com", "--token-file", token])
        .exits(64)
        .says("plain http would show the token")
        .says("`--allow-http` if you must")
        .says_not("allow_http: true");
    let nowhere = world.path("nowhere/made.yaml").display().to_string();
    let refused = init(&world, &["--output", &nowhere, "--source", "slurm", "--url", &url]).exits(78);
    refused.says("can't write").says_not("token");
    with(&["--url", &url, "--token-file", "/nonexistent/token"]).exits(64).says("where is the token");
    with(&["--url", &url, "--token-file", token, "--offering", "Cloud"]).exits(64).says("there are: Cluster");
    world.write("token", "wrong");
    with(&["--url", &url, "--token-file", token]).exits(77).says("Invalid token");
    world.write("token", "stranger-token");
    with(&["--url", &url, "--token-file", token]).exits(77).says("make it manager of the offering");
    assert!(!world.path("made.yaml").exists());
}

/// The reporting part of a waldur-site-agent's configuration, of the sandbox.
fn site_agent(world: &World) -> String {
    format!(
        r#"
sentry_dsn: "https://key@sentry.example.com/1"
timezone: "UTC"
offerings:
  - name: "HPC Cluster"
    waldur_api_url: "{}/api/"
    waldur_api_token: "{TOKEN}"
    waldur_offering_uuid: "{OFFERING}"
    reporting_backend: "slurm"
    order_processing_backend: "slurm"
    backend_type: "slurm"
    backend_settings: {{ default_account: root, customer_prefix: hpc_, project_prefix: hpc_, allocation_prefix: hpc_ }}
    backend_components:
      cpu: {{ measured_unit: h, unit_factor: 60, accounting_type: usage, label: CPU }}
      gres/gpu: {{ measured_unit: h, unit_factor: 60, accounting_type: usage, label: GPU }}
"#,
        world.url()
    )
}

#[test]
fn of_a_site_agents_file_one_is_made_that_measures_the_same() {
    let world = World::new(CURRENT);
    world.write("site-agent.yaml", &site_agent(&world));
    // The token of their file goes into one of its own.
    std::fs::remove_file(world.path("token")).unwrap();
    let (from, file) = (world.path("site-agent.yaml"), world.path("made.yaml"));
    let arguments =
        ["--from-site-agent", from.to_str().unwrap(), "--output", file.to_str().unwrap(), "--offline"];
    let done = init(&world, &arguments).exits(0);
    let done = done
        .says("Taken over: collector hpc-cluster")
        .says("not taken over: sentry_dsn: there is nothing like it here")
        .says("1 collector, 2 meters, no mistakes")
        .says("docs/from-site-agent.md");
    assert!(!done.all().contains(TOKEN) && !made(&world).contains(TOKEN));
    let token = world.path("token");
    assert_eq!(std::fs::read_to_string(&token).unwrap(), format!("{TOKEN}\n"));
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    let text = made(&world);
    for words in [
        "cpu: { reading: cpu_seconds, factor: 1/3600 }",
        "gres/gpu: { reading: gpu_seconds, factor: 1/3600 }",
        "tres: requested",
        "billing_timezone: UTC",
        "on_conflict: hold",
    ] {
        assert!(text.contains(words), "`{words}` in {text}");
    }
    // Asked of the sandbox, it is told that this offering calls its GPUs otherwise, and that there is no sacct here.
    let checked = world.agent(&["check", "--config", file.to_str().unwrap()]).exits(78);
    checked.says("create /var/lib/waldur-usage-agent").says("sacct").says("has no component `gres/gpu`");
}

#[test]
fn the_file_of_a_site_agent_begins_in_shadow_mode() {
    let world = World::new(CURRENT);
    world.write("site-agent.yaml", &site_agent(&world));
    let from = world.path("site-agent.yaml");
    let shown = init(&world, &["--from-site-agent", from.to_str().unwrap(), "--output", "-"]).exits(0);
    assert!(shown.out.contains("\n  report: shadow\n"), "{}", shown.out);
}

#[test]
fn at_a_terminal_it_asks_and_shows_no_token() {
    let world = World::new(CURRENT);
    let file = world.path("made.yaml");
    std::fs::remove_file(world.path("token")).unwrap();
    let line = format!(
        "exec {} init --source slurm --offline --output {}",
        env!("CARGO_BIN_EXE_waldur-usage-agent"),
        file.display()
    );
    // `script` gives it a terminal; what is asked and answered there is what a person sees.
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "dumb")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = match script.spawn() {
        Ok(child) => child,
        Err(error) => return skip("at_a_terminal_it_asks_and_shows_no_token", &format!("script: {error}")),
    };
    let mut answers = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut shown = String::new();
    let mut answer = |question: &str, text: &str| {
        let mut byte = [0; 1];
        while !shown.ends_with(question) {
            let read = std::io::Read::read(&mut screen, &mut byte).unwrap();
            assert_eq!(read, 1, "`{question}` was not asked: {shown}");
            shown.push(char::from(byte[0]));
        }
        std::io::Write::write_all(&mut answers, format!("{text}\n").as_bytes()).unwrap();
        std::io::Write::flush(&mut answers).unwrap();
    };
    answer("waldur.example.com: ", &world.url());
    answer("for its owner alone): ", TOKEN);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut screen, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{shown}{rest}");
    assert!(!shown.contains(TOKEN) && !rest.contains(TOKEN), "{shown}{rest}");
    assert!(rest.contains("no mistakes"), "{rest}");
    assert_eq!(std::fs::read_to_string(world.path("token")).unwrap(), format!("{TOKEN}\n"));
}

#[test]
fn check_as_the_service_takes_the_token_that_the_unit_hands_over() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[reading("cpu_seconds", "counter", NOON, "160", &[])]);
    let with_key = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let key = format!("  token_file: {}\n", world.path("token").display());
    std::fs::set_permissions(world.path("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let check = world.agent(&["check", "--as-service"]).exits(0);
    check.says("is for its owner alone").says("leave `token_file` out");
    world.write("agent.yaml", &with_key.replace(&key, ""));
    world.agent(&["check"]).exits(78).says("no token");
    let check = world.agent(&["check", "--as-service"]).exits(0);
    check
        .says("which the service gets as a credential")
        .says("token: of user provider")
        .says_not("warning  token");
    // What others can read is not a secret.
    std::fs::set_permissions(world.path("token"), std::fs::Permissions::from_mode(0o644)).unwrap();
    world.agent(&["check", "--as-service"]).exits(0).says("every user of this machine can read");
}

/// The service is started elsewhere than where a person wrote its file.
#[test]
fn a_token_file_is_named_by_its_whole_path() {
    let world = World::new(CURRENT);
    let arguments = ["--url", &world.url(), "--source", "slurm", "--output", "made.yaml", "--offline"];
    let mut command = world.command(&["init"]);
    command.args(arguments).env_remove("WALDUR_USAGE_AGENT_CONFIG").env("PATH", "/nonexistent");
    let done: Done = command.current_dir(world.folder.path()).output().unwrap().into();
    done.exits(0);
    let key = format!("  token_file: {}\n", world.path("token").display());
    assert!(made(&world).contains(&key), "{}", made(&world));
    world.configure(&cpu_hours_of_a());
    world.readings(&[reading("cpu_seconds", "counter", NOON, "160", &[])]);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace(&key, "  token_file: token\n"));
    let mut command = world.command(&["check"]);
    let checked: Done = command.current_dir(world.folder.path()).output().unwrap().into();
    checked.says("token: token is relative to where a command is started");
}

/// What a file can't say is told, and nobody is sent on to run one that can't be loaded.
#[test]
fn a_unit_factor_of_zero_is_not_taken_over() {
    let world = World::new(CURRENT);
    let text = site_agent(&world);
    let (from, file) = (world.path("site-agent.yaml"), world.path("made.yaml"));
    let arguments =
        ["--from-site-agent", from.to_str().unwrap(), "--output", file.to_str().unwrap(), "--offline"];
    world.write("site-agent.yaml", &text.replacen("unit_factor: 60", "unit_factor: 0", 1));
    let done = init(&world, &arguments).exits(0).says("its factor `0` can't be used");
    done.says("1 collector, 1 meter, no mistakes").says("Next: ");
    assert!(made(&world).contains("cpu is left out"), "{}", made(&world));
    world.write("site-agent.yaml", &text.replace("unit_factor: 60", "unit_factor: 0"));
    let done = init(&world, &[&arguments[..], &["--force"]].concat());
    done.says("HPC Cluster: cpu: its factor `0` can't be used").says_not("Next: ");
}

/// SLURM's programs are on many hosts of which none is a cluster.
#[test]
fn where_sacct_fails_control_groups_are_chosen() {
    let world = World::new(CURRENT);
    std::fs::create_dir(world.path("bin")).unwrap();
    std::fs::write(world.path("bin/sacct"), "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(world.path("bin/sacct"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (url, token) = (world.url(), world.path("token"));
    let mut command =
        world.command(&["init", "--url", &url, "--resource", A, "--output", "-", "--token-file"]);
    command.arg(&token).env_remove("WALDUR_USAGE_AGENT_CONFIG").env("PATH", world.path("bin"));
    let done: Done = command.output().unwrap().into();
    done.exits(0).says("SLURM, which does not answer").says("plugin: cgroup");
}

/// A sacct that answers, be it with no job, is the source, and where it lies is written down: a service has another PATH.
#[test]
fn where_sacct_answers_slurm_is_chosen() {
    let world = World::new(CURRENT);
    std::fs::create_dir(world.path("bin")).unwrap();
    let sacct = world.path("bin/sacct");
    // The names of the columns, and no job.
    let script = "#!/bin/sh\necho \"$*\" >>ASKED\nfor a; do case $a in --format=*) echo \"${a#--format=}\" | tr , '|';; esac; done\n";
    std::fs::write(&sacct, script.replace("ASKED", world.path("asked").to_str().unwrap())).unwrap();
    std::fs::set_permissions(&sacct, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (url, token, file) = (world.url(), world.path("token"), world.path("made.yaml"));
    let (token, file) = (token.to_str().unwrap(), file.to_str().unwrap());
    let mut path = vec![world.path("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let path = std::env::join_paths(path).unwrap();
    let with_sacct = |arguments: &[&str]| -> Done {
        let mut command = world.command(arguments);
        command.env_remove("WALDUR_USAGE_AGENT_CONFIG").env("PATH", &path).output().unwrap().into()
    };
    let done =
        with_sacct(&["init", "--url", &url, "--output", file, "--token-file", token, "--offline"]).exits(0);
    let done = done.says(&format!("This host has: SLURM (sacct in {})", world.path("bin").display()));
    done.says("1 collector").says("no mistakes").says("Next: ");
    // It was asked once whether it answers.
    let asked = std::fs::read_to_string(world.path("asked")).unwrap();
    let first = asked.lines().next().unwrap();
    assert_eq!(first, "--noheader --allocations --starttime=now-1minutes");
    let text = made(&world);
    let below = below_collectors(&text);
    for words in [
        "    plugin: slurm\n",
        &format!("    programs: {}\n", world.path("bin").display()),
        &format!("    resource:\n      offering: {OFFERING}\n      backend_id: \"{{account}}\"\n"),
        "      cpu_hours: { reading: cpu_seconds, factor: 1/3600 }\n",
    ] {
        assert!(below.contains(words), "`{words}` in {text}");
    }
    // What was written measures with it.
    let check = world.agent(&["check", "--config", file]);
    check.says("collector cluster: no reading `cpu_seconds` now").says_not("collector cluster: `sacct`");
    let asked = std::fs::read_to_string(world.path("asked")).unwrap();
    assert!(asked.lines().count() > 1 && asked.contains("--parsable2"), "{asked}");
}
