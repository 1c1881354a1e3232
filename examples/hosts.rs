//! Many hosts at one ledger, played: so many agents append as agents do (connect, ask how far it has got and whether their
//! name is their own, append, leave), spread evenly over each round, and one counts meanwhile as the agent at work does. It
//! prints rows a second, the delay from appended to counted, what a connection takes, and the size of a day.
//!
//! What the documentation speaks of, 2,000 hosts of 50 counters every 5 minutes, for a quarter of an hour:
//!
//!     tests/with-postgres sh -c 'cargo run --release --example hosts -- \
//!         "postgresql:///postgres?host=$WALDUR_TEST_POSTGRES&user=postgres" 2000 3 300'
//!
//! The arguments are the ledger, the hosts, the rounds, and how long a round takes, in seconds: 300 is real time, fewer are
//! the same hosts in less, and with 0 each round is appended as fast as can be. The database must be empty and the role own
//! it; docs/many-hosts.md has the figures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::float_arithmetic,
    clippy::disallowed_methods,
    reason = "a tool for those who build the agent"
)]

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use postgres::{Client, NoTls};
use waldur_usage_agent::collectors::definition::Definition;
use waldur_usage_agent::collectors::spool::Spool;
use waldur_usage_agent::config::clock::process_clock;
use waldur_usage_agent::config::place::{Database, Place};
use waldur_usage_agent::config::settings::Loaded;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::queue::outbox::{Claim, Outbox};
use waldur_usage_agent::ledger::queue::own::Identity;
use waldur_usage_agent::ledger::queue::packed_run::PackedRun;
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading};

const SERIES: i64 = 50;
const EVERY: SignedDuration = SignedDuration::from_mins(5);
/// Connections at once, at most.
const AT_ONCE: usize = 16;
/// How often the agent at work looks what has arrived.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

const CONFIG: &str = "waldur: { url: 'http://127.0.0.1:1', token_file: /dev/null }\n\
    collectors:\n  vms:\n    plugin: exec\n    command: x\n    schedule: every 5m\n    \
    resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: '{vm}' }\n    \
    meters: { cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }\n";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = "hosts LEDGER HOSTS ROUNDS SECONDS";
    let place = Place::parse(&arguments.next().expect(usage)).expect(usage);
    let [hosts, rounds, seconds] =
        [(); 3].map(|()| arguments.next().and_then(|text| text.parse::<i64>().ok()).expect(usage));
    let Place::Database(database) = &place else { panic!("a ledger in a database") };
    Ledger::make(&place).unwrap();
    // All hosts see the same, each as its own.
    let mut host = Ledger::in_memory(rulebook()).unwrap();
    let now = process_clock().now();
    let play = Play::default();
    std::thread::scope(|scope| {
        scope.spawn(|| count(&place, &play));
        scope.spawn(|| watch(database, &play));
        for round in 1..=rounds {
            let at = now - EVERY * i32::try_from(rounds - round).unwrap();
            let number = host.append(run(at, round), &mut Spool::default()).unwrap();
            let packed_run = host.packed_run_after(number - 1, &identity(0), "hv0").unwrap().unwrap();
            let (size, started) = (size_of(database), Instant::now());
            let over = Duration::from_secs(seconds.try_into().unwrap());
            append_all(database, hosts, (&packed_run, at), over, &play);
            let appended = started.elapsed();
            play.until_counted(hosts * round);
            play.tell(round, hosts, (appended, started.elapsed()));
            let grown = size_of(database) - size;
            let day = grown * (24 * 60 / EVERY.as_mins()) / 1_000_000;
            println!("    {} bytes a reading, {day} MB a day", grown / (hosts * SERIES));
        }
        play.is_over.store(true, Ordering::Relaxed);
    });
}

/// What goes on.
#[derive(Default)]
struct Play {
    /// When each run of the round was appended, in order.
    appended: Mutex<Vec<Instant>>,
    /// How long each connection took.
    took: Mutex<Vec<Duration>>,
    /// How long it was from appended to counted.
    delays: Mutex<Vec<Duration>>,
    /// Most agents that were connected at once, the one that counts among them.
    connected: AtomicI64,
    counted: AtomicI64,
    is_over: AtomicBool,
}

