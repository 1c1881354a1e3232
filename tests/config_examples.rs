//! Every configuration that we show works: the files in config/, and what stands in README.md and docs/ between
//! fences of `yaml` and has a key `waldur`. Each is given to the binary; what is no configuration of the agent's (the
//! sandbox's marketplace, the Kubernetes manifest) is looked at for what it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_yaml::Value;
use waldur_usage_agent::collectors::definition::Definition;
use waldur_usage_agent::config::settings::Loaded;
use waldur_usage_agent::metering::meter::Rules;

const AGENT: &str = env!("CARGO_BIN_EXE_waldur-usage-agent");

/// Files in config/ that are no configuration of the agent's.
const OTHERS: [&str; 3] = ["sandbox.yaml", "kubernetes-sidecar.yaml", "kubernetes-hosts.yaml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn agent() -> Command {
    let mut command = Command::new(AGENT);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WALDUR_")) {
        command.env_remove(name);
    }
    command
}

/// What `check --offline` says of a file, a line for each thing however it is folded, and how it ends.
fn check(file: &Path) -> (String, Option<i32>) {
    let output = agent().arg("--config").arg(file).args(["check", "--offline"]).output().unwrap();
    let folded = String::from_utf8_lossy(&output.stdout).replace("\n           ", " ");
    (folded, output.status.code())
}

fn check_text(text: &str) -> (String, Option<i32>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.yaml");
    fs::write(&file, text).unwrap();
    check(&file)
}

fn yaml_files() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("config")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "yaml"));
    files.sort();
    files
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

/// All documents of a file, or the reason why it is no YAML.
fn documents(text: &str) -> Result<Vec<Value>, serde_yaml::Error> {
    serde_yaml::Deserializer::from_str(text).map(Value::deserialize).collect()
}

#[test]
fn every_file_in_config_is_one_that_the_agent_takes() {
    let files = yaml_files();
    let ours: Vec<_> = files.iter().filter(|file| !OTHERS.contains(&name(file))).collect();
    assert!(ours.len() >= 5, "{ours:?}");
    for file in ours {
        let (said, code) = check(file);
        assert_eq!(code, Some(0), "{}: {said}", file.display());
        assert!(said.contains("no mistakes"), "{said}");
    }
}

/// The ledger records the rules in force as JSON, and reads them back.
#[test]
fn the_rules_of_every_example_are_kept_as_text_and_read_back_equal() {
    let mut rules = 0;
    for file in yaml_files().iter().filter(|file| !OTHERS.contains(&name(file))) {
        for section in Loaded::find(Some(file)).unwrap().collectors {
            let definition = Definition::from_section(section, &jiff::tz::TimeZone::UTC).unwrap();
            let text = serde_json::to_string(&definition.rules).unwrap();
            assert_eq!(serde_json::from_str::<Rules>(&text).unwrap(), definition.rules, "{text}");
            rules += 1;
        }
    }
    assert!(rules >= 8, "{rules}");
}

