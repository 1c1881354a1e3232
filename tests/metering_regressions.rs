//! What once billed a wrong amount, each under a name that says how. (More stand as rows in docs/metering.md.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use waldur_usage_agent::metering::measure::{
    AtMost, Hold, Interpolation, Measure, OnGap, Point, Quantity, RunFacts,
};
use waldur_usage_agent::metering::period::{BillingZone, Timeline};
use waldur_usage_agent::metering::reading::Epoch;
use waldur_usage_agent::metering::series_state::SeriesState;

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

fn at_most(an_hour: &str) -> Option<AtMost> {
    AtMost::new(&an_hour.parse().unwrap())
}

fn began(minute: i64) -> Epoch {
    Epoch { id: None, began: Some(at(minute)), ..Epoch::default() }
}

fn count(measure: Measure, points: &[Point]) -> Quantity {
    let timeline = Timeline::new(BillingZone::utc(), Vec::new());
    let mut trail = SeriesState::default();
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
    let counted = count(
        Measure::Increase(None),
        &[point(0, "0.000000000001"), point(5, "9999999999999999999999999999")],
    );
    assert_eq!(counted.sum.to_string(), "9999999999999999999999999998.999999999999");
    let counted =
        count(Measure::Total(None), &[point(0, "0.000000000001"), point(5, "-9999999999999999999999999999")]);
    assert_eq!(counted.sum.to_string(), "-9999999999999999999999999999");
}

/// A source that computes its start from an uptime tells another one each time; each run billed the whole counter again.
#[test]
fn a_start_time_that_wobbles_billed_everything_again() {
    let points: Vec<Point> = (0..10)
        .map(|run| {
            let started = at(-1000) + SignedDuration::from_millis(run * 7 % 5);
            let epoch = Epoch { id: None, began: Some(started), ..Epoch::default() };
            Point { epoch, ..point(run * 5, &(5000 + run).to_string()) }
        })
        .collect();
    let counted = count(Measure::Increase(None), &points);
    assert_eq!((counted.sum.to_string().as_str(), counted.resets), ("9", 0));
}

/// A restart keeps a container's id, and its counters start anew; what they had counted before was taken off.
#[test]
fn a_restart_within_one_id_lost_what_had_been_used_before_it() {
    let life = |began| Epoch { id: Some("c1".to_owned()), began: Some(at(began)), ..Epoch::default() };
    let points = [Point { epoch: life(-60), ..point(0, "10") }, Point { epoch: life(1), ..point(5, "25") }];
    assert_eq!(count(Measure::Increase(None), &points).sum.to_string(), "25");
}

/// The same where the source only just began to tell when its lives begin.
#[test]
fn a_beginning_told_for_the_first_time_counts() {
    let points = [point(0, "10"), Point { epoch: began(1), ..point(5, "25") }];
    assert_eq!(count(Measure::Increase(None), &points).sum.to_string(), "25");
    let points = [point(0, "10"), Point { epoch: began(-1), ..point(5, "25") }];
    assert_eq!(count(Measure::Increase(None), &points).sum.to_string(), "15");
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
    assert_eq!(count(Measure::Increase(None), &points).sum.to_string(), "15");
    let points = [point(0, "10"), gone, point(10, "25")];
    assert_eq!(count(Measure::Increase(None), &points).sum.to_string(), "0");
}

/// The clock of the source was ahead, so that the life seemed to begin after it was read; its usage was lost although
/// the run before had listed everything without it.
#[test]
fn a_beginning_in_the_future_does_not_hide_that_the_series_is_new() {
    let run = RunFacts { previous: Some(at(0)), listed: Some(at(0)), max_gap: None, anew: None };
    let new = Point { epoch: began(6), run, ..point(5, "40") };
    assert_eq!(count(Measure::Increase(None), std::slice::from_ref(&new)).sum.to_string(), "40");
    let unlisted = Point { run: RunFacts { listed: None, ..run }, ..new };
    assert_eq!(count(Measure::Increase(None), &[unlisted]).sum.to_string(), "0");
}

