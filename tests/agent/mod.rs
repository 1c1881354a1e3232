//! A world for one test: a sandbox, a folder with a configuration, a token, a file of readings and a clock, and the
//! real binary run in it. Everything is asked from outside: exit codes, what is printed, and what the sandbox holds.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test program uses its part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

pub mod books;
pub mod disk;
pub mod engine;
pub mod fields;
pub mod proxy;
#[path = "../skip/mod.rs"]
mod skipping;
pub mod table;

pub use skipping::skip;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const A: &str = "5e2f0000-0000-4000-8000-000000000001";
pub const B: &str = "5e2f0000-0000-4000-8000-000000000002";
pub const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
pub const TOKEN: &str = "s3cret-t0ken-0f-the-provider-0123456789ab";
pub const NOON: &str = "2026-11-10T12:00:00Z";

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub const CLASSIC: &str = "classic";
pub const CURRENT: &str = "current";
pub const BOTH: [&str; 2] = [CLASSIC, CURRENT];

/// Before anything that a test measures.
pub const LONG_AGO: &str = "2026-01-01T00:00:00Z";

/// Every boundary between two steps, as src/ names them; `a_list_of_fail_points_is_whole`
/// (tests/agent_crashes.rs) compares.
pub const POINTS: [&str; 17] = [
    "before a run is committed",
    "after a run is committed",
    "before a count is committed",
    "after discovery",
    "after plans are known",
    "after rows are read",
    "before rows are kept",
    "before totals are intended",
    "before set_usage",
    "after set_usage",
    "before totals are acknowledged",
    "after totals are acknowledged",
    "before shares are intended",
    "before set_user_usages",
    "after set_user_usages",
    "before shares are acknowledged",
    "after shares are acknowledged",
];

/// Where a server without the bulk call takes the shares.
pub const CLASSIC_POINTS: [&str; 2] = ["before set_user_usage", "after set_user_usage"];

pub fn marketplace() -> String {
    format!(
        r#"
tokens:
  - {{ token: {TOKEN}, username: provider, offerings: ["*"] }}
  - {{ token: staff-token, username: staff, offerings: [], staff: true }}
  - {{ token: stranger-token, username: stranger, offerings: [] }}
offerings:
  - uuid: {OFFERING}
    name: Cluster
    components:
      - {{ type: cpu_hours, measured_unit: h, billing_type: usage }}
      - {{ type: gpu_hours, measured_unit: h, billing_type: usage }}
      - {{ type: ram_gb_hours, measured_unit: GB*h, billing_type: usage }}
      - {{ type: capped, billing_type: usage, limit_amount: 100, limit_period: annual }}
      - {{ type: storage_gb, measured_unit: GB, billing_type: limit }}
      - {{ type: fee, billing_type: fixed }}
    users: [{{ username: alice, uuid: a11ce000-0000-4000-8000-000000000001 }}]
resources:
  - {{ uuid: {A}, name: Project A, backend_id: project-a, offering: Cluster }}
  - {{ uuid: {B}, name: Project B, backend_id: project-b, offering: Cluster }}
"#
    )
}

/// What a run of the agent came to.
#[derive(Debug)]
pub struct Done {
    /// 128 + the signal, if one ended it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    #[track_caller]
    pub fn exits(self, code: i32) -> Done {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// However the lines are folded.
    fn contains(&self, words: &str) -> bool {
        let unfolded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.all().contains(words) || unfolded(&self.all()).contains(&unfolded(words))
    }

    #[track_caller]
    pub fn says(self, words: &str) -> Done {
        assert!(self.contains(words), "expected `{words}` in {self:#?}");
        self
    }

    #[track_caller]
    pub fn says_not(self, words: &str) -> Done {
        assert!(!self.contains(words), "unexpected `{words}` in {self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }
}

impl From<std::process::Output> for Done {
    fn from(output: std::process::Output) -> Done {
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code, out: text(output.stdout), err: text(output.stderr) }
    }
}

/// One request as the sandbox noted it.
#[derive(Debug, Clone)]
pub struct Request {
    pub n: u64,
    pub method: String,
    pub path: String,
    pub body: Value,
    pub status: u64,
    /// When it came in, by the sandbox's clock.
    pub at: String,
}

impl Request {
    pub fn is_post(&self) -> bool {
        self.method == "POST"
    }
}

pub struct Sandbox {
    child: Child,
    pub address: String,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sandbox {
    fn start(marketplace: &Path, listen: &str, arguments: &[&str]) -> Sandbox {
        let mut child = Command::new(env!("CARGO_BIN_EXE_waldur-sandbox"))
            .args(["--marketplace", marketplace.to_str().unwrap(), "--listen", listen])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Sandbox { child, address }
    }

    pub fn signal(&self, name: &str) {
        send_signal(name, &self.child);
    }
}

fn send_signal(name: &str, child: &Child) {
    let done = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(done.unwrap().success());
}

pub struct World {
    pub sandbox: Option<Sandbox>,
    pub address: String,
    pub folder: tempfile::TempDir,
    arguments: Vec<String>,
    /// How far `in_time` has gone.
    pub seconds: Cell<i64>,
}

/// What differs from the usual world.
pub struct Setting<'a> {
    pub api: &'a str,
    pub now: &'a str,
    pub zone: &'a str,
    pub marketplace: String,
}

impl Default for Setting<'_> {
    fn default() -> Self {
        Setting { api: CURRENT, now: NOON, zone: "UTC", marketplace: marketplace() }
    }
}

impl World {
    pub fn new(api: &str) -> World {
        World::of(Setting { api, ..Setting::default() })
    }

