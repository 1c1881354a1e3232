//! The ledger from inside: what a run changes, and that the cheap way to a number gives what a recount gives.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::books::ingest::{Run, RunOutcome, Seen};
use super::sent::amount::{Amount, StatementKey};
use super::sent::record::{Intent, Outcome};
use super::{Ledger, Rulebook};
use crate::metering::exact::Exact;
use crate::metering::period::BillingZone;
use crate::metering::reading::{Kind, Reading, Span};

#[path = "../../tests/agent/engine.rs"]
mod engine;
#[path = "../../tests/agent/rules.rs"]
mod rules;

mod adjustments;
mod lives;
mod rules_change;
mod runs;
mod together;
mod turns;

const RESOURCE: &str = "5e2f0000-0000-4000-8000-000000000003";

fn rulebook(text: &str) -> Rulebook {
    rules::rulebook(text, BillingZone::utc())
}

fn cpu() -> Rulebook {
    rulebook(&format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    user: '{{user}}'\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n"
    ))
}

fn open(folder: &tempfile::TempDir, rulebook: Rulebook) -> Ledger {
    let mut ledger = Ledger::open(engine::place(folder.path()), rulebook).unwrap();
    ledger.apply_rules(at("2026-11-01T00:00:00Z")).unwrap();
    ledger
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seen(time: Timestamp, readings: Vec<Reading>) -> Run {
    Run::seen("c", time, readings)
}

fn counter(user: &str, value: i64, time: Timestamp) -> Reading {
    Reading::new("cpu_seconds", Kind::Counter, value.into(), time).label("user", user)
}

/// What is about to be sent without shares.
fn totals(key: StatementKey, amounts: &[Amount]) -> Intent<'_> {
    Intent { key, call: "set_usage", amounts, planned: &[], counted: 0 }
}

/// Notes that the server has accepted these numbers.
fn accept(ledger: &mut Ledger, key: StatementKey, amounts: &[Amount], now: Timestamp) {
    let ids = ledger.intend(totals(key, amounts), now).unwrap();
    ledger.conclude(&ids, Outcome::Accepted, "", now).unwrap();
}

/// A component's total.
fn total(component: &str, amount: &str) -> Amount {
    Amount { component: component.to_owned(), user: String::new(), amount: amount.parse().unwrap() }
}

/// Accepts all that is stated, and closes every month.
fn close_all(ledger: &mut Ledger, now: Timestamp) {
    close_before(ledger, "2100-01", now);
}

/// The same; closes those before this one.
fn close_before(ledger: &mut Ledger, end: &str, now: Timestamp) {
    let end = end.parse().unwrap();
    ledger.state(now).unwrap();
    for statement in ledger.statements(None).unwrap() {
        let totals = statement.components.iter().map(|(c, entry)| (c.clone(), String::new(), entry.posted));
        let users = statement.users.iter().map(|((c, u), entry)| (c.clone(), u.clone(), entry.posted));
        let all: Vec<Amount> = totals
            .chain(users)
            .map(|(component, user, posted)| Amount { component, user, amount: posted.unwrap() })
            .collect();
        accept(ledger, statement.key, &all, now);
        if statement.key.period < end {
            ledger.close(statement.key, now).unwrap();
        }
    }
}

fn amounts(ledger: &mut Ledger) -> BTreeMap<String, String> {
    ledger.state(at("2026-11-30T00:00:00Z")).unwrap();
    let mut found = BTreeMap::new();
    for statement in ledger.statements(None).unwrap() {
        let period = statement.key.period;
        for (component, entry) in &statement.components {
            found.insert(format!("{period} {component}"), format!("{} {:?}", entry.exact, entry.posted));
        }
        for ((component, user), entry) in &statement.users {
            found.insert(
                format!("{period} {component} {user}"),
                format!("{} {:?}", entry.exact, entry.posted),
            );
        }
    }
    found
}

#[test]
fn a_counter_through_a_reset_and_two_users_sum_to_the_total() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let start = at("2026-11-10T00:00:00Z");
    for (minute, value) in [100, 160, 20, 50].into_iter().enumerate() {
        let time = start + SignedDuration::from_mins(minute as i64 * 5);
        ledger.record(seen(time, vec![counter("alice", value, time)])).unwrap();
    }
    // 60 + 20 + 30 = 110 seconds.
    let found = amounts(&mut ledger);
    assert_eq!(found["2026-11 cpu_hours"], "11/360 Some(0.03)");
    assert_eq!(found["2026-11 cpu_hours alice"], "11/360 Some(0.03)");
    assert_eq!(found.len(), 2);
}

