//! Billing periods and how time is cut into them.
//!
//! A billing period is a calendar month of the billing time zone. Within it, a `Timeline` may be cut further: at a
//! switch of plan (law 11) or at an opening balance (law 8). The pieces are `Segment`s, and every amount is first
//! counted by segment. Nothing here asks what time it is.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

const FIRST_YEAR: i16 = 1970;
const LAST_YEAR: i16 = 9998;

/// A calendar month, written `2026-11`. Which instants it holds depends on the billing time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BillingPeriod {
    year: i16,
    month: i8,
}

impl BillingPeriod {
    /// The period with this year (1970 to 9998) and month (1 to 12).
    pub fn new(year: i16, month: i8) -> Option<Self> {
        ((FIRST_YEAR..=LAST_YEAR).contains(&year) && (1..=12).contains(&month))
            .then_some(BillingPeriod { year, month })
    }

    pub fn next(self) -> Self {
        match self.month {
            12 if self.year > LAST_YEAR => self,
            12 => BillingPeriod { year: self.year + 1, month: 1 },
            month => BillingPeriod { year: self.year, month: month + 1 },
        }
    }

    pub fn previous(self) -> Self {
        match self.month {
            1 if self.year <= FIRST_YEAR => self,
            1 => BillingPeriod { year: self.year - 1, month: 12 },
            month => BillingPeriod { year: self.year, month: month - 1 },
        }
    }

    /// The first day of the month, as Waldur writes a billing period.
    pub fn first_day(self) -> Date {
        Date::constant(self.year, self.month, 1)
    }
}

impl fmt::Display for BillingPeriod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for BillingPeriod {
    type Err = String;

    /// Reads `2026-11` and, as Waldur writes it, `2026-11-01`.
    fn from_str(text: &str) -> Result<Self, String> {
        let month = text.strip_suffix("-01").filter(|rest| rest.len() == 7).unwrap_or(text);
        month
            .split_once('-')
            .filter(|(year, month)| year.len() == 4 && month.len() == 2)
            .filter(|(year, month)| year.bytes().chain(month.bytes()).all(|b| b.is_ascii_digit()))
            .and_then(|(year, month)| BillingPeriod::new(year.parse().ok()?, month.parse().ok()?))
            .ok_or_else(|| format!("`{text}` is not a billing period such as 2026-11"))
    }
}

/// The time zones whose months are billed: one, and those that took its place from a month on.
///
/// A month ends at midnight of its own zone, and the next begins there, whatever its zone is: so a change of zone leaves
/// no time out and counts none twice.
#[derive(Debug, Clone, PartialEq)]
pub struct BillingZone {
    first: TimeZone,
    /// From which month on another zone holds, in order.
    changes: Vec<(BillingPeriod, TimeZone)>,
}

impl BillingZone {
    pub fn utc() -> Self {
        BillingZone::of(TimeZone::UTC)
    }

    pub fn of(zone: TimeZone) -> Self {
        BillingZone { first: zone, changes: Vec::new() }
    }

    /// The zone with this IANA name.
    pub fn named(name: &str) -> Result<Self, String> {
        TimeZone::get(name)
            .map(BillingZone::of)
            .map_err(|_| format!("`{name}` is not a time zone such as UTC or Europe/Tallinn"))
    }

    /// Bills by the (last) months of `other` from this one on, and by what was before until then.
    pub fn changed_from(mut self, period: BillingPeriod, other: &BillingZone) -> Self {
        self.changes.retain(|(from, _)| *from < period);
        if self.last() != other.last() {
            self.changes.push((period, other.last().clone()));
        }
        self
    }

    /// The name of the zone that holds last.
    pub fn name(&self) -> &str {
        self.last().iana_name().unwrap_or("UTC")
    }

    fn last(&self) -> &TimeZone {
        self.changes.last().map_or(&self.first, |(_, zone)| zone)
    }

