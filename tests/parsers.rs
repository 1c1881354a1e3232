//! Every parser that reads what others wrote, fed with what they might: files of tests/corpus/ as they are, and those
//! and good inputs with pieces cut out, doubled, exchanged and put in. Nothing may panic, and what is told is short.
//!
//! - configuration: every file in config/ and tests/corpus/config/, through all plugins that they name;
//! - answers of the server: tests/corpus/answers/, in answer to every call of the client, with odd statuses and headers;
//! - lines of a collector's program: tests/corpus/lines/, and of sacct: tests/corpus/sacct/, through the real program;
//! - pages and answers of the servers that collectors ask: tests/corpus/{pages,promql,json}/, with their headers;
//! - durations, schedules, templates, numbers, months; and what another hand wrote into the ledger's texts.
//!
//! Parsers inside the rooms have tests of this kind beside them (`proptest!` in src/): cgroup files, mounts, exec lines,
//! refusals, headers. A collector that reads a program's or a server's text joins at `LINES`. What once failed is kept in
//! tests/corpus/parsers.txt (`PROPTEST_CASES=20000 cargo test --test parsers` looks longer).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;
use waldur_usage_agent::collectors::definition::Definition;
use waldur_usage_agent::collectors::{
    Collector, Plugin, Request, exec, http, openmetrics, prometheus, slurm,
};
use waldur_usage_agent::config::clock::SystemClock;
use waldur_usage_agent::config::duration::parse_duration;
use waldur_usage_agent::config::schedule::Schedule;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::config::settings::Loaded;
use waldur_usage_agent::config::template::Template;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::{Ledger, LedgerError, Rulebook};
use waldur_usage_agent::metering::period::{BillingPeriod, BillingZone};
use waldur_usage_agent::metering::reading::{Kind, Reading, parse_value};
use waldur_usage_agent::waldur::client::Client;
use waldur_usage_agent::waldur::failure::Failure;
use waldur_usage_agent::waldur::report::{ComponentAmount, SetUsage, UserAmount};
use waldur_usage_agent::waldur::usages::UsageFilter;

/// Collectors whose input a file can stand for: the corpus, the plugin, and its keys (`FILE`). One that reads a program's
/// output or a server's text joins here with one line, and a folder of good examples in tests/corpus/.
const LINES: [(&str, &Plugin, &str); 2] = [
    ("lines", &exec::PLUGIN, "command: [cat, FILE]"),
    (
        "sacct",
        &slurm::PLUGIN,
        "programs: FOLDER\nmeters: { c: { reading: cpu_seconds }, g: { reading: gpu_seconds } }",
    ),
];

/// The same of a server's answers: their first line is the content type, and a line of `Link` or whatever else may follow it.
const ANSWERS: [(&str, &Plugin, &str); 3] = [
    (
        "pages",
        &openmetrics::PLUGIN,
        "url: URL\nmetrics: [a, b_total, c.d]\nepoch: process_start_time_seconds",
    ),
    (
        "promql",
        &prometheus::PLUGIN,
        "url: URL\nhistory: 1h\nqueries: { a: { query: a, kind: gauge }, b: { query: b, kind: counter } }",
    ),
    (
        "json",
        &http::PLUGIN,
        "url: URL\nrequests: { r: { paging: { link: true }, each: { row: answer.rows, part: row.parts }, labels: { p: row.p }, \
         at: row.at, readings: { n: { kind: gauge, value: part.n } } } }",
    ),
];

/// What tends to hurt.
const NASTY: [&str; 40] = [
    "",
    "\0",
    "\n",
    "\r\n",
    "\t",
    "\"",
    "'",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-0",
    "1e999",
    "-1e-999",
    "99999999999999999999999999999999",
    "0.00000000000000000000000000001",
    "NaN",
    "inf",
    "\u{feff}",
    "\u{202e}",
    "é",
    "\u{1f980}",
    "\u{10ffff}",
    "{user}",
    "{",
    "{}}",
    "* * * * *",
    "61 25 32 13 8",
    "every 0s",
    "9999999999999d",
    "9999-12-31T23:59:59Z",
    "0000-00-00",
    "2026-02-30T25:61:61+99:99",
    "*a",
    "&a [*a, *a]",
];

#[derive(Debug, Clone)]
enum Edit {
    Cut(usize, usize),
    Double(usize, usize),
    Byte(usize, u8),
    Nasty(usize, usize),
    /// A piece of another good input.
    Graft(usize, usize, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let (at, some) = (0..100_000_usize, 0..60_usize);
    let edit = prop_oneof![
        (at.clone(), some.clone()).prop_map(|(at, many)| Edit::Cut(at, many)),
        (at.clone(), some.clone()).prop_map(|(at, many)| Edit::Double(at, many)),
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Edit::Byte(at, byte)),
        (at.clone(), 0..NASTY.len()).prop_map(|(at, which)| Edit::Nasty(at, which)),
        (at.clone(), at, some).prop_map(|(at, from, many)| Edit::Graft(at, from, many)),
    ];
    prop::collection::vec(edit, 0..8)
}