#[test]
fn the_same_reading_again_changes_nothing_and_another_value_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let rules = rulebook(&format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }} }}\n"
    ));
    let mut ledger = open(&folder, rules);
    let job = |seconds: i64, end: &str| Reading {
        id: Some("job-1".to_owned()),
        span: Span::Interval { start: at("2026-10-31T23:00:00Z"), end: at(end) },
        ..Reading::new("cpu_seconds", Kind::Delta, seconds.into(), at(end))
    };
    let first =
        ledger.record(seen(at("2026-11-01T01:00:00Z"), vec![job(7200, "2026-11-01T01:00:00Z")])).unwrap();
    assert_eq!((first.new, first.corrected), (1, 0));
    assert_eq!(amounts(&mut ledger)["2026-10 cpu_hours"], "1 Some(1.00)");
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "1 Some(1.00)");
    let again =
        ledger.record(seen(at("2026-11-01T02:00:00Z"), vec![job(7200, "2026-11-01T01:00:00Z")])).unwrap();
    assert_eq!((again.new, again.corrected, again.restated), (0, 0, 0));
    // It grew: 3 hours of which one lies in October.
    let grown =
        ledger.record(seen(at("2026-11-01T02:00:00Z"), vec![job(10_800, "2026-11-01T02:00:00Z")])).unwrap();
    assert_eq!((grown.new, grown.corrected), (0, 1));
    assert_eq!(amounts(&mut ledger)["2026-10 cpu_hours"], "1 Some(1.00)");
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "2 Some(2.00)");
}

#[test]
fn readings_that_come_late_give_what_readings_in_order_give() {
    let start = at("2026-10-31T23:30:00Z");
    let values = [100, 160, 20, 50, 400, 10, 11, 300];
    let reading =
        |index: usize| counter("alice", values[index], start + SignedDuration::from_mins(index as i64 * 10));
    let run = |order: &[usize]| {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = open(&folder, cpu());
        for index in order {
            // All runs at one time, so that order is the only difference.
            ledger.record(seen(at("2026-11-02T00:00:00Z"), vec![reading(*index)])).unwrap();
        }
        let found = amounts(&mut ledger);
        ledger.recount_all(None, at("2026-11-03T00:00:00Z")).unwrap();
        assert_eq!(amounts(&mut ledger), found, "a recount agrees");
        found
    };
    let in_order = run(&[0, 1, 2, 3, 4, 5, 6, 7]);
    // October, up to midnight: 60 + 20 + 30 = 110 s; November: 350 + 10 + 1 + 289 = 650 s.
    assert_eq!(in_order["2026-10 cpu_hours"], "11/360 Some(0.03)");
    assert_eq!(in_order["2026-11 cpu_hours"], "13/72 Some(0.18)");
    for order in [[7, 6, 5, 4, 3, 2, 1, 0], [3, 0, 7, 1, 6, 2, 5, 4], [4, 5, 0, 1, 7, 6, 3, 2]] {
        assert_eq!(run(&order), in_order, "{order:?}");
    }
}

#[test]
fn what_is_acknowledged_is_not_pending_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let start = at("2026-11-10T00:00:00Z");
    ledger.record(seen(start, vec![counter("alice", 0, start)])).unwrap();
    let later = start + SignedDuration::from_mins(5);
    ledger.record(seen(later, vec![counter("alice", 3600, later)])).unwrap();
    let pending = ledger.pending(later).unwrap();
    let key = StatementKey {
        resource: Uuid::parse_str(RESOURCE).unwrap(),
        period: "2026-11".parse().unwrap(),
        part: at("2026-11-01T00:00:00Z"),
    };
    assert_eq!(pending, [key]);
    let alice = Amount { user: "alice".to_owned(), ..total("cpu_hours", "1.00") };
    accept(&mut ledger, key, &[total("cpu_hours", "1.00"), alice], later);
    assert_eq!(ledger.pending(later).unwrap(), []);
    let last = later + SignedDuration::from_mins(5);
    ledger.record(seen(last, vec![counter("alice", 7200, last)])).unwrap();
    assert_eq!(ledger.pending(last).unwrap(), [key]);
}

