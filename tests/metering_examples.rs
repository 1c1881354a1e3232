//! Every worked example of docs/metering.md, read from the page itself: what it says is what is billed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::collections::BTreeMap;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use waldur_usage_agent::config::duration::parse_duration;
use waldur_usage_agent::metering::adjustment::{self, Shares, onward};
use waldur_usage_agent::metering::exact::{Exact, Rounding};
use waldur_usage_agent::metering::measure::{Hold, Interpolation, Measure, OnGap, Point, Quantity, RunFacts};
use waldur_usage_agent::metering::meter::{Aggregate, Meter};
use waldur_usage_agent::metering::period::{BillingZone, Segment, Timeline};
use waldur_usage_agent::metering::reading::{Epoch, Kind};
use waldur_usage_agent::metering::series_state::SeriesState;
use waldur_usage_agent::metering::statement::Amounts;
use waldur_usage_agent::metering::weighing::Weighing;

const PAGE: &str = include_str!("../docs/metering.md");

/// The rows of the table whose header starts with these cells.
fn table(header: &str) -> Vec<Vec<String>> {
    let lines = PAGE.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

struct Example {
    year: i16,
    zone: TimeZone,
    timeline: Timeline,
    measure: Measure,
    meter: Meter,
}

impl Example {
    fn new(place: &str, meter: &str) -> Example {
        let (zone, year) = place.split_once(' ').unwrap();
        let year = year.parse().unwrap();
        let zone_rules = TimeZone::get(zone).unwrap();
        let mut hold = Hold::default();
        let mut factor = Exact::zero();
        let mut at_most = None;
        let mut cuts = Vec::new();
        let mut words = meter.split(' ');
        let aggregate = words.next().unwrap();
        while let Some(word) = words.next() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("x", _) => factor = words.next().unwrap().parse().unwrap(),
                ("cut", _) => cuts.push(instant(words.next().unwrap(), year, &zone_rules)),
                ("linear", _) => hold.interpolation = Interpolation::Linear,
                ("at_most", an_hour) => at_most = Some(an_hour.parse().unwrap()),
                ("max_gap", gap) => hold.max_gap = Some(parse_duration(gap).unwrap()),
                ("on_gap", "hold") => hold.on_gap = OnGap::Hold,
                other => panic!("{other:?}"),
            }
        }
        let (kind, aggregate) = match aggregate {
            "increase" => (Kind::Counter, Some(Aggregate::Increase)),
            "sum" => (Kind::Delta, None),
            "total" => (Kind::Total, None),
            gauge => (Kind::Gauge, Some(gauge.parse().unwrap())),
        };
        let meter = Meter {
            component: "c".to_owned(),
            reading: "r".to_owned(),
            aggregate,
            hold,
            factor,
            written_factor: None,
            at_most,
            weighing: Weighing::default(),
            rounding: Rounding::default(),
            description: None,
            recurring: None,
            missing_usage_policy: None,
        };
        Example {
            year,
            timeline: Timeline::new(BillingZone::named(zone).unwrap(), cuts),
            zone: zone_rules,
            measure: meter.measure(kind).unwrap(),
            meter,
        }
    }

    /// `01-10 10:00 100 id=a`, `01-10 10:00 gone`, `01-10 10:00..01-10 11:00 7`.
    fn point(&self, text: &str) -> Point {
        let text = text.trim();
        let (start, rest) = match text.split_once("..") {
            Some((start, rest)) => (Some(self.at(start)), rest),
            None => (None, text),
        };
        let mut words = rest.split(' ');
        let at = format!("{} {}", words.next().unwrap(), words.next().unwrap());
        let value = words.next().filter(|value| *value != "gone").map(|value| value.parse().unwrap());
        let mut point =
            Point { at: self.at(&at), start, value, epoch: Epoch::default(), run: RunFacts::default() };
        for word in words {
            match word.split_once('=').unwrap() {
                ("id", id) => point.epoch.id = Some(id.to_owned()),
                ("process", at) => {
                    point.epoch.began = Some(self.at(at));
                    point.epoch.shared = true;
                }
                ("began", at) => point.epoch.began = Some(self.at(at)),
                ("run", at) => point.run.previous = Some(self.at(at)),
                ("listed", at) => {
                    point.run.previous = Some(self.at(at));
                    point.run.listed = Some(self.at(at));
                }
                other => panic!("{other:?}"),
            }
        }
        point
    }

    fn at(&self, text: &str) -> Timestamp {
        instant(text, self.year, &self.zone)
    }

    /// `01` for January, `01/2` for its second part.
    fn name(&self, segment: &Segment) -> String {
        let month = segment.period.to_string()[5..].to_owned();
        let start = self.timeline.zone().start(segment.period);
        let part = self.timeline.pieces(start, segment.end).len();
        if part == 1 { month } else { format!("{month}/{part}") }
    }
}

