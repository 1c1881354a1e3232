//! What a cycle of the agent costs as a whole process, against a sandbox that takes 20 ms a call: the CPU of the agent
//! alone, the time that passed, its highest memory and its requests by kind; in the first cycle, in one without a
//! change, and in one in which a hundredth of the resources changed; then what commands cost on that ledger, and what the
//! daemon holds when it is idle on it. Run with `cargo bench --bench cycle`, or
//! `cargo bench --bench cycle -- RESOURCES COMPONENTS USERS [AT_ONCE] [classic]` for a cycle of any size (a component
//! number of 2.5 is two or three, in turns; at most 4). The source is SLURM's jobs, a job of each user.

#![allow(
    clippy::disallowed_methods,
    reason = "it watches another process, on a thread where nothing else runs"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

mod cpu;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
const LATENCY_MS: u64 = 20;
/// What is metered, one component of each, and how sacct writes it.
const READINGS: [&str; 4] = ["cpu_seconds", "node_seconds", "billing_seconds", "gpu_seconds"];
const TRES: [&str; 4] = ["cpu=2", "node=1", "billing=3", "gres/gpu=1"];

/// How large a cycle is.
#[derive(Debug, Clone, Copy)]
struct Size {
    resources: usize,
    /// Of two resources together.
    components: usize,
    users: usize,
    /// How many calls the server takes at once.
    at_once: usize,
    classic: bool,
}

impl Size {
    fn new(resources: usize, at_once: usize) -> Size {
        Size { resources, components: 5, users: 10, at_once, classic: false }
    }

    fn components_of(self, resource: usize) -> usize {
        (self.components + resource % 2) / 2
    }
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with('-')).collect();
    let numbers: Vec<f64> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    let sizes = match numbers.as_slice() {
        [resources, components, users, rest @ ..] => vec![Size {
            resources: *resources as usize,
            components: (components * 2.0) as usize,
            users: *users as usize,
            at_once: rest.first().map_or(8, |at_once| *at_once as usize),
            classic: arguments.iter().any(|text| text == "classic"),
        }],
        // `cargo test --benches` only asks whether it still runs.
        _ if cfg!(debug_assertions) => vec![Size::new(4, 8)],
        _ => vec![
            Size::new(50, 8),
            Size::new(500, 8),
            Size { classic: true, ..Size::new(500, 8) },
            Size::new(500, 1),
            Size::new(5_000, 8),
        ],
    };
    for size in sizes {
        play(size)?;
    }
    Ok(())
}

fn play(size: Size) -> Outcome {
    println!(
        "{} resources x {} components x {} users, {LATENCY_MS} ms a call, {} at once{}",
        size.resources,
        size.components as f64 / 2.0,
        size.users,
        size.at_once,
        if size.classic { ", classic" } else { "" }
    );
    println!(
        "{:>12} {:>9} {:>9} {:>9} {:>11} {:>8}",
        "cycle", "CPU s", "wall s", "requests", "CPU ms/call", "peak MB"
    );
    let folder = tempfile::tempdir()?;
    let sandbox = Sandbox::start(folder.path(), size)?;
    fs::write(folder.path().join("token"), "sandbox-token")?;
    let at = folder.path().display();
    let mut yaml = format!(
        "waldur: {{ url: '{}', token_file: {at}/token, max_in_flight: 8 }}\nledger: {at}/ledger.db\ncollectors:\n  jobs:\n    \
         plugin: slurm\n    programs: {at}\n    schedule: every 1h\n    resource: {{ offering: {OFFERING}, backend_id: '{{account}}' }}\n    \
         user: '{{user}}'\n    meters:\n",
        sandbox.url
    );
    for (component, reading) in READINGS.iter().enumerate().take(size.components.div_ceil(2)) {
        writeln!(yaml, "      c{component}: {{ reading: {reading}, factor: 1/3600 }}")?;
    }
    let config = folder.path().join("agent.yaml");
    fs::write(&config, yaml)?;
    script(&folder.path().join("sacct"), &format!("exec cat {at}/lines"))?;
    script(&folder.path().join("sacctmgr"), "exit 1")?;
    let mut lines = Lines::begin(&folder.path().join("lines"))?;
    for (name, changed) in [("first", 0), ("unchanged", 0), ("1 % changed", (size.resources / 100).max(1))] {
        match name {
            "first" => lines.add(size, size.resources)?,
            _ => lines.add(size, changed)?,
        }
        let before = sandbox.counts()?;
        let cost = Cost::of(&mut agent(&config, &["flush", "--collect", "--deadline", "60m"]))?;
        let counts = sandbox.counts()?;
        let made = |kind: &str, now: u64| now - before.get(kind).copied().unwrap_or(0);
        let requests: u64 = counts.iter().map(|(kind, now)| made(kind, *now)).sum();
        println!(
            "{name:>12} {:>9.2} {:>9.2} {requests:>9} {:>11.2} {:>8.1}",
            cost.cpu.as_secs_f64(),
            cost.wall.as_secs_f64(),
            cost.cpu.as_secs_f64() * 1000.0 / requests.max(1) as f64,
            cost.peak_kb as f64 / 1000.0
        );
        for (kind, now) in counts.iter().filter(|(kind, now)| made(kind, **now) > 0) {
            println!("{:>14} {kind}", made(kind, *now));
        }
    }
    let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
    for command in [
        ["status", "--json"].as_slice(),
        &["explain", "a0", "c0", "--json"],
        &["export", "--period", &month, "--csv"],
        &["recount"],
    ] {
        let cost = Cost::of(&mut agent(&config, command))?;
        println!(
            "{:>12} {:>9.2} {:>9.2} {:>9} {:>11} {:>8.1}",
            command[0],
            cost.cpu.as_secs_f64(),
            cost.wall.as_secs_f64(),
            "",
            "",
            cost.peak_kb as f64 / 1000.0
        );
    }
    let mut daemon = agent(&config, &["run"]).spawn()?;
    // Its first runs and its first cycle, which finds nothing to send, are over by then.
    std::thread::sleep(Duration::from_secs(if cfg!(debug_assertions) { 1 } else { 15 }));
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id()))?;
    daemon.kill()?;
    daemon.wait()?;
    let held =
        |key| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim().to_owned();
    println!("{:>12} {} resident, {} of it not shared", "idle daemon", held("VmRSS:"), held("RssAnon:"));
    Ok(())
}