#[test]
fn a_foreign_file_is_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    drop(foreign);
    let before = std::fs::read(&path).unwrap();
    let error = Ledger::open(&path, cpu()).unwrap_err().to_string();
    assert!(
        error.contains("is not a ledger of waldur-usage-agent: it is another program's SQLite database"),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn compacted_months_keep_their_amounts_and_history_read_again_never_counts_twice() {
    let folder = tempfile::tempdir().unwrap();
    let rules = rulebook(&format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    user: '{{user}}'\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n      job_hours: {{ reading: job_seconds, factor: 1/3600 }}\n      ram: {{ reading: ram, aggregate: integral, on_gap: hold }}\n"
    ));
    let mut ledger = open(&folder, rules);
    let history = || {
        let mut readings = Vec::new();
        for hour in 0..1500 {
            let time = at("2026-09-15T00:30:00Z") + SignedDuration::from_hours(hour);
            let mut cpu = counter("alice", hour * 7 % 1000, time);
            cpu.epoch.id = Some(format!("3f0e7a52-1c1d-4a5b-9d0b-6c1d2f7e91b3/{}", hour / 100));
            readings.push(cpu);
            let mut ram = Reading::new("ram", Kind::Gauge, (hour % 13).into(), time);
            ram.epoch.id = Some("3f0e7a52-1c1d-4a5b-9d0b-6c1d2f7e91b3/17".to_owned());
            readings.push(ram);
            readings.push(Reading {
                id: Some(format!("job-{hour}")),
                span: Span::Interval { start: time - SignedDuration::from_hours(30), end: time },
                ..Reading::new("job_seconds", Kind::Delta, (hour * 3).into(), time)
            });
        }
        readings
    };
    ledger.record(seen(at("2026-11-20T00:00:00Z"), history())).unwrap();
    let before = amounts(&mut ledger);
    assert_eq!(before.keys().filter(|key| key.starts_with("2026-09")).count(), 4);
    close_all(&mut ledger, at("2026-11-20T00:00:00Z"));
    // What a server gives back to its disks is its own affair.
    let file = ledger.place().file().map(std::path::Path::to_owned);
    let size = || file.as_ref().map(|file| std::fs::metadata(file).unwrap().len());
    if file.is_some() {
        ledger.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    }
    let (large, keep) = (size(), SignedDuration::from_hours(24 * 10));
    // September ended 20 days before the 20th of October; nothing is due earlier.
    assert_eq!(ledger.compact(at("2026-10-10T00:00:00Z"), keep).unwrap().readings, 0);
    let september = ledger.compact(at("2026-11-20T00:00:00Z"), keep).unwrap();
    // 16 days less half an hour: 384 hours; of three series.
    assert_eq!(september.readings, 384 * 3);
    let october = ledger.compact(at("2026-11-20T00:00:00Z"), keep).unwrap();
    assert_eq!(october.readings, 744 * 3);
    assert_eq!(ledger.compact(at("2026-11-20T00:00:00Z"), keep).unwrap().readings, 0, "November runs");
    assert!(size() <= large.map(|large| large * 4 / 5), "{:?} of {large:?}", size());
    assert_eq!(amounts(&mut ledger), before);
    assert_eq!(ledger.recount_all(None, at("2026-11-20T00:00:00Z")).unwrap(), []);
    assert_eq!(amounts(&mut ledger), before);
    // All of it again: nothing is new, nothing changes.
    let again = ledger.record(seen(at("2026-11-20T01:00:00Z"), history())).unwrap();
    assert_eq!((again.new, again.corrected, again.late, again.restated), (0, 0, 0, 0));
    // A job of a compacted month is corrected, from 0 to 9999 s: it needs no neighbours, so it counts. A counter's reading
    // that was never seen does: it is recorded, and not counted.
    let mut late = history().swap_remove(2);
    late.value = 9999.into();
    let unseen = counter("alice", 5, at("2026-09-20T00:00:01Z"));
    let outcome = ledger.record(seen(at("2026-11-20T02:00:00Z"), vec![late, unseen])).unwrap();
    assert_eq!((outcome.new, outcome.corrected, outcome.late), (0, 1, 1));
    // (That run did not see the other series, so November's gauge is held until then; the months before stand.)
    let past = |mut amounts: BTreeMap<String, String>| {
        amounts.retain(|key, _| !key.starts_with("2026-11"));
        amounts.retain(|key, _| key != "2026-09 job_hours");
        amounts
    };
    let after = amounts(&mut ledger);
    assert_eq!(past(after.clone()), past(before.clone()));
    let hours = |amounts: &BTreeMap<String, String>| {
        amounts["2026-09 job_hours"].split(' ').next().unwrap().parse::<Exact>().unwrap()
    };
    // 9999 s are 2.7775 h.
    assert_eq!(hours(&after) - hours(&before), Exact::ratio(27_775, 10_000).unwrap());
    // November goes on from October's last reading.
    let next = at("2026-11-20T03:00:00Z");
    ledger.record(seen(next, vec![counter("alice", 999_999, next)])).unwrap();
    assert_ne!(amounts(&mut ledger)["2026-11 cpu_hours"], before["2026-11 cpu_hours"]);
    assert_eq!(ledger.recount_all(None, next).unwrap(), []);
}