impl Play {
    fn until_counted(&self, runs: i64) {
        while self.counted.load(Ordering::Relaxed) < runs {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Notes that so many runs are counted now.
    fn note_counted(&self, runs: i64) {
        let before = self.counted.swap(runs, Ordering::Relaxed);
        let mut appended = self.appended.lock().unwrap();
        let counted = usize::try_from(runs - before).unwrap().min(appended.len());
        self.delays.lock().unwrap().extend(appended.drain(..counted).map(|at| at.elapsed()));
    }

    fn tell(&self, round: i64, hosts: i64, (appended, counted): (Duration, Duration)) {
        let of = |times: &Mutex<Vec<Duration>>| {
            let mut times = std::mem::take(&mut *times.lock().unwrap());
            times.sort_unstable();
            [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
        };
        let rate = |number: i64, time: Duration| number as f64 / time.as_secs_f64();
        println!(
            "round {round}: {hosts} runs appended in {appended:.1?} ({:.1} runs, {:.0} readings a second), all counted after \
             {counted:.1?} ({:.0} readings a second)",
            rate(hosts, appended),
            rate(hosts * SERIES, appended),
            rate(hosts * SERIES, counted),
        );
        println!("    a connection takes {:.1?} (median, of 100 the slowest, at most)", of(&self.took));
        println!("    from appended to counted {:.1?} (likewise)", of(&self.delays));
        println!("    at most {} connections at once", self.connected.load(Ordering::Relaxed));
    }
}

/// Counts what arrives, as the agent at work does.
fn count(place: &Place, play: &Play) {
    let mut books = Ledger::open(place, rulebook()).unwrap();
    let Place::Database(database) = place else { return };
    let mut admin = connect(database);
    while !play.is_over.load(Ordering::Relaxed) {
        let more = books.count_some().unwrap();
        let counted = admin.query_one("SELECT count(*) FROM run WHERE counted = 1", &[]).unwrap();
        play.note_counted(counted.get(0));
        if !more {
            std::thread::sleep(LOOKS_EVERY);
        }
    }
}

/// Looks how many are connected.
fn watch(database: &Database, play: &Play) {
    let mut admin = connect(database);
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waldur-usage-agent'";
    while !play.is_over.load(Ordering::Relaxed) {
        let now = admin.query_one(connected, &[]).unwrap().get(0);
        play.connected.fetch_max(now, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn connect(database: &Database) -> Client {
    let Database { host, port, role, name, .. } = database;
    Client::connect(&format!("host={host} port={port} user={role} dbname={name}"), NoTls).unwrap()
}

fn size_of(database: &Database) -> i64 {
    let size = "SELECT pg_database_size(current_database())";
    connect(database).query_one(size, &[]).unwrap().get(0)
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
    let outcome = RunOutcome::Seen(Seen {
        readings: (0..SERIES).map(reading).collect(),
        lists_everything: true,
        ..Seen::default()
    });
    Run { collector: "vms".to_owned(), at, finished: at, scope: String::new(), outcome }
}

fn identity(host: i64) -> Identity {
    Identity { agent: format!("hv{host}"), file: format!("file of {host}"), base: 0, until: None }
}

/// Lets all hosts append, spread over so long.
fn append_all(
    database: &Database,
    hosts: i64,
    (packed_run, at): (&PackedRun, Timestamp),
    over: Duration,
    play: &Play,
) {
    let next = Arc::new(AtomicI64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let host = next.fetch_add(1, Ordering::Relaxed);
                    if host >= hosts {
                        break;
                    }
                    let due = over.mul_f64(host as f64 / hosts as f64);
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                    let began = Instant::now();
                    let own = identity(host);
                    let outbox = Outbox::connect(database, &own.agent, || process_clock().now()).unwrap();
                    let last = outbox.last(&own.file).unwrap();
                    assert_eq!(last.map_or(0, |(number, _)| number), packed_run.number() - 1);
                    let file = own.file.clone();
                    let claim = Claim { identities: vec![own], last_look: Some(at), planned: EVERY * 3 };
                    outbox.check_name(&claim).unwrap();
                    outbox.send(&file, packed_run, process_clock().now()).unwrap();
                    drop(outbox);
                    play.took.lock().unwrap().push(began.elapsed());
                    play.appended.lock().unwrap().push(Instant::now());
                }
            });
        }
    });
    std::thread::sleep(over.saturating_sub(started.elapsed()));
}
