//! A year, hour by hour, in each zone: the twelve months sum to the year to the last digit, and each month is what whole
//! numbers of 1e-12 units say that it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

mod oracle;

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use waldur_usage_agent::metering::exact::Exact;
use waldur_usage_agent::metering::measure::{Hold, Interpolation, Measure, Point, Quantity, RunFacts};
use waldur_usage_agent::metering::period::{BillingZone, Segment, Timeline};
use waldur_usage_agent::metering::reading::Epoch;
use waldur_usage_agent::metering::series_state::SeriesState;

use oracle::calendar::{Calendar, Stretch};

const HOUR: i64 = 3_600_000_000;

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as i64) % limit
    }
}

struct Year {
    name: String,
    timeline: Timeline,
    months: Vec<Stretch>,
}

impl Year {
    fn start(&self) -> i64 {
        self.months[0].start
    }

    fn end(&self) -> i64 {
        self.months[11].end
    }

    /// About each hour, never twice at the same minute; the year's first and last instant among them.
    fn hours(&self, numbers: &mut Numbers) -> Vec<i64> {
        let mut hours = vec![self.start()];
        let mut at = self.start();
        loop {
            at += HOUR - 60_000_000 + numbers.below(120_000_000);
            if at >= self.end() {
                hours.push(self.end());
                return hours;
            }
            hours.push(at);
        }
    }

    fn count(&self, measure: Measure, points: impl Iterator<Item = Point>) -> Vec<Quantity> {
        let mut trail = SeriesState::default();
        let mut counted: BTreeMap<Segment, Quantity> = BTreeMap::new();
        for point in points {
            for (segment, part) in trail.advance(measure, point, &self.timeline) {
                counted.entry(segment).or_default().absorb(part);
            }
        }
        assert_eq!(counted.len(), 12, "{}", self.name);
        for (segment, month) in counted.keys().zip(&self.months) {
            assert_eq!(segment.start.as_microsecond(), month.start, "{}", self.name);
            assert_eq!(segment.end.as_microsecond(), month.end, "{}", self.name);
        }
        counted.into_values().collect()
    }

    fn assert(&self, counted: &[Quantity], months: &[i128], year: i128, places: u32) {
        let unit = Exact::ratio(1, 10_i128.pow(places)).unwrap();
        for (quantity, month) in counted.iter().zip(months) {
            assert_eq!(quantity.sum, Exact::ratio(*month, 1).unwrap() * unit.clone(), "{}", self.name);
        }
        let sum: Exact = counted.iter().map(|quantity| quantity.sum.clone()).sum();
        assert_eq!(sum, Exact::ratio(year, 1).unwrap() * unit, "{}", self.name);
        assert_eq!(months.iter().sum::<i128>(), year, "{}", self.name);
    }

    /// `amount` over `from..to`, month by month: each part cut down, the last takes the rest.
    fn share_out(&self, amount: i128, from: i64, to: i64, months: &mut [i128]) {
        let mut left = amount;
        for (month, sum) in self.months.iter().zip(months) {
            let inside = month.end.min(to) - month.start.max(from);
            if inside <= 0 {
                continue;
            }
            let part = if to <= month.end {
                left
            } else {
                (amount * i128::from(inside)).div_euclid(i128::from(to - from))
            };
            left -= part;
            *sum += part;
        }
        assert_eq!(left, 0);
    }
}

fn years() -> Vec<Year> {
    let zones = [
        "UTC",
        "Europe/Tallinn",
        "America/New_York",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
    ];
    let of = |zone: &str, year: i16| {
        let calendar = Calendar::walk(zone, year..=year + 1);
        let (start, end) = (calendar.start(year, 1), calendar.start(year + 1, 1));
        Year {
            name: format!("{zone} {year}"),
            timeline: Timeline::new(BillingZone::named(zone).unwrap(), Vec::new()),
            months: calendar.stretches(start, end - 1, &[]),
        }
    };
    let mut years: Vec<Year> = zones.iter().flat_map(|zone| [of(zone, 2026), of(zone, 2028)]).collect();
    years.push(of("Pacific/Apia", 2011));
    years
}

fn point(at: i64, value: i128, places: u32) -> Point {
    Point {
        at: Timestamp::from_microsecond(at).unwrap(),
        start: None,
        value: Some(Decimal::from_i128_with_scale(value, places)),
        epoch: Epoch::default(),
        run: RunFacts::default(),
    }
}