fn minutes(start: Timestamp, minutes: i64) -> Timestamp {
    start + SignedDuration::from_mins(minutes)
}

fn plain(value: i64, time: Timestamp) -> Reading {
    Reading::new("cpu_seconds", Kind::Counter, value.into(), time).label("host", "a")
}

#[test]
fn a_changed_factor_of_either_meter_of_a_component_is_carried_out() {
    let folder = tempfile::tempdir().unwrap();
    let two = |factor: &str| {
        rulebook(&format!(
            "collectors:\n  c:\n    resource: {RESOURCE}\n    meters:\n      a: {{ component: cpu_hours, reading: cpu_seconds, factor: {factor} }}\n      b: {{ component: cpu_hours, reading: other, factor: 1 }}\n"
        ))
    };
    let mut ledger = open(&folder, two("1"));
    let start = at("2026-11-10T12:00:00Z");
    ledger.record(seen(start, vec![plain(0, start)])).unwrap();
    let time = minutes(start, 5);
    ledger.record(seen(time, vec![plain(10, time)])).unwrap();
    ledger.change_rules(two("2"), time).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "20 Some(20.00)");
}

fn listing(mut run: Run) -> Run {
    if let RunOutcome::Seen(Seen { lists_everything, .. }) = &mut run.outcome {
        *lists_everything = true;
    }
    run
}

#[test]
fn a_corrected_first_reading_gives_what_a_recount_gives() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let start = at("2026-11-01T00:00:00Z");
    ledger.record(listing(seen(minutes(start, -5), vec![]))).unwrap();
    let time = minutes(start, 5);
    ledger.record(listing(seen(time, vec![counter("alice", 7200, time)]))).unwrap();
    let later = minutes(start, 10);
    ledger
        .record(listing(seen(later, vec![counter("alice", 3600, time), counter("alice", 3600, later)])))
        .unwrap();
    let found = amounts(&mut ledger);
    ledger.recount_all(None, later).unwrap();
    assert_eq!(found, amounts(&mut ledger));
}

#[test]
fn a_total_of_two_months_is_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let rules = rulebook(&format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    meters: {{ a: {{ reading: t }} }}\n"
    ));
    let mut ledger = open(&folder, rules);
    let total = |value: i64, start: &str, end: &str| Reading {
        span: Span::Interval { start: at(start), end: at(end) },
        ..Reading::new("t", Kind::Total, value.into(), at(end))
    };
    let readings = vec![
        total(100, "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
        total(9, "2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z"),
        total(110, "2026-10-01T00:00:00Z", "2026-11-01T02:00:00Z"),
    ];
    let recorded = ledger.record(seen(at("2026-11-01T02:00:00Z"), readings)).unwrap();
    assert_eq!(recorded.quarantined.len(), 1);
    let found = amounts(&mut ledger);
    assert_eq!(
        (found["2026-10 a"].as_str(), found["2026-11 a"].as_str()),
        ("100 Some(100.00)", "9 Some(9.00)")
    );
}

