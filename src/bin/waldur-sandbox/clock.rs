//! The sandbox's one clock: it starts where it is told, runs on with real time, and can be set, advanced,
//! frozen and shifted. Months, token lifetimes and the `Date` header all come from here and from nowhere else.

use std::time::Instant;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

#[derive(Debug)]
pub(crate) struct Clock {
    /// What the clock showed at `since`.
    origin: Timestamp,
    since: Instant,
    frozen: bool,
    /// A constant error of the server's clock.
    skew: SignedDuration,
    /// What a request that is being processed goes by: it never sees two different moments, or months.
    held: Option<Timestamp>,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the sandbox's only look at the real time: where its clock starts"
    )]
    pub(crate) fn starting(now: Option<Timestamp>) -> Self {
        let origin = now.unwrap_or_else(Timestamp::now);
        Self { origin, since: Instant::now(), frozen: false, skew: SignedDuration::ZERO, held: None }
    }

    pub(crate) fn now(&self) -> Timestamp {
        if let Some(held) = self.held {
            return held;
        }
        let shown = later(self.unskewed(), self.skew);
        // The server stores microseconds; a finer clock would never be read back equal.
        Timestamp::from_microsecond(shown.as_microsecond()).unwrap_or(shown)
    }

    /// Stands still until `release`.
    pub(crate) fn hold(&mut self) {
        self.held = Some(self.now());
    }

    pub(crate) fn release(&mut self) {
        self.held = None;
    }

    fn unskewed(&self) -> Timestamp {
        if self.frozen {
            return self.origin;
        }
        later(self.origin, SignedDuration::try_from(self.since.elapsed()).unwrap_or_default())
    }

    pub(crate) fn set(&mut self, now: Timestamp) {
        self.origin = now;
        self.since = Instant::now();
    }

    pub(crate) fn advance(&mut self, by: SignedDuration) {
        self.set(later(self.unskewed(), by));
    }

    pub(crate) fn freeze(&mut self, frozen: bool) {
        self.set(self.unskewed());
        self.frozen = frozen;
    }

    pub(crate) fn skew(&mut self, by: SignedDuration) {
        self.skew = by;
    }
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(at)
}

/// The first day of the month in which an instant lies, by a time zone's calendar.
pub(crate) fn month_of(at: Timestamp, zone: &TimeZone) -> Date {
    zone.to_datetime(at).date().first_of_month()
}

pub(crate) fn month_before(month: Date) -> Date {
    month.checked_sub(1.month()).unwrap_or(month)
}

pub(crate) fn month_after(month: Date) -> Date {
    month.checked_add(1.month()).unwrap_or(month)
}

/// The instant at which a month begins.
pub(crate) fn month_start(month: Date, zone: &TimeZone) -> Timestamp {
    zone.to_timestamp(month.at(0, 0, 0, 0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An instant as the API writes it: UTC, `Z`, microseconds unless they are zero.
pub(crate) fn show(at: Timestamp) -> String {
    if at.subsec_microsecond() == 0 && at.subsec_millisecond() == 0 {
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    } else {
        at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    }
}

/// The `Date` header.
pub(crate) fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
