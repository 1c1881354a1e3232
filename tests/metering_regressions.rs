//! What once billed a wrong amount, each under a name that says how. (More stand as rows in docs/metering.md.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use waldur_usage_agent::metering::measure::{
    Hold, Interpolation, Measure, OnGap, Point, Quantity, RunFacts, Trail,
};
use waldur_usage_agent::metering::period::{BillingZone, Timeline};
use waldur_usage_agent::metering::reading::Epoch;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_768_000_000 + 60 * minute).unwrap()
}

fn point(minute: i64, value: &str) -> Point {
    Point {
        at: at(minute),
        start: None,
        value: Some(value.parse().unwrap()),
        epoch: Epoch::default(),
        run: RunFacts::default(),
    }
}

fn began(minute: i64) -> Epoch {
    Epoch { id: None, began: Some(at(minute)) }
}

fn count(measure: Measure, points: &[Point]) -> Quantity {
    let timeline = Timeline::new(BillingZone::utc(), Vec::new());
    let mut trail = Trail::default();
    let mut counted = Quantity::default();
    for point in points {
        for (_, part) in trail.advance(measure, point.clone(), &timeline) {
            counted.absorb(part);
        }
    }
    counted
}

/// A difference of two decimals may need more digits than a decimal has; it was rounded to those.
#[test]
fn a_rise_from_a_tiny_value_to_a_huge_one_lost_its_last_digits() {
    let counted =
        count(Measure::Increase, &[point(0, "0.000000000001"), point(5, "9999999999999999999999999999")]);
    assert_eq!(counted.sum.to_string(), "9999999999999999999999999998.999999999999");
    let counted =
        count(Measure::Total, &[point(0, "0.000000000001"), point(5, "-9999999999999999999999999999")]);
    assert_eq!(counted.sum.to_string(), "-9999999999999999999999999999");
}

/// A source that computes its start from an uptime tells another one each time; each run billed the whole counter again.
#[test]
fn a_start_time_that_wobbles_billed_everything_again() {
    let points: Vec<Point> = (0..10)
        .map(|run| {
            let started = at(-1000) + SignedDuration::from_millis(run * 7 % 5);
            let epoch = Epoch { id: None, began: Some(started) };
            Point { epoch, ..point(run * 5, &(5000 + run).to_string()) }
        })
        .collect();
    let counted = count(Measure::Increase, &points);
    assert_eq!((counted.sum.to_string().as_str(), counted.resets), ("9", 0));
}

/// A restart keeps a container's id, and its counters start anew; what they had counted before was taken off.
#[test]
fn a_restart_within_one_id_lost_what_had_been_used_before_it() {
    let life = |began| Epoch { id: Some("c1".to_owned()), began: Some(at(began)) };
    let points = [Point { epoch: life(-60), ..point(0, "10") }, Point { epoch: life(1), ..point(5, "25") }];
    assert_eq!(count(Measure::Increase, &points).sum.to_string(), "25");
}

/// The same where the source only just began to tell when its lives begin.
#[test]
fn a_beginning_told_for_the_first_time_counts() {
    let points = [point(0, "10"), Point { epoch: began(1), ..point(5, "25") }];
    assert_eq!(count(Measure::Increase, &points).sum.to_string(), "25");
    let points = [point(0, "10"), Point { epoch: began(-1), ..point(5, "25") }];
    assert_eq!(count(Measure::Increase, &points).sum.to_string(), "15");
}

/// The same life is seen again after a run that missed it, and its source tells only when it began.
#[test]
fn a_life_known_by_its_beginning_alone_survives_a_look_that_missed_it() {
    let gone = Point { value: None, ..point(5, "0") };
    let points = [
        Point { epoch: began(-5), ..point(0, "10") },
        gone.clone(),
        Point { epoch: began(-5), ..point(10, "25") },
    ];
    assert_eq!(count(Measure::Increase, &points).sum.to_string(), "15");
    let points = [point(0, "10"), gone, point(10, "25")];
    assert_eq!(count(Measure::Increase, &points).sum.to_string(), "0");
}

/// The clock of the source was ahead, so that the life seemed to begin after it was read; its usage was lost although
/// the run before had listed everything without it.
#[test]
fn a_beginning_in_the_future_does_not_hide_that_the_series_is_new() {
    let run = RunFacts { previous: Some(at(0)), listed: Some(at(0)), max_gap: None };
    let new = Point { epoch: began(6), run, ..point(5, "40") };
    assert_eq!(count(Measure::Increase, std::slice::from_ref(&new)).sum.to_string(), "40");
    let unlisted = Point { run: RunFacts { listed: None, ..run }, ..new };
    assert_eq!(count(Measure::Increase, &[unlisted]).sum.to_string(), "0");
}

