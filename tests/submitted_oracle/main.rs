//! The whole books: ledger, submitter and a Waldur (the sandbox, in this process) run together over random events, and after
//! each time that they come to rest what Waldur holds is compared with an independent account of what was used.
//!
//! The events of a case are drawn from its number; one that fails is shrunk, and printed with its number.
//!
//! - `cargo test --test submitted_oracle` looks at some tens of cases;
//! - `SUBMITTED_CASES=5000 cargo test --test submitted_oracle random` at so many;
//! - `SUBMITTED_FROM=20000` begins with that number, and `SUBMITTED_CASE=4711` looks at one alone, with its log.
//!
//! `account.rs` is the account, `laws.rs` what must hold, `case.rs` draws events, `events.rs` and `persons.rs` carry them out on
//! the `bench.rs`, and `named.rs` keeps what was once wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]
#![allow(dead_code, unused_imports, reason = "not all of the sandbox is needed")]

mod account;
mod bench;
mod case;
mod events;
mod laws;
mod named;
mod persons;

#[path = "../agent/engine.rs"]
mod engine;
#[path = "../agent/in_process.rs"]
mod in_process;

// The sandbox, file by file: its files find each other by the root of the crate.
#[path = "../../src/bin/waldur-sandbox/admin.rs"]
mod admin;
#[path = "../../src/bin/waldur-sandbox/amount.rs"]
mod amount;
#[path = "../../src/bin/waldur-sandbox/answer.rs"]
mod answer;
#[path = "../../src/bin/waldur-sandbox/api.rs"]
mod api;
#[path = "../../src/bin/waldur-sandbox/app.rs"]
mod app;
#[path = "../../src/bin/waldur-sandbox/billing.rs"]
mod billing;
#[path = "../../src/bin/waldur-sandbox/clock.rs"]
mod clock;
#[path = "../../src/bin/waldur-sandbox/discovery.rs"]
mod discovery;
#[path = "../../src/bin/waldur-sandbox/faults.rs"]
mod faults;
#[path = "../../src/bin/waldur-sandbox/fields.rs"]
mod fields;
#[path = "../../src/bin/waldur-sandbox/json.rs"]
mod json;
#[path = "../../src/bin/waldur-sandbox/lists.rs"]
mod lists;
#[path = "../../src/bin/waldur-sandbox/marketplace.rs"]
mod marketplace;
#[path = "../../src/bin/waldur-sandbox/report.rs"]
mod report;
#[path = "../../src/bin/waldur-sandbox/request.rs"]
mod request;
#[path = "../../src/bin/waldur-sandbox/server.rs"]
mod server;
#[path = "../../src/bin/waldur-sandbox/set_usage.rs"]
mod set_usage;
#[path = "../../src/bin/waldur-sandbox/specs.rs"]
mod specs;
#[path = "../../src/bin/waldur-sandbox/usage_lists.rs"]
mod usage_lists;
#[path = "../../src/bin/waldur-sandbox/user_usage.rs"]
mod user_usage;
#[path = "../../src/bin/waldur-sandbox/wire.rs"]
mod wire;
#[path = "../../src/bin/waldur-sandbox/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use case::Case;

/// In the suite.
const CASES: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What went wrong, if anything did.
fn outcome(case: &Case) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| bench::run(case))) {
        Ok(Ok(_)) => None,
        Ok(Err(words)) => Some(words),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Some(format!(
                "panic: {}",
                text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default()
            ))
        }
    }
}

/// Leaves out what is not needed for it to fail.
fn shrunk(mut case: Case, mut words: String) -> (Case, String) {
    let mut size = case.events.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < case.events.len() {
            let mut less = case.clone();
            less.events.drain(at..(at + size).min(less.events.len()));
            match outcome(&less) {
                Some(failed) => (case, words) = (less, failed),
                None => at += size,
            }
        }
        size /= 2;
    }
    (case, words)
}

fn judge(case: Case) {
    if let Some(words) = outcome(&case) {
        let (number, all) = (case.number, case.events.len());
        let (case, words) = shrunk(case, words);
        let events: Vec<String> = case.events.iter().map(|event| format!("        {event:?},")).collect();
        panic!(
            "case {number} ({} of {all} events are enough):\n{:?}\n{}\n{words}",
            case.events.len(),
            case.setting,
            events.join("\n")
        );
    }
}

#[test]
fn random() {
    if let Some(one) = number("SUBMITTED_CASE") {
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).try_init();
        let case = Case::drawn(one);
        return judge(case);
    }
    let from = number("SUBMITTED_FROM").unwrap_or(0);
    let mut failed = Vec::new();
    for number in from..from + self::number("SUBMITTED_CASES").unwrap_or(CASES) {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let judged = catch_unwind(|| judge(Case::drawn(number)));
        std::panic::set_hook(hook);
        if let Err(panic) = judged {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            eprintln!("{text}\n");
            failed.push(number);
            if failed.len() >= usize::try_from(self::number("SUBMITTED_FAILURES").unwrap_or(1)).unwrap() {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "cases that failed: {failed:?}");
}
