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
    next_look(schedule.next_after(now).unwrap_or(Timestamp::MAX), closing, zone, now)
}

/// The same for a collector that began its last look at `looked`, and is else due at `planned`. What closes the month and
/// passed while it looked is due at once; neither jitter nor a failure puts it off.
pub(super) fn next_look(
    planned: Timestamp,
    closing: &Closing,
    zone: &BillingZone,
    looked: Timestamp,
) -> Next {
    let boundary = zone.end(zone.period_of(looked));
    let instants = [closing.begins, closing.last_call, closing.ends, boundary];
    let first = instants.into_iter().filter(|at| *at > looked).min();
    match first.filter(|first| *first <= planned) {
        Some(at) => Next { at, closes: true },
        None => Next { at: planned, closes: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn no_failure_and_no_long_look_puts_off_what_closes_a_month() {
        let zone = BillingZone::named("Europe/Tallinn").unwrap();
        let mut looked = at("2026-11-30T21:50:00Z");
        let closing = Closing::usual(&zone, looked);
        let late = at("2026-11-30T23:30:00Z");
        let mut looks = Vec::new();
        loop {
            let next = next_look(late, &closing, &zone, looked);
            if !next.closes {
                assert_eq!(next.at, late);
                break;
            }
            looked = next.at;
            looks.push(next.at);
        }
        let wanted = ["2026-11-30T21:55:00Z", "2026-11-30T21:58:00Z", "2026-11-30T22:00:00Z"];
        assert_eq!(looks, wanted.map(at), "the closing begins, its last call, the end");
        // A look from the closing's beginning to past midnight: what fell into it is due, though the schedule is later.
        let next = next_look(at("2026-11-30T23:00:00Z"), &closing, &zone, closing.begins);
        assert_eq!(next, Next { at: closing.last_call, closes: true });
    }
}