fn instant(text: &str, year: i16, zone: &TimeZone) -> Timestamp {
    let text = if text.as_bytes()[2] == b'-' { format!("{year}-{text}") } else { text.to_owned() };
    let civil: DateTime = text.replace(' ', "T").parse().unwrap();
    zone.to_ambiguous_timestamp(civil).unambiguous().unwrap()
}

fn counted(measure: Measure, quantity: &Quantity) -> String {
    let mut text = match measure {
        Measure::Max(_) => quantity.max.map_or(String::new(), |max| format!("max {max}")),
        Measure::Level => quantity.last.map_or(String::new(), |last| format!("last {last}")),
        _ => quantity.sum.to_string(),
    };
    if quantity.resets > 0 {
        text += &format!(" resets {}", quantity.resets);
    }
    if quantity.dips > 0 {
        text += &format!(" dips {}", quantity.dips);
    }
    if quantity.holds > 0 {
        text += &format!(" held {}", quantity.held);
    }
    if quantity.missed > 0 {
        assert!(quantity.gaps > 0);
        let of = quantity.covered + quantity.missed;
        text += &format!(" cov {}", fraction(quantity.covered, of));
    }
    text
}

/// In lowest terms, as the page writes it.
fn fraction(part: i64, of: i64) -> String {
    let (mut divisor, mut rest) = (of, part);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    if part == 0 { "0".to_owned() } else { format!("{}/{}", part / divisor, of / divisor) }
}

#[test]
fn the_worked_examples_of_the_page_hold() {
    let rows = table("| example | zone, year | meter | readings |");
    assert!(rows.len() >= 45, "only {} rows were found", rows.len());
    for row in rows {
        let [name, place, meter, readings, expected, posted] = row.try_into().unwrap();
        let example = Example::new(&place, &meter);
        let mut trail = SeriesState::default();
        let mut quantities: BTreeMap<Segment, Quantity> = BTreeMap::new();
        for text in readings.split(';') {
            for (segment, part) in trail.advance(example.measure, example.point(text), &example.timeline) {
                quantities.entry(segment).or_default().absorb(part);
            }
        }
        let list = |texts: Vec<String>| texts.join("; ");
        let named = |(segment, quantity)| {
            format!("{}: {}", example.name(segment), counted(example.measure, quantity))
        };
        assert_eq!(list(quantities.iter().map(named).collect()), expected, "counted in: {name}");
        let post = |(segment, quantity): (&Segment, &Quantity)| {
            let amount = quantity.value(example.measure)? * example.meter.factor.clone();
            let rounding = example.meter.rounding;
            let amounts = Amounts { total: amount, users: BTreeMap::new(), additive: true, rounding };
            Some(format!("{}: {}", example.name(segment), amounts.posted().unwrap().total))
        };
        assert_eq!(list(quantities.iter().filter_map(post).collect()), posted, "posted in: {name}");
    }
}

#[test]
fn the_rounding_of_the_page_holds() {
    let rows = table("| example | rounding |");
    assert!(rows.len() >= 14, "only {} rows were found", rows.len());
    for row in rows {
        let [name, rounding, exact, expected] = row.try_into().unwrap();
        let mut users = BTreeMap::new();
        let mut total = Exact::zero();
        for share in exact.split("; ") {
            let (user, share) = share.split_once(' ').unwrap();
            let share: Exact = share.parse().unwrap();
            total += share.clone();
            if user != "-" {
                users.insert(user.to_owned(), share);
            }
        }
        let amounts = Amounts { total, users, additive: true, rounding: rounding.parse().unwrap() };
        let posted = match amounts.posted() {
            Ok(posted) => {
                let users = posted.users.iter().map(|(user, amount)| format!("; {user} {amount}"));
                format!("total {}{}", posted.total, users.collect::<String>())
            }
            Err(refused) => format!("refused: {refused}"),
        };
        assert_eq!(posted, expected, "{name}");
    }
}

/// `total 4; a 3; b 1`, or without the name of the total.
fn shares(text: &str) -> Shares {
    let mut shares = Shares::default();
    for one in text.split("; ").filter(|one| !one.is_empty()) {
        let (user, amount) = one.split_once(' ').unwrap_or(("total", one));
        let user = if user == "total" { "" } else { user };
        shares.add(user, amount.parse().unwrap());
    }
    shares
}

/// By user ('' is the total), in cents.
fn amounts(text: &str) -> BTreeMap<String, Decimal> {
    let one = |text: &str| {
        let (user, amount) = text.split_once(' ').unwrap();
        let user = if user == "total" { "" } else { user };
        (user.to_owned(), amount.parse::<Decimal>().unwrap())
    };
    text.split("; ")
        .filter(|text| !text.is_empty())
        .map(one)
        .filter(|(_, amount)| !amount.is_zero())
        .collect()
}

