//! An amount by day: what each day's readings added to it, of what adds up; levels and means are of the whole month.

use std::collections::BTreeMap;

use jiff::civil::Date;

use crate::ledger::views::explain::SeriesPart;
use crate::metering::exact::Exact;
use crate::metering::period::{BillingPeriod, BillingZone};

/// What the readings of a day added.
#[derive(Debug, Clone, Default)]
pub(super) struct Day {
    pub(super) added: Exact,
    pub(super) readings: usize,
    pub(super) resets: usize,
    pub(super) gaps: usize,
    pub(super) held: usize,
}

/// Days by their date, and the amount of what has no days.
pub(super) fn days(
    parts: &[SeriesPart],
    period: BillingPeriod,
    zone: &BillingZone,
) -> (BTreeMap<Date, Day>, Exact) {
    let mut days: BTreeMap<Date, Day> = BTreeMap::new();
    let mut whole = Exact::zero();
    for part in parts {
        let all: Exact = part.readings.iter().map(|reading| reading.added.clone()).sum();
        let adds_up = ["increase", "sum", "integral"].iter().any(|measure| part.measure.starts_with(measure));
        // What the readings added is in the measure's own unit; the amount is that by one number.
        let by = if adds_up { part.amount.checked_div(&all) } else { None };
        if by.is_none() {
            whole += part.amount.clone();
        }
        for reading in &part.readings {
            let day = days.entry(zone.day_in(period, reading.at)).or_default();
            if let Some(by) = &by {
                day.added += reading.added.clone() * by.clone();
            }
            day.readings += 1;
            day.resets += usize::from(reading.reset);
            day.gaps += usize::from(reading.missed > 0);
            day.held += usize::from(!reading.held.is_zero());
        }
    }
    (days, whole)
}
