//! A sandbox for one test, and an HTTP client so plain that it can also send what no client should.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) const A: &str = "5e2f0000-0000-4000-8000-000000000001";
pub(crate) const B: &str = "5e2f0000-0000-4000-8000-000000000002";
pub(crate) const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
pub(crate) const USAGES: &str = "/api/marketplace-component-usages/";
pub(crate) const SET_USAGE: &str = "/api/marketplace-component-usages/set_usage/";
pub(crate) const SHARES: &str = "/api/marketplace-component-user-usages/";

/// One offering with every billing type, four kinds of token, and resources in every state.
pub(crate) const MARKETPLACE: &str = r#"
now: 2026-11-10T12:00:00Z
tokens:
  - { token: provider, username: provider, offerings: ["*"] }
  - { token: staff, username: staff, offerings: [], staff: true }
  - { token: stranger, username: stranger, offerings: [] }
  - { token: brief, username: brief, offerings: ["*"], lifetime: 3600 }
  - { token: gone, username: gone, offerings: ["*"], active: false }
offerings:
  - uuid: 91ab0000-0000-4000-8000-000000000001
    name: Cluster
    components:
      - { type: cpu_hours, measured_unit: h, billing_type: usage }
      - { type: gpu_hours, measured_unit: h, billing_type: usage }
      - { type: capped, billing_type: usage, limit_amount: 100, limit_period: annual }
      - { type: monthly, billing_type: usage, limit_amount: 100, limit_period: month }
      - { type: storage_gb, billing_type: limit }
      - { type: fee, billing_type: fixed }
      - { type: setup, billing_type: one }
    users: [alice, { username: bob, uuid: b0b00000-0000-4000-8000-000000000001 }]
resources:
  - uuid: 5e2f0000-0000-4000-8000-000000000001
    name: A
    backend_id: a
    offering: Cluster
    user_limits: [{ username: carol, type: cpu_hours, limit: "10.00" }]
  - { uuid: 5e2f0000-0000-4000-8000-000000000002, name: B, backend_id: b, offering: Cluster }
  - { uuid: 5e2f0000-0000-4000-8000-000000000003, name: Planless, backend_id: n, offering: Cluster, plan: false }
  - { uuid: 5e2f0000-0000-4000-8000-000000000004, name: Broken, backend_id: e, offering: Cluster, state: Erred }
"#;

pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// Status and JSON body, to be compared in one go.
    pub(crate) fn pair(&self) -> (u16, Value) {
        (self.status, self.json())
    }
}

impl Server {
    pub(crate) fn classic() -> Self {
        Self::start(&["--api", "classic"], MARKETPLACE)
    }

    pub(crate) fn current() -> Self {
        Self::start(&["--api", "current"], MARKETPLACE)
    }

    pub(crate) fn start(arguments: &[&str], marketplace: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), marketplace).unwrap();
        let file = file.path().to_str().unwrap();
        Self::launch(&[&["--marketplace", file], arguments].concat())
    }

    /// With these arguments and no more.
    pub(crate) fn launch(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_waldur-sandbox"))
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, address }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// Sends the bytes and reads until the connection ends.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    pub(crate) fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding")) {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        parse(&self.raw(&bytes)).unwrap_or_else(|| panic!("no whole answer to {method} {target}"))
    }

    pub(crate) fn get_as(&self, token: &str, target: &str) -> Reply {
        self.send("GET", target, &[("Authorization", &format!("Token {token}"))], b"")
    }

    pub(crate) fn get(&self, target: &str) -> Reply {
        self.get_as("provider", target)
    }

    pub(crate) fn post_text(&self, token: &str, target: &str, body: &str) -> Reply {
        let token = format!("Token {token}");
        let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
        self.send("POST", target, &headers, body.as_bytes())
    }

    pub(crate) fn post_as(&self, token: &str, target: &str, body: &Value) -> Reply {
        self.post_text(token, target, &body.to_string())
    }

    pub(crate) fn post(&self, target: &str, body: &Value) -> Reply {
        self.post_as("provider", target, body)
    }

    /// One component's amount, as the provider.
    pub(crate) fn report(&self, resource: &str, kind: &str, amount: &str) -> Reply {
        self.post(SET_USAGE, &json!({ "resource": resource, "usages": [{ "type": kind, "amount": amount }] }))
    }

    pub(crate) fn admin(&self, path: &str, body: &Value) -> Value {
        let reply = self.send("POST", path, &[], body.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.json()
    }

    pub(crate) fn clock(&self, now: &str) {
        self.admin("/sandbox/clock", &json!({ "now": now }));
    }

    /// What the sandbox holds of a resource.
    pub(crate) fn held(&self, resource: &str) -> Value {
        let state = self.send("GET", "/sandbox/state", &[], b"").json();
        let all = state["resources"].as_array().unwrap().clone();
        all.into_iter().find(|r| r["uuid"] == resource).unwrap()
    }

    /// `(type, month, usage)` of a resource's rows, sorted.
    pub(crate) fn rows(&self, resource: &str) -> Vec<(String, String, String)> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let held = self.held(resource);
        let mut rows: Vec<_> = held["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (text(row, "type"), text(row, "billing_period"), text(row, "usage")))
            .collect();
        rows.sort();
        rows
    }

    /// The quantities that are billed for a component, in every month and plan period.
    pub(crate) fn billed(&self, resource: &str, kind: &str) -> Vec<String> {
        let held = self.held(resource);
        let items = held["invoice_items"].as_array().unwrap().iter().filter(|item| item["type"] == kind);
        let mut quantities: Vec<String> = items.map(|i| i["quantity"].as_str().unwrap().to_owned()).collect();
        quantities.sort();
        quantities
    }

    /// The address of a resource's only row of a type.
    pub(crate) fn row_address(&self, resource: &str, kind: &str) -> String {
        let list = self.get(&format!("{USAGES}?resource_uuid={resource}&type={kind}")).json();
        format!("{USAGES}{}/", list[0]["uuid"].as_str().unwrap())
    }
}

pub(crate) fn row(kind: &str, month: &str, usage: &str) -> (String, String, String) {
    (kind.into(), month.into(), usage.into())
}

/// `None` for what is no whole answer.
pub(crate) fn parse(bytes: &[u8]) -> Option<Reply> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> =
        lines.filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
    Some(Reply { status, headers, body: body.to_owned() })
}