fn edited(good: &[Vec<u8>], which: usize, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = good[which % good.len()].clone();
    for edit in edits {
        let place = |at: &usize| at % (bytes.len() + 1);
        match edit {
            Edit::Cut(at, many) => drop(bytes.drain(place(at)..(place(at) + many).min(bytes.len()))),
            Edit::Double(at, many) => {
                let piece = bytes[place(at)..(place(at) + many).min(bytes.len())].to_vec();
                bytes.splice(place(at)..place(at), piece);
            }
            Edit::Byte(at, byte) => {
                let at = at % bytes.len().max(1);
                bytes.get_mut(at).into_iter().for_each(|one| *one = *byte);
            }
            Edit::Nasty(at, which) => drop(bytes.splice(place(at)..place(at), NASTY[*which].bytes())),
            Edit::Graft(at, from, many) => {
                let other = &good[from % good.len()];
                let from = from % (other.len() + 1);
                let piece = other[from..(from + many).min(other.len())].to_vec();
                bytes.splice(place(at)..place(at), piece);
            }
        }
    }
    bytes
}

fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()).collect()
}

/// Tries each of the inputs as it is, and so many edited ones.
fn try_all(good: &[Vec<u8>], cases: u32, attempt: impl Fn(&[u8])) {
    assert!(!good.is_empty());
    good.iter().for_each(|bytes| attempt(bytes));
    let corpus = FileFailurePersistence::Direct("tests/corpus/parsers.txt");
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(cases);
    let config = Config { cases, failure_persistence: Some(Box::new(corpus)), ..Config::default() };
    let result = TestRunner::new(config).run(&(any::<usize>(), edits()), |(which, edits)| {
        let bytes = edited(good, which, &edits);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(&bytes)))
            .map_err(|_| TestCaseError::fail(format!("{:?}", String::from_utf8_lossy(&bytes))))
    });
    if let Err(why) = result {
        panic!("{why}");
    }
}

#[test]
fn configuration() {
    let good = [files("config"), files("tests/corpus/config")].concat();
    try_all(&good, 1_500, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let loaded = Loaded::parse("a file", text);
        for section in loaded.collectors {
            let _ = Definition::from_section(section, &TimeZone::UTC);
        }
        for problem in loaded.problems.list() {
            let told = problem.to_string();
            assert!(!told.is_empty() && told.len() < 20_000, "{told}");
        }
    });
}

#[test]
fn short_texts() {
    let good: Vec<Vec<u8>> = [
        "30s",
        "1h30m",
        "90d",
        "every 30s",
        "@hourly",
        "*/5 * * * *",
        "0 0 1 1 0",
        "{account}-{user}",
        "{a}",
        "x{{y}}",
        "2026-11",
        "0.25",
        "-12.5",
        "1/3600",
        "123456789012345678901234567.8",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    let now: Timestamp = "2026-10-25T00:59:59Z".parse().unwrap();
    let zone = TimeZone::get("Europe/Tallinn").unwrap();
    try_all(&good, 5_000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = parse_duration(&text);
        let _ = parse_value(&text);
        let _ = text.parse::<BillingPeriod>();
        if let Ok(template) = text.parse::<Template>() {
            let labels = template.labels().map(|label| (label.to_owned(), "x".to_owned())).collect();
            template.render(&labels).unwrap();
        }
        if let Ok(schedule) = Schedule::parse(&text, zone.clone()) {
            assert!(schedule.next_after(now).is_none_or(|next| next > now), "{text}");
        }
    });
}

/// A run as the agent judges it: an answer or an error, and in short words either way.
fn judge(runtime: &tokio::runtime::Runtime, collector: &dyn Collector) {
    let now: Timestamp = "2026-11-10T12:00:00Z".parse().unwrap();
    let since = "2026-11-01T00:00:00Z".parse().unwrap();
    let mut request = Request { now, since, checkpoint: None, withhold: Vec::new() };
    // And a second time, with what the first left behind.
    for _ in 0..2 {
        let said = runtime.block_on(collector.collect(request.clone())).and_then(|mut batch| {
            batch.finish(now, &Default::default())?;
            Ok(batch)
        });
        match said {
            Ok(batch) => {
                for bad in batch.quarantined {
                    assert!(bad.what.len() < 2_000 && bad.reason.len() < 2_000, "{bad:?}");
                }
                assert!(
                    batch.problems.iter().all(|problem| problem.text.len() < 4_000),
                    "{:?}",
                    batch.problems
                );
                request.checkpoint = batch.checkpoint;
            }
            Err(error) => assert!(error.0.len() < 8_000, "{error}"),
        }
    }
}