/// Another machine under the name of the first was billed for all that it had counted since it was started.
#[test]
fn what_may_be_another_machine_is_billed_for_no_level_of_its_own() {
    let elsewhere = RunFacts { anew: Some(at(10)), ..RunFacts::default() };
    let with = |id: &str| Epoch { id: Some(id.to_owned()), ..Epoch::default() };
    let counted = |before: &Epoch, then: &Epoch, value: &str, after: &str| {
        let points = [
            Point { epoch: before.clone(), ..point(0, "1000") },
            Point { epoch: before.clone(), ..point(5, "1300") },
            Point { epoch: then.clone(), run: elsewhere, ..point(10, value) },
            Point { epoch: then.clone(), run: elsewhere, ..point(15, after) },
        ];
        let counted = count(Measure::Increase(None), &points);
        [counted.sum.to_string(), counted.held.to_string()]
    };
    let (untold, a, b) = (Epoch::default(), with("a"), with("b"));
    // 300 before, and 60 after it in each case. The same life goes on.
    assert_eq!(counted(&a, &a, "1700", "1760"), ["760", "0"]);
    // A level of another is held, however small.
    assert_eq!(counted(&a, &b, "1700", "1760"), ["360", "1700"]);
    assert_eq!(counted(&a, &b, "5", "65"), ["360", "5"]);
    assert_eq!(counted(&untold, &untold, "5", "65"), ["360", "5"]);
    // Where nothing is told, it goes on if it rose no faster than 3,000 in five minutes.
    assert_eq!(counted(&untold, &untold, "4300", "4360"), ["3360", "0"]);
    assert_eq!(counted(&untold, &untold, "4301", "4361"), ["360", "3001"]);
    // A life that began since is held as well: the other machine may have been billed for it under its own name.
    let since = Epoch { began: Some(at(7)), ..with("b") };
    assert_eq!(counted(&a, &since, "40", "100"), ["360", "40"]);
}

/// A life that seems to begin in the future of its reading is no restart either, as long as nothing else says so.
#[test]
fn a_beginning_in_the_future_is_no_restart() {
    let points = [Point { epoch: began(30), ..point(0, "10") }, Point { epoch: began(31), ..point(5, "25") }];
    let counted = count(Measure::Increase(None), &points);
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
    let counted = count(Measure::Integral(hold, None), &[point(0, "60"), point(60, "0")]);
    assert_eq!((counted.sum.to_string().as_str(), counted.missed), ("216000", 0));
}

