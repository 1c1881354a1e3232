//! The metering core against the naive oracle, exactly, on random series. A failure prints a shrunk series: keep it in
//! metering_regressions.rs under a name that says what was wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

mod oracle;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use num_rational::BigRational;
use proptest::prelude::*;
use rust_decimal::Decimal;
use waldur_usage_agent::metering::exact::Exact;
use waldur_usage_agent::metering::measure::{
    AtMost, Hold, Interpolation, Measure, OnGap, Point, Quantity, RunFacts,
};
use waldur_usage_agent::metering::period::{BillingZone, Segment, Timeline};
use waldur_usage_agent::metering::reading::Epoch;
use waldur_usage_agent::metering::series_state::SeriesState;

use oracle::calendar::Calendar;
use oracle::{Gauge, Observation, Rule, fraction};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

struct Zone {
    zone: BillingZone,
    calendar: Calendar,
}

static ZONES: LazyLock<Vec<Zone>> = LazyLock::new(|| {
    let names = [
        "UTC",
        "Europe/Tallinn",
        "America/New_York",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        // The clocks went back over midnight of 2009-11-01.
        "America/St_Johns",
        // The clocks jumped over midnight of 2005-04-01.
        "Asia/Damascus",
    ];
    let zone = |name| Zone {
        zone: BillingZone::named(name).expect("a zone"),
        calendar: Calendar::walk(name, 2004..=2029),
    };
    names.into_iter().map(zone).collect()
});

/// Months near which series are made: leap Februaries, clock changes, a missing day, an ordinary turn of the year.
const MONTHS: [(i16, i8); 12] = [
    (2005, 4),
    (2009, 11),
    (2011, 12),
    (2012, 1),
    (2024, 2),
    (2024, 3),
    (2026, 4),
    (2026, 10),
    (2026, 11),
    (2027, 1),
    (2028, 2),
    (2028, 3),
];

/// One step of a series as it is drawn and shrunk: everything simple is 0.
#[derive(Debug, Clone)]
struct Step {
    distance: (u8, u32),
    value: (u8, u32),
    life: (u8, u32),
    run: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let small = (any::<u8>(), any::<u32>());
    (small, small, small, any::<u8>()).prop_map(|(distance, value, life, run)| Step {
        distance,
        value,
        life,
        run,
    })
}

/// Where and how a series is counted.
#[derive(Debug, Clone)]
struct Frame {
    zone: usize,
    month: usize,
    /// Distance of the first reading from the start of the month.
    lead: i32,
    cuts: Vec<u32>,
}

fn frame() -> impl Strategy<Value = Frame> {
    let cuts = prop::collection::vec(any::<u32>(), 0..3);
    (0..ZONES.len(), 0..MONTHS.len(), -200_000..200_000_i32, cuts)
        .prop_map(|(zone, month, lead, cuts)| Frame { zone, month, lead, cuts })
}

fn series() -> impl Strategy<Value = (Frame, Vec<Step>)> {
    (frame(), prop::collection::vec(step(), 1..10))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Counter,
    Gauge,
    Delta,
    Total,
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).expect("in range")
}

fn decimal_of((how, n): (u8, u32), shape: Shape, level: Decimal) -> Decimal {
    let n = i128::from(n);
    let value = match how % 16 {
        // Mostly rising by little, as counters do.
        0..=5 => return (level + Decimal::from_i128_with_scale(n % 100_000, u32::from(how) % 4)).normalize(),
        6 => return level,
        // A little lower, or a lot.
        7 => return (level - level / Decimal::from(2 + n % 50)).round_dp(12).normalize(),
        8 => Decimal::ZERO,
        9..=11 => Decimal::from_i128_with_scale(n, u32::from(how / 16) % 13),
        12 => Decimal::from_i128_with_scale(n * 1_000_000_007, u32::from(how / 16) % 13),
        // The largest that a reading can be: 28 digits, with and without 12 of them after the point.
        13 => Decimal::from_i128_with_scale(9_999_999_999_999_999_999_999_999_999 - n, 12),
        14 => Decimal::from_i128_with_scale(n * 2_000_000_000_000_000_000 + n, 0),
        _ => Decimal::from_i128_with_scale(n % 1000, 0),
    };
    if shape != Shape::Counter && how >= 192 { -value } else { value }
}

