//! The agent's parts in the test's own process: a ledger, a clock that stands still until it is set, and a submitter, for a
//! server that the test has started.
#![allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

#[path = "rules.rs"]
mod rules;
#[path = "../sandbox/server.rs"]
mod server;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use waldur_usage_agent::config::clock::ManualClock;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::ledger::{Ledger, SharedLedger};
use waldur_usage_agent::submitter::{Late, OnConflict, Report, Submitter};
use waldur_usage_agent::waldur::client::Client;

#[allow(unused_imports, reason = "not every test needs it")]
pub use rules::rulebook;
use server::Server;

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// In memory where there is such a place: some tests open their ledger thousands of times.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// A server's settings, with the sandbox's token in this folder; `more`: further lines of `waldur:`.
pub fn settings(url: &str, folder: &Path, more: &str) -> WaldurSettings {
    settings_with("sandbox-token", url, folder, more)
}

pub fn settings_with(token: &str, url: &str, folder: &Path, more: &str) -> WaldurSettings {
    let (text, token) = (token, folder.join("token"));
    std::fs::write(&token, text).unwrap();
    let (mut section, problems) =
        Section::parse(&format!("url: {url}\ntoken_file: {}\n{more}", token.display()));
    let settings = WaldurSettings::from_section(&mut section);
    assert_eq!(problems.list(), []);
    settings.unwrap()
}

/// One that holds what it is not sure of.
pub fn submitter(settings: &WaldurSettings, clock: &Arc<ManualClock>, ledger: Ledger) -> Submitter {
    Submitter {
        client: Arc::new(Client::new(settings, clock.clone()).unwrap()),
        ledger: SharedLedger::new(ledger),
        clock: clock.clone(),
        on_conflict: OnConflict::Hold,
        report: Report::Live,
        progress: Default::default(),
        late: Late::Hold,
    }
}

/// The sandbox as a process, until it is dropped.
pub struct Sandbox {
    _process: Server,
    pub url: String,
}

impl Sandbox {
    pub fn start(arguments: &[&str]) -> Sandbox {
        let process = Server::launch(arguments);
        let url = format!("http://{}", process.address);
        Sandbox { _process: process, url }
    }

    /// Once an agent's own client is there, which says what does its TLS.
    fn http(&self) -> reqwest::Client {
        reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) {
        let request = self.http().post(format!("{}/sandbox/{path}", self.url)).body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
    }

    pub async fn get(&self, path: &str) -> Value {
        let request = self.http().get(format!("{}/sandbox/{path}", self.url));
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
    }

    /// From now on its clock stands still there; it may have a skew beside it.
    pub async fn set(&self, now: Timestamp) {
        self.post("clock", json!({ "freeze": true, "now": now.to_string() })).await;
    }
}
