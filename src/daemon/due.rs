//! When something is next due: by its schedule, and for the sake of a month's end. Pure.

use jiff::Timestamp;

use crate::config::schedule::Schedule;
use crate::metering::period::BillingZone;
use crate::submitter::closing::Closing;

/// When something is next to be done, and whether it is for the sake of a month's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) at: Timestamp,
    pub(super) closes: bool,
}

/// When a schedule is next due: by its own rule, and besides when the month that runs at the server closes, for its last
/// call, when it is over there, and at our own midnight, so that usage is cut as close to the boundary as can be.
pub(super) fn next_run(schedule: &Schedule, closing: &Closing, zone: &BillingZone, now: Timestamp) -> Next {
    let by_rule = schedule.next_after(now).unwrap_or(Timestamp::MAX);
    let boundary = zone.end(zone.period_of(now));
    let instants = [closing.begins, closing.last_call, closing.ends, boundary];
    let first = instants.into_iter().filter(|at| *at > now).min();
    match first.filter(|first| *first <= by_rule) {
        Some(at) => Next { at, closes: true },
        None => Next { at: by_rule, closes: false },
    }
}