/// Values of a counter five minutes apart, and what they are worth: the sum, what is held, resets, holds, dips. `/` is an
/// hour without a look, `d` a day; `=` a value of the same life, `*` the first of another, `~` one of a source whose start
/// is told for all that it shows, `?` a look that did not see it.
#[test]
fn a_fall_is_a_new_life_or_noise_by_what_the_source_tells_and_by_its_size() {
    for (values, sum, held, flags) in [
        // A replica that lags: 360 and 360 s of two CPUs, with no life told, with one, with that of a process.
        ("1000000000 1000000360 1000000359 1000000720", "720", "0", (0, 0, 1)),
        ("=1000000000 =1000000360 =1000000359 =1000000720", "720", "0", (0, 0, 1)),
        ("~1000000000 ~1000000360 ~1000000359 ~1000000720", "720", "0", (0, 0, 1)),
        ("~80126.30 ~80126.29 ~80130", "3.7", "0", (0, 0, 1)),
        ("80126.30 80126.29 80126.30", "0", "0", (0, 0, 1)),
        ("668000 668005 668000 668010 668010 668005 668015", "15", "0", (0, 0, 2)),
        // One life may fall as deep as it likes; after a day it goes on from where it is.
        ("=1000 =1010 =3 =5 =1020", "20", "0", (0, 0, 1)),
        ("=1000 =1010 =3 =5 d =7 =9", "14", "2", (0, 1, 1)),
        ("1000 990 995 d 1000 1001", "1", "0", (0, 0, 1)),
        ("1000 990 995 d 996 998", "3", "5", (0, 1, 1)),
        // At least half of it stays: noise. Less: it started anew, and counts from zero.
        ("1000 1100 550 560", "100", "0", (0, 0, 1)),
        ("1000 1100 549 560", "660", "0", (1, 0, 0)),
        ("1000 30 60 90", "90", "0", (1, 0, 0)),
        ("1000 1000 1000 / 5 / 10 / 15", "15", "0", (1, 0, 0)),
        ("1000 1000 50 50", "50", "0", (1, 0, 0)),
        ("1000 1000 0 50", "50", "0", (1, 0, 0)),
        ("10 11 12 0 50", "52", "0", (1, 0, 0)),
        // A tenfold of its highest rate is believed, more is not: the new level is held, and what rises after it counts.
        ("1000 1010 100 105", "115", "0", (1, 0, 0)),
        ("1000 1010 101 105", "14", "101", (1, 1, 0)),
        ("179999973900 180000000000 18000000000 18000000360", "26460", "18000000000", (1, 1, 0)),
        // It leaps back: it was the old life all the time.
        ("179999973900 180000000000 18000000000 180000000100", "26200", "180000000000", (1, 2, 0)),
        (
            "179999973900 180000000000 18000000000 179999999900 180000000100",
            "26200",
            "179999999900",
            (1, 2, 1),
        ),
        // So it was where the low level was believed, because its backend was away for a look; what was counted of that is
        // taken off what comes next.
        ("980 990 1000 0 1002 1010", "30", "1000", (1, 1, 0)),
        ("980 990 1000 3 1002 1010", "30", "1000", (1, 2, 0)),
        ("1000 1000 0 1000", "0", "1000", (1, 1, 0)),
        ("1000000 1000100 0 1000200", "200", "1000100", (1, 1, 0)),
        ("1000 1010 1020 0 5 1030", "30", "1020", (1, 1, 0)),
        // A burst after a new start comes to another level than the old life would be at.
        ("10 11 12 0 50", "52", "0", (1, 0, 0)),
        ("10 10 0 50", "50", "0", (1, 0, 0)),
        // A process that started is a new life of all that it shows; one that has not says nothing.
        ("~1000 ~1010 *~101 ~105", "115", "0", (1, 0, 0)),
        ("~1000 ~1010 ~101 ~105", "14", "101", (1, 1, 0)),
        // One whose start moves with each look is believed where it falls.
        ("*1000 *101 *999", "999", "101", (1, 1, 0)),
        ("*1000 *1005 *1010", "10", "2005", (0, 2, 0)),
        ("~*1000 ~*1005 ~*1010", "10", "2005", (0, 2, 0)),
        // It was away for a look: what is told to be the same life goes on, and so does what a source that still runs
        // shows no lower; else it is a first reading.
        ("=1000 =1010 ? =1005 =1020", "20", "0", (0, 0, 1)),
        ("~1000 ~1010 ? ~1015 ~1020", "20", "0", (0, 0, 0)),
        ("~1000 ~1010 ? ~1005 ~1020", "25", "0", (0, 0, 0)),
        ("1000 1010 ? 1015 1020", "15", "0", (0, 0, 0)),
    ] {
        let (mut minute, mut life) = (0, 0);
        let mut points = Vec::new();
        for word in values.split(' ') {
            match word {
                "/" => minute += 55,
                "d" => minute += 24 * 60,
                _ => {
                    let another = word.contains('*');
                    life = if another { minute } else { life };
                    let value = word.trim_start_matches(['*', '=', '~']);
                    let told = value.len() < word.len();
                    let epoch = Epoch {
                        began: told.then(|| at(life)),
                        shared: word.contains('~'),
                        ..Epoch::default()
                    };
                    let seen = (value != "?").then(|| value.parse().unwrap());
                    points.push(Point { value: seen, epoch, ..point(minute, "0") });
                    minute += 5;
                }
            }
        }
        let counted = count(Measure::Increase(None), &points);
        let told = (counted.resets, counted.holds, counted.dips);
        assert_eq!(
            (counted.sum.to_string().as_str(), counted.held.to_string().as_str()),
            (sum, held),
            "{values}"
        );
        assert_eq!(told, flags, "{values}");
    }
}