fn agent(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waldur-usage-agent"));
    // As the service does.
    command.env("MALLOC_ARENA_MAX", "1");
    command.arg("--config").arg(config).args(["--log", "warn"]).args(arguments).stdout(Stdio::null());
    command
}

fn script(path: &Path, command: &str) -> Outcome {
    fs::write(path, format!("#!/bin/sh\n{command}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// What sacct prints: jobs of an hour that ended just now.
struct Lines {
    file: BufWriter<fs::File>,
    jobs: usize,
    now: i64,
}

impl Lines {
    fn begin(path: &Path) -> Outcome<Lines> {
        let mut file = BufWriter::new(fs::File::create(path)?);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs().try_into()?;
        writeln!(
            file,
            "JobIDRaw|Submit|Start|End|ElapsedRaw|State|Account|User|Partition|QOS|Cluster|Reservation|AllocTRES"
        )?;
        Ok(Lines { file, jobs: 0, now })
    }

    /// A job more of each user of so many resources.
    fn add(&mut self, size: Size, resources: usize) -> Outcome {
        let (start, end) = (self.now - 3660, self.now - 60);
        for resource in 0..resources {
            let tres = &TRES[..size.components_of(resource)].join(",");
            for user in 0..size.users {
                self.jobs += 1;
                writeln!(
                    self.file,
                    "{}|{start}|{start}|{end}|3600|COMPLETED|a{resource}|u{user}|batch|normal|alpha||{tres}",
                    self.jobs
                )?;
            }
        }
        Ok(self.file.flush()?)
    }
}

struct Sandbox {
    process: Child,
    url: String,
}

impl Sandbox {
    fn start(folder: &Path, size: Size) -> Outcome<Sandbox> {
        let mut yaml = format!(
            "latency_ms: {LATENCY_MS}\ncalls_at_once: {}\ntokens: [{{ token: sandbox-token, username: provider }}]\n\
             offerings:\n  - uuid: {OFFERING}\n    name: Cluster\n    components:\n",
            size.at_once
        );
        for component in 0..size.components.div_ceil(2) {
            writeln!(yaml, "      - {{ type: c{component}, measured_unit: h, billing_type: usage }}")?;
        }
        let users: Vec<String> = (0..size.users).map(|user| format!("u{user}")).collect();
        writeln!(yaml, "    users: [{}]\nresources:", users.join(", "))?;
        for resource in 0..size.resources {
            writeln!(yaml, "  - {{ name: Project {resource}, backend_id: a{resource}, offering: Cluster }}")?;
        }
        let file = folder.join("marketplace.yaml");
        fs::write(&file, yaml)?;
        let mut process = Command::new(env!("CARGO_BIN_EXE_waldur-sandbox"))
            .arg("--marketplace")
            .arg(&file)
            .args(["--listen", "127.0.0.1:0"])
            .args(["--api", if size.classic { "classic" } else { "current" }])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").ok_or("it does not listen")?.to_owned();
        Ok(Sandbox { process, url })
    }

    /// How many requests of each kind there were so far.
    fn counts(&self) -> Outcome<BTreeMap<String, u64>> {
        let address = self.url.strip_prefix("http://").unwrap_or_default();
        let mut stream = TcpStream::connect(address)?;
        write!(
            stream,
            "GET /sandbox/requests?last=0 HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").ok_or("no body")?.1;
        Ok(serde_json::from_value(serde_json::from_str::<serde_json::Value>(body)?["counts"].take())?)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What one process took, without its children.
struct Cost {
    cpu: Duration,
    wall: Duration,
    peak_kb: u64,
}

impl Cost {
    fn of(command: &mut Command) -> Outcome<Cost> {
        let began = Instant::now();
        let mut process = command.spawn()?;
        let folder = format!("/proc/{}", process.id());
        let mut peak_kb = 0;
        // Until it has ended, and before it is reaped: then its times are whole.
        let cpu = loop {
            let status = fs::read_to_string(format!("{folder}/status"))?;
            let value = |key| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            let peak = value("VmHWM:").and_then(|text| text.trim_end_matches(" kB").parse().ok());
            peak_kb = peak.unwrap_or(0).max(peak_kb);
            if value("State:").is_some_and(|state| state.starts_with('Z')) {
                break cpu::of_process(&process.id().to_string())?;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let wall = began.elapsed();
        let status = process.wait()?;
        if !status.success() {
            return Err(format!("the agent ended with {status}").into());
        }
        Ok(Cost { cpu, wall, peak_kb })
    }
}