/// A life that seems to begin in the future of its reading is no restart either, as long as nothing else says so.
#[test]
fn a_beginning_in_the_future_is_no_restart() {
    let points = [Point { epoch: began(30), ..point(0, "10") }, Point { epoch: began(31), ..point(5, "25") }];
    let counted = count(Measure::Increase, &points);
    assert_eq!((counted.sum.to_string().as_str(), counted.resets), ("15", 0));
}

/// `on_gap: hold` drew a line through the gap of a linear gauge.
#[test]
fn a_held_gap_keeps_the_level_also_where_levels_are_joined_by_lines() {
    let hold = Hold {
        interpolation: Interpolation::Linear,
        max_gap: Some(SignedDuration::from_mins(10)),
        on_gap: OnGap::Hold,
    };
    let counted = count(Measure::Integral(hold), &[point(0, "60"), point(60, "0")]);
    assert_eq!((counted.sum.to_string().as_str(), counted.missed), ("216000", 0));
}

/// Two meters share a count in the ledger if its name is the same, so everything that decides it is in the name.
#[test]
fn the_name_of_a_measure_says_all_that_decides_it() {
    let gap = |minutes| Some(SignedDuration::from_mins(minutes));
    let mut names = std::collections::BTreeMap::new();
    let timeline = Timeline::new(BillingZone::utc(), Vec::new());
    for interpolation in [Interpolation::Step, Interpolation::Linear] {
        for max_gap in [None, gap(1), gap(3)] {
            for on_gap in [OnGap::LeaveOut, OnGap::Hold] {
                let hold = Hold { interpolation, max_gap, on_gap };
                for measure in [Measure::Integral(hold), Measure::Mean(hold), Measure::Max(hold)] {
                    let run = RunFacts { max_gap: gap(2), ..RunFacts::default() };
                    let points: Vec<Point> = [(0, "1"), (1, "5"), (3, "2"), (6, "7"), (10, "0")]
                        .map(|(minute, value)| Point { run, ..point(minute, value) })
                        .into();
                    let mut trail = Trail::default();
                    let counted: Vec<_> =
                        points.into_iter().flat_map(|p| trail.advance(measure, p, &timeline)).collect();
                    let before = names.insert(measure.name(), counted.clone());
                    assert!(before.is_none_or(|before| before == counted), "{measure:?}");
                }
            }
        }
    }
    for name in
        ["integral step usual", "mean linear 60000000us", "max step hold", "integral linear hold usual"]
    {
        assert!(names.contains_key(name), "{name}");
    }
    for (measure, name) in [
        (Measure::Increase, "increase"),
        (Measure::Sum, "sum"),
        (Measure::Level, "level"),
        (Measure::Total, "total"),
    ] {
        assert_eq!(measure.name(), name);
    }
}

/// Two values of one instant: nothing can have been used in no time that is not in the values themselves.
#[test]
fn two_readings_of_one_instant_are_counted_in_their_order() {
    let counted = count(Measure::Increase, &[point(0, "10"), point(0, "12"), point(5, "15")]);
    assert_eq!(counted.sum.to_string(), "5");
    let hold = Hold::default();
    let counted = count(Measure::Integral(hold), &[point(0, "10"), point(0, "12"), point(1, "15")]);
    assert_eq!((counted.sum.to_string().as_str(), counted.covered), ("720", 60_000_000));
}

#[test]
fn nothing_is_counted_of_what_was_never_seen() {
    let gone = Point { value: None, ..point(0, "0") };
    for measure in [Measure::Increase, Measure::Sum, Measure::Total] {
        assert_eq!(count(measure, &[gone.clone(), gone.clone()]), Quantity::default());
    }
    let counted = count(Measure::Level, &[gone]);
    assert_eq!(counted.value(Measure::Level).map(|level| level.to_string()), Some("0".to_owned()));
    assert_eq!(Quantity::default().value(Measure::Level), None);
    assert_eq!(Quantity::default().value(Measure::Max(Hold::default())), None);
    assert_eq!(Quantity::default().value(Measure::Mean(Hold::default())), None);
    assert!(Quantity { max: Some(Decimal::ONE), ..Quantity::default() }.value(Measure::Level).is_none());
}