/// The points of a series, in the order of time.
fn points(frame: &Frame, steps: &[Step], shape: Shape) -> Vec<Point> {
    let zone = &ZONES[frame.zone];
    let (year, month) = MONTHS[frame.month];
    let mut now = zone.calendar.start(year, month) + i64::from(frame.lead) * SECOND;
    let mut level = Decimal::ZERO;
    let mut previous = None;
    let mut points: Vec<Point> = Vec::new();
    for step in steps {
        let (far, by) = (step.distance.0, i64::from(step.distance.1));
        now = match far % 16 {
            0..=5 => now + 300 * SECOND,
            6 | 7 => now + by % HOUR,
            8 => now,
            9 => now + by % 10,
            10 | 11 => now + by * 1000 % DAY,
            12 => now + by * 1_000_000 % (40 * DAY),
            // Exactly on a boundary, just before it and just after it.
            _ => {
                let months = zone.calendar.stretches(now, now, &[]);
                months[0].end + [0, -1, 1][usize::from(far) % 3]
            }
        };
        now = now.max(points.last().map_or(i64::MIN, |p| p.at.as_microsecond()));
        let present = shape == Shape::Delta || !step.value.0.is_multiple_of(7);
        if present {
            level = decimal_of(step.value, shape, level);
            if level.normalize().scale() > 12 {
                level = Decimal::ZERO;
            }
        }
        let (how, n) = step.life;
        let earlier = |distance: i64| at(now - distance);
        let began = match how % 8 {
            0..=3 => None,
            4 => Some(earlier(i64::from(n % 3) * DAY)),
            5 => Some(earlier(i64::from(n) % HOUR)),
            6 => points.last().and_then(|p| p.epoch.began),
            _ => Some([previous.unwrap_or(at(now)), at(now), at(now + i64::from(n) % HOUR)][n as usize % 3]),
        };
        let id = [None, None, Some("a"), Some("b")][usize::from(how / 8) % 4].map(str::to_owned);
        let start = match shape {
            Shape::Delta => Some(earlier(i64::from(n) * 1_000_000 % (70 * DAY) * i64::from(how % 4))),
            // Within the month, as the ledger sees to.
            Shape::Total if how >= 128 => {
                let months = zone.calendar.stretches(now - 1, now - 1, &[]);
                Some(at(months[0].start.max(now - i64::from(n) % (20 * DAY)).min(now)))
            }
            _ => None,
        };
        let previous_run = if step.run < 200 { previous } else { Some(earlier(i64::from(n) % DAY)) };
        points.push(Point {
            at: at(now),
            start,
            value: present.then_some(level),
            epoch: Epoch { id, began, shared: how % 3 == 0 },
            run: RunFacts {
                previous: previous_run,
                listed: previous_run.filter(|_| step.run % 4 == 0),
                max_gap: (step.run % 8 < 6).then_some(SignedDuration::from_secs(i64::from(step.run) * 20)),
                anew: None,
            },
        });
        previous = Some(at(now));
    }
    points
}

fn rational(value: Decimal) -> BigRational {
    BigRational::new(value.mantissa().into(), num_bigint::BigInt::from(10).pow(value.scale()))
}

fn observation(point: &Point) -> Observation {
    let micros = |t: Timestamp| t.as_microsecond();
    Observation {
        at: micros(point.at),
        start: point.start.map(micros),
        value: point.value.map(rational),
        life: point.epoch.id.clone(),
        began: point.epoch.began.map(micros),
        shared: point.epoch.shared,
        previous_run: point.run.previous.map(micros),
        listed: point.run.listed.map(micros),
        usual_gap: point.run.max_gap.map(|gap| gap.as_micros() as i64),
    }
}

