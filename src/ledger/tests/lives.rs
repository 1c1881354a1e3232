//! Where the life of a series begins and ends, when runs are incomplete, overlap or are out of order.

use super::*;

#[test]
fn a_quarantined_line_ends_no_series() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let start = at("2026-11-10T12:00:00Z");
    ledger.record(seen(start, vec![counter("alice", 0, start)])).unwrap();
    let time = minutes(start, 5);
    let mut run = seen(time, Vec::new());
    if let RunOutcome::Seen(Seen { quarantined, .. }) = &mut run.outcome {
        quarantined.push(crate::collectors::Quarantined {
            what: "cpu_seconds 12,5".into(),
            reason: "bad".into(),
            bears_on: crate::collectors::Bearing::All,
        });
    }
    ledger.record(run).unwrap();
    let time = minutes(start, 10);
    ledger.record(seen(time, vec![counter("alice", 3600, time)])).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "1 Some(1.00)");
}

fn with_ends(mut run: Run, ends: &[(&str, Timestamp)]) -> Run {
    if let RunOutcome::Seen(Seen { ended, .. }) = &mut run.outcome {
        let labels = |user: &str| [("user".to_owned(), user.to_owned())].into();
        let ends = ends.iter().map(|(user, time)| (labels(user), *time)).collect();
        ended.insert("level".to_owned(), ends);
    }
    run
}

/// A source with history knows when a level was gone, however long after that the run is.
#[test]
fn a_series_ends_where_its_source_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let rules = format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    meters:\n      \
         ram_gb_hours: {{ reading: level, aggregate: integral }}\n"
    );
    let mut ledger = open(&folder, rulebook(&rules));
    let start = at("2026-11-10T12:00:00Z");
    let level =
        |minute| Reading::new("level", Kind::Gauge, 6.into(), minutes(start, minute)).label("user", "alice");
    let levels = |minutes: &[i64]| minutes.iter().map(|minute| level(*minute)).collect::<Vec<_>>();
    let gone = minutes(start, 20);
    let run = seen(minutes(start, 120), levels(&[0, 10]));
    ledger.record(with_ends(run, &[("alice", gone), ("nobody", gone)])).unwrap();
    // 6 for 20 minutes; a run that does not see it ends it neither earlier nor later.
    assert_eq!(amounts(&mut ledger)["2026-11 ram_gb_hours"], "2 Some(2.00)");
    ledger.record(with_ends(seen(minutes(start, 125), vec![]), &[])).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 ram_gb_hours"], "2 Some(2.00)");
    // It was there all the same: a sample that came late takes the place of the end, and one behind it goes on.
    let run = seen(minutes(start, 130), levels(&[20, 30]));
    let recorded = ledger.record(with_ends(run, &[("alice", gone), ("alice", minutes(start, 40))])).unwrap();
    assert_eq!((recorded.new, recorded.corrected), (2, 0));
    assert_eq!(amounts(&mut ledger)["2026-11 ram_gb_hours"], "4 Some(4.00)");
    assert_eq!(ledger.recount_all(None, minutes(start, 130)).unwrap(), []);
    // What its source does not tell the ends of ends where a complete run does not see it.
    ledger.record(seen(minutes(start, 135), levels(&[135]))).unwrap();
    ledger.record(seen(minutes(start, 140), vec![])).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 ram_gb_hours"], "4.5 Some(4.50)");
}

#[test]
fn a_series_whose_first_line_was_quarantined_did_not_begin_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let start = at("2026-11-10T12:00:00Z");
    let mut run = seen(start, Vec::new());
    if let RunOutcome::Seen(Seen { quarantined, lists_everything, .. }) = &mut run.outcome {
        quarantined.push(crate::collectors::Quarantined {
            what: "cpu_seconds x".into(),
            reason: "bad".into(),
            bears_on: crate::collectors::Bearing::All,
        });
        *lists_everything = true;
    }
    ledger.record(run).unwrap();
    for (minute, value) in [(5, 7_200_000), (10, 7_203_600)] {
        let time = minutes(start, minute);
        ledger.record(seen(time, vec![counter("alice", value, time)])).unwrap();
    }
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "1 Some(1.00)");
}

#[test]
fn a_clock_that_goes_back_makes_no_reset() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let start = at("2026-11-10T12:00:00Z");
    for (minute, value) in
        [(0, 1_000_000), (5, 1_000_100), (-30, 1_000_200), (-25, 1_000_300), (10, 1_000_400)]
    {
        let time = minutes(start, minute);
        ledger.record(seen(time, vec![counter("alice", value, time)])).unwrap();
    }
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "1/9 Some(0.11)");
}