#[test]
fn the_opening_balances_of_the_page_hold() {
    let rows = table("| example | zone, year | meter | opening balance |");
    assert!(rows.len() >= 16, "only {} rows were found", rows.len());
    for row in rows {
        let [name, place, meter, opening, readings, expected] = row.try_into().unwrap();
        let (opening, of_users) = opening.split_once(" of which ").unwrap_or((&opening, ""));
        let (cut, total) = opening.rsplit_once(' ').unwrap();
        // The instant of the balance is a cut of the timeline: the very one of the other examples.
        let example = Example::new(&place, &format!("{meter} cut {}", cut.replace(' ', "T")));
        let cut = example.at(cut);
        let onward = match onward([example.measure]) {
            Ok(onward) => onward,
            Err(why) => {
                assert_eq!(format!("refused: {why}"), expected, "{name}");
                continue;
            }
        };
        let mut opening = shares(of_users);
        opening.total = total.parse().unwrap();
        let (total, users) = (Exact::zero(), BTreeMap::new());
        let mut amounts =
            Amounts { total, users, additive: example.measure.adds_up(), rounding: Rounding::default() };
        let mut since = false;
        let mut series: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in readings.split("; ") {
            let (text, user) = text.split_once(" user=").unwrap_or((text, ""));
            series.entry(user.to_owned()).or_default().push(text.to_owned());
        }
        for (user, texts) in series {
            let mut trail = SeriesState::default();
            let mut after = Quantity::default();
            for text in texts {
                for (segment, part) in trail.advance(example.measure, example.point(&text), &example.timeline)
                {
                    if segment.start >= cut && segment.period == example.timeline.segment_at(cut).period {
                        since = true;
                        after.absorb(part);
                    }
                }
            }
            let Some(value) = after.value(example.measure) else { continue };
            let amount = value * example.meter.factor.clone();
            amounts.total += amount.clone();
            if !user.is_empty() {
                amounts.users.insert(user, amount);
            }
        }
        amounts.open(onward, &opening, since);
        let posted = amounts.posted().unwrap();
        let users = posted.users.iter().map(|(user, amount)| format!("; {user} {amount}"));
        assert_eq!(format!("{}{}", posted.total, users.collect::<String>()), expected, "{name}");
    }
}

#[test]
fn what_is_carried_forward_on_the_page_holds() {
    let rows = table("| example | left over |");
    assert!(rows.len() >= 10, "only {} rows were found", rows.len());
    for row in rows {
        let [name, rest, there, carried] = row.try_into().unwrap();
        assert_eq!(adjustment::fit(&amounts(&rest), &amounts(&there)), amounts(&carried), "{name}");
    }
}

/// 1 PB of memory over a month of 31 days, in byte-hours and in GiB-hours.
#[test]
fn a_petabyte_over_a_month_is_exact() {
    let timeline = Timeline::new(BillingZone::utc(), Vec::new());
    let measure = Measure::Integral(Hold::default(), None);
    let mut trail = SeriesState::default();
    let mut quantity = Quantity::default();
    let start = timeline.zone().start("2026-01".parse().unwrap());
    for minute in 0..=31 * 24 * 12 {
        let point = Point {
            at: start + SignedDuration::from_mins(5 * minute),
            start: None,
            value: Some("1125899906842624.000000000001".parse().unwrap()),
            epoch: Epoch::default(),
            run: RunFacts::default(),
        };
        for (_, part) in trail.advance(measure, point, &timeline) {
            quantity.absorb(part);
        }
    }
    assert_eq!(quantity.sum.to_string(), "3015610310487284121600.0000026784");
    let hours = quantity.value(measure).unwrap();
    assert_eq!(hours.to_string(), "837669530690912256.000000000744");
    let gib = hours * "1/1073741824".parse().unwrap();
    assert_eq!(gib.approximate(9), "780140544");
}

/// The microseconds of 10,000 cores over a year of 366 days, read once at each end.
#[test]
fn a_year_of_ten_thousand_cores_in_microseconds_is_exact() {
    let timeline = Timeline::new(BillingZone::utc(), Vec::new());
    let at = |text: &str| timeline.zone().start(text.parse().unwrap());
    let point = |at, value: &str| Point {
        at,
        start: None,
        value: Some(value.parse().unwrap()),
        epoch: Epoch::default(),
        run: RunFacts::default(),
    };
    let mut trail = SeriesState::default();
    trail.advance(Measure::Increase(None), point(at("2028-01"), "0"), &timeline);
    // 366 x 86,400 x 1e6 x 10,000
    let parts = trail.advance(Measure::Increase(None), point(at("2029-01"), "316224000000000000"), &timeline);
    assert_eq!(parts.len(), 12);
    let (february, of_february) = &parts[1];
    assert_eq!(february.period.to_string(), "2028-02");
    // A month's share is cut down to 1e-12 of a microsecond; 29 days of 366 come out even.
    assert_eq!(of_february.sum.to_string(), "25056000000000000");
    let whole: Exact = parts.iter().map(|(_, part)| part.sum.clone()).sum();
    assert_eq!(whole.to_string(), "316224000000000000");
}