/// A merged pair of replicas, one of which lags by 10 of 668,000: ten hours at one a minute counted 668,719.
#[test]
fn a_replica_that_lags_counted_the_whole_counter_again() {
    let points: Vec<Point> = (0..=600)
        .map(|minute| {
            let lag = if (120..121).contains(&minute) { 10 } else { 0 };
            point(minute, &(668_000 + minute - lag).to_string())
        })
        .collect();
    assert_eq!(count(Measure::Increase(None), &points).sum.to_string(), "600");
}

/// What one reading adds beyond `at_most` an hour is held as a whole, and the next one counts.
#[test]
fn a_reading_beyond_at_most_is_held_and_later_ones_count() {
    let gauge = Measure::Integral(Hold::default(), at_most("100"));
    let delta = |from: i64, to: i64, value| Point { start: Some(at(from)), ..point(to, value) };
    for (measure, points, sum, held, holds) in [
        // 10 an hour: 50 in 5 hours may be, 51 may not.
        (
            Measure::Increase(at_most("10")),
            vec![point(0, "5"), point(300, "55"), point(600, "105")],
            "100",
            "0",
            0,
        ),
        (
            Measure::Increase(at_most("10")),
            vec![point(0, "5"), point(300, "56"), point(360, "60")],
            "4",
            "51",
            1,
        ),
        // A level that came from nowhere.
        (
            Measure::Increase(at_most("10")),
            vec![point(0, "5"), point(60, "9e9"), point(120, "9000000003")],
            "3",
            "8999999995",
            1,
        ),
        (
            Measure::Sum(at_most("10")),
            vec![delta(0, 60, "10"), delta(0, 60, "10.01"), delta(60, 90, "-6")],
            "10",
            "4.01",
            2,
        ),
        // What has no length may add what an hour may.
        (Measure::Sum(at_most("10")), vec![point(0, "10"), point(0, "11")], "10", "11", 1),
        // 100 for an hour, then 101 for one, then 7: in unit-seconds.
        (
            gauge,
            vec![point(0, "100"), point(60, "101"), point(120, "7"), point(180, "0")],
            "385200",
            "363600",
            1,
        ),
        // A total that leaps and comes back: what is left of the leap stays aside, and the rest goes on.
        (
            Measure::Total(at_most("10")),
            vec![
                delta(0, 0, "0"),
                delta(0, 60, "9"),
                delta(0, 120, "9e9"),
                delta(0, 180, "12"),
                delta(0, 240, "15"),
            ],
            "12",
            "3",
            2,
        ),
    ] {
        let counted = count(measure, &points);
        let seen = (counted.sum.to_string(), counted.held.to_string(), counted.holds);
        assert_eq!(seen, (sum.to_owned(), held.to_owned(), holds), "{measure:?}");
    }
}

