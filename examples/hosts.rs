//! Many hosts at one ledger, played: so many agents append as agents do (connect, ask how far it has got, append, leave), and
//! one counts. It prints rows a second, the delay from appended to counted, connections, and the size of a day.
//!
//!     cargo run --release --example hosts -- postgresql:///bill?host=/run/postgresql&user=usage 2000 3
//!
//! The database must be empty and the role own it; docs/many-hosts.md has the figures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::float_arithmetic,
    reason = "a tool for those who build the agent"
)]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use waldur_usage_agent::collectors::definition::Definition;
use waldur_usage_agent::collectors::spool::Spool;
use waldur_usage_agent::config::place::{Database, Place};
use waldur_usage_agent::config::settings::Loaded;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome};
use waldur_usage_agent::ledger::queue::outbox::Outbox;
use waldur_usage_agent::ledger::queue::parcel::Parcel;
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading};

const SERIES: i64 = 50;
const EVERY: SignedDuration = SignedDuration::from_mins(5);
/// Connections at once.
const AT_ONCE: usize = 16;

const CONFIG: &str = "waldur: { url: 'http://127.0.0.1:1', token_file: /dev/null }\n\
    collectors:\n  vms:\n    plugin: exec\n    command: x\n    schedule: every 5m\n    \
    resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: '{vm}' }\n    \
    meters: { cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }\n";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = "hosts LEDGER HOSTS ROUNDS";
    let place = Place::parse(&arguments.next().expect(usage)).expect(usage);
    let hosts: i64 = arguments.next().and_then(|text| text.parse().ok()).expect(usage);
    let rounds: i64 = arguments.next().and_then(|text| text.parse().ok()).expect(usage);
    let Place::Database(database) = &place else { panic!("a ledger in a database") };
    Ledger::make(&place).unwrap();
    let mut books = Ledger::open(&place, rulebook()).unwrap();
    // All hosts see the same, each as its own.
    let mut host = Ledger::in_memory(rulebook()).unwrap();
    let begun: Timestamp = "2026-11-10T00:00:00Z".parse().unwrap();
    for round in 1..=rounds {
        let at = begun + EVERY * i32::try_from(round).unwrap();
        let number = host.append(run(at, round), &mut Spool::default()).unwrap();
        let parcel = Arc::new(host.parcel_after(number - 1).unwrap().unwrap());
        let started = Instant::now();
        let sent = append_all(database, hosts, &parcel, at);
        let appended = started.elapsed();
        let started = Instant::now();
        books.count_queued().unwrap();
        let took = started.elapsed();
        let rate = |number: i64, time: std::time::Duration| number as f64 / time.as_secs_f64();
        println!(
            "round {round}: {hosts} runs appended in {appended:.1?} ({:.0} runs/s, {:.0} readings/s; one takes {:.1} ms at the \
             median, {:.1} ms at most); counted in {took:.1?} ({:.0} readings/s)",
            rate(hosts, appended),
            rate(hosts * SERIES, appended),
            sent[sent.len() / 2],
            sent[sent.len() - 1],
            rate(hosts * SERIES, took),
        );
    }
}

fn rulebook() -> Rulebook {
    let utc = jiff::tz::TimeZone::UTC;
    let sections = Loaded::parse("the example", CONFIG).collectors.into_iter();
    let rules = sections.filter_map(|section| Some(Definition::from_section(section, &utc)?.rules)).collect();
    Rulebook { zone: BillingZone::utc(), rules }
}

fn run(at: Timestamp, round: i64) -> Run {
    let reading = |vm: i64| {
        Reading::new("cpu_seconds", Kind::Counter, (round * 240 + vm).into(), at)
            .label("vm", format!("vm-{vm}"))
    };
    let outcome = RunOutcome::Seen {
        readings: (0..SERIES).map(reading).collect(),
        quarantined: Vec::new(),
        problems: Vec::new(),
        checkpoint: None,
        lists_everything: true,
        ended: Default::default(),
    };
    Run { collector: "vms".to_owned(), at, finished: at, scope: String::new(), outcome }
}

/// Lets all hosts append, so many at once; returns how long each took, in milliseconds, sorted.
fn append_all(database: &Database, hosts: i64, parcel: &Arc<Parcel>, at: Timestamp) -> Vec<f64> {
    let (next, took) = (AtomicI64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let host = next.fetch_add(1, Ordering::Relaxed);
                    if host >= hosts {
                        break;
                    }
                    let started = Instant::now();
                    let outbox = Outbox::connect(database, &format!("hv{host}"), "file", || at).unwrap();
                    assert_eq!(outbox.last().unwrap().map_or(0, |(number, _)| number), parcel.number() - 1);
                    outbox.send(parcel, at).unwrap();
                    took.lock().unwrap().push(started.elapsed().as_secs_f64() * 1000.0);
                }
            });
        }
    });
    let mut took = took.into_inner().unwrap();
    took.sort_by(f64::total_cmp);
    took
}