fn rule(measure: Measure) -> Rule {
    let gauge = |hold: Hold| Gauge {
        linear: hold.interpolation == Interpolation::Linear,
        max_gap: hold.max_gap.map(|gap| gap.as_micros() as i64),
        hold: hold.on_gap == OnGap::Hold,
    };
    match measure {
        Measure::Increase(_) => Rule::Increase,
        Measure::Sum(_) => Rule::Sum,
        Measure::Integral(hold, _) | Measure::Mean(hold) => Rule::Integral(gauge(hold)),
        Measure::Max(hold) => Rule::Max(gauge(hold)),
        Measure::Level => Rule::Last,
        Measure::Total(_) => Rule::Total,
    }
}

type Counted = BTreeMap<Segment, Quantity>;

fn fold(
    trail: &mut SeriesState,
    counted: &mut Counted,
    measure: Measure,
    points: &[Point],
    timeline: &Timeline,
) {
    for point in points {
        for (segment, part) in trail.advance(measure, point.clone(), timeline) {
            counted.entry(segment).or_default().absorb(part);
        }
    }
}

fn recount(measure: Measure, points: &[Point], timeline: &Timeline) -> Counted {
    let mut counted = Counted::new();
    fold(&mut SeriesState::default(), &mut counted, measure, points, timeline);
    counted
}

fn same(exact: &Exact, fraction: &BigRational) -> bool {
    *exact == format!("{}/{}", fraction.numer(), fraction.denom()).parse().expect("a fraction")
}

fn cuts_of(frame: &Frame, points: &[Point]) -> Vec<i64> {
    let first = points[0].at.as_microsecond();
    let last = points[points.len() - 1].at.as_microsecond();
    let within = |cut: &u32| match cut % 4 {
        // On a reading, and anywhere between.
        0 => points[*cut as usize / 4 % points.len()].at.as_microsecond(),
        _ => first + i64::from(*cut) * 1_000 % (last - first + DAY),
    };
    frame.cuts.iter().map(within).collect()
}

/// Counts the series both ways and compares every number of every segment.
fn check(frame: &Frame, points: &[Point], measure: Measure, limit: Option<u32>) -> Result<(), TestCaseError> {
    let limit = limit.map(|limit| fraction(i64::from(limit), 7));
    let at_most = limit.as_ref().map(|limit| AtMost::new(&limit.to_string().parse().unwrap()).unwrap());
    let measure = match measure {
        Measure::Increase(_) => Measure::Increase(at_most),
        Measure::Sum(_) => Measure::Sum(at_most),
        Measure::Integral(hold, _) => Measure::Integral(hold, at_most),
        Measure::Total(_) => Measure::Total(at_most),
        other => other,
    };
    let zone = &ZONES[frame.zone];
    let cuts = cuts_of(frame, points);
    let timeline = Timeline::new(zone.zone.clone(), cuts.iter().map(|cut| at(*cut)).collect());
    let mut counted = recount(measure, points, &timeline);
    let uncut = recount(measure, points, &Timeline::new(zone.zone.clone(), Vec::new()));
    let whole = |counted: &Counted| counted.values().map(|q| q.sum.clone()).sum::<Exact>();
    let held = |counted: &Counted| counted.values().map(|q| q.held.clone()).sum::<Exact>();
    prop_assert_eq!(held(&counted), held(&uncut));
    prop_assert_eq!(whole(&counted), whole(&uncut), "the parts sum to the whole, however they are cut");

    let seen: Vec<Observation> = points.iter().map(observation).collect();
    let micros = |p: &Point| {
        let facts = [Some(p.at), p.start, p.run.listed, p.epoch.began.filter(|b| *b < p.at)];
        facts.into_iter().flatten().map(|t| t.as_microsecond()).min().expect("it has a time")
    };
    let from = points.iter().map(micros).min().expect("there are points");
    let to = seen[seen.len() - 1].at + 1;
    let stretches = zone.calendar.stretches(from - 32 * DAY, to, &cuts);
    for tally in oracle::count_at_most(rule(measure), limit.as_ref(), &seen, &stretches) {
        let core = counted.keys().find(|s| s.start.as_microsecond() == tally.stretch.start).copied();
        let core = core.and_then(|segment| Some((segment, counted.remove(&segment)?)));
        let Some((segment, quantity)) = core else {
            prop_assert!(tally.is_empty(), "only the oracle counts {:?}", tally);
            continue;
        };
        prop_assert_eq!(segment.end.as_microsecond(), tally.stretch.end);
        prop_assert_eq!(
            segment.period.first_day(),
            jiff::civil::date(tally.stretch.month.0, tally.stretch.month.1, 1)
        );
        prop_assert!(same(&quantity.sum, &tally.sum), "sum {} is not {}", quantity.sum, tally.sum);
        prop_assert_eq!(quantity.max.map(rational), tally.max);
        prop_assert_eq!(quantity.last.map(rational), tally.last);
        prop_assert!(same(&quantity.held, &tally.held), "held {} is not {}", quantity.held, tally.held);
        let core = (quantity.covered, quantity.missed, quantity.gaps);
        prop_assert_eq!(core, (tally.covered, tally.missed, tally.gaps));
        let core = (quantity.resets, quantity.holds, quantity.dips);
        prop_assert_eq!(core, (tally.resets, tally.holds, tally.dips), "resets, holds and dips");
    }
    prop_assert!(counted.is_empty(), "only the core counts {:?}", counted);
    Ok(())
}