#[test]
fn every_configuration_in_the_documents_is_one_that_the_agent_takes() {
    let pages =
        walkdir::WalkDir::new(root().join("docs")).into_iter().map(|entry| entry.unwrap().into_path());
    let pages = pages.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let mut checked = BTreeSet::new();
    for page in pages.chain([root().join("README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        // Every second part lies between fences; its first line is the language.
        for block in text.split("\n```").skip(1).step_by(2) {
            let (language, block) = block.split_once('\n').unwrap();
            if language != "yaml" {
                continue;
            }
            let parsed =
                documents(block).unwrap_or_else(|error| panic!("{}: {error}\n{block}", page.display()));
            if parsed.iter().any(|document| document.get("waldur").is_some()) {
                let (said, code) = check_text(block);
                assert_eq!(code, Some(0), "{}: {said}\n{block}", page.display());
                checked.insert(page.clone());
            }
        }
    }
    assert!(checked.contains(&root().join("README.md")), "{checked:?}");
    assert!(checked.len() >= 4, "{checked:?}");
}

#[test]
fn the_annotated_example_explains_every_key() {
    let example = fs::read_to_string(root().join("config/agent.yaml")).unwrap();
    // A key that is like no other makes the agent list those that it knows there.
    let odd = "x".repeat(80);
    let collector = |plugin: &str| {
        format!(
            "  {plugin}:\n    plugin: {plugin}\n    {odd}: 1\n    schedule: '@daily'\n    slices: self\n    \
             directories: /x\n    command: x\n    resource: {{ {odd}: 1 }}\n    \
             meters: {{ m: {{ reading: r, {odd}: 1 }} }}\n"
        )
    };
    let mut file =
        format!("{odd}: 1\nwaldur: {{ url: 'https://w.example.com', {odd}: 1 }}\nsubmit: {{ {odd}: 1 }}\n");
    file += "collectors:\n";
    for plugin in waldur_usage_agent::collectors::PLUGINS {
        file += &collector(plugin.name);
    }
    let (said, code) = check_text(&file);
    assert_eq!(code, Some(78), "{said}");
    let lists: Vec<_> = said.lines().filter_map(|line| line.split_once("; known here: ")).collect();
    assert!(lists.len() >= 3 + 3, "{said}");
    for (place, list) in lists {
        for key in list.split(", ").map(|key| key.trim_matches('`')) {
            assert!(
                example.contains(&format!("{key}:")),
                "config/agent.yaml is silent about `{key}` of {place}"
            );
        }
    }
}

#[test]
fn the_sandbox_starts_with_the_marketplace_in_config() {
    let mut sandbox = Command::new(env!("CARGO_BIN_EXE_waldur-sandbox"))
        .args(["--listen", "127.0.0.1:0", "--marketplace"])
        .arg(root().join("config/sandbox.yaml"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(sandbox.stdout.take().unwrap()).read_line(&mut line).unwrap();
    sandbox.kill().unwrap();
    sandbox.wait().unwrap();
    assert!(line.starts_with("listening on http://127.0.0.1:"), "{line}");
}

/// What its ConfigMaps hold is taken by the agents whose variables it sets, and the pods that collect hold no token.
#[test]
fn the_agents_of_the_manifest_for_many_hosts_take_their_files() {
    let manifest = fs::read_to_string(root().join("config/kubernetes-hosts.yaml")).unwrap();
    let documents = documents(&manifest).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (kind, name, submits) in
        [("DaemonSet", "waldur-usage-hosts", false), ("Deployment", "waldur-usage-agent", true)]
    {
        let of = |kind: &str| {
            let named = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
            documents.iter().find(named).unwrap_or_else(|| panic!("{kind} {name}"))
        };
        let pod = &of(kind)["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(container["env"][0]["name"], "WALDUR_AGENT");
        assert_eq!(of(kind)["spec"]["replicas"].as_i64(), submits.then_some(2));
        let volumes = pod["volumes"].as_sequence().unwrap();
        let secret = volumes.iter().find_map(|volume| volume["secret"]["secretName"].as_str()).unwrap();
        assert_eq!(secret == "waldur-usage-agent", submits, "{secret}");
        let file = directory.path().join("agent.yaml");
        fs::write(&file, of("ConfigMap")["data"]["agent.yaml"].as_str().unwrap()).unwrap();
        let mut command = agent();
        let command = command.env("WALDUR_AGENT", "node-1").arg("--config").arg(&file);
        let output = command.args(["check", "--offline"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 collector, 1 meter, no mistakes"), "{said}");
    }
}

/// A control group of a node, of version 2, that has used so many microseconds.
fn group(node: &Path, path: &str, cpu: &str) {
    let path = node.join(path);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("cgroup.controllers"), "cpu memory io pids\n").unwrap();
    fs::write(path.join("cgroup.procs"), "").unwrap();
    fs::write(path.join("cpu.stat"), format!("usage_usec {cpu}\nuser_usec 1\nsystem_usec 1\n")).unwrap();
    fs::write(path.join("memory.current"), "1048576\n").unwrap();
    fs::write(path.join("memory.stat"), "inactive_file 0\n").unwrap();
}

/// A pod of each class of service; what they are in, and their containers, are no pods.
#[test]
fn the_collecting_pods_of_the_manifest_for_many_hosts_find_pods_of_every_class() {
    let manifest = fs::read_to_string(root().join("config/kubernetes-hosts.yaml")).unwrap();
    let files = documents(&manifest).unwrap();
    let of_hosts = |document: &&Value| {
        document["kind"] == "ConfigMap" && document["metadata"]["name"] == "waldur-usage-hosts"
    };
    let file = files.iter().find(of_hosts).unwrap()["data"]["agent.yaml"].as_str().unwrap();
    let node = tempfile::tempdir().unwrap();
    let pods = [
        ("kubepods.slice/kubepods-pod11.slice", "5000000"),
        ("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod22.slice", "6000000"),
        ("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod33.slice", "7000000"),
    ];
    for path in ["", "kubepods.slice", "kubepods.slice/kubepods-burstable.slice"] {
        group(node.path(), path, "900000000");
    }
    for (path, cpu) in pods {
        group(node.path(), path, cpu);
        group(node.path(), &format!("{path}/cri-containerd-1.scope"), "800000000");
    }
    // As on the node, but that the database is a file here.
    let is_elsewhere = |line: &&str| ["ledger", "queue"].iter().any(|key| line.starts_with(key));
    let rest: Vec<_> = file.lines().filter(|line| !is_elsewhere(line)).collect();
    let rest = rest.join("\n").replace("/host/cgroup", &node.path().display().to_string());
    assert!(rest.contains(&node.path().display().to_string()), "{rest}");
    let config = node.path().join("agent.yaml");
    let head = "waldur: { url: http://127.0.0.1:9, token_env: PATH }\nledger: ";
    fs::write(&config, format!("{head}{}\n{rest}\n", node.path().join("ledger.db").display())).unwrap();
    let output = agent().arg("--config").arg(&config).args(["collect", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    let readings = answer["collectors"][0]["readings"].as_array().unwrap();
    let cpu = readings.iter().filter(|reading| reading["name"] == "cpu_seconds");
    let mut cpu: Vec<_> = cpu.map(|reading| reading["value"].as_str().unwrap()).collect();
    cpu.sort_unstable();
    assert_eq!(cpu, ["5", "6", "7"], "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// An agent's name is a part of what it measures, and a container's is another each time.
#[test]
fn in_a_container_an_agent_of_a_shared_ledger_has_to_be_named() {
    let text = "ledger: postgresql://usage@db.example.com/usage\nqueue: { file: /nowhere/queue.db }\ncollectors:\n  a:\n    \
                plugin: exec\n    schedule: \"@hourly\"\n    command: [/bin/true]\n    \
                resource: 5e2f0000-0000-4000-8000-000000000001\n    meters: { cpu: { reading: cpu } }\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.yaml");
    fs::write(&file, text).unwrap();
    let check = |name: Option<&str>| {
        let mut command = agent();
        command.env("container", "podman").env_remove("WALDUR_AGENT");
        if let Some(name) = name {
            command.env("WALDUR_AGENT", name);
        }
        let output = command.arg("--config").arg(&file).args(["check", "--offline"]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = check(None);
    assert!(code == Some(78) && said.contains("`agent` is missing: in a container"), "{code:?} {said}");
    assert!(said.contains("WALDUR_AGENT"), "{said}");
    let (code, said) = check(Some("n1"));
    assert!(code == Some(0), "{code:?} {said}");
}

/// The agent with the environment of the manifest's sidecar, on a node whose control groups are as systemd's driver,
/// or as cgroupfs, lays them out.
#[test]
fn the_sidecar_of_the_manifest_finds_its_pod() {
    let manifest = fs::read_to_string(root().join("config/kubernetes-sidecar.yaml")).unwrap();
    let documents = documents(&manifest).unwrap();
    assert!(
        documents.iter().all(|document| document["kind"].is_string() && document["apiVersion"].is_string())
    );
    let deployment = documents.iter().find(|document| document["kind"] == "Deployment").unwrap();
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_sequence().unwrap();
    let sidecar = containers.iter().find(|container| container["name"] == "usage").unwrap();
    assert_eq!(sidecar["securityContext"]["runAsNonRoot"], true);
    let variables = sidecar["env"].as_sequence().unwrap();

    let uid = "0b1e6f5c-7a3d-4c7e-9d52-3f5a8c1e2b44";
    let systemd = "kubepods.slice/kubepods-burstable.slice/\
                   kubepods-burstable-pod0b1e6f5c_7a3d_4c7e_9d52_3f5a8c1e2b44.slice";
    for pod in [systemd, "kubepods/besteffort/pod0b1e6f5c-7a3d-4c7e-9d52-3f5a8c1e2b44"] {
        let node = tempfile::tempdir().unwrap();
        let group = |path: &str, cpu: &str| group(node.path(), path, cpu);
        group("", "900000000");
        group(pod, "70000000");
        group(&format!("{pod}/cri-containerd-1.scope"), "40000000");
        group(&format!("{pod}/cri-containerd-2.scope"), "30000000");
        group(&format!("{}/kubepods-podother.slice", pod.split('/').next().unwrap()), "800000000");

        let mut command = agent();
        for variable in variables {
            let name = variable["name"].as_str().unwrap();
            let value = match name {
                "WALDUR_POD_UID" => uid.to_owned(),
                "WALDUR_CGROUP_ROOT" => node.path().display().to_string(),
                "WALDUR_LEDGER" => node.path().join("ledger.db").display().to_string(),
                _ => variable["value"].as_str().unwrap_or_else(|| panic!("{name}")).to_owned(),
            };
            command.env(name, value);
        }
        let output = command.args(["collect", "--json"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
        let text = answer.to_string();
        assert!(text.contains(r#""name":"cpu_seconds""#) && text.contains(r#""value":"70""#), "{text}");
        for other in ["900", "800", "40", "30"] {
            assert!(!text.contains(&format!(r#""value":"{other}""#)), "{text}");
        }
    }
}