    /// Sandbox and agent share a clock that stands still until it is set.
    pub fn of(setting: Setting<'_>) -> World {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("marketplace.yaml"), setting.marketplace).unwrap();
        let arguments = ["--api", setting.api, "--timezone", setting.zone, "--now", setting.now];
        let sandbox = Sandbox::start(&folder.path().join("marketplace.yaml"), "127.0.0.1:0", &arguments);
        let address = sandbox.address.clone();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let world = World { sandbox: Some(sandbox), address, folder, arguments, seconds: Cell::new(0) };
        world.admin("POST", "/sandbox/clock", &json!({ "freeze": true }));
        world.now(setting.now);
        world.write("token", TOKEN);
        world.write("readings", "");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file as a whole, so that whoever reads it meanwhile sees the old or the new one.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!(".{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub fn now(&self, now: &str) {
        // One that is away has no clock.
        if self.sandbox.is_some() {
            self.sandbox_clock(now);
        }
        self.agent_clock(now);
    }

    /// Lets both clocks go on from noon, two seconds at a time, until the condition holds.
    #[track_caller]
    pub fn in_time(&self, what: &str, mut condition: impl FnMut() -> bool) {
        until(what, || {
            let seconds = self.seconds.get() + 2;
            self.seconds.set(seconds);
            self.now(&after("2026-11-10T12:00:00Z", seconds));
            // On a loaded machine what comes each second has to be counted meanwhile.
            pause(Duration::from_millis(200));
            condition()
        });
    }

    pub fn sandbox_clock(&self, now: &str) {
        self.admin("POST", "/sandbox/clock", &json!({ "now": now }));
    }

    pub fn agent_clock(&self, now: &str) {
        self.write("clock", now);
    }

    pub fn readings(&self, lines: &[Value]) {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        self.write("readings", &(lines.join("\n") + "\n"));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The configuration outside the collectors; more keys of `waldur:` may be given (`timeout: 1s`).
    pub fn head(&self, waldur: &str) -> String {
        let (token, ledger) = (self.path("token"), engine::place(self.folder.path()));
        let more = if waldur.is_empty() { String::new() } else { format!("  {waldur}\n") };
        // There, only an agent that says so submits.
        let submits = "submit: { schedule: \"*/15 * * * *\" }\n";
        let shared = if engine::is_shared() { self.shared("host1") + submits } else { String::new() };
        format!(
            "waldur:\n  url: {}\n  token_file: {}\n{more}ledger: {}\n{shared}",
            self.url(),
            token.display(),
            ledger
        )
    }

    /// The keys of an agent of a shared ledger, with a queue of its own.
    pub fn shared(&self, agent: &str) -> String {
        let queue = self.path(&format!("{agent}.queue.db"));
        format!("agent: {agent}\nqueue: {{ file: {}, jitter: none }}\n", queue.display())
    }

    /// A collector that prints a file; `rest` are its other keys, indented by four.
    /// What it prints is all that there ever was: months before the first run are its own to state.
    pub fn collector(&self, name: &str, file: &str, rest: &str) -> String {
        let file = self.path(file);
        format!(
            "  {name}:\n    plugin: exec\n    schedule: \"@hourly\"\n    command: [cat, {}]\n{rest}    since: {LONG_AGO}\n",
            file.display()
        )
    }

    /// One collector `source` that prints the file `readings`, with these keys.
    pub fn configure(&self, rest: &str) {
        self.configure_with("", rest);
    }

    pub fn configure_with(&self, waldur: &str, rest: &str) {
        let collector = self.collector("source", "readings", rest);
        self.write("agent.yaml", &format!("{}collectors:\n{collector}", self.head(waldur)));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waldur-usage-agent"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("WALDUR_USAGE_AGENT_CLOCK_FILE", self.path("clock"))
            .env("WALDUR_USAGE_AGENT_CONFIG", self.path("agent.yaml"))
            .stdin(Stdio::null());
        command
    }

    pub fn agent(&self, arguments: &[&str]) -> Done {
        self.command(arguments).output().unwrap().into()
    }

    #[track_caller]
    pub fn flush(&self) -> Done {
        self.agent(&["flush", "--collect", "--deadline", "3s"])
    }

    /// One try, no waiting.
    pub fn flush_once(&self) -> Done {
        self.agent(&["flush", "--collect", "--deadline", "1s"])
    }

    /// Dies of SIGKILL at the named point.
    pub fn flush_killed_at(&self, point: &str) -> Done {
        let mut command = self.command(&["flush", "--collect", "--deadline", "1s"]);
        command.env("WALDUR_USAGE_AGENT_FAIL_POINT", point).output().unwrap().into()
    }

    /// The daemon, with what it logs in a file.
    pub fn daemon(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let log = self.path("daemon.log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&[&["run"], arguments].concat());
        command.envs(environment.iter().copied()).stdout(file.try_clone().unwrap()).stderr(file);
        Daemon { child: command.spawn().unwrap(), log }
    }

    // What the sandbox holds.

    pub fn send(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        self.send_as("", method, target, body)
    }

    /// With a token, as somebody else who uses the API.
    pub fn send_as(&self, token: &str, method: &str, target: &str, body: &str) -> (u16, String) {
        let token =
            if token.is_empty() { String::new() } else { format!("Authorization: Token {token}\r\n") };
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = &self.address;
        let length = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{token}Content-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[track_caller]
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.send(method, path, &body.to_string());
        assert_eq!(status, 200, "{path}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub fn post(&self, path: &str, body: Value) -> Value {
        self.admin("POST", &format!("/sandbox/{path}"), &body)
    }

    pub fn fault(&self, fault: Value) {
        self.post("faults", json!({ "faults": [fault] }));
    }

    pub fn no_faults(&self) {
        self.admin("DELETE", "/sandbox/faults", &json!({}));
    }

    pub fn held(&self, resource: &str) -> Value {
        let state = self.admin("GET", "/sandbox/state", &json!({}));
        let all = state["resources"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["uuid"] == resource || one["backend_id"] == resource).unwrap()
    }

    /// `type month usage` of each row, sorted.
    pub fn rows(&self, resource: &str) -> Vec<String> {
        let text = |row: &Value| {
            let part = |key: &str| row[key].as_str().unwrap().to_owned();
            format!("{} {} {}", part("type"), &part("billing_period")[..7], part("usage"))
        };
        let mut rows: Vec<String> =
            self.held(resource)["rows"].as_array().unwrap().iter().map(text).collect();
        rows.sort();
        rows
    }

    /// `user type month usage` of each share, sorted.
    pub fn shares(&self, resource: &str) -> Vec<String> {
        let mut shares = Vec::new();
        for row in self.held(resource)["rows"].as_array().unwrap() {
            let (kind, month) =
                (row["type"].as_str().unwrap(), &row["billing_period"].as_str().unwrap()[..7]);
            for (user, share) in row["users"].as_object().unwrap() {
                shares.push(format!("{user} {kind} {month} {}", share["usage"].as_str().unwrap()));
            }
        }
        shares.sort();
        shares
    }

    /// `type month quantity` of each invoice item, sorted.
    pub fn billed(&self, resource: &str) -> Vec<String> {
        let text = |item: &Value| {
            let part = |key: &str| item[key].as_str().unwrap().to_owned();
            format!("{} {} {}", part("type"), &part("billing_period")[..7], part("quantity"))
        };
        let mut items: Vec<String> =
            self.held(resource)["invoice_items"].as_array().unwrap().iter().map(text).collect();
        items.sort();
        items
    }

    /// The requests to the API since the n-th.
    pub fn requests_since(&self, n: u64) -> Vec<Request> {
        let answer = self.admin("GET", &format!("/sandbox/requests?since={n}"), &json!({}));
        let read = |one: &Value| Request {
            n: one["n"].as_u64().unwrap(),
            method: one["method"].as_str().unwrap().to_owned(),
            path: one["path"].as_str().unwrap().to_owned(),
            body: one["body"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            status: one["status"].as_u64().unwrap(),
            at: one["at"].as_str().unwrap().to_owned(),
        };
        answer["requests"].as_array().unwrap().iter().map(read).collect()
    }

    /// Where `requests_since` would go on.
    pub fn mark(&self) -> u64 {
        self.admin("GET", "/sandbox/requests?last=0", &json!({}))["next"].as_u64().unwrap()
    }

    pub fn posts_since(&self, n: u64) -> Vec<Request> {
        self.requests_since(n).into_iter().filter(Request::is_post).collect()
    }

    /// The bodies of the accepted `set_usage` calls, each as `type=amount` in the order sent.
    pub fn reports(&self) -> Vec<String> {
        let calls =
            self.posts_since(0).into_iter().filter(|r| r.path.ends_with("/set_usage/") && r.status == 201);
        calls.map(|call| amounts(&call.body)).collect()
    }

    /// Ends the sandbox; its memory goes with it.
    pub fn server_goes_away(&mut self) {
        self.sandbox = None;
    }

    /// Starts it anew at the same address.
    pub fn server_comes_back(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let address = self.address.clone();
        self.sandbox = Some(Sandbox::start(&self.path("marketplace.yaml"), &address, &arguments));
        self.admin("POST", "/sandbox/clock", &json!({ "freeze": true }));
    }
}

/// `type=amount` of a `set_usage` body, in the order sent.
pub fn amounts(body: &Value) -> String {
    let usages = body["usages"].as_array().unwrap().iter();
    let each = usages
        .map(|usage| format!("{}={}", usage["type"].as_str().unwrap(), usage["amount"].as_str().unwrap()));
    each.collect::<Vec<_>>().join(" ")
}

/// A running agent.
pub struct Daemon {
    pub child: Child,
    pub log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The daemon said:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    pub fn until_it_says(&self, words: &str) {
        until(words, || self.log().contains(words));
    }

    pub fn signal(&self, name: &str) {
        send_signal(name, &self.child);
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> i32 {
        let mut ended = None;
        until("the daemon's end", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let status = ended.unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What a daemon's own address answers: the status, and the body.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// What a socket answers, with its head.
pub fn get_from_socket(socket: &Path, path: &str) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// So many seconds after an instant.
pub fn after(begin: &str, seconds: i64) -> String {
    (begin.parse::<jiff::Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)).to_string()
}

/// Looks again and again until the condition holds; a test never just waits.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        pause(Duration::from_millis(20));
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the test talks to other processes, nothing else runs on its thread"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub fn reading(name: &str, kind: &str, at: &str, value: &str, labels: &[(&str, &str)]) -> Value {
    let labels: BTreeMap<_, _> = labels.iter().copied().collect();
    json!({ "name": name, "kind": kind, "value": value, "at": at, "labels": labels })
}

/// Used up in an interval; seen again with the same id it replaces what was there.
pub fn job(name: &str, id: &str, start: &str, end: &str, value: &str, labels: &[(&str, &str)]) -> Value {
    let labels: BTreeMap<_, _> = labels.iter().copied().collect();
    json!({ "name": name, "kind": "delta", "id": id, "start": start, "end": end, "value": value, "labels": labels })
}

/// Readings of one series on 10 November at 10:00, 10:05, 10:10 ...
pub fn series(name: &str, kind: &str, values: &[&str], labels: &[(&str, &str)]) -> Vec<Value> {
    let at = |index: usize| format!("2026-11-10T10:{:02}:00Z", 5 * index);
    values.iter().enumerate().map(|(index, value)| reading(name, kind, &at(index), value, labels)).collect()
}

pub fn counter(values: &[&str], labels: &[(&str, &str)]) -> Vec<Value> {
    series("cpu_seconds", "counter", values, labels)
}

/// Counter seconds of one resource as CPU hours.
pub fn cpu_hours_of_a() -> String {
    format!("    resource: {A}\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n")
}

/// The same with shares.
pub fn cpu_hours_by_user() -> String {
    cpu_hours_of_a() + "    user: \"{user}\"\n"
}

/// 90 s of alice (60, a reset, 20 and 10) and 20 s of bob.
pub fn alice_and_bob() -> Vec<Value> {
    let mut lines = counter(&["100", "160", "20", "30"], &[("user", "alice")]);
    lines.extend(counter(&["5", "25"], &[("user", "bob")]));
    lines
}