#[test]
fn what_collectors_read() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    for name in ["sacct", "sacctmgr"] {
        let program = folder.path().join(name);
        std::fs::write(&program, format!("#!/bin/sh\nexec cat {}\n", file.display())).unwrap();
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (corpus, plugin, keys) in LINES {
        let keys = keys.replace("FILE", file.to_str().unwrap());
        let keys = keys.replace("FOLDER", folder.path().to_str().unwrap());
        let (mut section, problems) = Section::parse(&keys);
        let collector = (plugin.build)(&mut section).unwrap();
        assert_eq!(problems.list(), []);
        try_all(&files(&format!("tests/corpus/{corpus}")), 300, |bytes| {
            std::fs::write(&file, bytes).unwrap();
            judge(&runtime, &*collector);
        });
    }
}

#[test]
fn what_collectors_are_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = Arc::new(Mutex::new(Vec::new()));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(answer_always(listener, answer.clone()));
    for (corpus, plugin, keys) in ANSWERS {
        let (mut section, problems) = Section::parse(&keys.replace("URL", &url));
        let collector = (plugin.build)(&mut section).unwrap();
        assert_eq!(problems.list(), []);
        try_all(&files(&format!("tests/corpus/{corpus}")), 300, |bytes| {
            let head = bytes.windows(2).position(|two| two == b"\n\n").unwrap_or(bytes.len());
            let (head, body) = bytes.split_at(head);
            let head = String::from_utf8_lossy(head).replace('\n', "\r\n");
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {head}\r\n\r\n");
            *answer.lock().unwrap() = [head.as_bytes(), body.get(2..).unwrap_or_default()].concat();
            judge(&runtime, &*collector);
        });
    }
}

/// Answers every request with what it holds, and closes.
async fn answer_always(listener: tokio::net::TcpListener, answer: Arc<Mutex<Vec<u8>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 8192];
            let _ = stream.read(&mut buffer).await;
            let bytes = answer.lock().unwrap().clone();
            let _ = stream.write_all(&bytes).await;
        });
    }
}

async fn every_call(client: &Client) -> Vec<Result<(), Failure>> {
    let id = Uuid::from_u128(7);
    let day = "2026-11-01".parse().unwrap();
    let amount = "1.00".parse().unwrap();
    let usages = ["cpu_hours", "ram_gb_hours"].map(|component| ComponentAmount {
        component: component.to_owned(),
        amount,
        description: None,
        recurring: None,
        missing_usage_policy: None,
    });
    let report = SetUsage { resource: id, plan_period: None, date: None, usages: usages.to_vec() };
    let share = UserAmount { username: "alice".to_owned(), amount, user_url: None, date: None };
    let filter = UsageFilter::of_month(day);
    vec![
        client.me().await.map(drop),
        client.resources(id).await.map(drop),
        client.resource(id).await.map(drop),
        client.plan_periods(id).await.map(drop),
        client.offerings().await.map(drop),
        client.offering(id).await.map(drop),
        client.public_offering(id).await.map(drop),
        client.offering_users(id).await.map(drop),
        client.list_usages(&filter).await.map(drop),
        client.list_raw_usages(&filter).await.map(drop),
        client.get_usage(id).await.map(drop),
        client.get_raw_usage(id).await.map(drop),
        client.list_user_usages(id, "cpu_hours", day).await.map(drop),
        client.set_usage(&report).await,
        client.set_user_usage(id, &share).await,
        client.set_user_usages(id, &[share]).await,
    ]
}

#[test]
fn answers_of_the_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = Arc::new(Mutex::new(Vec::new()));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(answer_always(listener, answer.clone()));
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret-t0ken").unwrap();
    let (mut section, _) =
        Section::parse(&format!("url: {url}\ntoken_file: {}\ntimeout: 2s\n", token.display()));
    let settings = WaldurSettings::from_section(&mut section).unwrap();
    let client = Client::new(&settings, Arc::new(SystemClock)).unwrap();
    // The headers are edited, too; a file is a whole answer but for its end of lines.
    let good: Vec<Vec<u8>> = files("tests/corpus/answers")
        .into_iter()
        .map(|bytes| {
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\n\n").unwrap();
            format!("{}\r\nConnection: close\r\n\r\n{body}", head.replace('\n', "\r\n")).into_bytes()
        })
        .collect();
    try_all(&good, 300, |bytes| {
        *answer.lock().unwrap() = bytes.to_vec();
        for outcome in runtime.block_on(every_call(&client)) {
            if let Err(failure) = outcome {
                let told = failure.to_string();
                assert!(
                    told.len() < 4_000 && !told.contains('\n') && !told.contains("s3cret-t0ken"),
                    "{told}"
                );
            }
        }
    });
}