    fn zone_of(&self, period: BillingPeriod) -> &TimeZone {
        let changed = self.changes.iter().rev().find(|(from, _)| *from <= period);
        changed.map_or(&self.first, |(_, zone)| zone)
    }

    /// The first instant of the period: midnight of its first day, or, where clocks jump over it, the first instant
    /// after.
    pub fn start(&self, period: BillingPeriod) -> Timestamp {
        midnight(self.zone_of(period.previous()), period.first_day())
    }

    /// The first instant after the period.
    pub fn end(&self, period: BillingPeriod) -> Timestamp {
        self.start(period.next())
    }

    /// The end of the period, or the end that it would have in the zone of the next one, whichever comes first: until
    /// then both agree on the month.
    pub fn surely_until(&self, period: BillingPeriod) -> Timestamp {
        self.end(period).min(midnight(self.zone_of(period.next()), period.next().first_day()))
    }

    /// The start of the period, or the one that it would have in its own zone, whichever comes last: from then on both agree
    /// on the month.
    pub fn surely_from(&self, period: BillingPeriod) -> Timestamp {
        self.start(period).max(midnight(self.zone_of(period), period.first_day()))
    }

    /// The calendar day of this instant.
    pub fn date_of(&self, at: Timestamp) -> Date {
        at.to_zoned(self.zone_of(self.period_of(at)).clone()).date()
    }

    /// The day of a period that this instant belongs to: one at the very end to the last day, one from before to the first.
    pub fn day_in(&self, period: BillingPeriod, at: Timestamp) -> Date {
        let last = self.end(period).saturating_sub(SignedDuration::from_micros(1)).unwrap_or(at);
        self.date_of(at.clamp(self.start(period), last))
    }

    /// The first instant after this calendar day.
    pub fn end_of_day(&self, date: Date) -> Timestamp {
        let zone = self.zone_of(BillingPeriod { year: date.year(), month: date.month() });
        date.tomorrow().map_or(Timestamp::MAX, |next| midnight(zone, next))
    }

    /// The period that holds this instant.
    pub fn period_of(&self, at: Timestamp) -> BillingPeriod {
        self.month_of(at).period
    }

    /// The whole month that holds this instant.
    fn month_of(&self, at: Timestamp) -> Segment {
        let local = at.to_zoned(self.last().clone()).date();
        let shown = BillingPeriod { year: local.year(), month: local.month() };
        let (start, end) = (self.start(shown), self.end(shown));
        // Where clocks go back over midnight of the first, the calendar shows the old month once more after the new
        // one began; and in a month of another zone it shows that zone's. The starts decide.
        if at < start {
            let period = shown.previous();
            Segment { start: self.start(period), end: start, period }
        } else if at >= end {
            let period = shown.next();
            Segment { start: end, end: self.end(period), period }
        } else {
            Segment { start, end, period: shown }
        }
    }

    /// Why a `total` over this interval can't be metered, if it can't: the sum "of the period so far" must be of one
    /// period. Totals of two periods that take turns in the order of time would each be counted from zero again.
    pub fn check_total(&self, start: Timestamp, end: Timestamp) -> Result<(), String> {
        let period = self.period_of(start);
        if end <= self.end(period) {
            return Ok(());
        }
        Err(format!(
            "a total is of one billing period, and this one reaches from {start} past the end of {period}"
        ))
    }
}

fn midnight(zone: &TimeZone, date: Date) -> Timestamp {
    let midnight = DateTime::from(date);
    zone.to_ambiguous_zoned(midnight).compatible().map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

/// A stretch of time in one billing period over which amounts are counted: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    pub start: Timestamp,
    pub end: Timestamp,
    pub period: BillingPeriod,
}

impl Segment {
    pub fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

/// Time as one resource sees it: the months of the billing zone, cut further at `cuts`.
#[derive(Debug, Clone)]
pub struct Timeline {
    zone: BillingZone,
    cuts: Vec<Timestamp>,
}

impl Timeline {
    pub fn new(zone: BillingZone, mut cuts: Vec<Timestamp>) -> Self {
        cuts.sort_unstable();
        cuts.dedup();
        Timeline { zone, cuts }
    }

