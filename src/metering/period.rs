//! Billing periods and how time is cut into them.
//!
//! A billing period is a calendar month of the billing time zone. Within it, a `Timeline` may be cut further: at a
//! switch of plan (law 11) or at an opening balance (law 8). The pieces are `Segment`s, and every amount is first
//! counted by segment. Nothing here asks what time it is.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

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

/// The time zone whose months are billed.
#[derive(Debug, Clone, PartialEq)]
pub struct BillingZone(TimeZone);

impl BillingZone {
    pub fn utc() -> Self {
        BillingZone(TimeZone::UTC)
    }

    pub fn of(zone: TimeZone) -> Self {
        BillingZone(zone)
    }

    /// The zone with this IANA name.
    pub fn named(name: &str) -> Result<Self, String> {
        TimeZone::get(name)
            .map(BillingZone)
            .map_err(|_| format!("`{name}` is not a time zone such as UTC or Europe/Tallinn"))
    }

    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The first instant of the period: midnight of its first day, or, where clocks jump over it, the first instant
    /// after.
    pub fn start(&self, period: BillingPeriod) -> Timestamp {
        let midnight = DateTime::from(period.first_day());
        self.0.to_ambiguous_zoned(midnight).compatible().map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    }

    /// The first instant after the period.
    pub fn end(&self, period: BillingPeriod) -> Timestamp {
        self.start(period.next())
    }

    /// The period that holds this instant.
    pub fn period_of(&self, at: Timestamp) -> BillingPeriod {
        let local = at.to_zoned(self.0.clone()).date();
        let guess = BillingPeriod { year: local.year(), month: local.month() };
        // Where clocks go back over midnight of the first, the calendar shows the old month once more after the new
        // one began; the starts decide.
        if at < self.start(guess) {
            guess.previous()
        } else if at >= self.end(guess) {
            guess.next()
        } else {
            guess
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
        let period = self.zone.period_of(at);
        let later = self.cuts.partition_point(|cut| *cut <= at);
        let start = self.zone.start(period);
        let end = self.zone.end(period);
        Segment {
            start: later.checked_sub(1).map_or(start, |cut| self.cuts[cut].max(start)),
            end: self.cuts.get(later).map_or(end, |cut| (*cut).min(end)),
            period,
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