#[test]
fn the_years_are_as_long_as_their_calendars_say() {
    for year in years() {
        let days = match year.name.as_str() {
            "Pacific/Apia 2011" => 364,
            name if name.ends_with("2028") => 366,
            _ => 365,
        };
        assert_eq!(year.end() - year.start(), days * 24 * HOUR, "{}", year.name);
    }
}

#[test]
fn a_counter_with_resets_through_each_year() {
    for year in years() {
        let mut numbers = Numbers(1);
        let hours = year.hours(&mut numbers);
        let (mut level, mut whole, mut resets) = (0, 0, 0);
        let mut months = [0; 12];
        let mut points = vec![point(hours[0], level, 12)];
        for pair in hours.windows(2) {
            let used = i128::from(numbers.below(i64::MAX)) * 10_007 + 1;
            let reset = numbers.below(500) == 0 && used < level;
            resets += i64::from(reset);
            level = if reset { used } else { level + used };
            whole += used;
            year.share_out(used, pair[0], pair[1], &mut months);
            points.push(point(pair[1], level, 12));
        }
        let counted = year.count(Measure::Increase(None), points.into_iter());
        year.assert(&counted, &months, whole, 12);
        assert_eq!(counted.iter().map(|q| q.resets).sum::<i64>(), resets);
        assert!(resets > 3);
    }
}

#[test]
fn a_gauge_in_steps_through_each_year() {
    for year in years() {
        let mut numbers = Numbers(2);
        let hours = year.hours(&mut numbers);
        let levels: Vec<i128> =
            hours.iter().map(|_| i128::from(numbers.below(1 << 30)) * 1_000_003).collect();
        let mut months = [0; 12];
        let mut whole = 0;
        for (pair, level) in hours.windows(2).zip(&levels) {
            whole += level * i128::from(pair[1] - pair[0]);
            for (month, sum) in year.months.iter().zip(&mut months) {
                *sum += level * i128::from((month.end.min(pair[1]) - month.start.max(pair[0])).max(0));
            }
        }
        let points = hours.iter().zip(&levels).map(|(at, level)| point(*at, *level, 12));
        let counted = year.count(Measure::Integral(Hold::default(), None), points);
        // Levels in 1e-12, times in 1e-6.
        year.assert(&counted, &months, whole, 18);
        let covered: i64 = counted.iter().map(|q| q.covered).sum();
        assert_eq!((covered, counted[5].missed), (year.end() - year.start(), 0));
    }
}

#[test]
fn a_gauge_in_lines_through_each_year() {
    for year in years() {
        let mut numbers = Numbers(3);
        let hours = year.hours(&mut numbers);
        let levels: Vec<i128> = hours.iter().map(|_| i128::from(numbers.below(1 << 30))).collect();
        let twice = |i: usize| (levels[i] + levels[i + 1]) * i128::from(hours[i + 1] - hours[i]);
        let whole: i128 = (0..hours.len() - 1).map(twice).sum();
        let points = hours.iter().zip(&levels).map(|(at, level)| point(*at, *level, 6));
        let hold = Hold { interpolation: Interpolation::Linear, ..Hold::default() };
        let counted = year.count(Measure::Integral(hold, None), points);
        let sum: Exact = counted.iter().map(|quantity| quantity.sum.clone()).sum();
        assert_eq!(sum, Exact::ratio(whole, 2_000_000_000_000).unwrap(), "{}", year.name);
    }
}

#[test]
fn jobs_of_any_length_through_each_year() {
    for year in years() {
        let mut numbers = Numbers(4);
        let mut months = [0; 12];
        let mut whole = 0;
        let mut points = Vec::new();
        for end in year.hours(&mut numbers).into_iter().skip(1) {
            // Mostly hours, now and then months.
            let longest = if numbers.below(50) == 0 { 2000 } else { 5 };
            let start = (end - numbers.below(longest * 3600) * 1_000_000 - 1).max(year.start());
            let used = i128::from(numbers.below(i64::MAX));
            whole += used;
            year.share_out(used, start, end, &mut months);
            let start = Some(Timestamp::from_microsecond(start).unwrap());
            points.push(Point { start, ..point(end, used, 12) });
        }
        let counted = year.count(Measure::Sum(None), points.into_iter());
        year.assert(&counted, &months, whole, 12);
    }
}
