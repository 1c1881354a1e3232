//! Months by walking: the oracle finds the first instant of a month by looking at the calendar on the wall, minute by
//! minute, and asks nothing of a zone but what time it shows.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Instant;

/// A stretch of time in one month: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub start: Instant,
    pub end: Instant,
    /// Year and month.
    pub month: (i16, i8),
}

/// The months of a zone, from January of the first year to December of the last.
pub struct Calendar {
    starts: Vec<(Instant, (i16, i8))>,
}

impl Calendar {
    pub fn walk(zone: &str, years: std::ops::RangeInclusive<i16>) -> Calendar {
        let zone = TimeZone::get(zone).expect("a zone");
        let mut starts = Vec::new();
        for year in years {
            for month in 1..=12 {
                starts.push((first_instant(&zone, year, month), (year, month)));
            }
        }
        Calendar { starts }
    }

    pub fn start(&self, year: i16, month: i8) -> Instant {
        self.starts.iter().find(|(_, m)| *m == (year, month)).expect("a month of this calendar").0
    }

    /// The months that touch `from..=to`, cut at the cuts.
    pub fn stretches(&self, from: Instant, to: Instant, cuts: &[Instant]) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        for pair in self.starts.windows(2) {
            let ((start, month), (end, _)) = (pair[0], pair[1]);
            if end <= from || start > to {
                continue;
            }
            let mut marks: Vec<Instant> = cuts.iter().copied().filter(|c| start < *c && *c < end).collect();
            marks.extend([start, end]);
            marks.sort_unstable();
            marks.dedup();
            stretches.extend(marks.windows(2).map(|m| Stretch { start: m[0], end: m[1], month }));
        }
        stretches
    }
}

fn first_instant(zone: &TimeZone, year: i16, month: i8) -> Instant {
    let midnight = jiff::civil::date(year, month, 1).to_zoned(TimeZone::UTC).expect("a date").timestamp();
    let mut second = midnight.as_second() - 30 * 3600;
    loop {
        let at = Timestamp::from_second(second).expect("in range");
        let shown = zone.to_datetime(at).date();
        if (shown.year(), shown.month()) >= (year, month) {
            return at.as_microsecond();
        }
        second += 60;
    }
}