/// All that is counted, as the cache has it.
fn counted(ledger: &Ledger) -> Vec<String> {
    let mut query = ledger
        .connection
        .prepare(
            "SELECT series, measure, segment, month, period, sum, max, last, covered, missed, gaps, resets, held, holds,
                    dips
             FROM quantity ORDER BY 1, 2, 3, 4",
        )
        .unwrap();
    let rows = query.query_map([], |row| {
        let cell = |column: usize| row.get_ref(column).map(|cell| format!("{cell:?}"));
        (0..15).map(cell).collect::<crate::ledger::db::sql::Result<Vec<_>>>().map(|cells| cells.join(" "))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Runs in any order of time, of readings of every kind that come late, twice, corrected, under other labels, with and
/// without lives, and runs that do not see a series.
#[test]
fn whatever_comes_in_the_cheap_way_gives_what_a_recount_gives() {
    let rules = || {
        rulebook(&format!(
            "collectors:\n  c:\n    resource: {RESOURCE}\n    user: '{{user}}'\n    meters:\n      \
             a: {{ reading: k, factor: 1/3600 }}\n      b: {{ reading: g, aggregate: integral }}\n      \
             m: {{ reading: g, aggregate: max }}\n      l: {{ reading: g, aggregate: last }}\n      \
             n: {{ reading: g, aggregate: mean, interpolation: linear, max_gap: 2h }}\n      \
             d: {{ reading: d }}\n      t: {{ reading: t }}\n"
        ))
    };
    let start = at("2026-10-31T18:00:00Z");
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ledger = Ledger::in_memory(rules()).unwrap();
        ledger.apply_rules(start).unwrap();
        let mut now = start;
        for step in 0..25 {
            now += SignedDuration::from_mins(random.i64(1..120));
            let mut readings = Vec::new();
            for _ in 0..random.usize(0..6) {
                let time = if random.bool() {
                    now
                } else {
                    start + SignedDuration::from_mins(random.i64(0..30) * 30).min(now.duration_since(start))
                };
                let (name, kind) =
                    [("k", Kind::Counter), ("g", Kind::Gauge), ("d", Kind::Delta), ("t", Kind::Total)]
                        [random.usize(0..4)];
                let mut reading = Reading::new(name, kind, random.i64(0..50).into(), time)
                    .label("user", ["alice", "bob"][random.usize(0..2)]);
                if random.u8(0..4) == 0 {
                    reading.id = Some(random.u8(0..5).to_string());
                }
                if kind == Kind::Delta || kind == Kind::Total && random.bool() {
                    let back = time - SignedDuration::from_mins(random.i64(0..300));
                    reading.span = Span::Interval { start: back, end: time };
                }
                if kind == Kind::Counter && random.u8(0..3) == 0 {
                    reading.epoch.id = random.bool().then(|| random.u8(0..3).to_string());
                    reading.epoch.began =
                        random.bool().then(|| time - SignedDuration::from_mins(random.i64(-10..400)));
                }
                readings.push(reading);
            }
            let mut run = seen(now, readings);
            if let RunOutcome::Seen(Seen { lists_everything, problems, ended, .. }) = &mut run.outcome {
                *lists_everything = random.bool();
                if random.u8(0..3) == 0 {
                    let user = ["alice", "bob"][random.usize(0..2)];
                    let time = start + SignedDuration::from_mins(random.i64(0..30) * 30);
                    let series = ([("user".to_owned(), user.to_owned())].into(), time.min(now));
                    ended.insert(["k", "g"][random.usize(0..2)].to_owned(), vec![series]);
                }
                if random.u8(0..4) == 0 {
                    problems.push(crate::collectors::Problem::of_all("x".to_owned()));
                }
            }
            ledger.record(run).unwrap();
            let kept = counted(&ledger);
            ledger.recount_all(None, now).unwrap();
            let recounted = counted(&ledger);
            let differs: Vec<_> = kept.iter().filter(|row| !recounted.contains(row)).collect();
            assert!(kept == recounted, "seed {seed}, step {step}: {differs:?}");
        }
    }
}

const SEEDS: u64 = 100;

#[test]
fn what_is_no_longer_pending_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let now = at("2026-11-10T12:00:00Z");
    let retry = super::sent::server::Retry {
        cause: "server_error".to_owned(),
        asked: None,
        failures: 1,
        next: now,
        words: "x".to_owned(),
        unread: false,
    };
    ledger.set_retry(Some(Uuid::from_u128(1)), Some(retry)).unwrap();
    assert_eq!(ledger.next_retry().unwrap(), None);
}

fn drafts(text: &str) -> Rulebook {
    rulebook(text)
}

#[test]
fn a_ledger_whose_making_was_cut_off_is_made_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    // What is on the disk between the first two steps of making one.
    let begun = rusqlite::Connection::open(&path).unwrap();
    begun.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    drop(begun);
    assert_eq!(&std::fs::read(&path).unwrap()[..15], b"SQLite format 3");
    let mut ledger = open(&folder, cpu());
    assert_eq!(ledger.pending(at("2026-11-10T00:00:00Z")).unwrap(), []);
}