/// A trail is kept as text, small, and as people can read it.
#[test]
fn a_trail_as_text_is_small_and_says_all() {
    let timeline = Timeline::new(BillingZone::utc(), Vec::new());
    let mut trail = SeriesState::default();
    assert_eq!(serde_json::to_string(&trail).unwrap(), "{}");
    let texts = [
        (point(0, "1000"), r#"{"last":{"at":1768000000000000,"value":"1000"}}"#),
        (
            Point {
                epoch: Epoch { id: Some("boot".to_owned()), began: Some(at(-1)), shared: true },
                ..point(5, "1010.50")
            },
            r#"{"last":{"at":1768000300000000,"value":"1010.50","epoch":{"id":"boot","began":1767999940000000,"shared":true}},"lives":{"fastest":{"rise":"10.5","micros":300000000}}}"#,
        ),
        (
            point(10, "1009"),
            r#"{"last":{"at":1768000600000000,"value":"1009"},"lives":{"fall":{"level":"1010.50","at":1768000300000000,"since":1768000600000000,"low":"1009"},"fastest":{"rise":"10.5","micros":300000000}}}"#,
        ),
        (
            Point { value: None, ..point(15, "0") },
            r#"{"last":{"at":1768000900000000},"present":{"at":1768000600000000,"value":"1009"},"lives":{"fall":{"level":"1010.50","at":1768000300000000,"since":1768000600000000,"low":"1009"},"fastest":{"rise":"10.5","micros":300000000}}}"#,
        ),
    ];
    for (point, text) in texts {
        trail.advance(Measure::Increase(None), point, &timeline);
        assert_eq!(serde_json::to_string(&trail).unwrap(), text);
        assert_eq!(serde_json::from_str::<SeriesState>(text).unwrap(), trail);
    }
    let run = RunFacts {
        previous: Some(at(0)),
        listed: None,
        max_gap: Some(SignedDuration::from_micros(900_000_001)),
        anew: None,
    };
    let text = serde_json::to_string(&run).unwrap();
    assert_eq!(text, r#"{"previous":1768000000000000,"max_gap":"PT15M0.000001S"}"#);
    assert_eq!(serde_json::from_str::<RunFacts>(&text).unwrap(), run);
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
                for measure in [Measure::Integral(hold, None), Measure::Mean(hold), Measure::Max(hold)] {
                    let run = RunFacts { max_gap: gap(2), ..RunFacts::default() };
                    let points: Vec<Point> = [(0, "1"), (1, "5"), (3, "2"), (6, "7"), (10, "0")]
                        .map(|(minute, value)| Point { run, ..point(minute, value) })
                        .into();
                    let mut trail = SeriesState::default();
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
        (Measure::Increase(None), "increase"),
        (Measure::Sum(None), "sum"),
        (Measure::Level, "level"),
        (Measure::Total(None), "total"),
        (Measure::Increase(at_most("64")), "increase at most 64"),
        (Measure::Sum(at_most("128/2")), "sum at most 64"),
        (Measure::Total(at_most("1/3")), "total at most 1/3"),
        (Measure::Integral(Hold::default(), at_most("2.50")), "integral step usual at most 2.5"),
    ] {
        assert_eq!(measure.name(), name);
    }
}

/// Two values of one instant: nothing can have been used in no time that is not in the values themselves.
#[test]
fn two_readings_of_one_instant_are_counted_in_their_order() {
    let counted = count(Measure::Increase(None), &[point(0, "10"), point(0, "12"), point(5, "15")]);
    assert_eq!(counted.sum.to_string(), "5");
    let hold = Hold::default();
    let counted = count(Measure::Integral(hold, None), &[point(0, "10"), point(0, "12"), point(1, "15")]);
    assert_eq!((counted.sum.to_string().as_str(), counted.covered), ("720", 60_000_000));
}

#[test]
fn nothing_is_counted_of_what_was_never_seen() {
    let gone = Point { value: None, ..point(0, "0") };
    for measure in [Measure::Increase(None), Measure::Sum(None), Measure::Total(None)] {
        assert_eq!(count(measure, &[gone.clone(), gone.clone()]), Quantity::default());
    }
    let counted = count(Measure::Level, &[gone]);
    assert_eq!(counted.value(Measure::Level).map(|level| level.to_string()), Some("0".to_owned()));
    assert_eq!(Quantity::default().value(Measure::Level), None);
    assert_eq!(Quantity::default().value(Measure::Max(Hold::default())), None);
    assert_eq!(Quantity::default().value(Measure::Mean(Hold::default())), None);
    assert!(Quantity { max: Some(Decimal::ONE), ..Quantity::default() }.value(Measure::Level).is_none());
}