    pub fn zone(&self) -> &BillingZone {
        &self.zone
    }

    /// The segment that holds this instant.
    pub fn segment_at(&self, at: Timestamp) -> Segment {
        let month = self.zone.month_of(at);
        let later = self.cuts.partition_point(|cut| *cut <= at);
        Segment {
            start: later.checked_sub(1).map_or(month.start, |cut| self.cuts[cut].max(month.start)),
            end: self.cuts.get(later).map_or(month.end, |cut| (*cut).min(month.end)),
            period: month.period,
        }
    }

    /// `from..to` in pieces that lie in one segment each, in order; empty if `from >= to`.
    pub fn pieces(&self, from: Timestamp, to: Timestamp) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = from;
        while at < to {
            let segment = self.segment_at(at);
            // At the end of all time a segment has no end.
            let end = if segment.end > at { segment.end.min(to) } else { to };
            pieces.push(Piece { segment, from: at, to: end });
            at = end;
        }
        pieces
    }
}

/// A part of an interval that lies in one segment: `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub segment: Segment,
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Piece {
    pub fn micros(&self) -> i64 {
        micros_between(self.from, self.to)
    }
}

/// Microseconds from `from` to `to`; the resolution of all times in the ledger.
pub fn micros_between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_microsecond() - from.as_microsecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn period(text: &str) -> BillingPeriod {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> BillingZone {
        BillingZone::named(name).unwrap()
    }

    #[test]
    fn periods_are_read_and_written_as_waldur_does() {
        assert_eq!(period("2026-11").to_string(), "2026-11");
        assert_eq!(period("2026-11-01"), period("2026-11"));
        assert_eq!(period("2026-01-01"), period("2026-01"));
        assert_eq!(period("2026-01").to_string(), "2026-01");
        assert_eq!(period("2026-11").first_day().to_string(), "2026-11-01");
        assert!(BillingPeriod::new(1970, 1).is_some() && BillingPeriod::new(9998, 12).is_some());
        let bad = [
            "",
            "2026",
            "2026-00",
            "2026-13",
            "2026-1",
            "2026-11-02",
            "2026-1-01",
            "26-11",
            "1969-12",
            "9999-01",
            "+026-11",
            "2026-+1",
            "2026-11-01-01",
            "2026/11",
            "november",
        ];
        for text in bad {
            let message = format!("`{text}` is not a billing period such as 2026-11");
            assert_eq!(text.parse::<BillingPeriod>(), Err(message));
        }
    }

    #[test]
    fn months_follow_each_other_through_the_years() {
        assert_eq!(period("2026-12").next(), period("2027-01"));
        assert_eq!(period("2026-11").next(), period("2026-12"));
        assert_eq!(period("2027-01").previous(), period("2026-12"));
        assert_eq!(period("2026-12").previous(), period("2026-11"));
        let all: Vec<_> =
            std::iter::successors(Some(period("1970-01")), |p| Some(p.next())).take(1000).collect();
        assert!(all.windows(2).all(|pair| pair[1].previous() == pair[0] && pair[0] < pair[1]));
    }

    #[test]
    fn months_begin_at_midnight_of_the_zone() {
        let starts = [
            ("UTC", "2026-03", "2026-03-01T00:00:00Z"),
            ("Europe/Tallinn", "2026-03", "2026-02-28T22:00:00Z"),
            ("Europe/Tallinn", "2026-04", "2026-03-31T21:00:00Z"),
            ("America/New_York", "2026-11", "2026-11-01T04:00:00Z"),
            ("America/New_York", "2026-12", "2026-12-01T05:00:00Z"),
            ("Asia/Kathmandu", "2026-01", "2025-12-31T18:15:00Z"),
            ("Australia/Lord_Howe", "2026-01", "2025-12-31T13:00:00Z"),
            ("Australia/Lord_Howe", "2026-07", "2026-06-30T13:30:00Z"),
            ("Pacific/Apia", "2011-12", "2011-12-01T10:00:00Z"),
            ("Pacific/Apia", "2012-01", "2011-12-31T10:00:00Z"),
        ];
        for (name, month, start) in starts {
            let (zone, month) = (zone(name), period(month));
            let start = at(start);
            assert_eq!(zone.start(month), start, "{name} {month}");
            assert_eq!(zone.end(month.previous()), start);
            assert_eq!(zone.period_of(start), month);
            assert_eq!(zone.period_of(start - jiff::SignedDuration::from_nanos(1)), month.previous());
        }
    }

    /// In Newfoundland 00:01 of 2009-11-01 became 23:01 of October: November has begun, and its first midnight counts.
    #[test]
    fn where_clocks_go_back_over_midnight_the_month_has_begun() {
        let zone = zone("America/St_Johns");
        let start = at("2009-11-01T02:30:00Z");
        assert_eq!(zone.start(period("2009-11")), start);
        let shows_october = at("2009-11-01T03:00:00Z");
        assert_eq!(shows_october.to_zoned(TimeZone::get("America/St_Johns").unwrap()).month(), 10);
        assert_eq!(zone.period_of(shows_october), period("2009-11"));
        let timeline = Timeline::new(zone, Vec::new());
        assert_eq!(timeline.pieces(start, at("2009-11-01T05:00:00Z")).len(), 1);
    }

    /// In Damascus 2005-04-01 began at 01:00.
    #[test]
    fn where_clocks_jump_over_midnight_the_month_begins_after_the_gap() {
        let zone = zone("Asia/Damascus");
        assert_eq!(zone.start(period("2005-04")), at("2005-03-31T22:00:00Z"));
        assert_eq!(zone.period_of(at("2005-03-31T22:00:00Z")), period("2005-04"));
        assert_eq!(zone.period_of(at("2005-03-31T21:59:59Z")), period("2005-03"));
    }

    #[test]
    fn a_zone_knows_its_name_and_an_unknown_one_is_refused() {
        assert_eq!(zone("Europe/Tallinn").name(), "Europe/Tallinn");
        assert_eq!(BillingZone::utc().name(), "UTC");
        assert_eq!(
            BillingZone::named("Europe/Talinn"),
            Err("`Europe/Talinn` is not a time zone such as UTC or Europe/Tallinn".to_owned())
        );
    }

    #[test]
    fn segments_lie_between_months_and_cuts() {
        let (first, second) = (at("2026-01-10T00:00:00Z"), at("2026-01-20T00:00:00Z"));
        let month = (at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z"));
        // In any order, twice, and on the boundary of a month: each cuts once.
        let timeline = Timeline::new(BillingZone::utc(), vec![second, first, second, month.1]);
        let segment = |text: &str| {
            let segment = timeline.segment_at(at(text));
            assert!(segment.holds(at(text)));
            (segment.start, segment.end)
        };
        assert_eq!(segment("2026-01-05T00:00:00Z"), (month.0, first));
        assert_eq!(segment("2026-01-10T00:00:00Z"), (first, second));
        assert_eq!(segment("2026-01-20T00:00:00Z"), (second, month.1));
        assert_eq!(segment("2026-02-01T00:00:00Z"), (month.1, at("2026-03-01T00:00:00Z")));
        assert_eq!(segment("2025-12-31T00:00:00Z"), (at("2025-12-01T00:00:00Z"), month.0));
        assert!(!timeline.segment_at(month.0).holds(first));
        let pieces = timeline.pieces(at("2026-01-09T00:00:00Z"), at("2026-02-02T00:00:00Z"));
        let days: Vec<_> = pieces.iter().map(|piece| piece.micros() / 86_400_000_000).collect();
        assert_eq!(days, [1, 10, 12, 1]);
        assert!(pieces.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!(timeline.pieces(first, first), []);
        assert_eq!(timeline.pieces(second, first), []);
    }

    /// No reading may carry such a time, but a wrong clock or row must not hang or bring down the agent either.
    #[test]
    fn the_ends_of_time_are_no_trap() {
        for name in ["UTC", "Pacific/Apia", "America/New_York"] {
            let timeline = Timeline::new(zone(name), Vec::new());
            for time in [
                Timestamp::MIN,
                Timestamp::MAX,
                at("9999-12-15T00:00:00Z"),
                at("9999-12-01T00:00:00Z"),
                at("-009999-01-20T00:00:00Z"),
            ] {
                timeline.segment_at(time);
                let hour = jiff::SignedDuration::from_hours(1);
                let near = time.saturating_sub(hour).unwrap();
                assert!(timeline.pieces(near, time.saturating_add(hour).unwrap()).len() < 3);
            }
        }
        assert_eq!(period("1970-01").previous(), period("1970-01"));
        assert_eq!(period("9998-12").next().to_string(), "9999-01");
        let last = std::iter::successors(Some(period("9998-12")), |p| Some(p.next())).nth(100).unwrap();
        assert_eq!(last.next(), last);
        last.first_day();
    }

    /// From UTC to Tallinn with December, whose months begin two hours earlier: November keeps UTC's end, December has
    /// that as its start and Tallinn's as its end. And back again.
    #[test]
    fn a_month_of_another_zone_begins_where_the_one_before_ended() {
        let (utc, tallinn) = (BillingZone::utc(), zone("Europe/Tallinn"));
        let changed = utc.clone().changed_from(period("2026-12"), &tallinn);
        assert_eq!(changed.end(period("2026-11")), at("2026-12-01T00:00:00Z"));
        assert_eq!(changed.start(period("2026-12")), at("2026-12-01T00:00:00Z"));
        assert_eq!(changed.end(period("2026-12")), at("2026-12-31T22:00:00Z"));
        assert_eq!(changed.period_of(at("2026-11-30T23:00:00Z")), period("2026-11"));
        assert_eq!(changed.period_of(at("2026-12-31T22:00:00Z")), period("2027-01"));
        assert_eq!(changed.start(period("2026-10")), at("2026-10-01T00:00:00Z"));
        assert_eq!(changed.surely_until(period("2026-11")), at("2026-11-30T22:00:00Z"));
        assert_eq!(changed.surely_until(period("2026-12")), at("2026-12-31T22:00:00Z"));
        let back = tallinn.changed_from(period("2026-12"), &utc);
        assert_eq!(back.start(period("2026-12")), at("2026-11-30T22:00:00Z"));
        assert_eq!(back.period_of(at("2026-11-30T22:00:00Z")), period("2026-12"));
        assert_eq!(back.end(period("2026-12")), at("2027-01-01T00:00:00Z"));
        // From UTC to Tallinn the month begins later than Tallinn's would; the other way two hours pass until UTC's begins, too.
        assert_eq!(changed.surely_from(period("2026-12")), at("2026-12-01T00:00:00Z"));
        assert_eq!(back.surely_from(period("2026-12")), at("2026-12-01T00:00:00Z"));
        assert_eq!(back.surely_from(period("2027-01")), at("2027-01-01T00:00:00Z"));
        assert_eq!(back.changed_from(period("2026-12"), &zone("Europe/Tallinn")), zone("Europe/Tallinn"));
    }

    #[test]
    fn a_total_is_of_one_period() {
        let zone = zone("Europe/Tallinn");
        let start = zone.start(period("2026-01"));
        let end = zone.end(period("2026-01"));
        assert_eq!(zone.check_total(start, end), Ok(()));
        assert_eq!(zone.check_total(start, start), Ok(()));
        assert_eq!(
            zone.check_total(start, end + jiff::SignedDuration::from_micros(1)),
            Err(format!(
                "a total is of one billing period, and this one reaches from {start} past the end of 2026-01"
            ))
        );
    }
}