#[test]
fn what_comes_late_for_a_compacted_month_opens_none_of_those_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let rules = rulebook(&format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    meters:\n      job_hours: {{ reading: job_seconds, factor: 1/3600 }}\n      ram: {{ reading: ram, aggregate: last }}\n"
    ));
    let mut ledger = open(&folder, rules);
    // An hour each, without an id of its own.
    let hour = |start: &str, hours: i64| {
        let start = at(start);
        let span = Span::Interval { start, end: start + SignedDuration::from_hours(hours) };
        Reading {
            span,
            ..Reading::new("job_seconds", Kind::Delta, (hours * 3600).into(), at(start.to_string().as_str()))
        }
    };
    let level = |value: i64| Reading::new("ram", Kind::Gauge, value.into(), at("2026-09-10T00:00:00Z"));
    let history = || {
        vec![
            hour("2026-09-10T00:00:00Z", 5),
            hour("2026-10-10T00:00:00Z", 7),
            hour("2026-12-02T00:00:00Z", 1),
            level(3),
        ]
    };
    ledger.record(seen(at("2026-12-03T00:00:00Z"), history())).unwrap();
    close_before(&mut ledger, "2026-12", at("2026-12-03T00:00:00Z"));
    let (keep, compacted) = (SignedDuration::from_hours(24 * 30), at("2026-12-05T00:00:00Z"));
    for readings in [2, 1] {
        assert_eq!(ledger.compact(compacted, keep).unwrap().readings, readings);
    }
    let late = [history(), vec![hour("2026-09-11T00:00:00Z", 1)]].concat();
    let outcome = ledger.record(seen(at("2026-12-07T00:00:00Z"), late.clone())).unwrap();
    assert_eq!((outcome.new, outcome.corrected, outcome.late), (1, 0, 0));
    close_before(&mut ledger, "2026-12", at("2026-12-07T00:00:00Z"));
    assert_eq!(ledger.compact(at("2026-12-08T00:00:00Z"), keep).unwrap().readings, 1);
    let outcome = ledger.record(seen(at("2026-12-09T00:00:00Z"), late.clone())).unwrap();
    assert_eq!((outcome.new, outcome.corrected, outcome.late), (0, 0, 0), "nothing counts twice");
    assert_eq!(ledger.recount_all(None, at("2026-12-09T00:00:00Z")).unwrap(), []);
    let hours = |ledger: &mut Ledger, month: &str| amounts(ledger)[&format!("{month} job_hours")].clone();
    assert_eq!(hours(&mut ledger, "2026-09"), "6 Some(6.00)");
    assert_eq!(hours(&mut ledger, "2026-10"), "7 Some(7.00)");
    assert_eq!(ledger.held_readings().unwrap(), []);
    // A level of a month whose readings are gone can't be corrected: it is not counted, and that is told.
    let restated = vec![hour("2026-12-02T00:00:00Z", 1), level(4)];
    assert_eq!(ledger.record(seen(at("2026-12-10T01:00:00Z"), restated)).unwrap().late, 1);
    amounts(&mut ledger);
    let held = ledger.held_readings().unwrap();
    assert_eq!((held.len(), held[0].period.as_str()), (1, "2026-12"));
    assert!(held[0].words.contains("says 4, 3 was known"), "{}", held[0].words);
}