/// Everything that a command or the daemon asks of a ledger. Errors are answers, too.
fn use_ledger(path: &Path, rulebook: Rulebook) -> Result<(), LedgerError> {
    let now: Timestamp = "2026-11-10T13:00:00Z".parse().unwrap();
    let mut ledger = Ledger::open(path, rulebook)?;
    let resource: Uuid = agent::A.parse().unwrap();
    let period: BillingPeriod = "2026-11".parse().unwrap();
    let _ = ledger.apply_rules(now);
    for key in ledger.pending(now).unwrap_or_default() {
        let _ = (ledger.statement(key), ledger.decided(key, "cpu_hours"), ledger.usage_row(key, "cpu_hours"));
    }
    let _ = (ledger.statements(None), ledger.blocks(), ledger.retry(None), ledger.next_retry());
    let _ = (ledger.collector_report("source"), ledger.unassigned(), ledger.quarantined("source", 10));
    let _ = (ledger.explain(resource, "cpu_hours", period, None), ledger.calls(resource, period));
    let _ = (ledger.resource(resource), ledger.plan_periods(resource), ledger.plan_look(resource));
    let _ =
        (ledger.find_resources("project-a"), ledger.unknown_resources(), ledger.offerings_with_unmatched());
    let _ = (ledger.components(resource), ledger.server_fact("skew_us"), ledger.checkpoint("source"));
    let reading = Reading::new("cpu_seconds", Kind::Counter, 100_000.into(), now).label("user", "alice");
    let outcome =
        RunOutcome::Seen(Seen { readings: vec![reading], lists_everything: true, ..Seen::default() });
    let run = Run { collector: "source".to_owned(), at: now, finished: now, scope: String::new(), outcome };
    let _ = ledger.record(run);
    let _ = ledger.quarantine_future("2026-11-10T09:00:00Z".parse().unwrap());
    let _ = (ledger.moved(resource, period), ledger.openings(resource, period), ledger.stranded_amounts());
    let _ =
        (ledger.adjustments(resource, period), ledger.periods(&[], period, true), ledger.unclosed(period));
    let _ = ledger.carry_forward("2026-12-01T00:10:00Z".parse().unwrap(), (true, true), now);
    let _ = ledger.recount_all(None, now);
    Ok(())
}

#[test]
fn texts_of_the_ledger() {
    let world = agent::World::new(agent::CURRENT);
    world.configure(&agent::cpu_hours_by_user());
    world.readings(&agent::alice_and_bob());
    world.flush().exits(0);
    world.readings(&agent::counter(&["100", "160", "20", "30", "5000"], &[("user", "alice")]));
    world.post("resources/5e2f0000-0000-4000-8000-000000000001", serde_json::json!({ "state": "Creating" }));
    world.flush();
    world.fault(serde_json::json!({ "action": "drop" }));
    world.flush_once();
    let loaded = Loaded::parse("a file", &std::fs::read_to_string(world.path("agent.yaml")).unwrap());
    let definitions =
        loaded.collectors.into_iter().filter_map(|one| Definition::from_section(one, &TimeZone::UTC));
    let rules = definitions.map(|definition| definition.rules).collect();
    let rulebook = Rulebook { zone: BillingZone::utc(), rules };
    let original = world.path("ledger.db");
    let columns: Vec<(String, String)> = {
        let ledger = rusqlite::Connection::open(&original).unwrap();
        ledger.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let mut query = ledger
            .prepare(
                "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
                 WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'",
            )
            .unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert!(columns.len() > 100, "{}", columns.len());
    let bytes = std::fs::read(&original).unwrap();
    // In memory where there is such a place: there are a thousand copies.
    let memory = Path::new("/dev/shm");
    let (columns, attempt) = (&columns, |(table, column): &(String, String), bad: &str| {
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let copy = folder.path().join("ledger.db");
        std::fs::write(&copy, &bytes).unwrap();
        let ledger = rusqlite::Connection::open(&copy).unwrap();
        // What the schema itself refuses cannot be there.
        let _ = ledger.execute(&format!("UPDATE OR IGNORE \"{table}\" SET \"{column}\" = ?1"), [bad]);
        drop(ledger);
        let _ = use_ledger(&copy, rulebook.clone());
    });
    let attempt = &attempt;
    std::thread::scope(|scope| {
        for bad in ["", "x", "1/0", "-1", "99999999999999999999", "1e999999999", "0/0", "{"] {
            scope.spawn(move || columns.iter().for_each(|column| attempt(column, bad)));
        }
    });
}