#[test]
fn runs_that_overlap_make_no_reset() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let start = at("2026-11-10T12:00:00Z");
    let second = |s: i64| start + SignedDuration::from_secs(s);
    let run = |began: i64, finished: i64, value: i64| Run {
        finished: second(finished),
        ..seen(second(began), vec![counter("alice", value, second(began))])
    };
    ledger.record(run(-300, -299, 1_000_000)).unwrap();
    // A slow run looks at its 25th second; a quick one beside it at the 11th, and is recorded first.
    ledger.record(run(10, 12, 1_000_011)).unwrap();
    ledger.record(run(0, 30, 1_000_025)).unwrap();
    ledger.record(run(300, 301, 1_000_360)).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "0.1 Some(0.10)");
}

/// A slow run brings what it dated itself, recorded behind a quick one that did not see the series: what comes back then
/// can't have begun before the last reading of what was there before it.
#[test]
fn what_comes_back_did_not_begin_before_what_was_there_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let midnight = at("2026-11-01T00:00:00Z");
    let cpu = |value, minute| counter("alice", value, minutes(midnight, minute));
    let run = |minute, readings| listing(seen(minutes(midnight, minute), readings));
    ledger.record(run(-30, vec![cpu(0, -30)])).unwrap();
    ledger.record(run(-10, vec![cpu(0, -10)])).unwrap();
    ledger.record(run(5, vec![cpu(0, 5)])).unwrap();
    ledger.record(run(10, vec![])).unwrap();
    let slow = Run { finished: minutes(midnight, 20), ..run(-5, vec![cpu(3600, 15)]) };
    ledger.record(slow).unwrap();
    let found = amounts(&mut ledger);
    // A late reading that changes nothing has October counted anew.
    ledger.record(run(30, vec![cpu(0, -20), cpu(3600, 30)])).unwrap();
    let late = amounts(&mut ledger);
    assert_eq!(ledger.recount_all(None, minutes(midnight, 30)).unwrap(), []);
    assert_eq!((late.get("2026-10 cpu_hours"), late["2026-11 cpu_hours"].as_str()), (None, "1 Some(1.00)"));
    assert_eq!(found, late);
}

/// Usage of months that were never read is not stated; what nobody may have reported is told.
#[test]
fn usage_from_before_its_collector_was_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let rules = format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    meters:\n      units: {{ reading: job, aggregate: sum }}\n"
    );
    let mut ledger = open(&folder, rulebook(&rules));
    ledger.reads_from("c", at("2026-11-01T00:00:00Z")).unwrap();
    let job = |id: &str, value: i64, start: &str, end: &str| {
        let end = at(end);
        let mut job = Reading::new("job", Kind::Delta, value.into(), end).label("user", "alice");
        (job.span, job.id) = (Span::Interval { start: at(start), end }, Some(id.to_owned()));
        job
    };
    let told = |ledger: &Ledger, kind: &str| {
        let resource = Uuid::parse_str(RESOURCE).unwrap();
        let events = ledger.events_of(resource, "2026-11".parse().unwrap()).unwrap();
        events.into_iter().filter(|event| event.kind == kind).map(|event| event.words).collect::<Vec<_>>()
    };
    // Over the start of the month, as jobs run.
    let usual = job("a", 2, "2026-10-31T12:00:00Z", "2026-11-01T12:00:00Z");
    ledger.record(seen(at("2026-11-10T12:00:00Z"), vec![usual])).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 units"], "1 Some(1.00)");
    assert_eq!((told(&ledger, "held").len(), told(&ledger, "readings").len()), (0, 0));
    // 730 days, one a day, of which nine and a half lie in November. Seen again it is no news.
    let long = job("b", 730, "2024-11-10T12:00:00Z", "2026-11-10T12:00:00Z");
    for minute in [5, 10] {
        let time = minutes(at("2026-11-10T12:00:00Z"), minute);
        ledger.record(seen(time, vec![long.clone()])).unwrap();
    }
    assert_eq!(amounts(&mut ledger)["2026-11 units"], "10.5 Some(10.50)");
    let held = told(&ledger, "held");
    assert_eq!((held.len(), ledger.held_readings().unwrap().len()), (1, 1));
    let words = "1 reading of the collector c reaches back to 2024-11-10T12:00:00Z: it is read from 2026-11-01T00:00:00Z on";
    assert!(held[0].starts_with(words), "{held:?}");
    // What ended in the month before.
    let ended = job("c", 5, "2026-10-05T12:00:00Z", "2026-10-06T12:00:00Z");
    ledger.record(seen(at("2026-11-10T12:15:00Z"), vec![ended])).unwrap();
    assert_eq!((told(&ledger, "held").len(), told(&ledger, "readings").len()), (1, 1));
}
