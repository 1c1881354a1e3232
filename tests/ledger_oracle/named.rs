//! What once was wrong, and what random runs meet too rarely, in literal numbers.

use jiff::{SignedDuration, Timestamp};
use waldur_usage_agent::ledger::Ledger;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::sent::statement::Statement;
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Epoch, Kind, Reading, Span};

use super::case::{at, resource};
use super::{close_all, rules};

/// A ledger in memory of one collector, `c`, with these meters.
fn ledger_of(meters: &str) -> Ledger {
    let text = format!("collectors:\n  c:\n    resource: {}\n    meters: {{ {meters} }}\n", resource(0));
    let mut ledger = Ledger::in_memory(rules::rulebook(&text, BillingZone::utc())).unwrap();
    ledger.apply_rules(at(0)).unwrap();
    ledger
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn record(ledger: &mut Ledger, now: &str, reading: Reading) {
    record_run(ledger, now, None, vec![reading]);
}

/// A run that lists everything of a scope, or that claims nothing.
fn record_run(ledger: &mut Ledger, now: &str, scope: Option<&str>, readings: Vec<Reading>) {
    let outcome = RunOutcome::Seen(Seen { readings, lists_everything: scope.is_some(), ..Seen::default() });
    let (collector, scope) = ("c".to_owned(), scope.unwrap_or_default().to_owned());
    ledger.record(Run { collector, at: time(now), finished: time(now), scope, outcome }).unwrap();
}

/// Month, component and exact amount of each total.
fn totals(ledger: &mut Ledger) -> Vec<String> {
    ledger.state(at(0)).unwrap();
    let statements = ledger.statements(None).unwrap();
    let of = |s: &Statement| {
        let period = s.key.period;
        let lines =
            s.components.iter().map(|(component, entry)| format!("{period} {component} {}", entry.exact));
        lines.collect::<Vec<_>>()
    };
    statements.iter().flat_map(of).collect()
}

/// Everything is reported, and all months that ended before `now` are compacted.
fn compact(ledger: &mut Ledger, now: &str) {
    close_all(ledger, time(now));
    while ledger.compact(time(now), SignedDuration::ZERO).unwrap().series > 0 {}
}

/// A step that is held through gaps never asks how long one is: both meters count one and the same, once.
#[test]
fn two_meters_that_hold_through_gaps_of_other_lengths_count_once() {
    let hold = "reading: seats, aggregate: integral, on_gap: hold";
    let mut ledger = ledger_of(&format!("a: {{ {hold} }}, b: {{ {hold}, max_gap: 15m }}"));
    for (at, seats) in [("2026-11-10T10:00:00Z", 6), ("2026-11-10T12:00:00Z", 0)] {
        record(&mut ledger, at, Reading::new("seats", Kind::Gauge, seats.into(), time(at)));
    }
    assert_eq!(totals(&mut ledger), ["2026-11 a 12", "2026-11 b 12"], "6 seats for 2 hours");
}

/// A reading before the one that was the first takes back what that counted since it began, also of the month before.
#[test]
fn a_late_first_reading_takes_back_what_the_next_one_counted_from_its_beginning() {
    let mut ledger = ledger_of("a: { reading: cpu }");
    let cpu = |value: i64, at: &str, began: Option<&str>| Reading {
        epoch: Epoch { id: None, began: began.map(time), ..Epoch::default() },
        ..Reading::new("cpu", Kind::Counter, value.into(), time(at))
    };
    record_run(&mut ledger, "2026-10-31T23:00:00Z", None, Vec::new());
    let (at, began) = ("2026-11-01T01:00:00Z", Some("2026-10-31T23:30:00Z"));
    record(&mut ledger, at, cpu(9, at, began));
    assert_eq!(totals(&mut ledger), ["2026-10 a 3", "2026-11 a 6"], "9 over 90 minutes");
    record(&mut ledger, "2026-11-01T02:00:00Z", cpu(4, "2026-11-01T00:30:00Z", None));
    assert_eq!(totals(&mut ledger), ["2026-11 a 5"], "from 4 to 9");
}

/// So does its correction by a run that does not know that it is new.
#[test]
fn a_corrected_first_reading_takes_back_what_it_counted_since_the_run_before() {
    let mut ledger = ledger_of("a: { reading: cpu }");
    let cpu = |value: i64| Reading::new("cpu", Kind::Counter, value.into(), time("2026-11-01T00:30:00Z"));
    record_run(&mut ledger, "2026-10-31T23:30:00Z", Some("all"), Vec::new());
    record_run(&mut ledger, "2026-11-01T00:30:00Z", Some("all"), vec![cpu(10)]);
    assert_eq!(
        totals(&mut ledger),
        ["2026-10 a 5", "2026-11 a 5"],
        "10 over the hour since it was not there"
    );
    record_run(&mut ledger, "2026-11-01T01:00:00Z", Some("other"), vec![cpu(12)]);
    assert_eq!(totals(&mut ledger), [""; 0], "a baseline");
}

/// A run ends a series only where it has no reading at that instant or later, whatever brought that.
#[test]
fn a_run_does_not_end_what_has_a_reading_of_the_same_instant() {
    let mut ledger = ledger_of("a: { reading: cpu }");
    let cpu = |value: i64, at: &str| Reading::new("cpu", Kind::Counter, value.into(), time(at));
    let ahead = Reading { id: Some("ahead".to_owned()), ..cpu(160, "2026-11-10T10:05:00Z") };
    record_run(&mut ledger, "2026-11-10T10:00:00Z", None, vec![cpu(100, "2026-11-10T10:00:00Z"), ahead]);
    record_run(&mut ledger, "2026-11-10T10:05:00Z", None, Vec::new());
    assert_eq!(totals(&mut ledger), ["2026-11 a 60"]);
    ledger.recount_all(None, time("2026-11-10T10:05:00Z")).unwrap();
    assert_eq!(totals(&mut ledger), ["2026-11 a 60"]);
}

/// What is usual is the median of the last ten distances; here five of five minutes and five of an hour, whose longer
/// middle one is an hour. So an hour is no gap; with one distance less it would be.
#[test]
fn the_last_ten_distances_say_what_is_usual() {
    let mut ledger = ledger_of("a: { reading: seats, aggregate: integral }");
    let mut now = time("2026-11-10T00:00:00Z");
    for (number, minutes) in [0, 5, 5, 60, 5, 5, 5, 5, 5, 60, 60, 60, 60].into_iter().enumerate() {
        now += SignedDuration::from_mins(minutes);
        let name = if number < 11 { "other" } else { "seats" };
        record(&mut ledger, &now.to_string(), Reading::new(name, Kind::Gauge, 6.into(), now));
    }
    assert_eq!(totals(&mut ledger), ["2026-11 a 6"], "6 seats for the last hour");
}

/// The next month starts from the last reading of a compacted one, also where readings have ids.
#[test]
fn a_gauge_whose_readings_have_ids_goes_on_after_its_month_was_compacted() {
    let mut ledger = ledger_of("a: { reading: seats, aggregate: integral }");
    let seats = |at: &str| Reading {
        id: Some(format!("look of {at}")),
        ..Reading::new("seats", Kind::Gauge, 6.into(), time(at))
    };
    record(&mut ledger, "2026-10-31T22:00:00Z", seats("2026-10-31T22:00:00Z"));
    record(&mut ledger, "2026-10-31T23:00:00Z", seats("2026-10-31T23:00:00Z"));
    compact(&mut ledger, "2026-11-01T00:30:00Z");
    record(&mut ledger, "2026-11-01T01:00:00Z", seats("2026-11-01T01:00:00Z"));
    // October: the two hours from 22:00 on; what the reading of November adds to it counts although it is compacted.
    assert_eq!(totals(&mut ledger), ["2026-10 a 12", "2026-11 a 6"]);
}

/// The last word on a month is its amount, also where the first on the next is of the same instant and comes before it.
#[test]
fn two_totals_of_the_instant_between_two_months_are_each_of_their_own() {
    let mut ledger = ledger_of("t: { reading: used }");
    let (middle, end) = ("2026-11-15T00:00:00Z", "2026-12-01T00:00:00Z");
    let total = |value: i64, at: &str| Reading::new("used", Kind::Total, value.into(), time(at));
    let span = Span::Interval { start: time("2026-11-01T00:00:00Z"), end: time(end) };
    let last_word = Reading { id: Some("november".to_owned()), span, ..total(100, end) };
    for reading in [total(60, middle), total(3, end), last_word] {
        record(&mut ledger, end, reading);
    }
    assert_eq!(totals(&mut ledger), ["2026-11 t 100", "2026-12 t 3"]);
    compact(&mut ledger, "2026-12-02T00:00:00Z");
    assert_eq!(ledger.recount_all(None, time("2026-12-02T00:00:00Z")).unwrap(), []);
    assert_eq!(totals(&mut ledger), ["2026-11 t 100", "2026-12 t 3"]);
}

/// What a month's jobs used in the month before, which has no reading of its own, is kept with theirs.
#[test]
fn a_job_that_reaches_back_into_a_month_without_readings_is_still_there_after_compaction() {
    let mut ledger = ledger_of("h: { reading: jobs, factor: 1/3600 }");
    let job = Reading {
        id: Some("7".to_owned()),
        span: Span::Interval { start: time("2026-09-30T23:00:00Z"), end: time("2026-10-01T02:00:00Z") },
        ..Reading::new("jobs", Kind::Delta, 10_800.into(), time("2026-10-01T02:00:00Z"))
    };
    record(&mut ledger, "2026-10-01T02:00:00Z", job);
    compact(&mut ledger, "2026-11-02T00:00:00Z");
    assert_eq!(ledger.recount_all(None, time("2026-11-02T00:00:00Z")).unwrap(), []);
    assert_eq!(totals(&mut ledger), ["2026-09 h 1", "2026-10 h 2"]);
}