fn hold() -> impl Strategy<Value = Hold> {
    (any::<bool>(), any::<bool>(), prop::option::of(1..100_000_i64)).prop_map(|(linear, hold, gap)| Hold {
        interpolation: if linear { Interpolation::Linear } else { Interpolation::Step },
        max_gap: gap.map(SignedDuration::from_secs),
        on_gap: if hold { OnGap::Hold } else { OnGap::LeaveOut },
    })
}

/// What a meter's `at_most` may be, in sevenths.
fn limit() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(prop_oneof![1..20_u32, 1..100_000_u32, any::<u32>()])
}

/// `METERING_TIMES=20 cargo test --test metering_oracle` looks twenty times as long.
fn config(cases: u32) -> ProptestConfig {
    let times = std::env::var("METERING_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    ProptestConfig { cases: cases * times, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(30_000))]

    #[test]
    fn counters_are_counted_as_the_oracle_counts_them((frame, steps) in series(), limit in limit()) {
        check(&frame, &points(&frame, &steps, Shape::Counter), Measure::Increase(None), limit)?;
    }

    #[test]
    fn gauges_are_integrated_as_the_oracle_does((frame, steps) in series(), hold in hold(), limit in limit()) {
        check(&frame, &points(&frame, &steps, Shape::Gauge), Measure::Integral(hold, None), limit)?;
    }
}

proptest! {
    #![proptest_config(config(16_000))]

    #[test]
    fn deltas_are_shared_out_as_the_oracle_does((frame, steps) in series(), limit in limit()) {
        check(&frame, &points(&frame, &steps, Shape::Delta), Measure::Sum(None), limit)?;
    }

    #[test]
    fn totals_telescope_as_the_oracles_do((frame, steps) in series(), limit in limit()) {
        check(&frame, &points(&frame, &steps, Shape::Total), Measure::Total(None), limit)?;
    }
}

proptest! {
    #![proptest_config(config(8_000))]

    #[test]
    fn the_highest_level_is_the_oracles((frame, steps) in series(), hold in hold()) {
        check(&frame, &points(&frame, &steps, Shape::Gauge), Measure::Max(hold), None)?;
    }

    #[test]
    fn the_last_level_is_the_oracles((frame, steps) in series()) {
        check(&frame, &points(&frame, &steps, Shape::Gauge), Measure::Level, None)?;
    }

    /// A restart keeps of a series only its trail, as text.
    #[test]
    fn appending_in_batches_through_restarts_equals_a_recount(
        (frame, steps) in series(),
        hold in hold(),
        which in 0..6_usize,
        stops in any::<u16>(),
    ) {
        let (shape, measure) = [
            (Shape::Counter, Measure::Increase(None)),
            (Shape::Delta, Measure::Sum(None)),
            (Shape::Total, Measure::Total(None)),
            (Shape::Gauge, Measure::Mean(hold)),
            (Shape::Gauge, Measure::Max(hold)),
            (Shape::Gauge, Measure::Level),
        ][which];
        let points = points(&frame, &steps, shape);
        let timeline = Timeline::new(ZONES[frame.zone].zone.clone(), Vec::new());
        let mut trail = SeriesState::default();
        let mut counted = Counted::new();
        for (index, point) in points.iter().enumerate() {
            if stops >> index & 1 == 1 {
                let text = serde_json::to_string(&trail).expect("text");
                prop_assert_eq!(&trail, &serde_json::from_str(&text).expect("a trail"), "{}", text);
                trail = serde_json::from_str(&text).expect("a trail");
            }
            fold(&mut trail, &mut counted, measure, std::slice::from_ref(point), &timeline);
        }
        prop_assert_eq!(counted, recount(measure, &points, &timeline));
    }

    /// Seen again, a point adds nothing (but a delta, whose identity the ledger keeps).
    #[test]
    fn a_point_seen_twice_in_a_row_adds_nothing((frame, steps) in series(), hold in hold(), which in 0..4_usize) {
        let (shape, measure) = [
            (Shape::Counter, Measure::Increase(None)),
            (Shape::Gauge, Measure::Integral(hold, None)),
            (Shape::Gauge, Measure::Max(hold)),
            (Shape::Gauge, Measure::Level),
        ][which];
        let once = points(&frame, &steps, shape);
        let twice: Vec<Point> = once.iter().flat_map(|p| [p.clone(), p.clone()]).collect();
        let timeline = Timeline::new(ZONES[frame.zone].zone.clone(), Vec::new());
        prop_assert_eq!(recount(measure, &twice, &timeline), recount(measure, &once, &timeline));
    }
}

proptest! {
    #![proptest_config(config(4_000))]

    /// One trail is kept of a series, whatever is measured of it.
    #[test]
    fn a_trail_is_the_same_whichever_measure_reads_it((frame, steps) in series(), hold in hold(), limit in limit()) {
        let timeline = Timeline::new(ZONES[frame.zone].zone.clone(), Vec::new());
        let at_most = limit.and_then(|limit| AtMost::new(&Exact::from(i64::from(limit))));
        let of_shapes = [
            (Shape::Counter, vec![Measure::Increase(None), Measure::Increase(at_most)]),
            (Shape::Total, vec![Measure::Total(None), Measure::Total(at_most)]),
            (
                Shape::Gauge,
                vec![Measure::Level, Measure::Max(hold), Measure::Mean(hold), Measure::Integral(hold, at_most)],
            ),
        ];
        for (shape, measures) in of_shapes {
            let mut trails = vec![SeriesState::default(); measures.len()];
            for point in points(&frame, &steps, shape) {
                for (trail, measure) in trails.iter_mut().zip(&measures) {
                    trail.advance(*measure, point.clone(), &timeline);
                }
                prop_assert!(trails.iter().all(|trail| *trail == trails[0]));
            }
        }
    }
}

#[test]
fn the_oracle_shares_no_code_with_the_core() {
    for file in [include_str!("oracle/mod.rs"), include_str!("oracle/calendar.rs")] {
        assert!(!file.contains("waldur_usage_agent") && !file.contains("path ="));
    }
}
